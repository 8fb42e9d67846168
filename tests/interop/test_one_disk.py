"""The same disk, unchanged, over each way to a guest: what the guest finds is the same."""

import random
from pathlib import Path

import pytest

import virtio
from virtio.errors import ConfigurationError
from virtio.vm import Monitor, Transport, boot
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

WAYS: list[tuple[Monitor, Transport]] = [
    ("uml", "vhost-user"),
    ("qemu", "vhost-user"),
    ("qemu", "vfio-user"),
]

SCRIPT = """
cd /sys/block/vda
for fact in size ro serial queue/logical_block_size queue/write_cache queue/discard_max_bytes; do
    echo "$fact $(cat $fact)"
done
sha256sum </dev/vda
dd if=/dev/vda of=/dev/vda bs=4k skip=3 seek=1000 count=50 2>/dev/null
dd if=/dev/zero of=/dev/vda bs=512 seek=77 count=9 conv=notrunc 2>/dev/null
sync
sha256sum </dev/vda
blkdiscard -o 1048576 -l 65536 /dev/vda && echo discarded
dd if=/dev/vda bs=512 skip=40000 count=1 2>&1 | sha256sum
"""
_results: dict[str, tuple[str, bytes]] = {}


def reference(folder: Path) -> bytes:
    contents = random.Random(11).randbytes(4 << 20)
    (folder / "disk.img").write_bytes(contents)
    return contents


@pytest.mark.parametrize(("monitor", "transport"), WAYS, ids=lambda value: str(value))
def test_a_guest_finds_the_same_disk(
    monitor: Monitor, transport: Transport, needs: Needs, tmp_path: Path
) -> None:
    needs(monitor)
    if transport == "vfio-user":
        try:
            vfio_user_program()
        except ConfigurationError as error:
            pytest.skip(str(error))
    reference(tmp_path)
    disk = virtio.BlockDevice(tmp_path / "disk.img", serial="one-disk")
    try:
        with boot([disk], monitor=monitor, transport=transport, timeout=100) as guest:
            found = guest.run(SCRIPT).output
    finally:
        disk.close()
    _results[f"{monitor} {transport}"] = found, (tmp_path / "disk.img").read_bytes()
    assert "one-disk" in found
    first = next(iter(_results.values()))
    assert all(result == first for result in _results.values()), {name: r[0] for name, r in _results.items()}


@pytest.mark.parametrize("scheme", ["mem", "mmio", "pci", "vhost-user", "vfio-user"])
def test_our_driver_finds_the_same_disk(scheme: str, tmp_path: Path) -> None:
    contents = reference(tmp_path)
    disk = virtio.BlockDevice(tmp_path / "disk.img", serial="one-disk")
    rest = f"{tmp_path}/disk.sock" if scheme.endswith("user") else "one-disk"
    try:
        with (
            virtio.start(disk, f"{scheme}:{rest}") as server,
            virtio.connect(server.address, "block") as driver,
        ):
            assert driver.get_id() == "one-disk"
            assert driver.capacity == len(contents)
            assert bytes(driver.read(0, driver.sectors)) == contents
            driver.write(16, contents[:65536])
            driver.write_zeroes(0, 8)
            driver.flush()
            expected = bytearray(contents)
            expected[8192 : 8192 + 65536] = contents[:65536]
            expected[:4096] = bytes(4096)
            assert bytes(driver.read(0, 2048)) == expected[: 1 << 20]
            with pytest.raises(virtio.Error):
                driver.read(driver.sectors, 1)
    finally:
        disk.close()
    assert (tmp_path / "disk.img").read_bytes() == expected
