"""How a device that is served on a socket is attached to a guest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Transport = Literal["vhost-user", "vfio-user"]

#: QEMU's own vhost-user devices, by virtio device id: one for each type that somebody asked for, and
#: since 11.1 a general one for all the others.
QEMU_DEVICES: Mapping[int, str] = {
    2: "vhost-user-blk-pci",
    4: "vhost-user-rng-pci",
    8: "vhost-user-scsi-pci",
    18: "vhost-user-input-pci",
    19: "vhost-user-vsock-pci",
    26: "vhost-user-fs-pci",
    34: "vhost-user-i2c-pci",
    41: "vhost-user-gpio-pci",
}
#: The property that says how many virtqueues the guest gets, where QEMU would otherwise ask for one per CPU.
QEMU_QUEUES_PROPERTY: Mapping[int, str] = {2: "num-queues"}
QEMU_GENERAL_DEVICE = "vhost-user-test-device-pci"


@dataclass(frozen=True)
class Attachment:
    """A virtio device of type ``device_id`` behind a socket: vhost-user, or as a PCI function vfio-user.

    ``queues`` is how many virtqueues the device has, ``properties`` are added to QEMU's ``-device``.
    With ``reconnect`` QEMU comes back to a vhost-user back end that went away.
    """

    device_id: int
    socket: Path
    queues: int = 1
    config_size: int = 0
    properties: Mapping[str, str | int] = field(default_factory=dict)
    transport: Transport = "vhost-user"
    reconnect: bool = False
