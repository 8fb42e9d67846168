"""Guest memory through Python: regions, copies, views, and changes while queues use it."""

import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.queue.guest import FEATURES, START, USER, Guest, wait

from virtio.errors import ConfigurationError, TransportError
from virtio.memory import Memory, Region
from virtio.queue import BatchHandler, CallHandler, Chain

PAGE = 4096


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


def test_regions_and_both_address_spaces(fd: int) -> None:
    memory = Memory()
    first = memory.generation
    memory.add(0x20_0000, 2 * PAGE, fd, 4 * PAGE, user_address=0x7000_0000)
    memory.add(0x10_0000, PAGE, fd, writable=False)
    assert memory.generation > first
    assert memory.regions == [
        Region(0x10_0000, PAGE, -1, 0, None, False),
        Region(0x20_0000, 2 * PAGE, -1, 4 * PAGE, 0x7000_0000, True),
    ]
    os.pwrite(fd, b"hello", 4 * PAGE + 10)
    assert memory.read(0x20_0000 + 10, 5) == b"hello"
    assert memory.read(0x7000_0000 + 10, 5, "user") == b"hello"
    memory.write(0x7000_0000 + 10, b"HE", "user")
    assert os.pread(fd, 5, 4 * PAGE + 10) == b"HEllo"
    assert hash(memory.regions[0]) == hash(Region(0x10_0000, PAGE, -1, 0, None, False))
    assert "0x200000" in repr(memory.regions[1])


def test_the_caller_may_close_its_descriptor() -> None:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, PAGE)
    memory = Memory()
    memory.add(0, PAGE, fd)
    os.close(fd)
    memory.write(0, b"still there")
    assert memory.read(6, 5) == b"there"


def test_copies_cross_adjacent_regions(fd: int) -> None:
    memory = Memory()
    memory.add(0, PAGE, fd, 8 * PAGE)
    memory.add(PAGE, PAGE, fd, 0)
    memory.write(PAGE - 3, b"abcdef")
    assert memory.read(PAGE - 3, 6) == b"abcdef"
    assert os.pread(fd, 3, 0) == b"def"
    with pytest.raises(ConfigurationError, match="two mappings"):
        memory.view(PAGE - 3, 6)
    assert memory.read(0, 0) == b""


@pytest.mark.parametrize(
    ("address", "size"), [(PAGE, 1), (PAGE - 1, 2), (2**64 - 1, 2), (2**63, 2**62), (0, 2**40)]
)
def test_what_is_not_guest_memory(fd: int, address: int, size: int) -> None:
    memory = Memory()
    memory.add(0, PAGE, fd)
    calls: list[Callable[[], object]] = [
        lambda: memory.read(address, size),
        lambda: memory.view(address, size),
    ]
    if size < PAGE:
        calls.append(lambda: memory.write(address, bytes(size)))
    for call in calls:
        with pytest.raises(ConfigurationError, match="not in guest memory"):
            call()


def test_views_keep_their_mapping(fd: int) -> None:
    memory = Memory()
    memory.add(0, PAGE, fd)
    memory.add(PAGE, PAGE, fd, PAGE, writable=False)
    view, fixed = memory.view(100, 8), memory.view(PAGE, 8)
    assert not view.readonly
    assert fixed.readonly
    memory.clear()
    view[:] = b"12345678"
    assert os.pread(fd, 8, 100) == b"12345678"
    assert view[2:4].cast("H")[0] == 0x3433
    assert bytes(fixed) == bytes(8)
    with pytest.raises(TypeError):
        fixed[0] = 1
    fresh = Memory()
    fresh.add(0, PAGE, fd, writable=False)
    with pytest.raises(ConfigurationError, match="read-only"):
        fresh.write(0, b"x")
    del memory
    assert view.tobytes() == b"12345678"


def test_regions_that_cannot_be(fd: int) -> None:
    memory = Memory()
    memory.add(0x10_0000, 4 * PAGE, fd, user_address=0x7000_0000)
    for error, text, arguments in [
        (ConfigurationError, "size 0", (0x20_0000, 0, fd)),
        (ConfigurationError, "overlaps", (0x10_0000 + PAGE, PAGE, fd)),
        (ConfigurationError, "overlaps", (0x10_0000 - PAGE, 2 * PAGE, fd)),
        (ConfigurationError, "wraps", (2**64 - PAGE, 2 * PAGE, fd)),
        (ConfigurationError, "wraps", (0x20_0000, PAGE, fd, 2**64 - PAGE)),
        (TransportError, "file of", (0x20_0000, 2**48, fd)),
        (TransportError, "file of", (0x20_0000, PAGE, fd, 16 * PAGE)),
        (TransportError, "not a descriptor", (0x20_0000, PAGE, -1)),
        (TransportError, "Bad file", (0x20_0000, PAGE, 999_999)),
    ]:
        with pytest.raises(error, match=text):
            memory.add(*arguments)
    with pytest.raises(ConfigurationError, match="overlaps"):
        memory.add(0x20_0000, PAGE, fd, user_address=0x7000_0000 + PAGE)
    with pytest.raises(ConfigurationError, match="no memory region"):
        memory.remove(0x10_0000, PAGE)
    with pytest.raises(ConfigurationError, match="time to wait"):
        memory.clear(timeout=-1)
    with pytest.raises(ConfigurationError, match="time to wait"):
        memory.clear(timeout=float("nan"))
    with pytest.raises(ValueError, match="neither"):
        memory.read(0, 1, "host")  # type: ignore[arg-type]
    assert len(memory.regions) == 1


def test_descriptors_of_the_wrong_kind() -> None:
    memory = Memory()
    left, right = socket.socketpair()
    read_end, write_end = os.pipe()
    event = os.eventfd(0)
    for fd in (left.fileno(), read_end, event):
        with pytest.raises(TransportError, match="not a file"):
            memory.add(0, PAGE, fd)
    for fd in (read_end, write_end, event):
        os.close(fd)
    left.close()
    right.close()


def test_replace_is_all_or_nothing(fd: int) -> None:
    memory = Memory()
    memory.add(0, PAGE, fd)
    with pytest.raises(ConfigurationError, match="overlaps"):
        memory.replace([Region(0x1000, PAGE, fd), Region(0x1800, PAGE, fd)])
    with pytest.raises(TransportError):
        memory.replace([Region(0x1000, PAGE, fd), Region(0x8000, PAGE, -1)])
    assert [region.guest_address for region in memory.regions] == [0]
    memory.replace([Region(0x8000, PAGE, fd), Region(0x1000, PAGE, fd, PAGE)])
    assert [region.guest_address for region in memory.regions] == [0x1000, 0x8000]
    with pytest.raises(ConfigurationError, match="more than 512"):
        memory.replace([Region(2 * PAGE * number, PAGE, fd) for number in range(513)])


def test_memory_that_appears_after_the_queue_started() -> None:
    with Guest(CallHandler(lambda chain: chain.write(b"ok")), start=False) as guest:
        size = len(guest.map)
        guest.memory.clear()
        guest.queue.start()
        head = guest.driver.add([], [2])
        guest.publish()
        time.sleep(0.02)
        assert guest.driver.poll_used() == []
        assert not guest.faults
        guest.memory.add(START, size, guest.fd)
        assert guest.collect(1) == [(head, 2)]


def test_removing_waits_for_held_chains() -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold()
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        guest.driver.add([], [4])
        guest.publish()
        wait(lambda: held)
        with pytest.raises(TransportError, match="in use"):
            guest.memory.clear(timeout=0.05)
        # It is gone for new requests, yet the held chain can be finished once the ring is back.
        assert guest.memory.regions == []
        held[0].write(b"late")
        guest.memory.add(START, len(guest.map), guest.fd, user_address=USER)
        held[0].complete()
        assert guest.collect(1)[0].written == 4


def test_removing_does_not_wait_for_idle_chains() -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold(idle=True)
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        guest.driver.add([], [4])
        guest.publish()
        wait(lambda: held)
        size = len(guest.map)
        begin = time.monotonic()
        guest.memory.replace([Region(START, size, guest.fd), Region(0, PAGE, guest.fd)], timeout=60)
        assert time.monotonic() - begin < 30
        held[0].write(b"data")
        held[0].complete()
        assert guest.collect(1)[0].written == 4


def test_memory_changes_under_load() -> None:
    """Regions come and go while two queues' worth of requests pass; every one is answered."""
    stop = threading.Event()
    with Guest(BatchHandler(lambda batch: None), size=64) as guest:
        spare = mmap.mmap(-1, PAGE)
        ring = Region(START, len(guest.map), guest.fd, 0, USER, True)
        changes = 0

        def change() -> None:
            nonlocal changes
            while not stop.is_set():
                guest.memory.add(0, PAGE, guest.fd)
                guest.memory.remove(0, PAGE)
                guest.memory.clear()
                guest.memory.replace([ring])
                changes += 1

        thread = threading.Thread(target=change)
        thread.start()
        rounds = 0
        until = time.monotonic() + 60
        try:
            # A busy machine may leave the other thread out for long.
            while rounds < 150 or (changes <= 3 and time.monotonic() < until):
                rounds += 1
                for _ in range(20):
                    guest.driver.add([b"x" * 10], [10])
                guest.publish()
                guest.collect(20)
        finally:
            stop.set()
            thread.join()
        assert changes > 3
        assert not guest.faults
        assert guest.queue.counters.chains == 20 * rounds
        spare.close()


def test_a_front_end_that_truncates_its_memory_loses_only_its_queue() -> None:
    with Guest(CallHandler(lambda chain: chain.read()), features=FEATURES) as guest:
        guest.ask([b"x"], [])
        view = guest.memory.view(START + 0x8000, 8)
        os.ftruncate(guest.fd, 0)
        os.eventfd_write(guest.kick, 1)
        assert guest.fault.wait(10)
        assert guest.queue.broken
        assert bytes(view) == bytes(8)
        os.ftruncate(guest.fd, len(guest.map))
