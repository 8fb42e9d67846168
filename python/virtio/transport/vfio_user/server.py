"""Serves a function to clients."""

import socket
from typing import Any

from virtio.transport.interface import DeviceEnd
from virtio.transport.pci.function import PciFunction
from virtio.transport.unix.listener import Listener
from virtio.transport.unix.server import SocketServer
from virtio.transport.vfio_user.connection import Connection
from virtio.transport.vfio_user.session import Session


class VfioUserServer(SocketServer):
    """A PCI function at an address, for any VMM that speaks vfio-user."""

    def __init__(self, device: DeviceEnd | PciFunction, listener: Listener, **options: Any) -> None:
        """Start serving ``device``; the listener belongs to the server from here.

        ``options`` are those of :class:`PciFunction`, which ``device`` may be already.
        """
        self.function = device if isinstance(device, PciFunction) else PciFunction(device, **options)
        super().__init__(self.function.device, listener, self._begin, scheme="vfio-user", client="client")

    def _begin(self, client: socket.socket, name: str) -> Connection:
        return Connection(client, lambda post: Session(self.function, post, name=name), name)

    def stop(self) -> None:
        """Finish what was begun, disconnect the client, and give up the address."""
        super().stop()
        self.function.close()
