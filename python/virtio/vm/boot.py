"""Devices of this process and a guest that has them, from one call."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from virtio.device.base import Device
from virtio.spec.core import F
from virtio.transport import open_driver_end, start
from virtio.vm.attachment import Attachment, Transport
from virtio.vm.guest import Guest
from virtio.vm.qemu import NETWORK


@contextlib.contextmanager
def serving(devices: Sequence[Device], transport: Transport = "vhost-user") -> Iterator[list[Attachment]]:
    """Serve ``devices`` on sockets of their own, for guests that come one after another."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvirtio-")))
        attachments = []
        for index, device in enumerate(devices):
            socket = folder / f"{index}-{device.type.name}.sock"
            stack.enter_context(start(device, f"{transport}:{socket}"))
            attachments.append(attachment(device, socket, transport))
        yield attachments


def attachment(device: Device, socket: Path, transport: Transport = "vhost-user") -> Attachment:
    """Say how a guest gets ``device``, which is served on ``socket``."""
    if transport == "vfio-user":
        return Attachment(device.device_id, socket, queues=len(device.queues), transport=transport)
    # QEMU takes part in the choice of the layout, and would choose split.
    properties = {"packed": "on"} if device.offered_features & F.RING_PACKED else {}
    if device.device_id == NETWORK:
        # The card is QEMU's own, and must have the address that the device tells other guests.
        properties["mac"] = bytes(device.config.mac).hex(":")
    return Attachment(
        device.device_id,
        socket,
        queues=len(device.queues),
        config_size=device.config_size,
        properties=properties,
    )


@contextlib.contextmanager
def boot(
    devices: Sequence[Device],
    *,
    transport: Transport = "vhost-user",
    more: Sequence[Attachment] = (),
    **options: Any,
) -> Iterator[Guest]:
    """Serve ``devices`` and boot a guest with them; ``options`` are those of :class:`Guest`.

    ``more`` is served by others. The devices stay open, so that their counters and images can be looked at
    afterwards.
    """
    with serving(devices, transport) as attachments, Guest([*attachments, *more], **options) as guest:
        yield guest


def elsewhere(socket: Path) -> Attachment:
    """Say how a guest gets the PCI function that somebody serves over vfio-user on ``socket``.

    It is asked what it is, for the guest's kernel needs the right driver.
    """
    end = open_driver_end(f"vfio-user:{socket}")
    try:
        return Attachment(end.device_id or 0, socket, transport="vfio-user")
    finally:
        end.close()
