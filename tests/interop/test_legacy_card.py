"""A transitional function of ours in a guest whose driver is told to use nothing but the legacy interface."""

import hashlib
import random
from pathlib import Path

import pytest

import virtio
from virtio.errors import ConfigurationError
from virtio.transport import vfio_user
from virtio.transport.pci import TransitionalFunction
from virtio.vm import Guest
from virtio.vm.boot import attachment
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(120)]

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def qemu(needs: Needs) -> None:
    needs("qemu")
    try:
        vfio_user_program()
    except ConfigurationError as error:
        pytest.skip(str(error))


def test_a_legacy_driver_reads_and_writes_a_disk(tmp_path: Path) -> None:
    image, path = tmp_path / "disk.img", tmp_path / "card.sock"
    contents = random.Random(7).randbytes(MIB)
    image.write_bytes(contents.ljust(16 * MIB, b"\0"))
    disk = virtio.BlockDevice(image)
    function = TransitionalFunction(disk)
    try:
        with (
            vfio_user.start(function, str(path)),
            Guest([attachment(disk, path, "vfio-user")], timeout=100) as guest,
        ):
            assert not function.legacy  # the kernel prefers the modern interface
            guest.check("rmmod virtio_pci && insmod /lib/modules/virtio_pci.ko force_legacy=1")
            assert function.legacy
            guest.check("test -b /dev/vda")
            found = guest.check(f"head -c {len(contents)} /dev/vda | sha256sum").split()[0]
            assert found == hashlib.sha256(contents).hexdigest()
            guest.check("dd if=/dev/urandom of=/tmp/piece bs=64k count=4 2>/dev/null")
            piece = guest.check("sha256sum /tmp/piece").split()[0]
            guest.check("dd if=/tmp/piece of=/dev/vda bs=64k seek=64 2>/dev/null; sync")
            assert hashlib.sha256(image.read_bytes()[64 << 16 : 68 << 16]).hexdigest() == piece
            guest.check("rmmod virtio_pci && insmod /lib/modules/virtio_pci.ko")
            assert not function.legacy
            again = guest.check(f"head -c {len(contents)} /dev/vda | sha256sum").split()[0]
            assert again == found
    finally:
        disk.close()
