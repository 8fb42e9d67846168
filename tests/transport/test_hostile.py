"""Front ends that mean harm, against a real device with a real queue: each gets a stated answer.

What the session refuses by itself is in test_refused.py; here are things that reach the native core.
"""

import contextlib
import mmap
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.transport.disk import Disk
from tests.transport.frontend import (
    FrontEnd,
    GuestMemory,
    readable,
    vring_address,
)
from tests.transport.peers import Guest, Peer, Qemu, guest
from tests.transport.test_peers import FEATURES, QUEUES, SIZE, Driver, await_used, transfer

import virtio
from virtio.transport.vhost_user.messages import F_PROTOCOL_FEATURES, ProtocolFeature
from virtio.transport.vhost_user.payloads import MemoryRegion, VringState

P = ProtocolFeature
PAGE = mmap.PAGESIZE
MEMORY = 1 << 20
USER = 0x7F00_0000_0000


class Scene:
    """A disk, its driver, and a front end that has brought it up as QEMU does."""

    def __init__(self, stack: contextlib.ExitStack, path: Path) -> None:
        self.disk = Disk()
        stack.enter_context(virtio.start(self.disk, f"vhost-user:{path}"))
        self.front_end = stack.enter_context(FrontEnd.connect(path))
        self.memory = stack.enter_context(GuestMemory(MEMORY, 0, USER))
        self.driver = Driver(self.memory)
        stack.callback(lambda: self.driver.close())
        self.guest: Guest = stack.enter_context(
            guest(self.memory, self.driver.addresses, SIZE, FEATURES | 1 << 12)
        )
        self.peer: Peer = Qemu(self.front_end)
        self.peer.connect(QUEUES, self.disk.config_size)
        self.peer.start(self.guest)

    def works(self) -> bool:
        """Write something and read it back, on each queue."""
        for index in range(QUEUES):
            data = os.urandom(512)
            transfer(self.peer, self.guest, self.driver, index, 5, data)
            if transfer(self.peer, self.guest, self.driver, index, 5, None) != data:
                return False
        return True


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path / "disk.sock")


# --- memory that cannot be

Maker = Callable[[contextlib.ExitStack], int]


def _file(size: int, flags: int = 0) -> Maker:
    def make(stack: contextlib.ExitStack) -> int:
        fd = os.memfd_create("guest", flags)
        stack.callback(os.close, fd)
        os.ftruncate(fd, size)
        return fd

    return make


def _opened(flags: int) -> Maker:
    def make(stack: contextlib.ExitStack) -> int:
        created, name = tempfile.mkstemp()
        stack.callback(os.unlink, name)
        os.ftruncate(created, MEMORY)
        os.close(created)
        fd = os.open(name, flags)
        stack.callback(os.close, fd)
        return fd

    return make


def _eventfd(stack: contextlib.ExitStack) -> int:
    fd = os.eventfd(0)
    stack.callback(os.close, fd)
    return fd


def _pipe(stack: contextlib.ExitStack) -> int:
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    return reading


def _socket(stack: contextlib.ExitStack) -> int:
    return stack.enter_context(socket.socket(socket.AF_UNIX)).fileno()


def _directory(stack: contextlib.ExitStack) -> int:
    fd = os.open("/", os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


ELSEWHERE = MemoryRegion(1 << 32, PAGE, 1 << 40, 0)
BAD_REGIONS: tuple[tuple[str, MemoryRegion, Maker], ...] = (
    ("empty", ELSEWHERE._replace(size=0), _file(PAGE)),
    ("longer than its file", ELSEWHERE._replace(size=2 * PAGE), _file(PAGE)),
    ("far longer than its file", ELSEWHERE._replace(size=1 << 46), _file(PAGE)),
    ("all of the address space", MemoryRegion(0, 2**64 - 1, 0, 0), _file(PAGE)),
    ("from behind the end of its file", ELSEWHERE._replace(mmap_offset=PAGE), _file(PAGE)),
    ("offset that wraps", ELSEWHERE._replace(mmap_offset=2**64 - PAGE), _file(PAGE)),
    ("offset that is negative", ELSEWHERE._replace(mmap_offset=1 << 63), _file(PAGE)),
    ("guest address that wraps", ELSEWHERE._replace(guest_address=2**64 - PAGE // 2), _file(PAGE)),
    ("user address that wraps", ELSEWHERE._replace(user_address=2**64 - PAGE // 2), _file(PAGE)),
    ("overlap in guest addresses", ELSEWHERE._replace(guest_address=MEMORY - PAGE), _file(PAGE)),
    ("overlap in user addresses", ELSEWHERE._replace(user_address=USER + PAGE), _file(PAGE)),
    ("same again", MemoryRegion(0, MEMORY, USER, 0), _file(MEMORY)),
    ("file to read only", ELSEWHERE, _opened(os.O_RDONLY)),
    ("file to write only", ELSEWHERE, _opened(os.O_WRONLY)),
    ("eventfd", ELSEWHERE, _eventfd),
    ("pipe", ELSEWHERE, _pipe),
    ("socket", ELSEWHERE, _socket),
    ("directory", ELSEWHERE, _directory),
)


@pytest.mark.parametrize(
    ("region", "make"), [case[1:] for case in BAD_REGIONS], ids=[c[0] for c in BAD_REGIONS]
)
@pytest.mark.parametrize("message", ["ADD_MEM_REG", "SET_MEM_TABLE"])
def test_memory_that_cannot_be_is_refused_and_nothing_changes(
    scene: Scene, region: MemoryRegion, make: Maker, message: str
) -> None:
    with contextlib.ExitStack() as stack:
        fd = make(stack)
        if message == "ADD_MEM_REG":
            answer = scene.front_end.acknowledged(message, region, [fd])
        else:
            regions = (scene.memory.region, region)
            answer = scene.front_end.acknowledged(message, regions, [scene.memory.fd, fd])
    assert answer == 1
    assert scene.works()


def test_the_table_may_be_replaced_while_rings_are_live(scene: Scene) -> None:
    for _ in range(20):
        table = (scene.memory.region,)
        assert scene.front_end.acknowledged("SET_MEM_TABLE", table, [scene.memory.fd]) == 0
        assert scene.works()


def test_rings_whose_memory_goes_wait_until_it_is_back(scene: Scene) -> None:
    assert scene.works()
    assert scene.front_end.acknowledged("REM_MEM_REG", scene.memory.region) == 0
    queue = scene.driver.queues[0]
    with contextlib.suppress(BlockingIOError):
        os.read(scene.guest.rings[0].call, 8)
    head = queue.add([bytes(16)], [512, 1])
    queue.enable_interrupts()
    queue.publish()
    os.eventfd_write(scene.guest.rings[0].kick, 1)
    assert not readable(scene.guest.rings[0].call, 0.1)
    assert scene.front_end.acknowledged("ADD_MEM_REG", scene.memory.region, [scene.memory.fd]) == 0
    assert await_used(scene.peer, scene.guest, scene.driver, 0) == head
    assert scene.works()


def test_rings_that_are_nowhere_wait(scene: Scene) -> None:
    scene.peer.stop(scene.guest)
    far = 1 << 40
    scene.guest.rings[0].addresses = {"descriptors": far, "available": far + 256, "used": far + 512}
    scene.peer.start(scene.guest)
    os.eventfd_write(scene.guest.rings[0].kick, 1)
    scene.front_end.barrier()
    there = vring_address(0, scene.driver.addresses[0], scene.memory)
    assert scene.front_end.acknowledged("SET_VRING_ADDR", there) == 0
    assert scene.works()


def test_memory_that_shrinks_costs_the_device_not_the_process(scene: Scene) -> None:
    """The file is cut off under the mapping. The queue breaks, the front end hears of it, a reset helps."""
    assert scene.works()
    ring = scene.guest.rings[0]
    assert scene.front_end.acknowledged("SET_VRING_ERR", 0, [ring.error]) == 0
    os.ftruncate(scene.memory.fd, 0)
    os.eventfd_write(ring.kick, 1)
    deadline = time.monotonic() + 5
    while not scene.front_end.ask("GET_STATUS") & 0x40:
        assert time.monotonic() < deadline, "the device did not notice"
    assert readable(ring.error)
    os.ftruncate(scene.memory.fd, MEMORY)
    scene.peer.stop(scene.guest)
    # What was lost was replaced by zeros for good: the file must be mapped again.
    assert scene.front_end.acknowledged("SET_MEM_TABLE", (scene.memory.region,), [scene.memory.fd]) == 0
    scene.driver.close()
    scene.driver = Driver(scene.memory)
    scene.peer.start(scene.guest)
    assert scene.works()


# --- descriptors that are not what they should be


@pytest.mark.parametrize("name", ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"])
@pytest.mark.parametrize(
    "make", [_file(PAGE), _opened(os.O_RDWR), _directory], ids=["memfd", "file", "directory"]
)
def test_what_cannot_be_waited_for_is_refused(scene: Scene, name: str, make: Maker) -> None:
    with contextlib.ExitStack() as stack:
        assert scene.front_end.acknowledged(name, 0, [make(stack)]) == 1
    assert scene.works()


def test_descriptors_that_find_no_room_are_missed(scene: Scene) -> None:
    """The process has as many open as it may: the kernel delivers the message without them."""
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [scene.guest.rings[0].call_fd]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [scene.guest.rings[0].call_fd]) == 0
    assert scene.works()


def test_more_descriptors_than_any_message_has_are_closed(scene: Scene) -> None:
    assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [scene.guest.rings[0].call_fd] * 200) == 1
    assert scene.works()


def test_a_call_that_nobody_reads_does_not_stop_the_queue(scene: Scene) -> None:
    """UML's end is a blocking socket. It is filled up; the ring goes on."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(bytes(4096))
        theirs.setblocking(True)
        assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [theirs.fileno()]) == 0
        queue = scene.driver.queues[0]
        for _ in range(3):
            head = queue.add([bytes(16)], [512, 1])
            queue.enable_interrupts()
            queue.publish()
            os.eventfd_write(scene.guest.rings[0].kick, 1)
            deadline = time.monotonic() + 5
            while not (used := queue.poll_used()):
                assert time.monotonic() < deadline
            assert used[0].head == head
    assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [scene.guest.rings[0].call_fd]) == 0
    assert scene.works()


def test_a_call_whose_other_end_is_closed_does_not_stop_the_queue(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [theirs.fileno()]) == 0
    ours.close()
    queue = scene.driver.queues[0]
    head = queue.add([bytes(16)], [512, 1])
    queue.enable_interrupts()
    queue.publish()
    os.eventfd_write(scene.guest.rings[0].kick, 1)
    deadline = time.monotonic() + 5
    while not (used := queue.poll_used()):
        assert time.monotonic() < deadline
    assert used[0].head == head


def test_calls_may_be_swapped_while_the_ring_is_live(scene: Scene) -> None:
    """As QEMU does when the guest masks its vector."""
    other = os.eventfd(0, os.EFD_NONBLOCK)
    ring = scene.guest.rings[0]
    mine = ring.call
    try:
        for _ in range(50):
            ring.call = other
            assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [other]) == 0
            transfer(scene.peer, scene.guest, scene.driver, 0, 1, b"a" * 512)
            ring.call = mine
            assert scene.front_end.acknowledged("SET_VRING_CALL", 0, [mine]) == 0
            transfer(scene.peer, scene.guest, scene.driver, 0, 1, b"b" * 512)
    finally:
        os.close(other)


# --- a driver that breaks the ring, seen from the front end


def test_a_broken_ring_is_seen_by_status_error_and_message(scene: Scene) -> None:
    ring = scene.guest.rings[0]
    assert scene.front_end.acknowledged("SET_VRING_ERR", 0, [ring.error]) == 0
    available = scene.driver.addresses[0]["available"]
    scene.memory.map[available + 2 : available + 4] = (1000).to_bytes(2, "little")
    os.eventfd_write(ring.kick, 1)
    assert readable(ring.error)
    message = scene.front_end.channel_request()
    assert message.kind is not None
    assert message.kind.name == "BACKEND_CONFIG_CHANGE_MSG"
    assert scene.front_end.ask("GET_STATUS") & 0x40
    # The other queue lives; then the driver resets, and all is well.
    transfer(scene.peer, scene.guest, scene.driver, 1, 1, b"a" * 512)
    scene.peer.stop(scene.guest)
    scene.driver.close()
    scene.driver = Driver(scene.memory)
    scene.peer.start(scene.guest)
    assert scene.works()


def test_everything_at_once_in_any_order(scene: Scene) -> None:
    """Messages that make sense one by one, many times, on live rings: no answer is lost, nothing hangs."""
    say = scene.front_end.acknowledged
    features = scene.front_end.ask("GET_FEATURES")
    for turn in range(30):
        say("SET_VRING_ENABLE", VringState(turn % 2, turn % 3 % 2))
        say("SET_FEATURES", features & (FEATURES | F_PROTOCOL_FEATURES))
        say("SET_VRING_KICK", turn % 2, [scene.guest.rings[turn % 2].kick])
        say("SET_MEM_TABLE", (scene.memory.region,), [scene.memory.fd])
        if turn % 7 == 0:
            scene.front_end.ask("GET_VRING_BASE", VringState(turn % 2, 0))
        if turn % 5 == 0:
            say("RESET_DEVICE")
        say("SET_VRING_BASE", VringState(0, turn))
        say("SET_VRING_ADDR", vring_address(0, scene.driver.addresses[turn % 2], scene.memory))
        say("SET_STATUS", turn % 16)
    assert scene.front_end.ask("GET_QUEUE_NUM") == QUEUES
