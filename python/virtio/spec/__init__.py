"""The standard as data: features, structures, queues and codes of every device type. No behaviour.

Each device type has a module with ``DEVICE`` (a :class:`~virtio.spec.model.DeviceType`) and short names
for its tables: ``net.F.MAC`` is a feature mask, ``block.T.IN`` a request type, ``block.CONFIG`` a structure.
Modules are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.spec.model import DeviceType

# The types that have a chapter, in the order of chapter 5, by the name of their module.
CHAPTERS = (
    "net",
    "block",
    "console",
    "entropy",
    "balloon",
    "scsi",
    "gpu",
    "input",
    "crypto",
    "vsock",
    "fs",
    "rpmb",
    "iommu",
    "sound",
    "mem",
    "i2c",
    "scmi",
    "gpio",
    "pmem",
    "can",
    "spi",
    "media",
    "rtc",
)
_OTHER_MODULES = ("admin", "ccw", "core", "export", "layout", "mmio", "model", "pci", "selection", "versions")
_registered: dict[str, DeviceType] = {}


def __getattr__(name: str) -> ModuleType:
    """Load a module of the standard when it is first named."""
    if name in CHAPTERS or name in _OTHER_MODULES:
        return import_module(f"virtio.spec.{name}")
    raise AttributeError(f"module 'virtio.spec' has no attribute {name!r}")


def device_type(key: str | int) -> DeviceType:
    """The device type with this name (``"net"``) or device id (``1``)."""
    if isinstance(key, int) or key.isdecimal():
        return _by_id(int(key))
    if key in _registered:
        return _registered[key]
    if key in CHAPTERS:
        found: DeviceType = import_module(f"virtio.spec.{key}").DEVICE
        return found
    from virtio.spec.core import DEVICE_IDS

    if any(row.name == key for row in DEVICE_IDS):
        raise ConfigurationError(f"the standard reserves a device id for {key}, but has no chapter about it")
    raise ConfigurationError(f"there is no device type {key!r}")


def register(device: DeviceType) -> None:
    """Make a device type known that the standard does not describe."""
    from virtio.spec.core import DEVICE_IDS

    if device.name in CHAPTERS or any(row.id == device.id and row.chapter for row in DEVICE_IDS):
        raise ConfigurationError(f"{device.name} (device id {device.id}) is described by the standard")
    for other in _registered.values():
        if (other.name == device.name) != (other.id == device.id):
            raise ConfigurationError(f"device id {device.id}, {device.name}: {other.name} has {other.id}")
    _registered[device.name] = device


def device_types() -> tuple[DeviceType, ...]:
    """Every type that has a chapter, and every registered one, by device id."""
    found = [*map(device_type, CHAPTERS), *_registered.values()]
    return tuple(sorted(found, key=lambda device: device.id))


def _by_id(number: int) -> DeviceType:
    for device in _registered.values():
        if device.id == number:
            return device
    from virtio.spec.core import DEVICE_IDS

    for row in DEVICE_IDS:
        if row.id == number:
            return device_type(row.name)
    raise ConfigurationError(f"there is no device id {number}")
