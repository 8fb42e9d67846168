"""The benchmark measures what it says; its figures are for make bench."""

import json
import subprocess
import sys
import threading

import pytest

from virtio._native import Loopback, NullHandler, Queue, measure_ring
from virtio.bench import measure_queue, this_machine
from virtio.errors import ConfigurationError, TransportError
from virtio.queue import Batch, BatchHandler, CallHandler, Chain, Handler


def test_every_form_is_measured() -> None:
    seen: list[tuple[int, int]] = []
    results = measure_queue(scale=0.001, runs=2, progress=lambda done, total: seen.append((done, total)))
    names = {result.name for result in results}
    assert {"device end alone", "both ends, one thread", "null device"} <= names
    assert {"Python per chain, empty", "Python per batch, echo"} <= names
    assert {"1 ms of work, 1 worker", "1 ms of work, 2 workers", "1 ms of work, 4 workers"} <= names
    assert [result.batch for result in results if result.name == "null device"] == [1, 16, 64]
    for result in results:
        assert 0 < result.fastest <= result.nanoseconds
        assert result.per_second == pytest.approx(1e9 / result.nanoseconds)
        assert result.taken >= 1
    assert seen[-1] == (2 * len(results), 2 * len(results))


def test_the_driver_really_sends_what_it_says() -> None:
    sizes: list[int] = []
    contents: set[tuple[int, int]] = set()

    def handle(batch: Batch) -> None:
        sizes.append(len(batch))
        contents.update((len(chain.readable), len(chain.writable)) for chain in batch)

    loopback = Loopback(64, readable=24, writable=8)
    queue = Queue(loopback.memory, 0, BatchHandler(handle), on_fault=print)
    queue.configure(size=64, **loopback.addresses)
    queue.start()
    assert loopback.drive(queue, 1000, batch=10, depth=30) > 0
    queue.stop()
    assert sum(sizes) == 1000
    assert max(sizes) <= 30
    assert contents == {(24, 8)}
    assert queue.counters.bytes_read == 24_000


def test_a_queue_that_does_not_answer_is_noticed() -> None:
    loopback = Loopback(4)
    queue = Queue(loopback.memory, 0, NullHandler(), on_fault=print)
    with pytest.raises(ConfigurationError, match="do not fit"):
        loopback.drive(queue, 10, batch=4)
    with pytest.raises(TransportError, match="0 of 10"):
        loopback.drive(queue, 10, batch=1)


def test_rings_without_a_worker() -> None:
    features = 1 << 28
    for ends in ("device", "both"):
        nanoseconds, chains = measure_ring(
            ends, chains=1000, batch=16, descriptors=2, indirect=True, features=features
        )
        assert chains >= 1000
        assert nanoseconds > 0
    with pytest.raises(ValueError, match="neither"):
        measure_ring("none", chains=1, batch=1)  # type: ignore[arg-type]


def test_the_machine_is_named() -> None:
    machine = this_machine()
    assert machine.processors >= 1
    assert machine.processor
    assert machine.busy == (machine.load > machine.processors / 2)


def test_json() -> None:
    command = [sys.executable, "-m", "virtio", "bench", "queue", "--json", "--scale", "0.001", "--runs", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert report["machine"]["processors"] >= 1
    assert {"name", "batch", "nanoseconds", "per_second"} <= report["measurements"][0].keys()


def test_a_handler_in_python_costs_one_call() -> None:
    """What the speed rests on: no call but the function's own, in a thread that the interpreter knows."""
    kept = threading.local()
    calls: list[int] = []

    def each(chain: Chain) -> None:
        kept.calls = getattr(kept, "calls", 0) + 1
        calls.append(kept.calls)

    def together(batch: Batch) -> None:
        kept.chains = getattr(kept, "chains", 0) + len(batch)
        calls.append(kept.chains)

    answer(CallHandler(each), 6400)
    # A thread state made anew for each call would have forgotten the number.
    assert calls == list(range(1, 6401))
    calls.clear()
    answer(BatchHandler(together), 6400)
    assert calls[-1] == 6400
    # 64 become available at once, so none of them is alone.
    assert len(calls) <= 100


def answer(handler: Handler, chains: int) -> None:
    loopback = Loopback(256)
    queue = Queue(loopback.memory, 0, handler, on_fault=print)
    queue.configure(size=256, **loopback.addresses)
    queue.start()
    try:
        loopback.drive(queue, chains, batch=64, depth=128)
    finally:
        queue.stop()
    assert queue.counters.handler_errors == 0
