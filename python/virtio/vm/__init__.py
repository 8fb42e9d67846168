"""Real Linux guests, booted in a second or two, to show what a device does."""

from virtio.vm.attachment import Attachment
from virtio.vm.boot import boot, serving
from virtio.vm.guest import Guest, Monitor, Result, installed_monitor
from virtio.vm.machine import GuestError

__all__ = ["Attachment", "Guest", "GuestError", "Monitor", "Result", "boot", "installed_monitor", "serving"]
