"""Threads, garbage and the end of the interpreter: queues neither hang nor crash, whoever lets go first."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from tests.queue.guest import FEATURES, START, Guest, wait

from virtio.errors import TransportError
from virtio.queue import Batch, BatchHandler, CallHandler, Chain, NullHandler, Queue
from virtio.queue.model import SplitDriver


def test_eight_queues_at_once() -> None:
    """All on one memory, with one handler object, each with a driver thread of its own."""
    count, rounds = 8, 40
    seen = [0] * count

    def handle(chain: Chain) -> None:
        number = chain.read(1)[0]
        seen[number] += 1
        chain.write(bytes([number]) * 3)

    handler = CallHandler(handle)
    with Guest(handler, memory=1 << 22, start=False) as guest:
        room = 1 << 18
        queues: list[Queue] = []
        drivers: list[SplitDriver] = []
        for number in range(count):
            begin = START + (number + 1) * room
            driver = SplitDriver(guest.map, begin, 16, FEATURES, start=START, end=begin + room)
            queue = Queue(guest.memory, number, handler, on_fault=guest.faults.append)
            queue.configure(size=16, features=FEATURES, **driver.addresses)
            queue.start()
            queues.append(queue)
            drivers.append(driver)
        problems: list[object] = []

        def drive(number: int) -> None:
            driver = drivers[number]
            for _ in range(rounds):
                heads = [driver.add([bytes([number])], [3]) for _ in range(4)]
                driver.publish()
                if driver.needs_kick():
                    queues[number].notify()
                end = time.monotonic() + 10
                found = 0
                while found < 4 and time.monotonic() < end:
                    found += len(driver.poll_used())
                    time.sleep(0)
                if found < 4 or any(driver.data(head) != bytes([number]) * 3 for head in heads):
                    problems.append((number, found))
                    return

        threads = [threading.Thread(target=drive, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert seen == [4 * rounds] * count
        for queue, driver in zip(queues, drivers, strict=True):
            assert queue.stop() == 4 * rounds
            assert queue.counters.chains == 4 * rounds
            driver.close()
        assert not guest.faults


def test_start_and_stop_many_times_under_load() -> None:
    total = 0

    def handle(batch: Batch) -> None:
        nonlocal total
        total += len(batch)

    with Guest(BatchHandler(handle)) as guest:
        for turn in range(100):
            for _ in range(3):
                guest.driver.add([b"x"], [1])
            guest.publish()
            base = guest.queue.stop()
            assert 3 * turn <= base <= 3 * (turn + 1)
            guest.queue.start()
            guest.collect(3)
        assert total == 300


def test_stopping_waits_for_the_handler_without_the_gil() -> None:
    entered = threading.Event()

    def handle(chain: Chain) -> None:
        entered.set()
        time.sleep(0.1)  # needs the GIL back to return
        chain.write(b"done")

    with Guest(CallHandler(handle)) as guest:
        head = guest.driver.add([], [4])
        guest.publish()
        assert entered.wait(5)
        assert guest.queue.stop() == 1
        assert guest.driver.poll_used() == [(head, 4)]


def test_queues_that_stop_each_other() -> None:
    """Each handler waits for the other's queue: bounded, and nothing breaks."""
    with (
        Guest(CallHandler(lambda chain: other.queue.stop(0.2))) as guest,
        Guest(CallHandler(lambda chain: guest.queue.stop(0.2))) as other,
    ):
        for one in (guest, other):
            one.driver.add([b"x"], [])
            one.publish()
        begin = time.monotonic()
        wait(lambda: not guest.queue.running or not other.queue.running)
        assert time.monotonic() - begin < 30


def test_a_running_queue_that_nobody_refers_to_is_stopped() -> None:
    with Guest(NullHandler()) as guest:
        queue = Queue(guest.memory, 1, NullHandler(), on_fault=print, name="orphan")
        guest.queue.stop()
        queue.configure(size=16, features=FEATURES, **guest.driver.addresses)
        queue.start()
        wait(lambda: "orphan" in threads())
        del queue
        gc.collect()
        wait(lambda: "orphan" not in threads())


def threads() -> set[str]:
    names = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            names.add((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return names


def test_a_device_and_its_queue_in_a_cycle_are_collected() -> None:
    class Device:
        def __init__(self, guest: Guest) -> None:
            self.queue = Queue(guest.memory, 1, CallHandler(self.handle), on_fault=self.fault)
            self.queue.set_call(self.call)

        def handle(self, chain: Chain) -> None:
            raise NotImplementedError

        def fault(self, fault: BaseException) -> None:
            raise NotImplementedError

        def call(self) -> None:
            raise NotImplementedError

    with Guest(NullHandler(), start=False) as guest:
        device = Device(guest)
        alive = weakref.ref(device)
        del device
        gc.collect()
        assert alive() is None


def test_a_call_function_instead_of_a_descriptor(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("in call")

    with Guest(NullHandler()) as guest:
        guest.queue.set_call(call)
        for expected in (1, 2, 3):
            guest.driver.enable_interrupts()
            guest.driver.add([b"x"])
            guest.publish()
            wait(lambda expected=expected: len(calls) == expected)  # type: ignore[misc]
            assert len(guest.driver.poll_used()) == 1
        guest.queue.set_call(None)
        guest.driver.enable_interrupts()
        guest.driver.add([b"x"])
        guest.publish()
        wait(lambda: guest.driver.poll_used())
        assert len(calls) == 3
    assert "call function raised" in caplog.text


@pytest.mark.parametrize("setter", ["set_kick", "set_call", "set_error"])
def test_descriptors_of_the_wrong_kind(setter: str, tmp_path: Path) -> None:
    with Guest(NullHandler(), start=False) as guest:
        with (tmp_path / "file").open("wb") as file, pytest.raises(TransportError):
            getattr(guest.queue, setter)(file.fileno())
        for fd in (-1, 999_999):
            with pytest.raises(TransportError):
                getattr(guest.queue, setter)(fd)
        getattr(guest.queue, setter)(None)
        if setter == "set_call":
            with pytest.raises(TypeError, match="a function"):
                guest.queue.set_call("x")  # type: ignore[arg-type]


def test_kick_and_call_are_swapped_while_running() -> None:
    with Guest(NullHandler()) as guest:
        guest.ask([b"x"], [])
        kick, call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        guest.queue.set_kick(kick)
        guest.queue.set_call(call)
        os.close(guest.kick)
        os.close(guest.call)
        guest.kick, guest.call = kick, call
        guest.ask([b"x"], [])


EXIT = """
import mmap, os, sys, threading, time
from tests.queue.guest import Guest
from virtio.queue import BatchHandler, CallHandler
held = []
def handle(chain):
    {body}
guest = Guest(CallHandler(handle))
for _ in range(4):
    guest.driver.add([b"x"], [4])
guest.publish()
time.sleep(0.1)
print("end", flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("pass", ""),
        ("chain.hold(); held.append(chain)", ""),
        ("chain.hold(idle=True); held.append(chain)", ""),
        ("time.sleep(0.3)", ""),
        ("time.sleep(30)", ""),
        ("raise ValueError", "sys.exit(0)"),
        ("held.append(list(chain.writable))", "del guest"),
        ("threading.Event().wait(30)", ""),
        ("[None for _ in iter(int, 1)]", ""),
    ],
)
def test_the_interpreter_ends_while_a_queue_runs(body: str, end: str) -> None:
    root = Path(__file__).parents[2]
    begin = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", EXIT.format(body=body, end=end)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "end\n"
    assert "panicked" not in result.stderr
    assert "Fatal" not in result.stderr
    assert time.monotonic() - begin < 20


FORK = """
import os, sys, time
from tests.queue.guest import Guest
from virtio.queue import NullHandler
guest = Guest(NullHandler())
guest.ask([b"x"], [])
begin = time.monotonic()
child = os.fork()
if child == 0:
    sys.exit(0)
status = os.waitpid(child, 0)[1]
guest.close()
sys.exit(status or time.monotonic() - begin > 3)
"""


def test_a_forked_child_ends_at_once() -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", FORK], timeout=60, cwd=root, check=False)
    assert result.returncode == 0
