"""The rings in plain Python, written from the standard: what the native ones are held against."""

from virtio.queue.model.buffers import ModelChain, Used
from virtio.queue.model.packed import PackedDevice, PackedDriver
from virtio.queue.model.packed_ring import PackedLayout, PackedRing
from virtio.queue.model.ring import Descriptor, SplitLayout, SplitRing
from virtio.queue.model.shared import SharedMemory, Touch
from virtio.queue.model.split import SplitDevice, SplitDriver

__all__ = [
    "Descriptor",
    "ModelChain",
    "PackedDevice",
    "PackedDriver",
    "PackedLayout",
    "PackedRing",
    "SharedMemory",
    "SplitDevice",
    "SplitDriver",
    "SplitLayout",
    "SplitRing",
    "Touch",
    "Used",
]
