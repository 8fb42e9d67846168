"""Ends in the middle of writing: of the guest, and of the server. What was flushed is there afterwards."""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import virtio
from virtio.testing import ServeProcess, StartGuest
from virtio.vm import Guest, Monitor, serving

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

MIB = 1 << 20
#: Files that grow, are synced, and go away, in a loop: there is always something under way, of all kinds.
BUSY = """
(
    round=0
    while true; do
        for name in a b c; do
            dd if=/tmp/noise of=/mnt/$name.$round bs=256k 2>/dev/null
        done
        sync
        rm -f /mnt/*.$((round - 1))
        round=$((round + 1))
    done
) >/dev/null 2>&1 &
"""


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {name}, of the package e2fsprogs")
    return found


def make_image(folder: Path) -> Path:
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    return image


def fill(guest: Guest) -> str:
    """Make a file system, flush a file to it, and start to write; return the file's checksum."""
    guest.check(
        "mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt;"
        "dd if=/dev/urandom of=/mnt/flushed bs=64k count=32 2>/dev/null; sync;"
        "dd if=/dev/urandom of=/tmp/noise bs=64k count=32 2>/dev/null"
    )
    checksum = guest.check("sha256sum /mnt/flushed").split()[0]
    guest.check(BUSY)
    return checksum


def wait_for_writes(written: Callable[[], int], amount: int) -> None:
    target = written() + amount
    deadline = time.monotonic() + 30
    while written() < target:
        assert time.monotonic() < deadline, "the guest does not write"
        time.sleep(0.005)


def test_a_second_guest_finds_what_a_killed_one_had_flushed(monitor: Monitor, tmp_path: Path) -> None:
    disk = virtio.BlockDevice(make_image(tmp_path))

    def written() -> int:
        counters = disk.queues[0].counters
        return counters.bytes_read if counters is not None else 0

    try:
        with serving([disk]) as attachments:
            guest = Guest(attachments, monitor=monitor, timeout=60)
            try:
                checksum = fill(guest)
                wait_for_writes(written, 4 * MIB)
            finally:
                guest.kill()
            with Guest(attachments, monitor=monitor, timeout=60) as second:
                # The journal had to be replayed, so the guest did die at work.
                second.check("mount -t ext4 /dev/vda /mnt && dmesg | grep 'recovery complete'")
                assert second.check("sha256sum /mnt/flushed").split()[0] == checksum
                assert second.run("umount /mnt && e2fsck -f -n /dev/vda").status == 0
    finally:
        disk.close()


def test_sigterm_to_the_server_while_it_works_leaves_a_good_image(
    virtio_monitor: Monitor, virtio_serve_process: ServeProcess, virtio_guest: StartGuest, tmp_path: Path
) -> None:
    e2fsck, debugfs = program("e2fsck"), program("debugfs")
    image = make_image(tmp_path)
    server = virtio_serve_process("block", image)

    def written() -> int:
        return image.stat().st_blocks * 512  # a sparse image: what was written

    guest = virtio_guest([server], monitor=virtio_monitor)
    checksum = fill(guest)
    wait_for_writes(written, 4 * MIB)
    assert server.stop() == 0
    guest.kill()
    assert not server.socket.exists()
    # The journal is replayed (1: that was all there was to repair), and then nothing is wrong.
    replay = subprocess.run(
        [e2fsck, "-f", "-p", image], capture_output=True, text=True, timeout=60, check=False
    )
    assert replay.returncode in (0, 1), replay.stdout + replay.stderr
    check = subprocess.run(
        [e2fsck, "-f", "-n", image], capture_output=True, text=True, timeout=60, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
    copy = image.with_name("copy")
    subprocess.run(
        [debugfs, "-R", f"dump /flushed {copy}", image], capture_output=True, timeout=60, check=True
    )
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == checksum
