"""A real kernel's block driver against disks of ours, several in one guest."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import virtio
from virtio.spec.core import F
from virtio.vm import Guest, Monitor, boot

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

MIB = 1 << 20
BAD_SECTOR = 2048


class Flaky(virtio.BlockDevice):
    """A disk with one bad sector."""

    def __init__(self, image: Path, mask: str) -> None:
        super().__init__(image, name="flaky", mask=mask)
        self.refused = 0

    def read(self, sector: int, into: memoryview) -> object:
        if sector <= BAD_SECTOR < sector + len(into) // 512:
            self.refused += 1
            raise virtio.IOFailed
        return super().read(sector, into)


@dataclass
class Bench:
    """A guest with three disks: vda to be changed, vdb read-only, vdc flaky."""

    guest: Guest
    disk: virtio.BlockDevice
    image: Path
    fixed: virtio.BlockDevice
    fixed_image: Path
    flaky: Flaky
    flaky_image: Path
    contents: bytes = field(repr=False)


@pytest.fixture(scope="module", params=["packed", "split"])
def layout(request: pytest.FixtureRequest) -> str:
    """The layout of the queues: packed as by default, and split."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def bench(monitor: Monitor, layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(f"{monitor}-{layout}")
    mask = "" if layout == "packed" else "RING_PACKED"
    contents = random.Random(2).randbytes(2 * MIB)
    images = [folder / name for name in ("disk.img", "fixed.img", "flaky.img")]
    for image in images:
        image.write_bytes(contents)
    os.truncate(images[0], 64 * MIB)
    disk = virtio.BlockDevice(images[0], serial="first-disk", mask=mask)
    fixed = virtio.BlockDevice(images[1], read_only=True, mask=mask)
    flaky = Flaky(images[2], mask)
    devices = [disk, fixed, flaky]
    try:
        # The host's dd: busybox's leaves direct access silently when its buffer is not aligned.
        with boot(devices, monitor=monitor, programs=["dd"], timeout=100) as guest:
            yield Bench(guest, disk, images[0], fixed, images[1], flaky, images[2], contents)
    finally:
        for device in devices:
            device.close()


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_driver_takes_the_layout_that_is_offered(bench: Bench, layout: str) -> None:
    taken = [
        bool(disk.negotiated_features & F.RING_PACKED) for disk in (bench.disk, bench.fixed, bench.flaky)
    ]
    assert taken == [layout == "packed"] * 3


def test_the_kernel_reads_what_the_image_holds(bench: Bench) -> None:
    for device in ("vda", "vdb"):
        found = bench.guest.check(f"head -c {len(bench.contents)} /dev/{device} | sha256sum")
        assert found.split()[0] == digest(bench.contents)


def test_what_the_kernel_knows_of_a_disk(bench: Bench) -> None:
    facts = bench.guest.check(
        "cd /sys/block/vda; cat size ro queue/write_cache queue/logical_block_size serial"
    )
    assert facts.splitlines() == [str(64 * MIB // 512), "0", "write back", "512", "first-disk"]


@pytest.mark.parametrize("size", [512, 1024, 4096 + 512, 300 * 512])
def test_direct_writes_of_odd_sizes_land_where_they_should(bench: Bench, size: int) -> None:
    bench.guest.check(
        f"/sbin/dd if=/dev/urandom of=/tmp/piece bs={size} count=1 2>/dev/null;"
        f"/sbin/dd if=/tmp/piece of=/dev/vda bs={size} count=1 seek=7 oflag=direct 2>/dev/null"
    )
    expected = bench.guest.check("sha256sum /tmp/piece").split()[0]
    with bench.image.open("rb") as file:
        file.seek(7 * size)
        assert digest(file.read(size)) == expected


def test_a_read_only_disk_is_refused_by_mkfs(bench: Bench) -> None:
    before = bench.fixed_image.read_bytes()
    assert bench.guest.check("cat /sys/block/vdb/ro").strip() == "1"
    result = bench.guest.run("mkfs.ext4 -q -F /dev/vdb")
    assert result.status != 0
    assert "read-only" in result.output.lower() or "not permitted" in result.output.lower()
    # Not even a driver that ignores VIRTIO_BLK_F_RO gets through; the kernel's own refusal comes first here.
    assert bench.guest.run("/sbin/dd if=/dev/zero of=/dev/vdb bs=512 count=1").status != 0
    assert bench.fixed_image.read_bytes() == before


def test_a_bad_sector_gives_eio_on_that_sector_only(bench: Bench) -> None:
    def read(sector: int) -> tuple[int, str]:
        return bench.guest.run(
            f"/sbin/dd if=/dev/vdc of=/tmp/sector bs=512 count=1 skip={sector} iflag=direct 2>&1 && "
            "sha256sum </tmp/sector"
        )

    refused = bench.flaky.refused
    status, output = read(BAD_SECTOR)
    assert status != 0
    assert "Input/output error" in output
    assert bench.flaky.refused > refused
    for sector in (BAD_SECTOR - 1, BAD_SECTOR + 1):
        status, output = read(sector)
        assert status == 0
        expected = digest(bench.contents[sector * 512 : (sector + 1) * 512])
        assert expected in output


def test_the_driver_lets_go_and_comes_back(bench: Bench) -> None:
    def served() -> int:
        counters = bench.disk.queues[0].counters
        return counters.chains if counters is not None else 0

    assert bench.disk.status & 4  # DRIVER_OK
    for _ in range(3):
        bench.guest.check("echo virtio0 >/sys/bus/virtio/drivers/virtio_blk/unbind; test ! -e /sys/block/vda")
        assert eventually(lambda: not bench.disk.queues[0].running)
        bench.guest.check("echo virtio0 >/sys/bus/virtio/drivers/virtio_blk/bind; test -b /dev/vda")
        before = served()
        bench.guest.check(
            "/sbin/dd if=/dev/urandom of=/dev/vda bs=64k count=4 seek=64 oflag=direct 2>/dev/null"
        )
        found = bench.guest.check(
            "/sbin/dd if=/dev/vda bs=64k count=4 skip=64 iflag=direct 2>/dev/null | sha256sum"
        )
        with bench.image.open("rb") as file:
            file.seek(64 * 65536)
            assert digest(file.read(4 * 65536)) == found.split()[0]
        assert served() > before


def test_the_driver_switches_the_cache(bench: Bench) -> None:
    assert bench.disk.writeback
    bench.guest.check("echo 'write through' >/sys/block/vda/cache_type")
    assert not bench.disk.writeback
    assert bench.guest.check("cat /sys/block/vda/queue/write_cache").strip() == "write through"
    bench.guest.check("echo 'write back' >/sys/block/vda/cache_type")
    assert bench.disk.writeback


def test_discarded_space_is_given_back(bench: Bench) -> None:
    bench.guest.check("/sbin/dd if=/dev/urandom of=/dev/vda bs=1M seek=16 count=8 oflag=direct 2>/dev/null")
    full = bench.image.stat().st_blocks * 512
    bench.guest.check(f"blkdiscard -o {16 * MIB} -l {8 * MIB} /dev/vda")
    assert bench.image.stat().st_blocks * 512 <= full - 8 * MIB
    assert bench.image.stat().st_size == 64 * MIB


def test_a_disk_that_grows_while_mounted_is_seen_to_grow(bench: Bench) -> None:
    guest = bench.guest
    guest.check("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && echo stays >/mnt/file")
    small = int(guest.check("df -k /mnt | tail -n 1 | awk '{print $2}'"))
    bench.disk.resize(96 * MIB)
    assert eventually(lambda: guest.check("cat /sys/block/vda/size").strip() == str(96 * MIB // 512))
    assert bench.image.stat().st_size == 96 * MIB
    guest.check("/sbin/resize2fs /dev/vda")
    large = int(guest.check("df -k /mnt | tail -n 1 | awk '{print $2}'"))
    assert large > small + 24 * 1024
    # The new part is not only announced: more is written than there was room for before.
    guest.check("/sbin/dd if=/dev/zero of=/mnt/big bs=1M count=72 conv=fsync 2>/dev/null")
    assert guest.check("cat /mnt/file; umount /mnt").strip() == "stays"
