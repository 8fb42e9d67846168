"""Virtio over PCI: a function, without I/O, and the driver's end of one (VIRTIO 1.4, 4.1)."""

from virtio.transport.pci.function import PciFunction, SharedMemory
from virtio.transport.pci.interface import InterruptIndex, MapArea, Notification, PciBus, Region, RegionIndex
from virtio.transport.pci.layout import Bar, Layout, Place, VendorData

__all__ = [
    "Bar",
    "InterruptIndex",
    "Layout",
    "MapArea",
    "Notification",
    "PciBus",
    "PciFunction",
    "Place",
    "Region",
    "RegionIndex",
    "SharedMemory",
    "VendorData",
]
