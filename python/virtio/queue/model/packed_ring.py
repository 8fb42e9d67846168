"""The packed ring's memory: where its parts lie and how each field is accessed (2.8)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from virtio.errors import ConfigurationError
from virtio.queue.model.ring import Addresses

if TYPE_CHECKING:
    from virtio.queue.model.shared import SharedMemory

AVAIL: Final = 1 << 7
"""VIRTQ_DESC_F_AVAIL (2.8.1)."""
USED: Final = 1 << 15
"""VIRTQ_DESC_F_USED (2.8.1)."""

EVENT_ENABLE: Final = 0
"""RING_EVENT_FLAGS_ENABLE (2.8.10)."""
EVENT_DISABLE: Final = 1
"""RING_EVENT_FLAGS_DISABLE (2.8.10)."""
EVENT_DESC: Final = 2
"""RING_EVENT_FLAGS_DESC: at one descriptor; only with VIRTIO_F_EVENT_IDX (2.8.10)."""

_DESCRIPTOR = struct.Struct("<QIHH")


class PackedDescriptor(NamedTuple):
    """One entry of the descriptor ring, or of an indirect table (2.8.13)."""

    address: int
    length: int
    id: int
    flags: int


class Head(NamedTuple):
    """What a descriptor says beside its address."""

    length: int
    id: int
    flags: int

    @property
    def packed(self) -> int:
        """As one 64-bit field."""
        return self.flags << 48 | self.id << 32 | self.length

    @classmethod
    def unpacked(cls, value: int) -> Head:
        """Undo :attr:`packed`."""
        return cls(value & 0xFFFF_FFFF, value >> 32 & 0xFFFF, value >> 48)


@dataclass(frozen=True)
class PackedLayout:
    """Where the three parts of a packed ring lie, as addresses (2.8.10.1)."""

    size: int
    descriptors: int
    driver_event: int
    device_event: int

    @classmethod
    def at(cls, address: int, size: int) -> PackedLayout:
        """Lay the parts out one behind the other from ``address``, each on a cache line of its own."""
        descriptors = -(-address // 64) * 64
        driver_event = -(-(descriptors + 16 * size) // 64) * 64
        return cls(size, descriptors, driver_event, driver_event + 64)

    def __post_init__(self) -> None:
        """Refuse a size or an alignment that 2.8 does not allow."""
        if not 0 < self.size <= 32768:
            raise ConfigurationError(f"queue size {self.size} is not between 1 and 32768")
        if self.descriptors % 16 or self.driver_event % 4 or self.device_event % 4:
            raise ConfigurationError("a part of the ring is not aligned: 16, 4 and 4 bytes are needed")

    @property
    def end(self) -> int:
        """First address behind all parts."""
        return max(self.descriptors + 16 * self.size, self.driver_event + 4, self.device_event + 4)

    @property
    def addresses(self) -> Addresses:
        """The three addresses by name, as :meth:`virtio.queue.Queue.configure` takes them."""
        return {"descriptors": self.descriptors, "available": self.driver_event, "used": self.device_event}


@dataclass
class Position:
    """A place in the ring: the offset of a descriptor and the wrap counter that goes with it (2.8.1)."""

    size: int
    offset: int = 0
    wrap: int = 1

    def advance(self, slots: int) -> None:
        """Go on by that many descriptors, at most once around."""
        self.offset += slots
        if self.offset >= self.size:
            self.offset -= self.size
            self.wrap ^= 1

    @property
    def packed(self) -> int:
        """As in an event structure, a notification or vhost-user's base: wrap counter in bit 15."""
        return self.wrap << 15 | self.offset

    @classmethod
    def unpacked(cls, size: int, value: int) -> Position:
        """Undo :attr:`packed`."""
        return cls(size, value & 0x7FFF, value >> 15 & 1)


class PackedRing:
    """The fields of a packed ring in memory; no behaviour beyond their meaning."""

    def __init__(self, memory: SharedMemory, layout: PackedLayout) -> None:
        """Look at the ring that lies in ``memory`` as ``layout`` says."""
        self.memory = memory
        self.layout = layout
        self.size = layout.size

    def head(self, offset: int) -> Head:
        """Read length, id and flags of a descriptor: what the other end may be changing while we look."""
        return Head.unpacked(self.memory.load64(self.layout.descriptors + 16 * offset + 8, "descriptor"))

    def set_head(self, offset: int, head: Head) -> None:
        """Write length, id and flags in one access: what makes a descriptor available, or used.

        One access is more than is needed: flags behind the others would do. ``addr`` of a used descriptor is
        unused (2.8.4).
        """
        self.memory.store64(self.layout.descriptors + 16 * offset + 8, head.packed, "descriptor")

    def address(self, offset: int) -> int:
        """Read ``addr`` of a descriptor whose flags have been read already."""
        return self.memory.load64(self.layout.descriptors + 16 * offset, "descriptor")

    def set_address(self, offset: int, address: int) -> None:
        """Write ``addr`` of a descriptor."""
        self.memory.store64(self.layout.descriptors + 16 * offset, address, "descriptor")

    def table_entry(self, table: int, index: int) -> PackedDescriptor:
        """Read an entry of the indirect table at address ``table`` (2.8.7)."""
        return PackedDescriptor(*_DESCRIPTOR.unpack(self.memory.load(table + 16 * index, 16, "table")))

    def set_table_entry(self, table: int, index: int, descriptor: PackedDescriptor) -> None:
        """Write an entry of an indirect table."""
        self.memory.store(table + 16 * index, _DESCRIPTOR.pack(*descriptor), "table")

    def is_available(self, position: Position, flags: int) -> bool:
        """Whether ``flags`` say that the driver made this descriptor available (2.8.1)."""
        return bool(flags & AVAIL) == bool(position.wrap) and bool(flags & USED) != bool(position.wrap)

    def is_used(self, position: Position, flags: int) -> bool:
        """Whether ``flags`` say that the device used this descriptor (2.8.1)."""
        return bool(flags & AVAIL) == bool(flags & USED) == bool(position.wrap)

    def event(self, address: int) -> tuple[int, int]:
        """Read an event suppression structure: ``desc`` and ``flags`` (2.8.14)."""
        # flags first: they say whether desc means anything.
        flags = self.memory.load16(address + 2, "event") & 3
        if flags != EVENT_DESC:
            return 0, flags
        self.memory.acquire()
        return self.memory.load16(address, "event"), flags

    def set_event(self, address: int, flags: int, position: Position | None = None) -> None:
        """Write an event suppression structure; ``flags`` last, for they make ``desc`` valid."""
        if position is not None:
            self.memory.store16(address, position.packed, "event")
            self.memory.release()
        self.memory.store16(address + 2, flags, "event")

    def wants(self, address: int, new: Position, moved: int, event_idx: bool) -> bool:
        """Whether the end that wrote the structure at ``address`` wants to hear that the other end has just
        moved by ``moved`` descriptors, to ``new`` (2.8.10)."""
        desc, flags = self.event(address)
        if flags != EVENT_DESC or not event_idx:
            # DESC without the feature and the reserved value 3 are not valid; a notification too many
            # does no harm, one too few does.
            return flags != EVENT_DISABLE
        offset = desc & 0x7FFF
        if desc >> 15 != new.wrap:
            offset -= self.size
        return (new.offset - offset - 1) & 0xFFFF < moved
