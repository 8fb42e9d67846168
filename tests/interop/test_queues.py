"""Two queues, two CPUs, writers on both at once."""

import hashlib
from pathlib import Path

import pytest

import virtio
from virtio.testing import StartGuest
from virtio.vm import Monitor

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

MIB = 1 << 20
SIZE = 16 * MIB


def test_parallel_writers_on_two_queues(virtio_guest: StartGuest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    disk = virtio.BlockDevice(image, queues=2)
    guest = virtio_guest([disk], monitor="qemu", cpus=2, programs=["dd"], timeout=100)
    assert guest.check("nproc").strip() == "2"
    assert guest.check("ls /sys/block/vda/mq").split() == ["0", "1"]
    before = [queue.counters for queue in disk.queues]
    # Each writer keeps to its CPU, and so to its queue; a third reads what both are writing.
    guest.check(
        f"""
        for cpu in 0 1; do
            /sbin/dd if=/dev/urandom of=/tmp/data$cpu bs=1M count={SIZE // MIB} 2>/dev/null
        done
        for cpu in 0 1; do
            taskset $((1 << cpu)) /sbin/dd if=/tmp/data$cpu of=/dev/vda bs=128k \\
                seek=$((cpu * {SIZE // (128 << 10)})) oflag=direct 2>/tmp/log$cpu &
            eval writer$cpu=$!
        done
        taskset 1 /sbin/dd if=/dev/vda of=/dev/null bs=64k count=256 iflag=direct 2>/dev/null
        wait $writer0 || exit 1
        wait $writer1 || exit 2
        """
    )
    for cpu, queue in enumerate(disk.queues):
        counters, earlier = queue.counters, before[cpu]
        assert counters is not None
        written = counters.bytes_read - (earlier.bytes_read if earlier is not None else 0)
        assert written >= SIZE, f"queue {cpu} carried only {written} bytes"
        assert counters.errors == {}
    sums = [guest.check(f"sha256sum /tmp/data{cpu}").split()[0] for cpu in (0, 1)]
    with image.open("rb") as file:
        assert [hashlib.sha256(file.read(SIZE)).hexdigest() for _ in sums] == sums


def test_more_queues_than_cpus(virtio_monitor: Monitor, virtio_guest: StartGuest) -> None:
    guest = virtio_guest([virtio.BlockDevice(size=8 * MIB, queues=4)], monitor=virtio_monitor)
    assert guest.check("ls /sys/block/vda/mq").split() == ["0"]
    guest.check("dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null; cat /tmp/data >/dev/vda; sync")
    guest.check("echo 3 >/proc/sys/vm/drop_caches; head -c 4194304 /dev/vda | cmp - /tmp/data")
