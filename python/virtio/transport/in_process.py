"""Devices served under a name to drivers in the same process, for the transports that need no socket."""

import threading
from typing import Protocol

from virtio.blocks import Stopping
from virtio.errors import ConfigurationError, Error, TransportError
from virtio.transport.interface import DeviceEnd

_served: dict[str, "InProcessServer"] = {}
_served_lock = threading.Lock()


class Guest(Protocol):
    """A driver's end that is served here."""

    def lose(self, error: Error) -> None:
        """The device goes away."""


class InProcessServer(Stopping):
    """A device under a name: a :class:`~virtio.transport.interface.Server`."""

    def __init__(self, device: DeviceEnd, scheme: str, name: str) -> None:
        """Make the device known as ``SCHEME:NAME``."""
        if not name:
            raise ConfigurationError(f"the address has no name: write {scheme}:disk")
        self.device = device
        self.address = f"{scheme}:{name}"
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._guest: Guest | None = None
        with _served_lock:
            if self.address in _served:
                raise TransportError(f"{self.address}: another device has this name")
            _served[self.address] = self

    @property
    def connected(self) -> bool:
        """Whether a driver is there."""
        return self._guest is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until serving has ended; False: it has not, in that time."""
        return self._ended.wait(timeout)

    def shut_down(self) -> None:
        """Begin to stop and return at once."""
        self._ended.set()

    def stop(self) -> None:
        """Finish what was begun, let go of the driver, and give up the name."""
        self._ended.set()
        with _served_lock:
            if _served.get(self.address) is self:
                del _served[self.address]
        with self._lock:
            guest = self._guest
        if guest is not None:
            guest.lose(TransportError(f"{self.address}: the device was taken away"))

    def take(self, guest: Guest) -> None:
        """Let a driver in, if no other is there."""
        with self._lock:
            if self._ended.is_set():
                raise TransportError(f"{self.address}: the device was taken away")
            if self._guest is not None:
                raise TransportError(f"{self.address}: another driver uses the device")
            self._guest = guest

    def leave(self, guest: Guest) -> None:
        """The driver is gone."""
        with self._lock:
            if self._guest is guest:
                self._guest = None


def find(scheme: str, name: str) -> InProcessServer:
    """Return who serves ``SCHEME:NAME``."""
    address = f"{scheme}:{name}"
    with _served_lock:
        server = _served.get(address)
    if server is None:
        raise TransportError(f"{address}: there is no device of this name in this process")
    return server
