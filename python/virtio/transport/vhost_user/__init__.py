"""vhost-user, the back end's side: a device in this process, its driver in a virtual machine.

From the inside out: :mod:`.payloads` and :mod:`.messages` are the protocol as tables, :mod:`.codec` makes
messages of bytes, :mod:`.session` (with :mod:`.backend`, :mod:`.vring` and :mod:`.channel`) drives a device
by them, and :mod:`.connection`, :mod:`.listener` and :mod:`.server` do the input and output.
:mod:`.quirks` lists what known front ends do differently.
"""

from virtio.transport.interface import DeviceEnd
from virtio.transport.vhost_user.listener import open_listener
from virtio.transport.vhost_user.server import VhostUserServer

__all__ = ["VhostUserServer", "start"]


def start(device: DeviceEnd, spec: str) -> VhostUserServer:
    """Serve ``device`` at the socket that ``spec`` names, in the background."""
    return VhostUserServer(device, open_listener(spec))
