"""The whole VIRTIO standard for Python: both ends of the queue.

Importing this package imports little: each name below is fetched from its module when it is first used.
"""

from typing import TYPE_CHECKING, Any

from virtio.errors import (
    ConfigurationError,
    DeviceError,
    Error,
    FeatureNegotiationError,
    IOCompleted,
    IOFailed,
    ProtocolError,
    StateError,
    TransportError,
    UnsupportedRequest,
)

if TYPE_CHECKING:
    from virtio import spec
    from virtio._native import Batch, Chain, Memory, NetFrame, NetFrames
    from virtio.device.base import Device
    from virtio.device.block import BlockDevice
    from virtio.device.console import ConsoleDevice
    from virtio.device.entropy import EntropyDevice
    from virtio.device.net import NetworkDevice
    from virtio.device.net_backends import Switch
    from virtio.memory.iommu import IommuDomain
    from virtio.transport import connect, serve, start

    __version__: str

_HOMES = {
    "Batch": "virtio._native",
    "BlockDevice": "virtio.device.block",
    "Chain": "virtio._native",
    "ConsoleDevice": "virtio.device.console",
    "Device": "virtio.device.base",
    "EntropyDevice": "virtio.device.entropy",
    "IommuDomain": "virtio.memory.iommu",
    "Memory": "virtio._native",
    "NetFrame": "virtio._native",
    "NetFrames": "virtio._native",
    "NetworkDevice": "virtio.device.net",
    "Switch": "virtio.device.net_backends",
    "connect": "virtio.transport",
    "serve": "virtio.transport",
    "start": "virtio.transport",
}

__all__ = [
    "Batch",
    "BlockDevice",
    "Chain",
    "ConfigurationError",
    "ConsoleDevice",
    "Device",
    "DeviceError",
    "EntropyDevice",
    "Error",
    "FeatureNegotiationError",
    "IOCompleted",
    "IOFailed",
    "IommuDomain",
    "Memory",
    "NetFrame",
    "NetFrames",
    "NetworkDevice",
    "ProtocolError",
    "StateError",
    "Switch",
    "TransportError",
    "UnsupportedRequest",
    "connect",
    "serve",
    "spec",
    "start",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("pyvirtio")
    elif name == "spec":
        value = import_module("virtio.spec")
    elif home := _HOMES.get(name):
        value = getattr(import_module(home), name)
    else:
        raise AttributeError(f"module 'virtio' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
