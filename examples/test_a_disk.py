"""A test bench: ``pytest examples/test_a_disk.py``. The package brings the fixtures.

One test is for a device of your own, wherever it is served:
``pytest examples/test_a_disk.py --virtio-address vhost-user:/run/my-disk.sock``. It writes to the device.
"""

import os
from pathlib import Path

import pytest

import virtio
from virtio.testing import Connect, Serve, ServeCommand, ServeProcess, StartGuest

SIZE = 16 << 20


class Flaky(virtio.BlockDevice):
    """Fails every third write."""

    writes = 0

    def write(self, sector: int, data: memoryview) -> object:
        self.writes += 1
        if self.writes % 3 == 0:
            raise virtio.IOFailed
        return super().write(sector, data)


def test_a_driver_tells_of_failed_writes(virtio_serve: Serve, virtio_connect: Connect) -> None:
    disk = virtio_connect(virtio_serve(Flaky(size=SIZE)))
    disk.write(0, bytes(512))
    disk.write(1, bytes(512))
    with pytest.raises(virtio.IOFailed):
        disk.write(2, bytes(512))


def test_a_kernel_tells_of_failed_writes(virtio_guest: StartGuest) -> None:
    guest = virtio_guest([Flaky(size=SIZE)])
    write = "dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync"
    assert [guest.run(write).status == 0 for _ in range(3)] == [True, True, False]
    assert "I/O error" in guest.check("dmesg | tail")


def test_a_back_end_that_is_killed(
    virtio_serve_process: ServeProcess, virtio_connect: Connect, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SIZE))
    back_end = virtio_serve_process("block", image)
    disk = virtio_connect(back_end, reconnect=10, mask="RING_PACKED")
    disk.write(8, b"x" * 512)
    back_end.kill()
    back_end.restart()
    assert disk.read(8, 1) == b"x" * 512


def test_somebody_elses_back_end(
    virtio_serve_command: ServeCommand, virtio_connect: Connect, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    back_end = virtio_serve_command(
        "qemu-storage-daemon",
        "--blockdev",
        f"driver=file,node-name=disk,filename={image}",
        "--export",
        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket}",
        type="block",
    )
    assert virtio_connect(back_end).read(0, SIZE // 512) == image.read_bytes()


def test_the_device_under_test(virtio_address: str, virtio_connect: Connect) -> None:
    disk = virtio_connect(virtio_address, "block")
    data = os.urandom(4096)
    disk.write(0, data)
    disk.flush()
    assert disk.read(0, 8) == data
