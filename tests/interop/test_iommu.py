"""Linux behind an emulated Intel IOMMU, on our disk: what it maps, has written, and takes away again."""

import hashlib
import os
from pathlib import Path

import pytest

import virtio
from virtio.spec.core import F
from virtio.vm import Guest, serving
from virtio.vm.qemu import Hardware

pytestmark = [pytest.mark.guest, pytest.mark.timeout(170)]

HALF = 512 << 10
# Direct, so that each request has pages of its own, mapped for it and unmapped after it.
WORK = """
/sbin/dd if=/dev/vda of=/tmp/read bs=16k count=32 iflag=direct 2>/dev/null &&
/sbin/dd if=/tmp/read of=/dev/vda bs=16k seek=32 oflag=direct conv=fsync 2>/dev/null &&
/sbin/dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum
"""


def test_a_disk_behind_it(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    data = os.urandom(HALF)
    image.write_bytes(data + bytes(HALF))
    disk = virtio.BlockDevice(image)
    disk.offered_features |= F.ACCESS_PLATFORM
    hardware = Hardware(iommu=True, append="iommu.strict=1")
    with (
        serving([disk]) as attachments,
        Guest(attachments, monitor="qemu", programs=["dd"], hardware=hardware, timeout=160) as guest,
    ):
        assert "Adding to iommu group" in guest.check("dmesg")
        assert guest.check(WORK, timeout=120).split()[0] == hashlib.sha256(data + data).hexdigest()
        assert disk.negotiated_features & F.ACCESS_PLATFORM
        counters = disk.queues[0].counters
        assert counters is not None
        assert counters.errors == {}
    assert image.read_bytes() == data + data
