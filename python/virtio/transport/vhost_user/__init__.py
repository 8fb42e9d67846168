"""vhost-user, the back end's side: a device in this process, its driver in a virtual machine.

From the inside out: :mod:`.payloads` and :mod:`.messages` are the protocol as tables, :mod:`.codec` makes
messages of bytes, :mod:`.session` (with :mod:`.backend`, :mod:`.vring` and :mod:`.channel`) drives a device
by them, and :mod:`.connection`, :mod:`.listener` and :mod:`.server` do the input and output.
:mod:`.quirks` lists what known front ends do differently.
"""

from urllib.parse import parse_qsl

from virtio.errors import ConfigurationError
from virtio.transport.interface import DeviceEnd
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.listener import open_listener
from virtio.transport.vhost_user.server import VhostUserServer

__all__ = ["VhostUserServer", "start"]


def start(device: DeviceEnd, spec: str) -> VhostUserServer:
    """Serve ``device`` at the socket that ``spec`` names, in the background.

    ``spec`` may end in ``?notifications=in-band``: front ends may then kick, and be called, by messages.
    """
    place, _, options = spec.partition("?")
    features = PROTOCOL_FEATURES
    for option in parse_qsl(options, keep_blank_values=True):
        if option != ("notifications", "in-band"):
            raise ConfigurationError(f"vhost-user has no option {'='.join(option)}")
        features |= IN_BAND
    return VhostUserServer(device, open_listener(place), protocol_features=features)
