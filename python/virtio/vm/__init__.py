"""Real Linux guests, booted in a second or two, to show what a device does."""

from virtio.vm.attachment import Attachment, Transport
from virtio.vm.boot import boot, serving
from virtio.vm.guest import Guest, Monitor, Result, installed_monitor
from virtio.vm.machine import GuestError
from virtio.vm.qemu import Hardware

__all__ = [
    "Attachment",
    "Guest",
    "GuestError",
    "Hardware",
    "Monitor",
    "Result",
    "Transport",
    "boot",
    "installed_monitor",
    "serving",
]
