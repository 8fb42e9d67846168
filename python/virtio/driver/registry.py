"""Which driver class drives which type of device.

Other packages add theirs by entry points in the group ``virtio.drivers``: the name is the type's name, the
object is called with a :class:`~virtio.driver.wire.DriverEnd` and the options of :func:`virtio.connect`.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.spec.model import DeviceType

ENTRY_POINTS = "virtio.drivers"

_BUILT_IN = {
    "block": "virtio.driver.block:BlockDriver",
    "console": "virtio.driver.console:ConsoleDriver",
    "entropy": "virtio.driver.entropy:EntropyDriver",
    "net": "virtio.driver.net:NetworkDriver",
}

DriverClass = Callable[..., Any]


def driver_class(kind: "str | int | DeviceType | ModuleType") -> DriverClass:
    """Return what drives devices of a type: its name, its number, or its place in :mod:`virtio.spec`."""
    from virtio import spec
    from virtio.spec.model import DeviceType

    found = getattr(kind, "DEVICE", kind)
    if not isinstance(found, DeviceType):
        found = spec.device_type(cast("str | int", found))
    if (place := _BUILT_IN.get(found.name)) is not None:
        module, _, name = place.partition(":")
        return cast(DriverClass, getattr(importlib.import_module(module), name))
    from importlib import metadata

    for point in metadata.entry_points(group=ENTRY_POINTS, name=found.name):
        return cast(DriverClass, point.load())
    raise ConfigurationError(f"there is no driver for {found.title} devices yet")
