"""A physical function and its virtual functions in one unmodified guest, administered from outside of it."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtio
from virtio.errors import ConfigurationError
from virtio.spec import core
from virtio.transport import vfio_user
from virtio.transport.pci import PciFunction, VirtualFunctions
from virtio.vm import Guest
from virtio.vm.boot import elsewhere
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

COUNT = 4


@pytest.fixture(autouse=True)
def qemu(needs: Needs) -> None:
    needs("qemu")
    try:
        vfio_user_program()
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Contents for the physical function's disk, and for each virtual one's."""
    paths = [tmp_path / f"{number}.img" for number in range(COUNT + 1)]
    for path in paths:
        path.write_bytes(os.urandom(1 << 20))
    return paths


@pytest.fixture
def sockets(images: list[Path], tmp_path: Path) -> Iterator[list[Path]]:
    with contextlib.ExitStack() as stack:
        owned, *members = (virtio.BlockDevice(path) for path in images)
        owned.close()
        virtual = VirtualFunctions(members)
        owner = virtio.BlockDevice(images[0], administration=virtual.administrator())
        functions = [PciFunction(owner, virtual_functions=virtual), *virtual.functions]
        found = []
        for number, function in enumerate(functions):
            stack.callback(function.device.close)
            found.append(tmp_path / f"{number}.sock")
            stack.enter_context(vfio_user.start(function, str(found[-1])))
        assert owner.offered_features & core.F.ADMIN_VQ
        yield found


def test_all_functions_work_in_one_guest(images: list[Path], sockets: list[Path]) -> None:
    with Guest([elsewhere(path) for path in sockets], timeout=100) as guest:
        sums = guest.check("for disk in /dev/vd?; do sha256sum $disk; done").splitlines()
        assert {line.split()[0] for line in sums} == {
            hashlib.sha256(path.read_bytes()).hexdigest() for path in images
        }
        guest.check("for disk in /dev/vd?; do echo $disk | dd of=$disk conv=notrunc 2>/dev/null; done; sync")
    assert {path.read_bytes()[:9] for path in images} == {b"/dev/vd%c\n" % letter for letter in b"abcde"}
