"""In-flight memory, as a session gives it out and takes it."""

import contextlib
import fcntl
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.transport.fakes import INDIRECT_DESC, RING_PACKED, VERSION_1, FakeDevice
from tests.transport.harness import ADDRESS, Harness, P, answer

from virtio.transport.unix.ancillary import Outbox, receive
from virtio.transport.vhost_user.actions import Send
from virtio.transport.vhost_user.inflight import part_size
from virtio.transport.vhost_user.payloads import Inflight, VringState

NOTHING = Inflight(0, 0, 0, 0)


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness(FakeDevice(features=VERSION_1 | INDIRECT_DESC | RING_PACKED))
    made.say("SET_OWNER")
    yield made
    made.close()


def get(harness: Harness, queues: int = 2, size: int = 256) -> tuple[Inflight, int]:
    """Ask for memory; the descriptor is a duplicate."""
    (action,) = harness.say("GET_INFLIGHT_FD", Inflight(0, 0, queues, size))
    assert isinstance(action, Send)
    (fd,) = action.fds
    return answer([action]).payload, os.dup(fd)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def part(harness: Harness, index: int = 0) -> tuple[int, int, int] | None:
    return harness.device.queues[index].inflight


@pytest.mark.parametrize(
    ("features", "size"),
    [
        (VERSION_1, 16 + 16 * 256 + 48),
        (VERSION_1 | RING_PACKED, 32 + 32 * 256 + 32),
        (None, 32 + 32 * 256 + 32),
    ],
)
def test_memory_is_made_for_the_layout_and_cannot_shrink(
    harness: Harness, features: int | None, size: int
) -> None:
    if features is not None:
        harness.negotiate(P.INFLIGHT_SHMFD, features=features)
    area, fd = get(harness)
    try:
        assert area == Inflight(2 * size, 0, 2, 256)
        assert os.fstat(fd).st_size == area.mmap_size
        for other in (0, area.mmap_size - 1, area.mmap_size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, other)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
        with mmap.mmap(fd, area.mmap_size) as view:
            assert view[:] == bytes(area.mmap_size)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("queues", "size"), [(0, 256), (3, 256), (2, 0), (2, 32769), (65535, 65535)])
def test_memory_that_cannot_be_is_not_there(harness: Harness, queues: int, size: int) -> None:
    """The answer is one: a front end waits for it."""
    assert harness.ask("GET_INFLIGHT_FD", Inflight(0, 0, queues, size)) == NOTHING


def test_asking_again_and_again_keeps_no_descriptors(harness: Harness) -> None:
    harness.say("GET_FEATURES")
    before = descriptors()
    for _ in range(100):
        _, fd = get(harness)
        os.close(fd)
    harness.say("GET_FEATURES")
    assert descriptors() == before


@pytest.mark.parametrize(
    ("area", "length"),
    [
        (Inflight(8256, 0, 0, 256), 1 << 16),
        (Inflight(8256, 0, 3, 256), 1 << 16),
        (Inflight(8256, 0, 2, 0), 1 << 16),
        (Inflight(1 << 15, 0, 2, 40000), 1 << 16),
        (Inflight(0, 0, 2, 256), 1 << 16),
        (Inflight(8256, 0, 2, 256), 1 << 16),  # less than two parts
        (Inflight(8320, 1 << 16, 2, 256), 1 << 16),
        (Inflight(1 << 63, 1 << 63, 2, 256), 1 << 16),
    ],
)
def test_memory_that_cannot_be_used_is_refused(harness: Harness, area: Inflight, length: int) -> None:
    harness.negotiate(P.REPLY_ACK, P.INFLIGHT_SHMFD)
    fd = os.memfd_create("inflight")
    os.ftruncate(fd, length)
    harness.refuses("SET_INFLIGHT_FD", area, (fd,))
    harness.ring()
    assert part(harness) is None


@pytest.mark.parametrize("packed", [False, True])
def test_each_ring_gets_its_part(harness: Harness, packed: bool) -> None:
    harness.negotiate(P.REPLY_ACK, P.INFLIGHT_SHMFD, features=VERSION_1 | (RING_PACKED if packed else 0))
    area, fd = get(harness)
    harness.accepts("SET_INFLIGHT_FD", area, (fd,))
    harness.ring()
    length = part_size(256, packed=packed)
    assert part(harness) == (0, length, 256)
    harness.refuses("SET_INFLIGHT_FD", area, (os.memfd_create("other"),))  # not while a ring is live
    harness.say("SET_VRING_NUM", VringState(1, 128))
    harness.say("SET_VRING_ADDR", ADDRESS._replace(ring=1))
    harness.say("SET_VRING_KICK", 1, (harness.give(),))
    harness.accepts("SET_VRING_ENABLE", VringState(1, 1))
    assert part(harness, 1) == (length, length, 256)


def test_a_ring_larger_than_its_part_does_not_start(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.INFLIGHT_SHMFD)
    area, fd = get(harness, size=128)
    harness.accepts("SET_INFLIGHT_FD", area, (fd,))
    harness.ring(enable=False)
    harness.refuses("SET_VRING_ENABLE", VringState(0, 1))
    assert not harness.device.queues[0].running


@contextlib.contextmanager
def in_use(harness: Harness) -> Iterator[mmap.mmap]:
    """Ring 0 runs with in-flight memory, which says so."""
    harness.negotiate(P.REPLY_ACK, P.INFLIGHT_SHMFD, P.RESET_DEVICE, P.STATUS)
    area, fd = get(harness)
    with mmap.mmap(fd, area.mmap_size) as view:
        harness.accepts("SET_INFLIGHT_FD", area, (fd,))
        view[8] = view[part_size(256, packed=False) + 8] = 1
        harness.ring()
        assert harness.device.queues[0].running
        yield view


@pytest.mark.parametrize(("name", "payload"), [("RESET_DEVICE", None), ("SET_STATUS", 0)])
def test_after_a_reset_nothing_is_in_flight(harness: Harness, name: str, payload: int | None) -> None:
    with in_use(harness) as view:
        harness.accepts(name, payload)
        assert view[8] == 0
        harness.negotiate()
        harness.ring()
        assert harness.device.queues[0].running
        assert part(harness) is None


def test_new_features_leave_what_a_predecessor_left(harness: Harness) -> None:
    """A front end may hand over the memory before the features; rings that ran here are reset by them."""
    with in_use(harness) as view:
        harness.say("SET_VRING_ENABLE", VringState(0, 0))
        harness.say("SET_FEATURES", VERSION_1 | INDIRECT_DESC | 1 << 30)
        assert view[8] == 0
        assert view[part_size(256, packed=False) + 8] == 1


def test_a_ring_that_goes_on_keeps_its_part_and_a_new_one_does_not(harness: Harness) -> None:
    with in_use(harness) as view:
        harness.device.queues[0].advance = 5
        assert harness.ask("GET_VRING_BASE", VringState(0, 0)) == (0, 5)
        harness.ring(base=5)
        assert view[8] == 1
        assert harness.ask("GET_VRING_BASE", VringState(0, 0)) == (0, 10)
        harness.ring(base=0)
        assert view[8] == 0
        assert harness.device.queues[0].running


def test_an_outbox_keeps_descriptors_until_they_are_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        outbox = Outbox(ours)
        while not outbox.pending:
            outbox.send(bytes(1 << 16))
        fd = os.memfd_create("sent")
        os.write(fd, b"contents")
        outbox.send(b"message", (fd,))
        os.close(fd)
        data, fds = b"", list[int]()
        while not data.endswith(b"message"):
            outbox.flush()
            received = receive(theirs, 1 << 16)
            assert received is not None
            data, fds = received.data, received.fds
        assert not outbox.pending
        assert os.pread(fds[0], 8, 0) == b"contents"
        os.close(fds[0])
        before = descriptors()
        while not outbox.pending:
            outbox.send(bytes(1 << 16))
        outbox.send(b"message", (0,))
        assert descriptors() == before + 1
        outbox.close()
        assert descriptors() == before
