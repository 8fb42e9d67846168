"""Guest memory: the driver's bytes, as the device reaches them."""

from virtio._native import Memory, Region

__all__ = ["Memory", "Region"]
