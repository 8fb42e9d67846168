"""Serves a function to clients."""

import socket
from collections.abc import Callable
from typing import Any

from virtio.transport.interface import DeviceEnd
from virtio.transport.pci.function import PciFunction
from virtio.transport.relayed import RelayedDevice
from virtio.transport.unix.listener import Listener
from virtio.transport.unix.server import SocketServer
from virtio.transport.vfio_user.actions import Notice
from virtio.transport.vfio_user.connection import Connection
from virtio.transport.vfio_user.session import Session


class VfioUserServer(SocketServer):
    """A PCI function at an address, for any VMM that speaks vfio-user."""

    def __init__(self, device: DeviceEnd | PciFunction, listener: Listener, **options: Any) -> None:
        """Start serving ``device``; the listener belongs to the server from here.

        ``options`` are those of :class:`PciFunction`, which ``device`` may be already.
        """
        if isinstance(device, PciFunction):
            self.function = device
        else:
            self.function = PciFunction(RelayedDevice(device), **options)
        super().__init__(self.function.device, listener, self._begin, scheme="vfio-user", client="client")

    def _begin(self, client: socket.socket, name: str) -> Connection:
        def begin(post: Callable[[Notice], object], open_twin: Callable[[], int]) -> Session:
            session = Session(self.function, post, name=name, open_twin=open_twin)
            if isinstance(self.function.device, RelayedDevice):
                self.function.device.far_memory = session.far_memory
            return session

        return Connection(client, begin, name)

    def stop(self) -> None:
        """Finish what was begun, disconnect the client, and give up the address."""
        super().stop()
        self.function.close()
