"""What known front ends do that the protocol does not say, and what is done about it.

Each was seen on the wire. The code that copes with one names it.
"""

from typing import NamedTuple

from virtio.queue.device import FRESH_PACKED_BASE
from virtio.spec import net
from virtio.spec.selection import without


class Quirk(NamedTuple):
    """A habit of a front end."""

    name: str
    seen_in: str
    habit: str
    answer: str


MEMORY_TABLE_WITH_ROOM = Quirk(
    "memory table with room",
    "UML 6.1",
    "SET_MEM_TABLE always carries room for two regions, 72 bytes, even if it announces one",
    "regions are read by their count; bytes behind them are ignored",
)
NEVER_STOPS_A_RING = Quirk(
    "never stops a ring",
    "UML 6.1 and 7.2",
    "a driver that leaves sends SET_VRING_ENABLE 0, never GET_VRING_BASE; the next starts with SET_FEATURES",
    "SET_FEATURES while rings are disabled but not stopped resets the device",
)
PACKED_BASE_OF_ZERO = Quirk(
    "packed base of zero",
    "UML 6.1 and 7.2",
    "a fresh packed ring is announced with base 0, though both wrap counters start at 1",
    "base 0 means 0x80008000 if the first descriptor has not been used",
)
PACKED_BASE_OF_HALF = Quirk(
    "half a packed base",
    "DPDK 22.11",
    "SET_VRING_BASE for a packed ring has the available half only (0x8000)",
    "the used half is taken to be the same",
)
ENABLES_UNKNOWN_RINGS = Quirk(
    "enables rings that were never set up",
    "QEMU 7.2 and 11.1",
    "SET_VRING_ENABLE 1 for every queue of the device, whatever the driver configured",
    "it is remembered, and takes effect when the ring is set up",
)
STATUS_OUT_OF_THIN_AIR = Quirk(
    "status out of thin air",
    "QEMU 7.2",
    "SET_STATUS 8 (FEATURES_OK) without ACKNOWLEDGE and DRIVER before it",
    "the status is echoed as it was sent; the device goes through the steps of 3.1.1 by itself",
)
RESETS_BEFORE_ASKING = Quirk(
    "resets before asking",
    "QEMU 7.2",
    "on a stop SET_STATUS 0 comes first, then SET_VRING_ENABLE 0 and GET_VRING_BASE",
    "a reset keeps the base of each ring until a new one is set",
)
ACKNOWLEDGES_UNUSED_FEATURES = Quirk(
    "acknowledges what it does not use",
    "QEMU 7.2 and 11.1",
    "INBAND_NOTIFICATIONS is negotiated, yet rings are driven by descriptors",
    "in-band calls are made only for rings that never got SET_VRING_CALL",
)
ACKNOWLEDGED_TOO_EARLY = Quirk(
    "REPLY_ACK before it is negotiated",
    "UML 6.1 and 7.2",
    "SET_PROTOCOL_FEATURES, which negotiates REPLY_ACK, asks for an acknowledgement itself",
    "whether to acknowledge is decided after a message was handled",
)
KEEPS_THE_CONTROL_QUEUE = Quirk(
    "keeps the control queue",
    "QEMU 11.1",
    "the card is QEMU's own with its control queue: SET_FEATURES has features that need one, but not CTRL_VQ",
    "those features are left out",
)
INVALIDATES_OUT_OF_THIN_AIR = Quirk(
    "invalidation with more in it than was meant",
    "QEMU 7.2",
    "an IOTLB invalidation has whatever was in memory as its permission and its user address",
    "only its range is looked at",
)
NO_ATS_NO_INVALIDATIONS = Quirk(
    "translations without invalidations",
    "QEMU 7.2",
    "with intel-iommu's device-iotlb=on and a device whose ATS the guest does not see (not behind a root "
    "port), misses are answered, but nothing is ever invalidated: the guest's memory is overwritten",
    "none is possible here; docs/iommu.md says how to start QEMU",
)

QUIRKS = (
    MEMORY_TABLE_WITH_ROOM,
    NEVER_STOPS_A_RING,
    PACKED_BASE_OF_ZERO,
    PACKED_BASE_OF_HALF,
    ENABLES_UNKNOWN_RINGS,
    STATUS_OUT_OF_THIN_AIR,
    RESETS_BEFORE_ASKING,
    ACKNOWLEDGES_UNUSED_FEATURES,
    ACKNOWLEDGED_TOO_EARLY,
    KEEPS_THE_CONTROL_QUEUE,
    INVALIDATES_OUT_OF_THIN_AIR,
    NO_ATS_NO_INVALIDATIONS,
)

DESCRIPTOR_USED = 1 << 15


def packed_base(base: int, first_flags: int) -> int:
    """Return the base that a front end means for a packed ring.

    ``first_flags`` are the flags of descriptor 0: a device that went once around the ring has left its mark
    there, so that a base of 0 can also be an honest one.
    """
    if base == 0 and not first_flags & DESCRIPTOR_USED:
        return FRESH_PACKED_BASE
    if base and base <= 0xFFFF:
        return base << 16 | base
    return base


def without_control_queue(device_id: int, features: int) -> int:
    """Return the features that a front end means which keeps the control queue to itself."""
    if device_id != net.DEVICE.id or features & net.F.CTRL_VQ:
        return features
    return without(net.DEVICE, features, 0)
