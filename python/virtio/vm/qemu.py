"""QEMU: the command line of a guest on an emulated PC."""

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from virtio.errors import ConfigurationError
from virtio.vm.attachment import QEMU_DEVICES, QEMU_GENERAL_DEVICE, QEMU_QUEUES_PROPERTY, Attachment
from virtio.vm.kernel import Kernel, cache_directory

PROGRAM = "qemu-system-x86_64"
NETWORK = 1
BASE_MODULES = ("virtio_pci",)


VFIO_USER_DEVICE = "vfio-user-pci"
_MSIX_WITHOUT_KVM = (10, 0)
"""QEMU 7.2.22 without KVM ends by a null pointer when the guest starts a vhost-user network card with MSI-X,
whatever the back end; 11.1.3 does not. What is between has not been tried."""


@dataclass(frozen=True)
class Hardware:
    """What the guest's machine is like, besides its virtio devices."""

    board: Literal["q35", "pc"] = "q35"
    root_ports: bool = False
    """Put each PCI function behind a PCI Express root port of its own (q35)."""
    iommu: bool = False
    """An Intel IOMMU before the devices (q35), which go behind it: root ports, ACCESS_PLATFORM and ATS."""
    shared_memory: bool = True
    """Whether others can map the guest's memory. Without, only vfio-user works, and slowly."""
    append: str = ""
    """More of the kernel's command line."""
    firmware: Path | None = None
    """Start this instead of the board's own (``-bios``)."""
    boot_disk: bool = False
    """Start what the firmware finds on the first device, not our kernel."""


def qemu_program() -> Path:
    """Return QEMU, as found on the path."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigurationError(f"no {PROGRAM} here: apt-get install qemu-system-x86")
    return Path(found)


def qemu_for(attachments: Sequence[Attachment]) -> Path:
    """Return a QEMU that can attach these: the one on the path, or one that ``tools/fetch-peers`` has got."""
    if all(attachment.transport == "vhost-user" for attachment in attachments):
        return qemu_program()
    return vfio_user_program()


def vfio_user_program() -> Path:
    """Return a QEMU that speaks vfio-user."""
    on_path = shutil.which(PROGRAM)
    cached = [cache_directory() / folder / "bin" / PROGRAM for folder in ("peers", "qemu")]
    for found in [*([Path(on_path)] if on_path else []), *cached]:
        if found.exists() and VFIO_USER_DEVICE in _devices(found):
            return found
    raise ConfigurationError(
        "no QEMU here that has vfio-user-pci, as 11.0 and later have: "
        "tools/fetch-peers --qemu gets one for this user (or make test)"
    )


def command(
    kernel: Kernel,
    initramfs: Path,
    attachments: Sequence[Attachment],
    *,
    memory: int,
    cpus: int,
    program: Path,
    hardware: Hardware = Hardware(),
) -> list[str]:
    """Return the command line; ``memory`` is in MiB."""
    line = [
        str(program),
        "-accel",
        _accelerator(),
        "-M",
        hardware.board,
        "-cpu",
        "max",
        "-smp",
        str(cpus),
        "-m",
        str(memory),
    ]
    line += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    # Not the default "-serial stdio", which takes Ctrl-C for itself.
    line += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    if hardware.firmware is not None:
        line += ["-bios", str(hardware.firmware)]
    if not hardware.boot_disk:
        line += ["-kernel", str(kernel.image), "-initrd", str(initramfs)]
        more = ("intel_iommu=on " if hardware.iommu else "") + hardware.append
        line += ["-append", f"console=ttyS0 quiet loglevel=1 panic=-1 {more}".rstrip()]
    if hardware.shared_memory:
        # A back end maps the guest's memory.
        line += [
            "-object",
            f"memory-backend-memfd,id=memory,size={memory}M,share=on",
            "-numa",
            "node,memdev=memory",
        ]
    if hardware.iommu:
        # Before all devices: those that come earlier are not behind it.
        line += ["-device", "intel-iommu,intremap=off,device-iotlb=on"]
    for index, attachment in enumerate(attachments):
        placed: dict[str, str | int] = {}
        if hardware.iommu:
            placed |= {"iommu_platform": "on", "ats": "on", "disable-legacy": "on"}
        # Directly on pcie.0 the guest does not see that a device has ATS, and invalidates nothing there.
        if hardware.root_ports or hardware.iommu:
            line += ["-device", f"pcie-root-port,id=port{index},chassis={index + 1},slot={index + 1}"]
            placed["bus"] = f"port{index}"
        if hardware.boot_disk and index == 0:
            placed["bootindex"] = 1
        if attachment.transport == "vfio-user":
            line += ["-device", _function(attachment, placed)]
        else:
            again = f",{_reconnection(program)}" if attachment.reconnect else ""
            line += ["-chardev", f"socket,id=device{index},path={_escaped(attachment.socket)}{again}"]
            if attachment.device_id == NETWORK:
                line += _network(program, index, attachment, cpus, placed)
                continue
            line += ["-device", _device(program, index, attachment, cpus, placed)]
    return line


def _network(
    program: Path, index: int, attachment: Attachment, cpus: int, placed: dict[str, str | int]
) -> list[str]:
    """A card of QEMU's own, control queue included, whose frames go to the back end."""
    pairs = max(1, min((attachment.queues - 1) // 2, cpus))
    properties: dict[str, str | int] = {"netdev": f"net{index}", **placed}
    if pairs > 1:
        properties |= {"mq": "on", "vectors": 2 * pairs + 2}
    if _accelerator() == "tcg" and _version(program) < _MSIX_WITHOUT_KVM:
        properties["vectors"] = 0
    properties |= attachment.properties
    backend = f"vhost-user,id=net{index},chardev=device{index},queues={pairs}"
    device = ",".join(["virtio-net-pci", *(f"{key}={value}" for key, value in properties.items())])
    return ["-netdev", backend, "-device", device]


def _function(attachment: Attachment, placed: dict[str, str | int]) -> str:
    # A socket's address is not a single value: only JSON says it.
    return json.dumps(
        {
            "driver": VFIO_USER_DEVICE,
            "socket": {"type": "unix", "path": str(attachment.socket)},
            **attachment.properties,
            **placed,
        }
    )


def _device(
    program: Path, index: int, attachment: Attachment, cpus: int, placed: dict[str, str | int]
) -> str:
    properties: dict[str, str | int] = {"chardev": f"device{index}", **placed}
    name = QEMU_DEVICES.get(attachment.device_id)
    offered = _devices(program)
    if name not in offered:
        if QEMU_GENERAL_DEVICE not in offered:
            raise ConfigurationError(
                f"this QEMU has no vhost-user device for virtio device type {attachment.device_id}: "
                "QEMU 11.1 takes any type, and User Mode Linux those that its kernel has drivers for"
            )
        name = QEMU_GENERAL_DEVICE
        properties |= {"virtio-id": attachment.device_id, "num_vqs": attachment.queues}
        properties["config_size"] = attachment.config_size
    elif (queues := QEMU_QUEUES_PROPERTY.get(attachment.device_id)) is not None:
        # More than the back end has would be an error, and so would be the default with more CPUs than that.
        properties[queues] = min(attachment.queues, cpus)
    properties |= attachment.properties
    return ",".join([name, *(f"{key}={value}" for key, value in properties.items())])


def can_attach(device_id: int) -> bool:
    """Tell whether the installed QEMU has a vhost-user device for a type of device."""
    if device_id == NETWORK:
        return True
    offered = _devices(qemu_program())
    return QEMU_DEVICES.get(device_id) in offered or QEMU_GENERAL_DEVICE in offered


def _accelerator() -> str:
    # A KVM without the CPU's help (a paravirtual one, in some clouds) opens, and then does not run a BIOS.
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return "kvm" if flags and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def _reconnection(program: Path) -> str:
    """Return the option of a character device that makes it try again, as soon as that QEMU can."""
    # Seconds became milliseconds in 9.2; 11 knows no seconds any more.
    return "reconnect-ms=100" if _version(program) >= (9, 2) else "reconnect=1"


@functools.cache
def _version(program: Path) -> tuple[int, int]:
    answer = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    found = re.search(r"version (\d+)\.(\d+)", answer.stdout)
    if found is None:
        raise ConfigurationError(f"{program} does not say which version of QEMU it is")
    return int(found[1]), int(found[2])


@functools.cache
def _devices(program: Path) -> frozenset[str]:
    listing = subprocess.run(
        [program, "-device", "help"],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return frozenset(re.findall(r'^name "(v(?:host|fio)-user-[^"]*)"', listing.stdout, re.MULTILINE))


def _escaped(path: Path) -> str:
    # A comma ends an option's value unless it is doubled.
    return str(path).replace(",", ",,")
