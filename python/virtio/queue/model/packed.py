"""The packed virtqueue in plain Python, both ends, written from VIRTIO 1.4, 2.8.

Slow and readable on purpose: it says what the rules are, and tests hold the native ring against it. Neither
end is safe to use from two threads at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.model.allocator import Allocator
from virtio.queue.model.shared import SharedMemory, fence
from virtio.queue.model.split import ModelChain, Used

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from virtio.queue.model.shared import Touch

NEXT: Final = 1 << 0
"""VIRTQ_DESC_F_NEXT: the list goes on in the next descriptor of the ring (2.8.6)."""
WRITE: Final = 1 << 1
"""VIRTQ_DESC_F_WRITE: device-writable; in a used descriptor: something was written (2.8.3)."""
INDIRECT: Final = 1 << 2
"""VIRTQ_DESC_F_INDIRECT: the buffer is a table of descriptors (2.8.7)."""
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

INDIRECT_DESC: Final = 1 << 28
EVENT_IDX: Final = 1 << 29
IN_ORDER: Final = 1 << 35

_DESCRIPTOR = struct.Struct("<QIHH")


class PackedDescriptor(NamedTuple):
    """One entry of the descriptor ring, or of an indirect table (2.8.13)."""

    address: int
    length: int
    id: int
    flags: int


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
    def addresses(self) -> dict[str, int]:
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

    def flags(self, offset: int) -> int:
        """``flags`` of a descriptor: the one field that the other end changes while we look."""
        return self.memory.load16(self.layout.descriptors + 16 * offset + 14, "descriptor")

    def set_flags(self, offset: int, flags: int) -> None:
        """Write ``flags``, in one access: what makes a descriptor available, or used."""
        self.memory.store16(self.layout.descriptors + 16 * offset + 14, flags, "descriptor")

    def descriptor(self, offset: int, flags: int) -> PackedDescriptor:
        """Read the rest of a descriptor whose ``flags`` have been read already."""
        place = self.layout.descriptors + 16 * offset
        data = bytes(self.memory.view(place, 14, "descriptor"))
        address, length, buffer_id, _ = _DESCRIPTOR.unpack(data + b"\0\0")
        return PackedDescriptor(address, length, buffer_id, flags)

    def set_available(self, offset: int, descriptor: PackedDescriptor) -> None:
        """Write all of a driver's descriptor but its ``flags``."""
        place = self.layout.descriptors + 16 * offset
        self.memory.view(place, 14, "descriptor", write=True)[:] = _DESCRIPTOR.pack(*descriptor)[:14]

    def set_used(self, offset: int, buffer_id: int, written: int) -> None:
        """Write ``len`` and ``id`` of a used descriptor; ``addr`` is unused (2.8.4)."""
        place = self.layout.descriptors + 16 * offset
        self.memory.store32(place + 8, written, "descriptor")
        self.memory.store16(place + 12, buffer_id, "descriptor")

    def table_entry(self, table: int, index: int) -> PackedDescriptor:
        """Read an entry of the indirect table at address ``table`` (2.8.7)."""
        return PackedDescriptor(*_DESCRIPTOR.unpack(self.memory.view(table + 16 * index, 16, "table")))

    def set_table_entry(self, table: int, index: int, descriptor: PackedDescriptor) -> None:
        """Write an entry of an indirect table."""
        self.memory.view(table + 16 * index, 16, "table", write=True)[:] = _DESCRIPTOR.pack(*descriptor)

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
        return self.memory.load16(address, "event") if flags == EVENT_DESC else 0, flags

    def set_event(self, address: int, flags: int, position: Position | None = None) -> None:
        """Write an event suppression structure; ``flags`` last, for they make ``desc`` valid."""
        if position is not None:
            self.memory.store16(address, position.packed, "event")
            fence()
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


@dataclass
class _Buffer:
    """A buffer that the driver exposed: what to take back when it is used."""

    slots: int = 0
    allocations: list[int] = field(default_factory=list)
    writable: list[tuple[int, int]] = field(default_factory=list)


class PackedDriver:
    """The driver's end (2.8.21, 2.8.22), with memory for buffers behind the ring.

    ``memory`` is the guest's memory as a writable buffer whose first byte has the address ``start``. The ring
    begins at ``address``; all from its end up to ``end`` (default: the end of memory) is used for buffers.
    """

    def __init__(
        self,
        memory: Buffer,
        address: int,
        size: int,
        features: int = 0,
        *,
        start: int = 0,
        end: int | None = None,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Lay out an empty ring, zero-initialised as 2.8.13 demands."""
        self.layout = PackedLayout.at(address, size)
        shared = SharedMemory(memory, start, end="driver", observer=observer)
        self.ring = PackedRing(shared, self.layout)
        self.size = size
        self.features = features
        self.allocator = Allocator(self.layout.end, start + len(shared) if end is None else end)
        self.next_available = Position(size)
        self.next_used = Position(size)
        self._free = size
        self._ids = list(range(size))
        self._buffers: dict[int, _Buffer] = {}
        self._order: list[int] = []
        self._returned: dict[int, _Buffer] = {}
        self._withheld: tuple[int, int] | None = None
        self._published = Position(size)
        self._added = 0
        self._unannounced = 0
        span = self.layout.end - self.layout.descriptors
        shared.view(self.layout.descriptors, span)[:] = bytes(span)

    @property
    def addresses(self) -> dict[str, int]:
        """Where the ring lies, as :meth:`virtio.queue.Queue.configure` takes it."""
        return self.layout.addresses

    @property
    def outstanding(self) -> int:
        """Buffers that were added and not yet polled as used."""
        return len(self._buffers)

    @property
    def free_descriptors(self) -> int:
        """Descriptors that :meth:`add` can still use."""
        return self._free

    def add(
        self,
        readable: Sequence[bytes | int] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
    ) -> int:
        """Put a buffer into the ring and return its id (2.8.21.1).

        ``readable`` gives the contents of each device-readable element, or its length (then it is zeros);
        ``writable`` the length of each device-writable element, filled with zeros. The device does not see
        the buffer before :meth:`publish`. Raises :exc:`~virtio.ConfigurationError` if the ring or the memory
        has no room.
        """
        elements = [(item, 0) for item in readable] + [(item, WRITE) for item in writable]
        if not elements:
            raise ConfigurationError("a buffer has at least one element")
        if indirect and not self.features & INDIRECT_DESC:
            raise ConfigurationError("indirect descriptors were not negotiated")
        slots = 1 if indirect else len(elements)
        # 2.8.17: room for the whole list before its first descriptor becomes available.
        if slots > self._free or len(elements) > self.size:
            raise ConfigurationError(f"no room for {len(elements)} elements: {self._free} descriptors free")

        buffer = _Buffer(slots)
        try:
            chain = [self._place(buffer, item, flags) for item, flags in elements]
            if indirect:
                chain = [self._table(buffer, chain)]
        except ConfigurationError:
            for address in buffer.allocations:
                self.allocator.free(address)
            raise
        buffer_id = self._ids.pop(0)
        self._returned.pop(buffer_id, None)
        self._buffers[buffer_id] = buffer
        self._order.append(buffer_id)
        self._expose(chain, buffer_id)
        self._free -= slots
        self._added += slots
        return buffer_id

    def _place(self, buffer: _Buffer, item: bytes | int, flags: int) -> PackedDescriptor:
        data = bytes(item)
        address = self.allocator.take(len(data))
        buffer.allocations.append(address)
        self.ring.memory.view(address, len(data))[:] = data
        if flags & WRITE:
            buffer.writable.append((address, len(data)))
        return PackedDescriptor(address, len(data), 0, flags)

    def _table(self, buffer: _Buffer, chain: list[PackedDescriptor]) -> PackedDescriptor:
        """Move a list into an indirect table: entries in order, WRITE the only flag (2.8.7)."""
        table = self.allocator.take(16 * len(chain))
        buffer.allocations.append(table)
        for index, descriptor in enumerate(chain):
            self.ring.set_table_entry(table, index, descriptor)
        return PackedDescriptor(table, 16 * len(chain), 0, INDIRECT)

    def _expose(self, chain: list[PackedDescriptor], buffer_id: int) -> None:
        """Write a list into the ring: the first descriptor's flags last, or not yet (2.8.6)."""
        heads: list[tuple[int, int]] = []
        for index, descriptor in enumerate(chain):
            at = self.next_available
            flags = descriptor.flags | (AVAIL if at.wrap else USED)
            if index + 1 < len(chain):
                flags |= NEXT
            # The id counts in the last descriptor of a list only; it does no harm in the others.
            self.ring.set_available(at.offset, descriptor._replace(id=buffer_id))
            if index == 0:
                heads.append((at.offset, flags))
            else:
                self.ring.set_flags(at.offset, flags)
            at.advance(1)
        if self._withheld is None:
            self._withheld = heads[0]
        else:
            # The device reads in order: behind a withheld descriptor nothing is visible.
            self.ring.set_flags(*heads[0])

    def publish(self) -> None:
        """Show the device all buffers that were added: by one store (2.8.21.1.1)."""
        if self._withheld is not None:
            fence()
            self.ring.set_flags(*self._withheld)
            self._withheld = None
            self._unannounced += self._added
            self._added = 0
            self._published = Position(self.size, self.next_available.offset, self.next_available.wrap)

    def needs_kick(self) -> bool:
        """Return whether the device wants a notification of what was published since the last call
        (2.8.21.3.1)."""
        fence()
        moved, self._unannounced = self._unannounced, 0
        if not moved:
            return False
        event_idx = bool(self.features & EVENT_IDX)
        return self.ring.wants(self.layout.device_event, self._published, moved, event_idx)

    @property
    def notification_data(self) -> int:
        """``next_off`` and ``next_wrap`` as VIRTIO_F_NOTIFICATION_DATA sends them (2.9)."""
        return self._published.packed

    def poll_used(self) -> list[Used]:
        """Take back what the device has used (2.8.22).

        Raises :exc:`~virtio.ProtocolError` for a used descriptor that names no outstanding buffer, one out of
        turn under VIRTIO_F_IN_ORDER, or a length greater than the buffer's device-writable part.
        """
        found: list[Used] = []
        while True:
            at = self.next_used
            flags = self.ring.flags(at.offset)
            if not self._buffers or not self.ring.is_used(at, flags):
                return found
            fence()
            descriptor = self.ring.descriptor(at.offset, flags)
            if descriptor.id not in self._buffers:
                raise ProtocolError(f"used id {descriptor.id} is not outstanding", "2.8.22")
            last = self._order.index(descriptor.id)
            if self.features & IN_ORDER:
                # 2.8.8: those before it were used completely.
                for skipped in self._order[:last]:
                    found.append(self._take_back(skipped, None))
            written = descriptor.length if flags & WRITE else 0
            found.append(self._take_back(descriptor.id, written))

    def _take_back(self, buffer_id: int, written: int | None) -> Used:
        buffer = self._buffers.pop(buffer_id)
        self._order.remove(buffer_id)
        self.next_used.advance(buffer.slots)
        self._free += buffer.slots
        self._ids.append(buffer_id)
        for address in buffer.allocations:
            self.allocator.free(address)
        self._returned[buffer_id] = buffer
        room = sum(length for _, length in buffer.writable)
        if written is not None and written > room:
            raise ProtocolError(f"{written} bytes written into a buffer of {room}", "2.8.4")
        return Used(buffer_id, room if written is None else written)

    def data(self, buffer_id: int) -> bytes:
        """Return the device-writable part of a buffer; of a used one only until something is added."""
        buffer = self._buffers.get(buffer_id) or self._returned[buffer_id]
        return b"".join(self.ring.memory.view(address, length) for address, length in buffer.writable)

    def enable_interrupts(self) -> bool:
        """Ask for a notification of the next used buffer; True: there is one already (2.8.22)."""
        event_idx = self.features & EVENT_IDX
        self.ring.set_event(
            self.layout.driver_event,
            EVENT_DESC if event_idx else EVENT_ENABLE,
            self.next_used if event_idx else None,
        )
        fence()
        at = self.next_used
        return bool(self._buffers) and self.ring.is_used(at, self.ring.flags(at.offset))

    def disable_interrupts(self) -> None:
        """Advise the device that no notification is needed (2.8.10)."""
        self.ring.set_event(self.layout.driver_event, EVENT_DISABLE)

    def close(self) -> None:
        """Let go of the memory."""
        self.ring.memory.close()


@dataclass(frozen=True)
class PackedChain(ModelChain):
    """A buffer as the device sees it; ``head`` is the buffer id."""

    slots: int = 1


class PackedDevice:
    """The device's end (2.8.12, 2.8.15, 2.8.18)."""

    def __init__(
        self,
        memory: Buffer,
        layout: PackedLayout,
        features: int = 0,
        *,
        start: int = 0,
        base: int = 0x8000_8000,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Continue where ``base`` says: available position in the low half, used position in the high one,
        each with its wrap counter in bit 15."""
        self.ring = PackedRing(SharedMemory(memory, start, end="device", observer=observer), layout)
        self.size = layout.size
        self.layout = layout
        self.features = features
        self.next_available = Position.unpacked(self.size, base & 0xFFFF)
        self.next_used = Position.unpacked(self.size, base >> 16)
        self._done: list[tuple[PackedChain, int]] = []

    @property
    def base(self) -> int:
        """Where a successor continues."""
        return self.next_used.packed << 16 | self.next_available.packed

    def pop(self) -> PackedChain | None:
        """Take the next buffer; None: nothing is available. :exc:`~virtio.ProtocolError`: it is malformed."""
        at = self.next_available
        flags = self.ring.flags(at.offset)
        if not self.ring.is_available(at, flags):
            return None
        fence()
        elements: list[tuple[int, int, int]] = []
        place = Position(self.size, at.offset, at.wrap)
        slots = 0
        while True:
            slots += 1
            descriptor = self.ring.descriptor(place.offset, flags)
            if flags & INDIRECT:
                # 2.8.19: a list has descriptors of one kind only, so an indirect one is alone.
                if slots > 1 or flags & NEXT:
                    raise ProtocolError("an indirect descriptor in a list", "2.8.19")
                elements = self._table(descriptor)
                break
            elements.append((descriptor.address, descriptor.length, flags & WRITE))
            if not flags & NEXT:
                break
            # 2.8.17: no list is longer than the queue.
            if slots == self.size:
                raise ProtocolError(f"a list of more than {self.size} descriptors", "2.8.17")
            place.advance(1)
            flags = self.ring.flags(place.offset)
            # 2.8.17: all of a list is available before its first descriptor is.
            if not self.ring.is_available(place, flags):
                raise ProtocolError("a list whose later descriptors are not available", "2.8.17")
        chain = self._chain(descriptor.id, elements, slots)
        at.advance(slots)
        return chain

    def _table(self, descriptor: PackedDescriptor) -> list[tuple[int, int, int]]:
        """Read an indirect table: all entries, in order; flags but WRITE mean nothing (2.8.7)."""
        if not self.features & INDIRECT_DESC:
            raise ProtocolError("an indirect descriptor that was not negotiated", "2.8.19")
        if descriptor.length == 0 or descriptor.length % 16:
            raise ProtocolError(f"an indirect table of {descriptor.length} bytes", "2.8.7")
        count = descriptor.length // 16
        if count > self.size:
            raise ProtocolError(f"an indirect table of {count} entries, queue size {self.size}", "2.8.17")
        entries = (self.ring.table_entry(descriptor.address, index) for index in range(count))
        return [(entry.address, entry.length, entry.flags & WRITE) for entry in entries]

    def _chain(self, buffer_id: int, elements: list[tuple[int, int, int]], slots: int) -> PackedChain:
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        for address, length, write in elements:
            self.ring.memory.view(address, length)
            if write:
                writable.append((address, length))
            elif writable:
                raise ProtocolError("a device-readable element after a device-writable one", "2.8.17")
            else:
                readable.append((address, length))
        return PackedChain(buffer_id, tuple(readable), tuple(writable), slots)

    def read(self, chain: PackedChain) -> bytes:
        """Copy the device-readable part."""
        return b"".join(self.ring.memory.view(address, length) for address, length in chain.readable)

    def write(self, chain: PackedChain, data: bytes) -> None:
        """Put ``data`` into the device-writable part, from its begin."""
        if len(data) > chain.room:
            raise ConfigurationError(f"{len(data)} bytes into {chain.room}")
        for address, length in chain.writable:
            piece, data = data[:length], data[length:]
            self.ring.memory.view(address, len(piece))[:] = piece

    def push(self, chain: PackedChain, written: int) -> None:
        """Record a used buffer; the driver does not see it before :meth:`publish`."""
        self._done.append((chain, written))

    def publish(self) -> bool:
        """Show the driver all that was pushed, by one store of flags at the end; return whether it wants a
        notification (2.8.1, 2.8.10)."""
        first: tuple[int, int] | None = None
        moved = 0
        for chain, written, slots in self._groups():
            at = self.next_used
            flags = (AVAIL | USED if at.wrap else 0) | (WRITE if written else 0)
            self.ring.set_used(at.offset, chain.head, written)
            if first is None:
                first = at.offset, flags
            else:
                self.ring.set_flags(at.offset, flags)
            at.advance(slots)
            moved += slots
        self._done.clear()
        if first is None:
            return False
        fence()
        self.ring.set_flags(*first)
        fence()
        event_idx = bool(self.features & EVENT_IDX)
        return self.ring.wants(self.layout.driver_event, self.next_used, moved, event_idx)

    def _groups(self) -> list[tuple[PackedChain, int, int]]:
        """What to write used descriptors for, and how many slots each stands for.

        With VIRTIO_F_IN_ORDER one stands for all up to it; but those it skips count as used completely, so
        one that was not written to its end needs its own (2.8.8).
        """
        if not self.features & IN_ORDER:
            return [(chain, written, chain.slots) for chain, written in self._done]
        groups: list[tuple[PackedChain, int, int]] = []
        slots = 0
        for position, (chain, written) in enumerate(self._done):
            slots += chain.slots
            if position + 1 == len(self._done) or written != chain.room:
                groups.append((chain, written, slots))
                slots = 0
        return groups

    def arm(self) -> bool:
        """Ask for a kick when more comes; True: something came already (2.8.10)."""
        event_idx = self.features & EVENT_IDX
        self.ring.set_event(
            self.layout.device_event,
            EVENT_DESC if event_idx else EVENT_ENABLE,
            self.next_available if event_idx else None,
        )
        fence()
        at = self.next_available
        return self.ring.is_available(at, self.ring.flags(at.offset))

    def disarm(self) -> None:
        """Advise the driver that no kick is needed (2.8.10)."""
        self.ring.set_event(self.layout.device_event, EVENT_DISABLE)

    def close(self) -> None:
        """Let go of the memory."""
        self.ring.memory.close()
