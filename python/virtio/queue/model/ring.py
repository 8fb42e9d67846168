"""The split ring's memory: where its parts lie and how each field is accessed (2.7).

Both ends of the model stand on this, and the packed ring takes the terms from here that it shares.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict

from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.queue.model.shared import SharedMemory

NEXT: Final = 1
"""VIRTQ_DESC_F_NEXT: the chain goes on at ``next`` (2.7.5)."""
WRITE: Final = 2
"""VIRTQ_DESC_F_WRITE: device-writable (2.7.5)."""
INDIRECT: Final = 4
"""VIRTQ_DESC_F_INDIRECT: the buffer is a table of descriptors (2.7.5.3)."""
NO_INTERRUPT: Final = 1
"""VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.7)."""
NO_NOTIFY: Final = 1
"""VIRTQ_USED_F_NO_NOTIFY (2.7.10)."""
INDIRECT_DESC: Final = 1 << 28
"""VIRTIO_F_INDIRECT_DESC (6)."""
EVENT_IDX: Final = 1 << 29
"""VIRTIO_F_EVENT_IDX (6)."""
IN_ORDER: Final = 1 << 35
"""VIRTIO_F_IN_ORDER (6)."""

_DESCRIPTOR = struct.Struct("<QIHH")


def passed(event: int, new: int, old: int) -> bool:
    """Return whether an index that moved from ``old`` to ``new`` went over ``event`` (2.7.7.2, 2.7.10.1)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class Descriptor(NamedTuple):
    """One entry of a descriptor table (2.7.5)."""

    address: int
    length: int
    flags: int = 0
    next: int = 0


class Addresses(TypedDict):
    """The parts of a ring by name, as :meth:`virtio.queue.Queue.configure` takes them."""

    descriptors: int
    available: int
    used: int


@dataclass(frozen=True)
class SplitLayout:
    """Where the three parts of a split ring lie, as addresses (2.7)."""

    size: int
    descriptors: int
    available: int
    used: int

    @classmethod
    def at(cls, address: int, size: int) -> SplitLayout:
        """Lay the parts out one behind the other from ``address``, each aligned as 2.7 demands."""
        descriptors = -(-address // 16) * 16
        available = descriptors + 16 * size
        used = -(-(available + 6 + 2 * size) // 4) * 4
        return cls(size, descriptors, available, used)

    def __post_init__(self) -> None:
        """Refuse a size or an alignment that 2.7 does not allow."""
        if not 0 < self.size <= 32768 or self.size & (self.size - 1):
            raise ConfigurationError(f"queue size {self.size} is not a power of two up to 32768")
        if self.descriptors % 16 or self.available % 2 or self.used % 4:
            raise ConfigurationError("a part of the ring is not aligned: 16, 2 and 4 bytes are needed")

    @property
    def end(self) -> int:
        """First address behind the used ring."""
        return self.used + 6 + 8 * self.size

    @property
    def addresses(self) -> Addresses:
        """The three addresses by name."""
        return {"descriptors": self.descriptors, "available": self.available, "used": self.used}


class SplitRing:
    """The fields of a split ring in memory; no behaviour."""

    def __init__(self, memory: SharedMemory, layout: SplitLayout) -> None:
        """Look at the ring that lies in ``memory`` as ``layout`` says."""
        self.memory = memory
        self.layout = layout
        self.size = layout.size
        if layout.descriptors < memory.start or layout.end > memory.start + len(memory):
            raise ConfigurationError("the ring does not lie in this memory")
        self._used_event = layout.available + 4 + 2 * layout.size
        self._available_event = layout.used + 4 + 8 * layout.size

    def close(self) -> None:
        """Let go of the memory."""
        self.memory.close()

    def bytes_at(self, address: int, length: int) -> memoryview:
        """Return the bytes at an address; :exc:`~virtio.ProtocolError` if they are not all in memory."""
        return self.memory.view(address, length)

    # --- descriptor table (2.7.5)

    def descriptor(self, index: int, table: int | None = None) -> Descriptor:
        """Read entry ``index`` of the descriptor table, or of the indirect table at address ``table``."""
        if table is None:
            data = self.memory.load(self.layout.descriptors + 16 * index, 16, "descriptor")
        else:
            data = self.memory.load(table + 16 * index, 16, "table")
        return Descriptor(*_DESCRIPTOR.unpack(data))

    def set_descriptor(self, index: int, value: Descriptor, table: int | None = None) -> None:
        """Write an entry; nobody looks at it before an index is published."""
        if table is None:
            place = self.layout.descriptors + 16 * index
            self.memory.store(place, _DESCRIPTOR.pack(*value), "descriptor")
        else:
            self.memory.store(table + 16 * index, _DESCRIPTOR.pack(*value), "table")

    # --- available ring (2.7.6): flags, idx, ring[size], used_event

    @property
    def available_flags(self) -> int:
        """``avail.flags``."""
        return self.memory.load16(self.layout.available, "event")

    @available_flags.setter
    def available_flags(self, value: int) -> None:
        self.memory.store16(self.layout.available, value, "event")

    @property
    def available_index(self) -> int:
        """``avail.idx``: free-running."""
        return self.memory.load16(self.layout.available + 2, "index")

    @available_index.setter
    def available_index(self, value: int) -> None:
        self.memory.store16(self.layout.available + 2, value, "index")

    def available_entry(self, index: int) -> int:
        """Return the head at free-running ``index``."""
        return self.memory.load16(self.layout.available + 4 + 2 * (index % self.size), "available")

    def set_available_entry(self, index: int, head: int) -> None:
        """Put a head at free-running ``index``."""
        self.memory.store16(self.layout.available + 4 + 2 * (index % self.size), head, "available")

    @property
    def used_event(self) -> int:
        """``avail.used_event``: the driver wants a notification once the used index goes over it (2.7.7)."""
        return self.memory.load16(self._used_event, "event")

    @used_event.setter
    def used_event(self, value: int) -> None:
        self.memory.store16(self._used_event, value, "event")

    # --- used ring (2.7.8): flags, idx, ring[size] of (id, len), avail_event

    @property
    def used_flags(self) -> int:
        """``used.flags``."""
        return self.memory.load16(self.layout.used, "event")

    @used_flags.setter
    def used_flags(self, value: int) -> None:
        self.memory.store16(self.layout.used, value, "event")

    @property
    def used_index(self) -> int:
        """``used.idx``: free-running."""
        return self.memory.load16(self.layout.used + 2, "index")

    @used_index.setter
    def used_index(self, value: int) -> None:
        self.memory.store16(self.layout.used + 2, value, "index")

    def used_entry(self, index: int) -> tuple[int, int]:
        """Return ``(id, len)`` at free-running ``index``."""
        data = self.memory.load(self.layout.used + 4 + 8 * (index % self.size), 8, "used")
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")

    def set_used_entry(self, index: int, head: int, length: int) -> None:
        """Put ``(id, len)`` at free-running ``index``."""
        place = self.layout.used + 4 + 8 * (index % self.size)
        self.memory.store32(place, head, "used")
        self.memory.store32(place + 4, length, "used")

    @property
    def available_event(self) -> int:
        """``used.avail_event``: the device wants a kick once the available index goes over it (2.7.10)."""
        return self.memory.load16(self._available_event, "event")

    @available_event.setter
    def available_event(self, value: int) -> None:
        self.memory.store16(self._available_event, value, "event")
