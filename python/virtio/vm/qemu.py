"""QEMU: the command line of a guest on an emulated PC."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.vm.attachment import QEMU_DEVICES, QEMU_GENERAL_DEVICE, QEMU_QUEUES_PROPERTY, Attachment
from virtio.vm.kernel import Kernel

PROGRAM = "qemu-system-x86_64"
BASE_MODULES = ("virtio_pci",)


def qemu_program() -> Path:
    """Return QEMU, as found on the path."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigurationError(f"no {PROGRAM} here: apt-get install qemu-system-x86")
    return Path(found)


def command(
    kernel: Kernel,
    initramfs: Path,
    attachments: Sequence[Attachment],
    *,
    memory: int,
    cpus: int,
    program: Path,
) -> list[str]:
    """Return the command line; ``memory`` is in MiB."""
    line = [
        str(program),
        "-accel",
        _accelerator(),
        "-M",
        "q35",
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
    line += ["-kernel", str(kernel.image), "-initrd", str(initramfs)]
    line += ["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]
    # A back end maps the guest's memory, so it must be shared.
    line += [
        "-object",
        f"memory-backend-memfd,id=memory,size={memory}M,share=on",
        "-numa",
        "node,memdev=memory",
    ]
    for index, attachment in enumerate(attachments):
        line += ["-chardev", f"socket,id=device{index},path={_escaped(attachment.socket)}"]
        line += ["-device", _device(program, index, attachment, cpus)]
    return line


def _device(program: Path, index: int, attachment: Attachment, cpus: int) -> str:
    properties: dict[str, str | int] = {"chardev": f"device{index}"}
    name = QEMU_DEVICES.get(attachment.device_id)
    offered = _vhost_user_devices(program)
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
    offered = _vhost_user_devices(qemu_program())
    return QEMU_DEVICES.get(device_id) in offered or QEMU_GENERAL_DEVICE in offered


def _accelerator() -> str:
    # A KVM without the CPU's help (a paravirtual one, in some clouds) opens, and then does not run a BIOS.
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return "kvm" if flags and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


@functools.cache
def _vhost_user_devices(program: Path) -> frozenset[str]:
    listing = subprocess.run(
        [program, "-device", "help"],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return frozenset(re.findall(r'^name "(vhost-user-[^"]*)"', listing.stdout, re.MULTILINE))


def _escaped(path: Path) -> str:
    # A comma ends an option's value unless it is doubled.
    return str(path).replace(",", ",,")
