"""The split ring's memory: where its parts lie and how each field is accessed (2.7).

Both ends of the model stand on this. Fields that the other end polls are read and written by one 16-bit
access: a Python store such as :func:`struct.pack_into` clears its destination first, and a peer on another
processor sees that.
"""

from __future__ import annotations

import struct
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict

from virtio.errors import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from typing_extensions import Buffer

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

_DESCRIPTOR = struct.Struct("<QIHH")
_BIG_ENDIAN = sys.byteorder == "big"
_FENCE = threading.Lock()


def fence() -> None:
    """Order earlier stores before later loads: a locked operation is what Python has for it."""
    with _FENCE:
        pass


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
    """The fields of a split ring in memory; no behaviour.

    ``memory`` is any writable buffer, ``start`` the address of its first byte.
    """

    def __init__(self, memory: Buffer, layout: SplitLayout, start: int = 0) -> None:
        """Look at the ring that lies in ``memory`` as ``layout`` says."""
        self.memory = memoryview(memory).cast("B")
        self.layout = layout
        self.size = layout.size
        self.start = start
        if layout.descriptors < start or layout.end > start + len(self.memory):
            raise ConfigurationError("the ring does not lie in this memory")
        self._available = self._halves(layout.available, 3 + layout.size)
        self._used = self._halves(layout.used, 3 + 4 * layout.size)
        self._entries = self.memory[layout.used + 4 - start :][: 8 * layout.size].cast("I")

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._available, self._used, self._entries, self.memory):
            view.release()

    def _halves(self, address: int, count: int) -> memoryview:
        return self.memory[address - self.start :][: 2 * count].cast("H")

    # --- bytes anywhere

    def bytes_at(self, address: int, length: int) -> memoryview:
        """Return the bytes at an address; :exc:`~virtio.ProtocolError` if they are not all in memory."""
        offset = address - self.start
        if offset < 0 or offset + length > len(self.memory):
            raise ProtocolError(f"{length} bytes at {address:#x} are not guest memory", "2.7.5")
        return self.memory[offset : offset + length]

    # --- descriptor table (2.7.5)

    def descriptor(self, index: int, table: int | None = None) -> Descriptor:
        """Read entry ``index`` of the descriptor table, or of the indirect table at address ``table``."""
        place = (self.layout.descriptors if table is None else table) + 16 * index
        return Descriptor(*_DESCRIPTOR.unpack(self.bytes_at(place, 16)))

    def set_descriptor(self, index: int, value: Descriptor, table: int | None = None) -> None:
        """Write an entry; nobody looks at it before an index is published."""
        place = (self.layout.descriptors if table is None else table) + 16 * index
        self.bytes_at(place, 16)[:] = _DESCRIPTOR.pack(*value)

    # --- available ring (2.7.6): flags, idx, ring[size], used_event

    @property
    def available_flags(self) -> int:
        """``avail.flags``."""
        return _half(self._available[0])

    @available_flags.setter
    def available_flags(self, value: int) -> None:
        self._available[0] = _half(value)

    @property
    def available_index(self) -> int:
        """``avail.idx``: free-running."""
        return _half(self._available[1])

    @available_index.setter
    def available_index(self, value: int) -> None:
        self._available[1] = _half(value & 0xFFFF)

    def available_entry(self, index: int) -> int:
        """Return the head at free-running ``index``."""
        return _half(self._available[2 + index % self.size])

    def set_available_entry(self, index: int, head: int) -> None:
        """Put a head at free-running ``index``."""
        self._available[2 + index % self.size] = _half(head)

    @property
    def used_event(self) -> int:
        """``avail.used_event``: the driver wants a notification once the used index goes over it (2.7.7)."""
        return _half(self._available[2 + self.size])

    @used_event.setter
    def used_event(self, value: int) -> None:
        self._available[2 + self.size] = _half(value & 0xFFFF)

    # --- used ring (2.7.8): flags, idx, ring[size] of (id, len), avail_event

    @property
    def used_flags(self) -> int:
        """``used.flags``."""
        return _half(self._used[0])

    @used_flags.setter
    def used_flags(self, value: int) -> None:
        self._used[0] = _half(value)

    @property
    def used_index(self) -> int:
        """``used.idx``: free-running."""
        return _half(self._used[1])

    @used_index.setter
    def used_index(self, value: int) -> None:
        self._used[1] = _half(value & 0xFFFF)

    def used_entry(self, index: int) -> tuple[int, int]:
        """Return ``(id, len)`` at free-running ``index``."""
        slot = 2 * (index % self.size)
        return _word(self._entries[slot]), _word(self._entries[slot + 1])

    def set_used_entry(self, index: int, head: int, length: int) -> None:
        """Put ``(id, len)`` at free-running ``index``."""
        slot = 2 * (index % self.size)
        self._entries[slot] = _word(head)
        self._entries[slot + 1] = _word(length)

    @property
    def available_event(self) -> int:
        """``used.avail_event``: the device wants a kick once the available index goes over it (2.7.10)."""
        return _half(self._used[2 + 4 * self.size])

    @available_event.setter
    def available_event(self, value: int) -> None:
        self._used[2 + 4 * self.size] = _half(value & 0xFFFF)


def _half(value: int) -> int:
    """Turn a 16-bit value between host order and the ring's little-endian order."""
    return int.from_bytes(value.to_bytes(2, "little"), "big") if _BIG_ENDIAN else value


def _word(value: int) -> int:
    """Turn a 32-bit value likewise."""
    return int.from_bytes(value.to_bytes(4, "little"), "big") if _BIG_ENDIAN else value
