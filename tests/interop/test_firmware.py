"""Firmware starts what is on our disks: SeaBIOS a boot sector, OVMF an application."""

import dataclasses
import shutil
from pathlib import Path

import pytest

import virtio
from virtio.errors import ConfigurationError
from virtio.vm import Attachment, Guest, Hardware, Transport
from virtio.vm.boot import serving
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs
from .bootable import for_bios, for_uefi

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

OVMF = Path("/usr/share/ovmf/OVMF.fd")
TEXT = "started from a disk of ours"


@pytest.fixture(autouse=True)
def qemu(needs: Needs) -> None:
    needs("qemu")
    try:
        vfio_user_program()
    except ConfigurationError as error:
        pytest.skip(str(error))


def start(folder: Path, contents: bytes, transport: Transport, hardware: Hardware) -> None:
    image = folder / "disk.img"
    image.write_bytes(contents)
    disk = virtio.BlockDevice(image)
    try:
        with (
            serving([disk], transport) as attachments,
            Guest(
                [_modern(one) for one in attachments], hardware=hardware, monitor="qemu", timeout=90
            ) as guest,
        ):
            guest.machine.receive_until(TEXT.encode(), 80)
    finally:
        disk.close()


def _modern(attachment: Attachment) -> Attachment:
    """QEMU's own devices are transitional on the root bus, and OVMF prefers the legacy interface."""
    if attachment.transport == "vfio-user":
        return attachment
    return dataclasses.replace(attachment, properties={**attachment.properties, "disable-legacy": "on"})


@pytest.mark.parametrize("board", ["q35", "pc"])
def test_seabios_starts_a_boot_sector(tmp_path: Path, board: str) -> None:
    hardware = Hardware(board="q35" if board == "q35" else "pc", boot_disk=True)
    start(tmp_path, for_bios(TEXT), "vfio-user", hardware)


def test_seabios_does_so_without_shared_memory(tmp_path: Path) -> None:
    start(tmp_path, for_bios(TEXT), "vfio-user", Hardware(boot_disk=True, shared_memory=False))


@pytest.mark.parametrize("transport", ["vfio-user", pytest.param("vhost-user", marks=pytest.mark.slow)])
def test_ovmf_starts_an_application(tmp_path: Path, transport: Transport) -> None:
    if not OVMF.exists():
        pytest.skip("no firmware here: apt-get install ovmf")
    # QEMU may run in a tree of its own, which has no such file.
    firmware = Path(shutil.copy(OVMF, tmp_path))
    start(tmp_path, for_uefi(TEXT), transport, Hardware(boot_disk=True, firmware=firmware))
