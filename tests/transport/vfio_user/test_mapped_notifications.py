"""Notifications that the client stores to a page, where nothing tells the server."""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, Mirror, live

import virtio
from virtio.errors import ConfigurationError
from virtio.spec.core import F
from virtio.transport import vfio_user
from virtio.transport.pci import Layout, MapArea, PciDriverEnd, PciFunction, Place, SharedMemory
from virtio.transport.pci.hardware import CardFunction
from virtio.transport.vfio_user.bus import VfioUserBus
from virtio.transport.vfio_user.messages import Command, RegionFlag
from virtio.transport.vfio_user.payloads import RegionInfo, unpack_sparse

from .harness import Client

MAPPED = Layout(notify_mapped=True, notify_multiplier=4096)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    device = Mirror()
    with vfio_user.start(device, f"{tmp_path}/function.sock", layout=MAPPED) as server:
        yield server.address
    device.close()


def connect(address: str, **options: object) -> PciDriverEnd:
    return vfio_user.open_driver_end(address.partition(":")[2], **options)  # type: ignore[arg-type]


def pages(bus: VfioUserBus) -> bytes:
    (area,) = bus.regions[MAPPED.notify.bar].areas
    with mmap.mmap(area.fd, area.size, prot=mmap.PROT_READ, offset=area.fd_offset) as found:
        return found[:]


@pytest.mark.parametrize("share", [True, False], ids=["shared", "far"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])
def test_a_store_notifies(address: str, share: bool, packed: bool) -> None:
    with contextlib.closing(connect(address, share=share)) as end:
        bus = end.bus
        assert isinstance(bus, VfioUserBus)
        (area,) = bus.regions[MAPPED.notify.bar].areas
        assert (area.offset, area.size) == (MAPPED.notify.offset, 2 * 4096)
        with live(end, BASIC | (F.RING_PACKED if packed else 0), [0, 1]) as rings:
            assert not bus._kicks  # no eventfd was asked for
            for ring in rings:
                for _ in range(20):
                    ring.mirror(b"there and back")
            end._wires[1].kick()
            assert pages(bus)[4096:4098] == b"\1\0"


def test_notifications_with_data_are_stored_too(tmp_path: Path) -> None:
    device = Mirror()
    path = f"{tmp_path}/function.sock"
    with (
        contextlib.closing(device),
        vfio_user.start(device, path, layout=MAPPED, features=F.NOTIFICATION_DATA) as server,
        contextlib.closing(connect(server.address)) as end,
        live(end, BASIC | F.NOTIFICATION_DATA, [1]) as (ring,),
    ):
        ring.mirror(b"there")
        end._wires[1].kick(7 << 16 | 1)
        assert isinstance(end.bus, VfioUserBus)
        assert pages(end.bus)[4096:4100] == b"\1\0\7\0"
        assert server.function.ignored == {}


def test_eventfds_and_writes_notify_as_well(address: str) -> None:
    """A client need not map."""
    with contextlib.closing(connect(address)) as end:
        bus = end.bus
        assert isinstance(bus, VfioUserBus)
        bus.regions = [replace(region, areas=()) for region in bus.regions]
        with live(end, BASIC, [0]) as (ring,):
            assert list(bus._kicks) == [0]
            ring.mirror(b"there")


def test_what_may_shrink_is_not_mapped(address: str) -> None:
    with contextlib.closing(connect(address)) as end, os.fdopen(os.memfd_create("short"), "wb") as file:
        bus = end.bus
        assert isinstance(bus, VfioUserBus)
        os.ftruncate(file.fileno(), 1 << 16)
        place, size = MAPPED.notify, 2 * 4096
        for area in (
            MapArea(place.offset, size, file.fileno(), place.offset),
            MapArea(place.offset, 1 << 40, bus.regions[place.bar].areas[0].fd, place.offset),
            MapArea(place.offset, size, bus.regions[place.bar].areas[0].fd, 1),
        ):
            bus.regions = [replace(region, areas=(area,) if region.areas else ()) for region in bus.regions]
            with live(end, BASIC, [0]) as (ring,):
                assert list(bus._kicks) == [0]
                ring.mirror(b"there")


def test_the_next_client_may_do_otherwise(address: str) -> None:
    for share in (True, False, True):
        with contextlib.closing(connect(address, share=share)) as end, live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"there")


def test_a_disk_is_used(tmp_path: Path) -> None:
    disk = virtio.BlockDevice(size=1 << 20)
    with (
        contextlib.closing(disk),
        vfio_user.start(disk, f"{tmp_path}/disk.sock", layout=MAPPED) as server,
        virtio.connect(server.address) as driver,
    ):
        driver.write(0, b"hello".ljust(4096, b"\0"))
        assert bytes(driver.read(0, 8))[:5] == b"hello"


def test_layouts_that_cannot_be() -> None:
    device = Mirror()
    with contextlib.closing(device):
        for layout in (
            Layout(notify_mapped=True, notify=Place(0, 0x3004)),
            Layout(notify_mapped=True, isr=Place(0, 0x3100)),
        ):
            with pytest.raises(ConfigurationError):
                PciFunction(device, layout=layout)
        with os.fdopen(os.memfd_create("shared"), "wb") as file:
            os.ftruncate(file.fileno(), 4096)
            shared = [SharedMemory(0, file.fileno(), 4096)]
            with pytest.raises(ConfigurationError):
                PciFunction(
                    device, layout=Layout(notify_mapped=True, shared_memory_bar=0), shared_memory=shared
                )
        with pytest.raises(ConfigurationError, match="counted"):
            CardFunction(device, layout=Layout(notify_mapped=True))


def test_where_the_pages_are_is_said_even_where_there_is_no_room_for_it() -> None:
    """QEMU asks with the shortest structure first, and takes an offset of 0 for an error."""
    with contextlib.closing(Client(layout=MAPPED)) as client:
        for size in (32, 64):
            reply = client.call(Command.DEVICE_GET_REGION_INFO, RegionInfo(size, 0, 0).pack())
            info = RegionInfo.unpack(reply.payload)
            assert len(reply.payload) == size
            assert info.flags == RegionFlag.READ | RegionFlag.WRITE | RegionFlag.MMAP | RegionFlag.CAPS
            assert (info.argsz, info.cap_offset, len(reply.fds)) == (64, 32, 1)
        assert unpack_sparse(reply.payload, 32) == [(MAPPED.notify.offset, 2 * 4096)]


def test_the_pages_keep_their_size() -> None:
    with contextlib.closing(Client()) as client:
        assert not client.function.regions[0].areas
    function = PciFunction(Mirror(), layout=Layout(notify_mapped=True))
    (area,) = function.regions[0].areas
    assert area.size == 4096
    assert fcntl.fcntl(area.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    function.close()
    function.device.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(area.fd)
