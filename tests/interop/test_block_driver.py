"""Our block driver on qemu-storage-daemon and on our own back end: what is written is what is read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtio
from virtio.bench.block_servers import OURS, Medium, RunningServer, ServerName, peers, running
from virtio.driver.block import BlockDriver
from virtio.driver.block_requests import check
from virtio.errors import IOFailed
from virtio.spec import core

MIB = 1 << 20
DISK = 256 * MIB
DEPTH = 64
SHORT = 128 * MIB
LONG = 10 << 30

LAYOUTS = {
    "split": "RING_PACKED",
    "packed": "IN_ORDER",
    "no tables": "RING_PACKED,INDIRECT_DESC",
    "no event index": "RING_PACKED,EVENT_IDX",
}


@pytest.fixture(params=[*peers(), OURS])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    name: ServerName = request.param
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(DISK)
    with running(name, Medium("file", DISK, path), tmp_path) as found:
        yield found


def verify(disk: BlockDriver, transferred: int) -> None:
    """Read and write so many bytes at random, and compare all that is read."""
    requests = transferred // 4096
    buffer = disk.allocate(DEPTH * 4096)
    result = disk.load("verify", buffer, depth=DEPTH, requests=requests, seed=os.getpid())
    assert (result.requests, result.failed, result.mismatches) == (requests, 0, 0)
    disk.flush()


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_what_is_written_is_what_is_read(server: RunningServer, layout: str) -> None:
    with virtio.connect(server.address, "block", mask=LAYOUTS[layout]) as disk:
        packed = bool(disk.features & core.F.RING_PACKED)
        assert packed == (layout == "packed" and server.name == OURS)
        verify(disk, SHORT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", ["split", "packed"])
def test_ten_gibibytes(server: RunningServer, layout: str) -> None:
    if layout == "packed" and server.name != OURS:
        pytest.skip("qemu-storage-daemon has no packed rings")
    with virtio.connect(server.address, "block", mask=LAYOUTS[layout]) as disk:
        verify(disk, LONG)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("transferred", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_in_order(tmp_path: Path, packed: bool, transferred: int) -> None:
    """Only our own device has it, and offers it when asked to."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(DISK)
    device = virtio.BlockDevice(path)
    device.offered_features |= core.F.IN_ORDER
    address = f"vhost-user:{tmp_path}/disk.sock"
    try:
        with (
            virtio.start(device, address),
            virtio.connect(address, "block", mask="" if packed else "RING_PACKED") as disk,
        ):
            assert disk.features & core.F.IN_ORDER
            verify(disk, transferred)
    finally:
        device.close()


def test_every_call(server: RunningServer) -> None:
    with virtio.connect(server.address, "block") as disk:
        assert disk.capacity == DISK
        data = os.urandom(MIB)
        disk.write(8, data)
        disk.flush()
        assert disk.read(8, MIB // 512) == data
        disk.write_zeroes(8, 8, unmap=True)
        assert disk.read(8, 8) == bytes(4096)
        disk.discard(16, 8)
        assert isinstance(disk.get_id(), str)
        with disk.open() as file:
            file.seek(8 * 512 + 5000)
            assert file.read(100) in (data[5000:5100], bytes(100)), "discarded, or not"
        # Past the end: the driver's own check is gone around.
        status, _ = disk._requests[0].fill(0, DISK // 512, disk.allocate(4096))
        with pytest.raises(IOFailed, match="VIRTIO_BLK_S_IOERR"):
            check(0, DISK // 512, status)
        assert disk.read(0, 1) == bytes(512)


def test_one_driver_after_another(server: RunningServer) -> None:
    for number in range(5):
        with virtio.connect(server.address, "block") as disk:
            disk.write(number, bytes([number]) * 512)
    with virtio.connect(server.address, "block") as disk:
        assert disk.read(0, 5) == b"".join(bytes([number]) * 512 for number in range(5))
