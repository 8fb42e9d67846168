"""The examples, seen by an unmodified kernel."""

from pathlib import Path

import pytest
from examples.entropy import Entropy
from examples.flaky import BAD, Flaky

from virtio.testing import StartGuest
from virtio.vm import Monitor

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]


def test_entropy(virtio_guest: StartGuest) -> None:
    guest = virtio_guest([Entropy()], monitor="qemu")  # UML's kernel has no driver for it
    assert guest.check("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    assert guest.check("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c").strip() == "64"


def test_flaky(virtio_monitor: Monitor, virtio_guest: StartGuest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x5a" * 512 * (BAD + 64))

    def read(sector: int) -> str:
        return f"dd if=/dev/vda of=/dev/null bs=512 skip={sector} count=1 2>&1"

    guest = virtio_guest([Flaky(image)], monitor=virtio_monitor)
    status, output = guest.run(read(BAD))
    assert status
    assert "Input/output error" in output or "I/O error" in output
    # The page cache reads 8 sectors at a time: those before and behind are not touched by the bad one.
    for sector in (BAD - 1, BAD + 8):
        guest.check(read(sector))
