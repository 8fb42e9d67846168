"""The rings in plain Python, written from the standard: what the native ones are held against."""

from virtio.queue.model.ring import Descriptor, SplitLayout, SplitRing
from virtio.queue.model.split import ModelChain, SplitDevice, SplitDriver, Used

__all__ = ["Descriptor", "ModelChain", "SplitDevice", "SplitDriver", "SplitLayout", "SplitRing", "Used"]
