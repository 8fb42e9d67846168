"""Our description of a function against that of pciutils, from the same bytes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.transport.contract import Mirror
from tests.transport.pci.rig import CONFIG, Card, card

import virtio
from virtio.cli import run
from virtio.spec import pci_bus
from virtio.transport.pci import Layout, SharedMemory, VendorData, lspci

needs_pciutils = pytest.mark.skipif(shutil.which("lspci") is None, reason="needs the package pciutils")

LATER = ("DevCap2", "DevCtl2", "LnkCtl2", "LnkSta2")
"""What we leave out: parts of version 2 of the PCI Express capability, which are empty."""

UNKNOWN = ("VirtIO: SharedMemory", "VirtIO: PciCfg", "VirtIO: VendorData")
"""Capabilities that pciutils has no name for."""


Blocks = list[list[str]]
"""A line, and those that belong to it."""


def blocks(text: str) -> Blocks:
    found: Blocks = []
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("\t\t"):
            found[-1].append(line)
        else:
            found.append([line])
    return found


def without_later(block: list[str]) -> list[str]:
    starts = tuple(f"\t\t{name}" for name in LATER)
    end = next((index for index, line in enumerate(block) if line.startswith(starts)), len(block))
    return block[:end]


def compare(path: Path, made: Card, *options: str) -> None:
    config = made.function.read(CONFIG, 0, made.function.regions[CONFIG].size)
    path.write_text(lspci.dump(config))
    command = ["lspci", "-F", str(path), "-vv", *options]
    output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    ours, theirs = blocks(lspci.text(config, numbers="-n" in options)), blocks(output.stdout)
    assert [block[0][:20] for block in ours] == [block[0][:20] for block in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if not mine[0].endswith(UNKNOWN):
            assert mine == without_later(other)


@needs_pciutils
@pytest.mark.parametrize("options", [(), ("-n",)], ids=["names", "numbers"])
def test_our_words_are_those_of_pciutils(tmp_path: Path, options: tuple[str, ...]) -> None:
    for layout in (
        Layout(),
        Layout(vectors=0, express=False, power_management=False),
        Layout(intx=False, no_soft_reset=False, serial_number=0x0102_0304_0506_0708, revision=7),
    ):
        with card(layout=layout) as made:
            compare(tmp_path / "dump", made, *options)
            made.negotiate()
            made.put(CONFIG, 0x10, 0xFE00_0000, 4)
            made.put(CONFIG, 0x18, 0xFD00_0000, 4)
            made.put(CONFIG, 4, 0x547, 2)
            made.put(CONFIG, 0x0C, 16, 1)
            made.put(CONFIG, 0x3C, 11, 1)
            made.function.config_changed()
            if layout.vectors != 0:
                made.enable_msix(mask_all=True)
            if layout.express:
                express = made.capability(pci_bus.CAP_ID.EXPRESS)
                made.put(CONFIG, express + 8, 0x513F, 2)
                made.put(CONFIG, express + 16, 0x00C3, 2)
            compare(tmp_path / "dump", made, *options)


@needs_pciutils
def test_the_short_express_capability_is_read(tmp_path: Path) -> None:
    fd = os.memfd_create("shared")
    os.ftruncate(fd, 8192)
    memories = (SharedMemory(1, fd, 4096), SharedMemory(2, fd, 8192))
    with card(layout=Layout(vendor_data=(VendorData(0x1234, b"hello"),)), shared_memory=memories) as made:
        assert "Express (v1) Endpoint" in str(made.function)
        assert "VendorData" in str(made.function)
        compare(tmp_path / "dump", made, "-n")
    os.close(fd)


def test_sizes_are_those_of_the_regions() -> None:
    with card() as made:
        assert "Region 0: Memory at <unassigned> (64-bit, non-prefetchable) [size=16K]" in str(made.function)


@pytest.mark.parametrize("at", range(0x34, 0x48))
def test_any_bytes_can_be_described(at: int) -> None:
    with card() as made:
        config = bytearray(made.function.read(CONFIG, 0, 4096))
    for value in (0, 0x35, 0x40, 0xFC, 0xFF):
        config[at] = value
        config[0x100:0x104] = bytes((3, 0, value, value))
        assert lspci.text(bytes(config)).startswith("00:00.0 ")


def test_the_command_over_a_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = Mirror()
    with virtio.start(device, f"vfio-user:{tmp_path}/function.sock"):
        assert run(["lspci", f"vfio-user:{tmp_path}/function.sock"]) == 0
        assert "BusMaster-" in capsys.readouterr().out
    device.close()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    device = Mirror()
    with virtio.start(device, "pci:shown"), virtio.start(Mirror(), "mem:none"):
        assert run(["lspci", "pci:shown"]) == 0
        assert "Virtio 1.0 block device (rev 01)" in capsys.readouterr().out
        assert run(["lspci", "-n", "pci:shown"]) == 0
        assert "0100: 1af4:1042 (rev 01)" in capsys.readouterr().out
        assert run(["lspci", "--dump", "pci:shown"]) == 0
        assert "\n00: f4 1a 42 10" in capsys.readouterr().out
        assert run(["lspci", "mem:none"]) == 2
        assert "no PCI function" in capsys.readouterr().err
    device.close()
