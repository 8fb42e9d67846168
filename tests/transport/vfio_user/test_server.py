"""A server on its socket: clients that die, that wait, that come back, and firmware that moves memory."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, READY, Mirror, S, live

import virtio
from virtio.errors import TransportError
from virtio.queue import Chain
from virtio.queue.model import Descriptor, SplitDriver
from virtio.queue.model.ring import INDIRECT, NEXT, WRITE
from virtio.transport import open_driver_end
from virtio.transport.pci import PciDriverEnd
from virtio.transport.vfio_user import open_bus, version
from virtio.transport.vfio_user.bus import VfioUserBus
from virtio.transport.vfio_user.codec import encode
from virtio.transport.vfio_user.messages import DMA_UNMAP_ALL, Command, DmaFlag
from virtio.transport.vfio_user.payloads import DmaMap, DmaUnmap

SECONDS = 10.0


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def device() -> Iterator[Mirror]:
    found = Mirror()
    yield found
    found.close()


@pytest.fixture
def address(device: Mirror, tmp_path: Path) -> Iterator[str]:
    with virtio.start(device, f"vfio-user:{tmp_path}/function.sock") as server:
        yield server.address


def raw(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    connection.connect(address.partition(":")[2])
    return connection


def test_a_client_that_dies_makes_room_for_the_next(address: str, device: Mirror) -> None:
    for _ in range(3):
        end = open_driver_end(address)
        with contextlib.suppress(TransportError), live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"there")
            assert isinstance(end, PciDriverEnd)
            assert isinstance(end.bus, VfioUserBus)
            # Gone without a word, as a process is that was killed.
            end.bus._client._socket.shutdown(socket.SHUT_RDWR)
            eventually(lambda: not device.attached)
        end.close()


def test_one_client_at_a_time(address: str) -> None:
    first = open_driver_end(address)
    second = raw(address)
    second.sendall(encode(1, Command.VERSION, 0, version.propose()))
    second.settimeout(0.2)
    with pytest.raises(TimeoutError):
        second.recv(1)
    first.close()
    second.settimeout(SECONDS)
    assert second.recv(16)
    second.close()


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 40])
def test_a_client_that_stops_within_a_message(address: str, device: Mirror, cut: int) -> None:
    with raw(address) as client:
        client.sendall(encode(1, Command.VERSION, 0, version.propose())[:cut])
    with contextlib.closing(open_driver_end(address)) as end:
        assert end.device_id == 2
    del device


@pytest.mark.parametrize("noise", [b"\0" * 64, b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))])
def test_noise_ends_the_connection(address: str, noise: bytes) -> None:
    with raw(address) as client:
        client.sendall(noise)
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(4096):
                data += piece
        assert len(data) in (0, 16)


def test_a_client_that_does_not_read_is_let_go(address: str, device: Mirror) -> None:
    with raw(address) as client, contextlib.suppress(ConnectionError, TimeoutError):
        client.sendall(encode(1, Command.VERSION, 0, version.propose()))
        client.settimeout(1)
        read = encode(2, Command.REGION_READ, 0, b"\0" * 8 + b"\7\0\0\0" + (4096).to_bytes(4, "little"))
        while device.attached:
            client.sendall(read * 100)
    eventually(lambda: not device.attached)


# --- memory that comes and goes


def take_away(bus: VfioUserBus) -> None:
    """Take all memory away, as a machine does whose firmware shadows ROMs."""
    bus._client.call(Command.DMA_UNMAP, DmaUnmap(24, DMA_UNMAP_ALL, 0, 0).pack())


def give_back(bus: VfioUserBus, pieces: int, *, share: bool) -> None:
    for region in bus.memory.regions:
        step = region.size // pieces
        for at in range(0, region.size, step):
            wanted = DmaMap(32, DmaFlag.READ | DmaFlag.WRITE, at, region.guest_address + at, step)
            bus._client.call(Command.DMA_MAP, wanted.pack(), [region.fd] if share else [])


@pytest.mark.parametrize("share", [True, False], ids=["shared", "by messages"])
def test_queues_live_through_memory_that_is_moved(address: str, device: Mirror, share: bool) -> None:
    bus = open_bus(address.partition(":")[2], memory_size=1 << 20, share=share)
    with PciDriverEnd(bus) as end, live(end, BASIC, [0]) as (ring,):
        for pieces in (1, 4, 8, 64):
            ring.mirror(b"before")
            take_away(bus)
            # What is asked for meanwhile waits.
            head = ring.offer(b"meanwhile")
            time.sleep(0.05)  # longer than memory is given to settle
            assert not end.status & S.DEVICE_NEEDS_RESET
            give_back(bus, pieces, share=share)
            assert ring.wait() == [head]
            ring.mirror(b"after")
            for _ in range(2):
                take_away(bus)
                give_back(bus, 1, share=share)
        assert end.status == READY | S.DRIVER_OK
        assert device.negotiated_features


@pytest.mark.parametrize("share", [True, False], ids=["shared", "by messages"])
@pytest.mark.parametrize("then", ["reset", "FLR", "nothing"])
def test_live_rings_are_taken_away_for_good(address: str, device: Mirror, share: bool, then: str) -> None:
    bus = open_bus(address.partition(":")[2], memory_size=1 << 20, share=share)
    with PciDriverEnd(bus) as end, live(end, BASIC, [0, 1]) as rings:
        for ring in rings:
            ring.offer(b"under way")
        take_away(bus)
        for ring in rings:
            ring.kick()
        assert end.status == READY | S.DRIVER_OK
        if then == "FLR":
            bus.reset()
            assert end.status == 0
        elif then == "reset":
            end.reset()
            give_back(bus, 2, share=share)
            with live(end, BASIC, [0]) as (again,):
                again.mirror(b"anew")
    with PciDriverEnd(open_bus(address.partition(":")[2])) as end, live(end, BASIC, [0]) as (ring,):
        ring.mirror(b"the next one")


# --- what is far away


class Slow(Mirror):
    """Keeps its chains."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Chain] = []

    def on_requests(self, chain: Chain) -> None:
        chain.hold(idle=True)
        self.kept.append(chain)


def test_a_reset_does_not_wait_for_far_memory(tmp_path: Path) -> None:
    """The client that resets is the one that would have to answer."""
    device = Slow()
    with virtio.start(device, f"vfio-user:{tmp_path}/slow.sock") as server:
        end = open_driver_end(server.address, share=False)
        with live(end, BASIC, [0]) as (ring,):
            ring.offer(b"never answered")
            eventually(lambda: device.kept)
            end.reset()
            assert end.status == 0
            device.kept.clear()
        end.close()
    device.close()


@pytest.mark.parametrize(
    "wild",
    [
        Descriptor(1 << 50, 16),
        Descriptor((1 << 64) - 8, 16),
        Descriptor(0x20_0000, 0xFFFF_FFFF, WRITE),
        Descriptor(0x20_0000, 16, NEXT, 0),
        Descriptor(1 << 50, 1 << 20, INDIRECT),
        Descriptor(0x20_0000, 17, INDIRECT),
    ],
    ids=["nowhere", "beyond", "endless", "loop", "table nowhere", "odd table"],
)
def test_wild_descriptors_far_away_stop_the_device_only(address: str, wild: Descriptor) -> None:
    end = open_driver_end(address, share=False)
    with live(end, BASIC, [0, 1]) as (ring, other):
        assert isinstance(ring.model, SplitDriver)
        ring.model.ring.set_descriptor(0, wild)
        ring.model.ring.set_available_entry(0, 0)
        ring.model.ring.available_index = 1
        assert ring.wire is not None
        ring.wire.kick()
        eventually(lambda: end.status & S.DEVICE_NEEDS_RESET)
        other.mirror(b"still there")
        end.reset()
        assert not end.status & S.DEVICE_NEEDS_RESET
    end.close()
