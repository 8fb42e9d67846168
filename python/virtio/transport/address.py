"""Addresses: ``SCHEME:REST``, where the scheme names a transport and the rest is the transport's own.

========================  ================================================================
``mem:NAME``              in this process, without a socket
``mem:PATH``              to another process: memory, eventfds and a socket of our own (also ``mem:@NAME``)
``mmio:NAME``             the same, through the registers of virtio over MMIO
``pci:NAME``              the same, through the regions of a PCI function
``vhost-user:PATH``       a Unix socket; a device listens there for any VMM that speaks vhost-user
``vhost-user:@NAME``      the same, in the abstract namespace
``vhost-user:fd=N``       a socket that was passed in: connected, or for a device also listening
``vhost-user:systemd``    the socket that systemd passed to a device (``=NAME`` if there are several)
========================  ================================================================

``vfio-user:…`` has the same forms as ``vhost-user:…``, save for the options; what is there is a PCI function.

``?notifications=in-band`` behind a vhost-user address offers, or wants, kicks and calls by messages, for
simulations.

Other packages add transports by entry points; the name is the scheme. In the group ``virtio.transports`` the
object is called with a device and the rest of the address, and returns a
:class:`~virtio.transport.interface.Server`. In the group ``virtio.transports.driver`` it is called with the
rest of the address and options by keyword, and returns a :class:`~virtio.driver.wire.DriverEnd`.
"""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple, cast

from virtio.driver.wire import DriverEnd
from virtio.errors import ConfigurationError
from virtio.transport.interface import DeviceEnd, Server

Starter = Callable[[DeviceEnd, str], Server]
Opener = Callable[..., DriverEnd]

ENTRY_POINTS = "virtio.transports"
DRIVER_ENTRY_POINTS = "virtio.transports.driver"

_STARTERS = {
    "mem": "virtio.transport.mem:start",
    "mmio": "virtio.transport.mmio:start",
    "pci": "virtio.transport.pci:start",
    "vfio-user": "virtio.transport.vfio_user:start",
    "vhost-user": "virtio.transport.vhost_user:start",
}
_OPENERS = {
    "mem": "virtio.transport.mem:open_driver_end",
    "mmio": "virtio.transport.mmio:open_driver_end",
    "pci": "virtio.transport.pci:open_driver_end",
    "vfio-user": "virtio.transport.vfio_user:open_driver_end",
    "vhost-user": "virtio.transport.vhost_user:open_driver_end",
}


class Address(NamedTuple):
    """An address in its two parts."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.scheme}:{self.rest}"


def parse(text: str) -> Address:
    """Take an address apart."""
    scheme, colon, rest = text.partition(":")
    if not colon or not scheme:
        raise ConfigurationError(f"{text!r} is not an address; one looks like vhost-user:/run/disk.sock")
    return Address(scheme, rest)


def schemes(group: str = ENTRY_POINTS) -> list[str]:
    """Return the schemes that are known: for devices, or for drivers."""
    built_in = _OPENERS if group == DRIVER_ENTRY_POINTS else _STARTERS
    return sorted({*built_in, *(point.name for point in metadata.entry_points(group=group))})


def starter(scheme: str) -> Starter:
    """Load what serves devices at addresses of this scheme."""
    return cast(Starter, _load(scheme, _STARTERS, ENTRY_POINTS))


def opener(scheme: str) -> Opener:
    """Load what opens addresses of this scheme for drivers."""
    return cast(Opener, _load(scheme, _OPENERS, DRIVER_ENTRY_POINTS))


def _load(scheme: str, built_in: dict[str, str], group: str) -> Any:
    if (place := built_in.get(scheme)) is not None:
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module), name)
    for point in metadata.entry_points(group=group, name=scheme):
        return point.load()
    raise ConfigurationError(f"there is no transport {scheme!r}; there are {', '.join(schemes(group))}")
