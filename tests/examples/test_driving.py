"""Examples that drive a device, run as they are written."""

import subprocess
import sys
from pathlib import Path

import pytest

import virtio

EXAMPLE = Path(__file__).parents[2] / "examples" / "drive_a_disk.py"
SECTORS = 8192


def run(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_disk_of_its_own() -> None:
    first, second, third = run()
    assert first.startswith("16 MiB, ")
    assert second == "b'hello' 131072 0 b'anywhere'"
    assert third == "8192 ['sectors 32768 to 32769 of a disk of 32768 sectors']"


@pytest.mark.parametrize("mask", ["", "RING_PACKED"], ids=["packed", "split"])
def test_a_disk_behind_a_socket(mask: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SECTORS * 512))
    disk = virtio.BlockDevice(image, mask=mask)
    try:
        with virtio.start(disk, f"vhost-user:{tmp_path}/disk.sock") as server:
            lines = run(server.address)
    finally:
        disk.close()
    assert ("VIRTIO_F_RING_PACKED" in lines[0]) == (not mask)
    assert lines[1] == "b'hello' 131072 0 b'anywhere'"
    content = image.read_bytes()
    assert content[8 * 512 :].startswith(bytes([8]) * 512)
    assert content[512:1024] == bytes([1]) * 512


def test_a_disk_that_refuses_writing(tmp_path: Path) -> None:
    class Refusing(virtio.BlockDevice):
        def write(self, sector: int, data: memoryview) -> type[virtio.IOCompleted]:
            raise virtio.IOFailed

    from examples.drive_a_disk import what_may_fail

    with virtio.start(Refusing(size=1 << 20), "mem:refusing"), virtio.connect("mem:refusing") as disk:
        assert what_may_fail(disk) == [
            "sectors 2048 to 2049 of a disk of 2048 sectors",
            "OUT at sector 0: the device says VIRTIO_BLK_S_IOERR",
        ]
