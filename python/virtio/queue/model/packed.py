"""The packed virtqueue in plain Python, both ends, written from VIRTIO 1.4, 2.8.

Slow and readable on purpose: it says what the rules are, and tests hold the native ring against it. Neither
end is safe to use from two threads at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.model.buffers import InOrder, ModelChain, Placed, Used
from virtio.queue.model.ends import DeviceEnd, DriverEnd
from virtio.queue.model.packed_ring import (
    AVAIL,
    EVENT_DESC,
    EVENT_DISABLE,
    EVENT_ENABLE,
    USED,
    Head,
    PackedDescriptor,
    PackedLayout,
    PackedRing,
    Position,
)
from virtio.queue.model.ring import EVENT_IDX, IN_ORDER, INDIRECT, INDIRECT_DESC, NEXT, WRITE
from virtio.queue.model.shared import SharedMemory, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from virtio.queue.model.shared import Touch


class PackedDriver(DriverEnd[PackedLayout]):
    """The driver's end (2.8.21, 2.8.22), with memory for buffers behind the ring.

    ``memory`` is the guest's memory as a writable buffer whose first byte has the address ``start``. The ring
    begins at ``address``; all from its end up to ``end`` (default: the end of memory) is used for buffers.
    """

    def __init__(
        self,
        memory: Buffer | SharedMemory,
        address: int,
        size: int,
        features: int = 0,
        *,
        start: int = 0,
        end: int | None = None,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Lay out an empty ring, zero-initialised as 2.8.13 demands."""
        layout = PackedLayout.at(address, size)
        super().__init__(memory, layout, features, start=start, end=end, observer=observer)

    def _enable(self, layout: PackedLayout) -> None:
        self.ring = PackedRing(self.memory, layout)
        self.next_available = Position(self.size)
        self.next_used = Position(self.size)
        self._free = self.size
        self._ids = list(range(self.size))
        self._withheld: tuple[int, Head] | None = None
        self._published = Position(self.size)
        self._added = 0
        self._unannounced = 0

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
        elements = len(readable) + len(writable)
        if not elements:
            raise ConfigurationError("a buffer has at least one element")
        if indirect and not self.features & INDIRECT_DESC:
            raise ConfigurationError("indirect descriptors were not negotiated")
        slots = 1 if indirect else elements
        # 2.8.17: room for the whole list before its first descriptor becomes available.
        if slots > self._free or elements > self.size:
            raise ConfigurationError(f"no room for {elements} elements: {self._free} descriptors free")

        placed = self.buffers.place(readable, writable, 0 if indirect else None)
        buffer_id = self._ids.pop(0)
        self.buffers.lend(buffer_id, placed)
        self._expose(placed, self._chain(placed), buffer_id)
        self._free -= slots
        self._added += slots
        return buffer_id

    def _chain(self, placed: Placed) -> list[PackedDescriptor]:
        """Make descriptors of a buffer, and write its indirect table: entries in order, WRITE the only flag
        (2.8.7)."""
        entries = [PackedDescriptor(address, length, 0, flags) for address, length, flags in placed.elements]
        if placed.table is None:
            return entries
        for index, entry in enumerate(entries):
            self.ring.set_table_entry(placed.table, index, entry)
        return [PackedDescriptor(placed.table, 16 * len(entries), 0, INDIRECT)]

    def _expose(self, placed: Placed, chain: list[PackedDescriptor], buffer_id: int) -> None:
        """Write a list into the ring, but for what the device waits for (2.8.6)."""
        for index, (address, length, _, flags) in enumerate(chain):
            at = self.next_available
            flags |= AVAIL if at.wrap else USED
            if index + 1 < len(chain):
                flags |= NEXT
            # The id counts in the last descriptor of a list only; it does no harm in the others.
            head = Head(length, buffer_id, flags)
            self.ring.set_address(at.offset, address)
            if self._withheld is None:
                self._withheld = at.offset, head
            else:
                # The device reads in order: behind a withheld descriptor nothing is visible.
                self.ring.set_head(at.offset, head)
            placed.descriptors.append(at.offset)
            at.advance(1)

    def publish(self) -> None:
        """Show the device all buffers that were added: by one store (2.8.21.1.1)."""
        if self._withheld is not None:
            self.memory.release()
            self.ring.set_head(*self._withheld)
            self._withheld = None
            self._unannounced += self._added
            self._added = 0
            self._published = Position(self.size, self.next_available.offset, self.next_available.wrap)

    def needs_kick(self) -> bool:
        """Return whether the device wants a notification of what was published since the last call
        (2.8.21.3.1)."""
        # 2.8.21.3: the flags are there before it is looked at what the device wants.
        self.memory.fence()
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

        Raises :exc:`~virtio.ProtocolError` for a used descriptor that names no outstanding buffer, or a
        length greater than the buffer's device-writable part.
        """
        found: list[Used] = []
        # Behind all that is out there is nothing to look at: those are our own descriptors.
        while self.buffers.out:
            at = self.next_used
            head = self.ring.head(at.offset)
            if not self.ring.is_used(at, head.flags):
                break
            self.memory.acquire()
            if head.id not in self.buffers.out:
                raise ProtocolError(f"used id {head.id} is not outstanding", "2.8.22")
            if self.features & IN_ORDER:
                # 2.8.8: the descriptor stands for all up to the one it names; the older ones were used
                # completely.
                *skipped, _ = self.buffers.until(head.id)
                found += [self._take_back(older, None) for older in skipped]
            found.append(self._take_back(head.id, head.length if head.flags & WRITE else 0))
        return found

    def _take_back(self, buffer_id: int, written: int | None) -> Used:
        placed = self.buffers.take_back(buffer_id)
        self.next_used.advance(len(placed.descriptors))
        self._free += len(placed.descriptors)
        if self.features & IN_ORDER:
            self._ids.append(buffer_id)
        else:
            # What was used last is still in the cache.
            self._ids.insert(0, buffer_id)
        if written is not None and written > placed.room:
            raise ProtocolError(f"{written} bytes written into a buffer of {placed.room}", "2.8.4")
        return Used(buffer_id, placed.room if written is None else written)

    def enable_interrupts(self) -> bool:
        """Ask for a notification of the next used buffer; True: there is one already (2.8.22)."""
        if self.features & EVENT_IDX:
            self.ring.set_event(self.layout.driver_event, EVENT_DESC, self.next_used)
        else:
            self.ring.set_event(self.layout.driver_event, EVENT_ENABLE)
        self.memory.fence()
        at = self.next_used
        return bool(self.buffers.out) and self.ring.is_used(at, self.ring.head(at.offset).flags)

    def disable_interrupts(self) -> None:
        """Advise the device that no notification is needed (2.8.10)."""
        self.ring.set_event(self.layout.driver_event, EVENT_DISABLE)


class PackedDevice(DeviceEnd):
    """The device's end (2.8.12, 2.8.15, 2.8.18)."""

    def __init__(
        self,
        memory: Buffer | SharedMemory,
        layout: PackedLayout,
        features: int = 0,
        *,
        start: int = 0,
        base: int = 0x8000_8000,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Continue where ``base`` says: available position in the low half, used position in the high one,
        each with its wrap counter in bit 15."""
        self.memory = shared(memory, start, "device", observer)
        self.features = features
        self.enable(layout, base)

    def enable(self, layout: PackedLayout, base: int = 0x8000_8000) -> None:
        """Begin to use a ring: the first, or another after a reset (2.6.1.2)."""
        self.layout = layout
        self.size = layout.size
        self.ring = PackedRing(self.memory, layout)
        self.next_available = Position.unpacked(self.size, base & 0xFFFF)
        self.next_used = Position.unpacked(self.size, base >> 16)
        self._turn = 0
        self._held: dict[int, int] = {}
        self._order = InOrder() if self.features & IN_ORDER else None
        self._withheld: tuple[int, Head] | None = None
        self._moved = 0
        self._enabled = True

    def reset(self) -> None:
        """Forget all of the queue; until it is enabled again nothing is taken or announced (2.6.1.1)."""
        self._enabled = False
        self._held.clear()

    @property
    def base(self) -> int:
        """Where a successor continues: it takes those again that were not completed, if no younger one was;
        in order, those that no used descriptor stands for."""
        youngest = all(self._turn - turn <= len(self._held) for turn in self._held.values())
        again = youngest or self._order is not None
        return self.next_used.packed << 16 | (self.next_used if again else self.next_available).packed

    def kicked(self, data: int) -> int:
        """Learn from a notification with data how many descriptors there are, without a look at memory
        (2.9)."""
        told, at = Position.unpacked(self.size, data), self.next_available
        ahead = told.offset - at.offset + (0 if told.wrap == at.wrap else self.size)
        # Out of this range the kick was late: what it tells of has been taken already.
        return ahead if 0 <= ahead <= self.size else 0

    def pop(self) -> ModelChain | None:
        """Take the next buffer; None: nothing is available. :exc:`~virtio.ProtocolError`: it is malformed."""
        # A ring holds no more than this, whatever its flags say.
        if not self._enabled or len(self._held) >= self.size:
            return None
        place = Position(self.size, self.next_available.offset, self.next_available.wrap)
        head = self.ring.head(place.offset)
        if not self.ring.is_available(place, head.flags):
            return None
        self.memory.acquire()
        elements: list[tuple[int, int, int]] = []
        slots = 0
        while True:
            slots += 1
            address = self.ring.address(place.offset)
            if head.flags & INDIRECT:
                # 2.8.19: a list has descriptors of one kind only, so an indirect one is alone.
                if slots > 1 or head.flags & NEXT:
                    raise ProtocolError("an indirect descriptor in a list", "2.8.19")
                elements = self._table(address, head.length)
                break
            elements.append((address, head.length, head.flags & WRITE))
            if not head.flags & NEXT:
                break
            # 2.8.17: no list is longer than the queue.
            if slots == self.size:
                raise ProtocolError(f"a list of more than {self.size} descriptors", "2.8.17")
            place.advance(1)
            head = self.ring.head(place.offset)
            # 2.8.17: all of a list is available before its first descriptor is.
            if not self.ring.is_available(place, head.flags):
                raise ProtocolError("a list whose later descriptors are not available", "2.8.17")
        chain = self._chain(head.id, elements, slots)
        if chain.head in self._held:
            raise ProtocolError(f"buffer id {chain.head} is in use already", "2.8.6")
        self._held[chain.head] = self._turn
        self._turn += 1
        if self._order is not None:
            self._order.taken(chain)
        self.next_available.advance(slots)
        return chain

    def _table(self, address: int, length: int) -> list[tuple[int, int, int]]:
        """Read an indirect table: all entries, in order; flags but WRITE mean nothing (2.8.7)."""
        if not self.features & INDIRECT_DESC:
            raise ProtocolError("an indirect descriptor that was not negotiated", "2.8.19")
        if length == 0 or length % 16:
            raise ProtocolError(f"an indirect table of {length} bytes", "2.8.7")
        count = length // 16
        if count > self.size:
            raise ProtocolError(f"an indirect table of {count} entries, queue size {self.size}", "2.8.17")
        entries = (self.ring.table_entry(address, index) for index in range(count))
        return [(entry.address, entry.length, entry.flags & WRITE) for entry in entries]

    def _chain(self, buffer_id: int, elements: list[tuple[int, int, int]], slots: int) -> ModelChain:
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        for address, length, write in elements:
            self.memory.view(address, length)
            if write:
                writable.append((address, length))
            elif writable:
                raise ProtocolError("a device-readable element after a device-writable one", "2.8.17")
            else:
                readable.append((address, length))
        return ModelChain(buffer_id, tuple(readable), tuple(writable), slots)

    def push(self, chain: ModelChain, written: int) -> None:
        """Record a used buffer; the driver does not see it before :meth:`publish`."""
        if not self._enabled:
            return
        self._held.pop(chain.head, None)
        if self._order is None:
            self._use(chain.head, written, chain.slots)
        else:
            self._order.completed(chain.head, written)
            self._tell(self._order, now=False)

    def _tell(self, order: InOrder, *, now: bool) -> None:
        for group in order.groups(tell=now):
            self._use(group.head, group.written, group.slots)

    def _use(self, buffer_id: int, written: int, slots: int) -> None:
        """Write a used descriptor that stands for ``slots``, but for the one that the driver waits for
        (2.8.6, 2.8.8)."""
        at = self.next_used
        flags = (AVAIL | USED if at.wrap else 0) | (WRITE if written else 0)
        head = Head(written, buffer_id, flags)
        if self._withheld is None:
            self._withheld = at.offset, head
        else:
            # The driver reads in order: behind a withheld descriptor nothing is visible.
            self.ring.set_head(at.offset, head)
        at.advance(slots)
        self._moved += slots

    def publish(self) -> bool:
        """Show the driver all that was pushed, by one store; return whether it wants a notification (2.8.1,
        2.8.10)."""
        if not self._enabled:
            return False
        if self._order is not None:
            self._tell(self._order, now=True)
        if self._withheld is None:
            return False
        self.memory.release()
        self.ring.set_head(*self._withheld)
        self._withheld = None
        moved, self._moved = self._moved, 0
        # 2.8.22: the flags are there before it is looked at what the driver wants.
        self.memory.fence()
        event_idx = bool(self.features & EVENT_IDX)
        return self.ring.wants(self.layout.driver_event, self.next_used, moved, event_idx)

    def arm(self) -> bool:
        """Ask for a kick when more comes; True: something came already (2.8.10)."""
        if not self._enabled:
            return False
        if self.features & EVENT_IDX:
            self.ring.set_event(self.layout.device_event, EVENT_DESC, self.next_available)
        else:
            self.ring.set_event(self.layout.device_event, EVENT_ENABLE)
        self.memory.fence()
        at = self.next_available
        return len(self._held) < self.size and self.ring.is_available(at, self.ring.head(at.offset).flags)

    def disarm(self) -> None:
        """Advise the driver that no kick is needed (2.8.10)."""
        if not self.features & EVENT_IDX:
            # With the event index, a descriptor that is already passed stands for the same: nothing to write.
            self.ring.set_event(self.layout.device_event, EVENT_DISABLE)
