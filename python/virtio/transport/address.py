"""Addresses: ``SCHEME:REST``, where the scheme names a transport and the rest is the transport's own.

========================  ================================================================
``vhost-user:PATH``       listen on a Unix socket, for any VMM that speaks vhost-user
``vhost-user:@NAME``      the same, in the abstract namespace
``vhost-user:fd=N``       use a socket that was passed in, listening or connected
``vhost-user:systemd``    use the socket that systemd passed in (``=NAME`` if there are several)
========================  ================================================================

``?notifications=in-band`` behind any of them offers kicks and calls by messages, for simulations.

Other packages add transports by entry points in the group ``virtio.transports``: the name is the scheme, the
object is called with a device and the rest of the address, and returns a
:class:`~virtio.transport.interface.Server`.
"""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple, cast

from virtio.errors import ConfigurationError
from virtio.transport.interface import DeviceEnd, Server

Starter = Callable[[DeviceEnd, str], Server]

ENTRY_POINTS = "virtio.transports"

_BUILT_IN = {
    "vhost-user": "virtio.transport.vhost_user:start",
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


def schemes() -> list[str]:
    """Return the schemes that are known."""
    return sorted({*_BUILT_IN, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))})


def starter(scheme: str) -> Starter:
    """Load what serves addresses of this scheme."""
    if (place := _BUILT_IN.get(scheme)) is not None:
        module, _, name = place.partition(":")
        return cast(Starter, getattr(importlib.import_module(module), name))
    for point in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        return cast(Starter, point.load())
    raise ConfigurationError(f"there is no transport {scheme!r}; there are {', '.join(schemes())}")
