"""What a queue costs per chain: the ring alone, with a worker, and with a handler in Python.

Each figure is the median of several runs, taken in turn so that a change of the machine's mood meets all of
them; the fastest run is given too. The driver's end is native and polls, in the thread that measures.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from virtio._native import (
    Batch,
    BatchHandler,
    CallHandler,
    Chain,
    Handler,
    Loopback,
    NullHandler,
    Queue,
    measure_ring,
)
from virtio.errors import ProtocolError
from virtio.queue.model.ring import EVENT_IDX, INDIRECT_DESC

SIZE = 256
FEATURES = EVENT_IDX | INDIRECT_DESC
LENGTH = 16
"""Bytes in each element of a chain."""


@dataclass(frozen=True)
class Measurement:
    """What one chain costs."""

    name: str
    """What was measured."""
    batch: int
    """Chains made available at once."""
    depth: int
    """Chains outstanding at most."""
    nanoseconds: float
    """Time per chain: median of the runs."""
    fastest: float
    """Time per chain in the fastest run."""
    chains: int
    """Chains in each run."""
    taken: float
    """Chains that the device's end took at once, on average."""
    kicks: float
    """Available buffer notifications per chain."""

    @property
    def per_second(self) -> float:
        """Chains per second."""
        return 1e9 / self.nanoseconds


Progress = Callable[[int, int], object]
Figures = tuple[float, float, float]
"""Nanoseconds per chain, chains taken at once, kicks per chain."""


def _pass(chain: Chain) -> None:
    """Do nothing: what the call itself costs."""


def _echo(chain: Chain) -> None:
    chain.write(chain.read())


def _pass_batch(batch: Batch) -> None:
    """Do nothing."""


def _echo_batch(batch: Batch) -> None:
    batch.scatter(0, batch.gather(0, LENGTH))
    batch.written[:] = batch.readable_lengths


def _fail(fault: ProtocolError) -> None:
    raise fault


def _work(_chain: Chain) -> None:
    """Take a millisecond, without the interpreter's lock: what waits for a disk or a network does so."""
    time.sleep(0.001)


@dataclass(frozen=True)
class _Ring:
    """A ring without a worker."""

    name: str
    ends: Literal["device", "both"]
    batch: int
    chains: int

    @property
    def depth(self) -> int:
        return self.batch

    def run(self) -> Figures:
        time, chains = measure_ring(
            self.ends, chains=self.chains, batch=self.batch, size=SIZE, features=FEATURES
        )
        return time / chains, self.batch, 0.0


@dataclass(frozen=True)
class _Worker:
    """A queue with its worker, fed by a native driver."""

    name: str
    handler: Handler
    batch: int
    depth: int
    chains: int
    polling: int
    writable: int = LENGTH
    workers: int = 1

    def run(self) -> Figures:
        loopback = Loopback(SIZE, features=FEATURES, readable=LENGTH, writable=self.writable)
        queue = Queue(loopback.memory, 0, self.handler, on_fault=_fail, name="bench", workers=self.workers)
        queue.configure(size=SIZE, features=FEATURES, **loopback.addresses)
        queue.set_polling(self.polling)
        queue.start()
        try:
            loopback.drive(queue, max(self.chains // 20, self.batch), batch=self.batch, depth=self.depth)
            before = queue.counters
            time = loopback.drive(queue, self.chains, batch=self.batch, depth=self.depth)
            after = queue.counters
        finally:
            queue.stop()
        if after.handler_errors:
            raise RuntimeError("the handler that was measured has failed")
        taken = (after.chains - before.chains) / max(after.batches - before.batches, 1)
        return time / self.chains, taken, (after.kicks - before.kicks) / self.chains


def _plan(scale: float, polling: int) -> Iterator[_Ring | _Worker]:
    """List what is measured."""

    def chains(count: int) -> int:
        return max(round(count * scale), 64)

    for batch in (1, 16, 64):
        yield _Ring("device end alone", "device", batch, chains(2_000_000))
    for batch in (1, 16, 64):
        yield _Ring("both ends, one thread", "both", batch, chains(2_000_000))
    for batch in (1, 16, 64):
        count = chains(100_000 if batch == 1 else 1_000_000)
        yield _Worker("null device", NullHandler(), batch, batch, count, polling, writable=0)
    for name, function in (("empty", _pass), ("echo", _echo)):
        handler: Handler = CallHandler(function)
        yield _Worker(f"Python per chain, {name}", handler, 64, 128, chains(300_000), polling)
    for name, batched in (("empty", _pass_batch), ("echo", _echo_batch)):
        handler = BatchHandler(batched)
        yield _Worker(f"Python per batch, {name}", handler, 64, 128, chains(2_000_000), polling)
    for workers in (1, 2, 4):
        yield _Worker(
            f"1 ms of work, {workers} worker{'s' if workers > 1 else ''}",
            CallHandler(_work),
            16,
            64,
            chains(256),
            polling,
            workers=workers,
        )


def measure_queue(
    *, scale: float = 1.0, runs: int = 5, polling: int = 50, progress: Progress | None = None
) -> list[Measurement]:
    """Measure split queues of 256 entries; ``scale`` multiplies the number of chains.

    ``polling``: microseconds for which a worker polls before it sleeps. ``progress`` is called with the
    number of runs done and to be done.
    """
    plan = list(_plan(scale, polling))
    results: list[list[Figures]] = [[] for _ in plan]
    for run in range(runs):
        for number, item in enumerate(plan):
            results[number].append(item.run())
            if progress is not None:
                progress(run * len(plan) + number + 1, runs * len(plan))
    return [
        Measurement(
            name=item.name,
            batch=item.batch,
            depth=item.depth,
            nanoseconds=median(time for time, _, _ in figures),
            fastest=min(time for time, _, _ in figures),
            chains=item.chains,
            taken=median(taken for _, taken, _ in figures),
            kicks=median(kicks for _, _, kicks in figures),
        )
        for item, figures in zip(plan, results, strict=True)
    ]
