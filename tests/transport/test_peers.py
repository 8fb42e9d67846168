"""The sequences of real front ends, with real I/O: a driver's ring in shared memory, a device in threads."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.transport.disk import Disk
from tests.transport.frontend import (
    FrontEnd,
    GuestMemory,
    readable,
)
from tests.transport.peers import PEERS, Guest, Libblkio, Peer, Qemu, Silent, Uml, UmlInBand, guest

import virtio
from virtio.queue.model.ring import Addresses
from virtio.queue.model.split import SplitDriver
from virtio.spec import core
from virtio.transport.vhost_user.payloads import VringState

FEATURES = core.F.VERSION_1 | core.F.EVENT_IDX | core.F.INDIRECT_DESC
SIZE = 16
QUEUES = 2
RESTARTING = [kind for kind in PEERS if kind is not Libblkio]  # which starts once in a connection


@pytest.fixture
def disk() -> Iterator[Disk]:
    device = Disk(queues=QUEUES)
    yield device
    device.close()


class Driver:
    """The drivers of all rings in one memory."""

    def __init__(self, memory: GuestMemory, features: int = FEATURES) -> None:
        half = memory.size // QUEUES
        view = memory.map
        self.queues = [
            SplitDriver(
                view,
                memory.guest_address + index * half,
                SIZE,
                features,
                start=memory.guest_address,
                end=memory.guest_address + (index + 1) * half,
            )
            for index in range(QUEUES)
        ]

    @property
    def addresses(self) -> list[Addresses]:
        return [queue.addresses for queue in self.queues]

    def close(self) -> None:
        for queue in self.queues:
            queue.close()


def transfer(peer: Peer, guest: Guest, driver: Driver, index: int, sector: int, data: bytes | None) -> bytes:
    """Write ``data``, or read a sector; return what was read."""
    queue = driver.queues[index]
    header = (0 if data is None else 1).to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
    queue.enable_interrupts()
    head = queue.add([header], [512, 1]) if data is None else queue.add([header, data], [1])
    queue.publish()
    if queue.needs_kick():
        kick(peer, guest, index)
    assert await_used(peer, guest, driver, index) == head
    answer = queue.data(head)
    assert answer[-1] == 0, f"status {answer[-1]}"
    return answer[:-1]


def await_used(peer: Peer, guest: Guest, driver: Driver, index: int) -> int:
    """Wait until one buffer is used. A call is a hint: it may be late, and belong to an earlier one."""
    while not (used := driver.queues[index].poll_used()):
        wait_for_call(peer, guest, index)
    (entry,) = used
    return entry.head


def kick(peer: Peer, guest: Guest, index: int) -> None:
    if isinstance(peer, UmlInBand):
        peer.tell("VRING_KICK", VringState(index, 0))
    elif not isinstance(peer, Silent):
        os.eventfd_write(guest.rings[index].kick, 1)


def wait_for_call(peer: Peer, guest: Guest, index: int) -> None:
    if isinstance(peer, UmlInBand):
        message = peer.front_end.channel_request()
        assert message.kind is not None
        assert message.kind.name == "BACKEND_VRING_CALL"
        assert message.payload.ring < QUEUES  # perhaps the late call of another
        return
    call = guest.rings[index].call
    assert readable(call), "no call came"
    assert len(os.read(call, 8)) == 8


@contextlib.contextmanager
def drive(peer: Peer, memory: GuestMemory) -> Iterator[tuple[Guest, Driver]]:
    driver = Driver(memory)
    sockets = isinstance(peer, Uml)
    try:
        with guest(memory, driver.addresses, SIZE, FEATURES | 0xFFFFFF, sockets=sockets) as there:
            yield there, driver
    finally:
        driver.close()


@pytest.mark.parametrize("kind", PEERS, ids=[kind.name for kind in PEERS])
def test_a_driver_reads_what_it_wrote(kind: type[Peer], disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    with (
        virtio.start(disk, f"vhost-user:{path}?notifications=in-band"),
        FrontEnd.connect(path) as front_end,
        GuestMemory(guest_address=0x4000_0000) as memory,
    ):
        peer = kind(front_end)
        peer.connect(QUEUES, disk.config_size)
        with drive(peer, memory) as (there, driver):
            peer.start(there)
            for index in range(QUEUES):
                data = os.urandom(512)
                transfer(peer, there, driver, index, index + 1, data)
                assert transfer(peer, there, driver, index, index + 1, None) == data
            for base in peer.stop(there):
                assert base == 2


@pytest.mark.parametrize("kind", RESTARTING, ids=[kind.name for kind in RESTARTING])
def test_a_second_driver_starts_afresh(kind: type[Peer], disk: Disk, tmp_path: Path) -> None:
    """Firmware first, then the kernel: other features, a new ring elsewhere, index 0."""
    path = tmp_path / "disk.sock"
    with (
        virtio.start(disk, f"vhost-user:{path}?notifications=in-band"),
        FrontEnd.connect(path) as front_end,
        GuestMemory() as memory,
    ):
        peer = kind(front_end)
        peer.connect(QUEUES, disk.config_size)
        data = os.urandom(512)
        for features in (core.F.VERSION_1 | 0xFFFFFF, FEATURES | 0xFFFFFF, FEATURES | 0xFFFFFF):
            driver = Driver(memory, features)
            with guest(memory, driver.addresses, SIZE, features, sockets=isinstance(peer, Uml)) as there:
                peer.start(there)
                transfer(peer, there, driver, 1, 9, data)
                assert disk.negotiated_features & FEATURES == features & FEATURES
                assert transfer(peer, there, driver, 0, 9, None) == data
                peer.stop(there)
            driver.close()


def test_a_driver_goes_on_after_a_pause(disk: Disk, tmp_path: Path) -> None:
    """The machine is stopped and continued: same ring, from the base that it was stopped at."""
    path = tmp_path / "disk.sock"
    with (
        virtio.start(disk, f"vhost-user:{path}?notifications=in-band"),
        FrontEnd.connect(path) as front_end,
        GuestMemory() as memory,
    ):
        peer = Qemu(front_end)
        peer.connect(QUEUES, disk.config_size)
        with drive(peer, memory) as (there, driver):
            for round_number in range(3):
                there.base = round_number
                peer.start(there)
                for index in range(QUEUES):
                    transfer(peer, there, driver, index, 1, bytes([round_number + 1]) * 512)
                assert peer.stop(there) == [round_number + 1] * QUEUES


def test_a_request_that_waits_while_the_rings_are_stopped_is_done_later(disk: Disk, tmp_path: Path) -> None:
    """Its kick was consumed before; the ring is looked at when it starts."""
    path = tmp_path / "disk.sock"
    with (
        virtio.start(disk, f"vhost-user:{path}?notifications=in-band"),
        FrontEnd.connect(path) as front_end,
        GuestMemory() as memory,
    ):
        peer = Qemu(front_end)
        peer.connect(QUEUES, disk.config_size)
        with drive(peer, memory) as (there, driver):
            peer.start(there)
            transfer(peer, there, driver, 0, 1, b"a" * 512)
            (there.base, _) = peer.stop(there)
            queue = driver.queues[0]
            queue.enable_interrupts()
            head = queue.add([bytes(8) + (1).to_bytes(8, "little")], [512, 1])
            queue.publish()
            there.rings[1].addresses = there.rings[0].addresses
            there.rings = there.rings[:1]
            peer.queues = 1
            peer.start(there)
            assert await_used(peer, there, driver, 0) == head
            assert queue.data(head) == b"a" * 512 + b"\0"


def test_the_guest_may_be_killed_and_another_come(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    data = os.urandom(512)
    with virtio.start(disk, f"vhost-user:{path}?notifications=in-band") as server:
        for life in range(5):
            with FrontEnd.connect(path) as front_end, GuestMemory() as memory:
                peer = Uml(front_end)
                peer.connect(QUEUES, disk.config_size)
                assert server.connected
                with drive(peer, memory) as (there, driver):
                    peer.start(there)
                    if life:
                        assert transfer(peer, there, driver, 0, 3, None) == data
                    transfer(peer, there, driver, 1, 3, data)


@pytest.mark.parametrize("kind", [Uml, Qemu])
def test_a_disk_that_grows_is_announced(kind: type[Peer], disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    with (
        virtio.start(disk, f"vhost-user:{path}?notifications=in-band"),
        FrontEnd.connect(path) as front_end,
        GuestMemory() as memory,
    ):
        peer = kind(front_end)
        peer.connect(QUEUES, disk.config_size)
        with drive(peer, memory) as (there, _):
            peer.start(there)
            for sectors in (128, 256):
                disk.config.capacity = sectors
                message = front_end.channel_request()
                assert message.kind is not None
                assert message.kind.name == "BACKEND_CONFIG_CHANGE_MSG"
                assert message.needs_reply
                assert int.from_bytes(front_end.get_config(0, 8), "little") == sectors
