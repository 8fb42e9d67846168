"""Virtio over PCI: a function, without I/O, and the driver's end of one (VIRTIO 1.4, 4.1)."""

from typing import Any

from virtio.memory.shared import DEFAULT_SIZE
from virtio.memory.shared import SharedMemory as DriverMemory
from virtio.transport.in_process import find
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci.address_space import SharedMemory
from virtio.transport.pci.driver_end import PciDriverEnd
from virtio.transport.pci.function import PciFunction
from virtio.transport.pci.interface import InterruptIndex, MapArea, Notification, PciBus, Region, RegionIndex
from virtio.transport.pci.layout import Bar, Layout, Place, VendorData
from virtio.transport.pci.local import FunctionServer, LocalBus
from virtio.transport.pci.sriov import VirtualFunctions
from virtio.transport.pci.transitional import TransitionalFunction

__all__ = [
    "Bar",
    "InterruptIndex",
    "Layout",
    "MapArea",
    "Notification",
    "PciBus",
    "PciDriverEnd",
    "PciFunction",
    "Place",
    "Region",
    "RegionIndex",
    "SharedMemory",
    "TransitionalFunction",
    "VendorData",
    "VirtualFunctions",
    "open_bus",
    "open_driver_end",
    "start",
]


def start(device: DeviceEnd | PciFunction, name: str, **options: Any) -> FunctionServer:
    """Make ``device`` a function that is known as ``pci:NAME`` in this process.

    ``options`` are those of :class:`PciFunction`; ``device`` may also be a function already.
    """
    function = device if isinstance(device, PciFunction) else PciFunction(device, **options)
    return FunctionServer(function, name)


def open_bus(
    name: str, *, timeout: float = 5.0, memory_size: int = DEFAULT_SIZE, huge_pages: bool = False
) -> LocalBus:
    """Reach the function that is known as ``pci:NAME`` in this process, without a driver for it."""
    server = find("pci", name)
    assert isinstance(server, FunctionServer)
    memory = DriverMemory(memory_size, huge_pages=huge_pages)
    try:
        return LocalBus(server, memory, timeout)
    except BaseException:
        memory.close()
        raise


def open_driver_end(
    name: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
    msix: bool = True,
) -> PciDriverEnd:
    """Drive the function that is known as ``pci:NAME`` in this process; without ``msix``, by INTx."""
    bus = open_bus(name, timeout=timeout, memory_size=memory_size, huge_pages=huge_pages)
    try:
        return PciDriverEnd(bus, msix=msix)
    except BaseException:
        bus.close()
        raise
