"""Serves a device to front ends."""

from virtio._native import Memory
from virtio.transport.interface import DeviceEnd
from virtio.transport.unix.listener import Listener
from virtio.transport.unix.server import SocketServer
from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES
from virtio.transport.vhost_user.connection import Connection


class VhostUserServer(SocketServer):
    """A device at an address, for any VMM that speaks vhost-user."""

    def __init__(
        self, device: DeviceEnd, listener: Listener, *, protocol_features: int = PROTOCOL_FEATURES
    ) -> None:
        """Start serving ``device``; the listener belongs to the server from here."""
        super().__init__(
            device,
            listener,
            lambda front_end, name: Connection(front_end, device, Memory(), name, protocol_features),
            scheme="vhost-user",
            client="front end",
        )
