"""The split virtqueue in plain Python, both ends, written from VIRTIO 1.4, 2.7.

Slow and readable on purpose: it says what the rules are, and tests hold the native ring against it. The
driver's end also drives devices where there is no guest. Neither end is safe to use from two threads at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.model.buffers import InOrder, ModelChain, Placed, Used
from virtio.queue.model.ends import DeviceEnd, DriverEnd
from virtio.queue.model.ring import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    NO_INTERRUPT,
    NO_NOTIFY,
    WRITE,
    Descriptor,
    SplitLayout,
    SplitRing,
    passed,
)
from virtio.queue.model.shared import SharedMemory, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from virtio.queue.model.shared import Touch


class SplitDriver(DriverEnd[SplitLayout]):
    """The driver's end (2.7.13, 2.7.14), with memory for buffers behind the ring.

    ``memory`` is the guest's memory as a writable buffer whose first byte has the address ``start``. The ring
    begins at ``address``; all from its end up to ``end`` (default: the end of memory) is used for buffers.
    ``layout`` puts the three parts elsewhere than one behind the other, in the order that the standard names
    them.
    """

    def __init__(
        self,
        memory: Buffer | SharedMemory,
        address: int,
        size: int,
        features: int = 0,
        *,
        layout: SplitLayout | None = None,
        start: int = 0,
        end: int | None = None,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Lay out an empty ring, with the index fields at 0 as 2.7.10.1 demands."""
        if layout is None:
            layout = SplitLayout.at(address, size)
        super().__init__(memory, layout, features, start=start, end=end, observer=observer)

    def _enable(self, layout: SplitLayout) -> None:
        self.ring = SplitRing(self.memory, layout)
        self._free = list(range(self.size))
        self._next_available = 0
        self._published = 0
        self._next_used = 0
        self._kicked = 0

    @property
    def free_descriptors(self) -> int:
        """Descriptors that :meth:`add` can still use."""
        return len(self._free)

    def add(
        self,
        readable: Sequence[bytes | int] = (),
        writable: Sequence[int] = (),
        *,
        indirect_after: int | None = None,
    ) -> int:
        """Put a buffer into the descriptor table and the available ring; return its head (2.7.13.1,
        2.7.13.2).

        ``readable`` gives the contents of each device-readable element, or its length (then it is zeros);
        ``writable`` the length of each device-writable element, filled with zeros. ``indirect_after``: that
        many elements are ordinary descriptors, the rest goes into an indirect table (2.7.5.3). The device
        does not see the buffer before :meth:`publish`. Raises :exc:`~virtio.ConfigurationError` if the ring
        or the memory has no room.
        """
        elements = len(readable) + len(writable)
        direct = elements if indirect_after is None else indirect_after
        if not elements or not 0 <= direct <= elements:
            raise ConfigurationError("a buffer has at least one element")
        indirect = direct < elements
        if indirect and not self.features & INDIRECT_DESC:
            raise ConfigurationError("indirect descriptors were not negotiated")
        if direct + indirect > len(self._free):
            raise ConfigurationError(f"no {direct + indirect} free descriptors")
        # 2.7.5.3.1: a chain is never longer than the queue, however it is written down.
        if elements > self.size:
            raise ConfigurationError(f"{elements} elements are more than the queue size {self.size}")

        placed = self.buffers.place(readable, writable, direct if indirect else None)
        chain = self._chain(placed, direct)
        placed.descriptors = [self._free.pop(0) for _ in chain]
        for position, (index, entry) in enumerate(zip(placed.descriptors, chain, strict=True)):
            if position + 1 < len(chain):
                following = placed.descriptors[position + 1]
                entry = entry._replace(flags=entry.flags | NEXT, next=following)
            self.ring.set_descriptor(index, entry)

        head = placed.descriptors[0]
        self.buffers.lend(head, placed)
        self.ring.set_available_entry(self._next_available, head)
        self._next_available = (self._next_available + 1) & 0xFFFF
        return head

    def _chain(self, placed: Placed, direct: int) -> list[Descriptor]:
        """Make descriptors of a buffer, not linked yet, and write its indirect table."""
        entries = [Descriptor(*element) for element in placed.elements]
        if placed.table is None:
            return entries
        inside = entries[direct:]
        for index, entry in enumerate(inside):
            # 2.7.5.3.1: in a table next takes the values 1, 2, ...
            if index + 1 < len(inside):
                entry = entry._replace(flags=entry.flags | NEXT, next=index + 1)
            self.ring.set_descriptor(index, entry, placed.table)
        # 2.7.5.3.1: INDIRECT and NEXT never together, so the table comes last.
        return [*entries[:direct], Descriptor(placed.table, 16 * len(inside), INDIRECT)]

    def publish(self) -> None:
        """Show the device all buffers that were added (2.7.13.3)."""
        self.memory.release()
        self.ring.available_index = self._published = self._next_available

    def needs_kick(self) -> bool:
        """Return whether the device wants a notification of what was published since the last call
        (2.7.10.1)."""
        # 2.7.13.4: the index is there before it is looked at what the device wants.
        self.memory.fence()
        old, new = self._kicked, self._published
        self._kicked = new
        if old == new:
            return False
        if self.features & EVENT_IDX:
            return passed(self.ring.available_event, new, old)
        return not self.ring.used_flags & NO_NOTIFY

    @property
    def notification_data(self) -> int:
        """``next_off`` and ``next_wrap`` as VIRTIO_F_NOTIFICATION_DATA sends them: the available index
        (2.9)."""
        return self._published

    def poll_used(self) -> list[Used]:
        """Take back what the device has used (2.7.14).

        Raises :exc:`~virtio.ProtocolError` for a used entry that names no outstanding buffer, one that stands
        for more than were used, or a length greater than the device-writable part (2.7.8.2).
        """
        found: list[Used] = []
        index = self.ring.used_index
        self.memory.acquire()
        while ready := (index - self._next_used) & 0xFFFF:
            head, written = self.ring.used_entry(self._next_used)
            if head not in self.buffers.out:
                raise ProtocolError(f"used entry names {head}, which is not outstanding", "2.7.8")
            if self.features & IN_ORDER:
                # 2.7.9: the entry stands for all up to the one it names; the older ones were used completely.
                *skipped, _ = self.buffers.until(head)
                if len(skipped) >= ready:
                    raise ProtocolError(f"used entry names {head}, out of order", "2.7.9")
                found += [self._take_back(older, None) for older in skipped]
            found.append(self._take_back(head, written))
        return found

    def _take_back(self, head: int, written: int | None) -> Used:
        placed = self.buffers.take_back(head)
        self._next_used = (self._next_used + 1) & 0xFFFF
        if self.features & IN_ORDER:
            # 2.7.5: descriptors are used in ring order, so those that come back are the last to be used.
            self._free += placed.descriptors
        else:
            # What was used last is still in the cache.
            self._free[:0] = placed.descriptors
        if written is not None and written > placed.room:
            raise ProtocolError(f"{written} bytes written into a buffer of {placed.room}", "2.7.8.2")
        return Used(head, placed.room if written is None else written)

    def enable_interrupts(self) -> bool:
        """Ask for a notification of the next used buffer; True: there is one already (2.7.7.1, 2.7.14)."""
        if self.features & EVENT_IDX:
            self.ring.used_event = self._next_used
        else:
            self.ring.available_flags = 0
        self.memory.fence()
        return self.ring.used_index != self._next_used

    def disable_interrupts(self) -> None:
        """Advise the device that no notification is needed (2.7.7.1)."""
        if self.features & EVENT_IDX:
            # The flag must stay 0; an index just passed is as far away as one can be.
            self.ring.used_event = self._next_used - 1
        else:
            self.ring.available_flags = NO_INTERRUPT


class SplitDevice(DeviceEnd):
    """The device's end (2.7.8, 2.7.10, 2.7.13)."""

    def __init__(
        self,
        memory: Buffer | SharedMemory,
        layout: SplitLayout,
        features: int = 0,
        *,
        start: int = 0,
        base: int = 0,
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Continue at index ``base`` of the ring that lies in ``memory``, whose first byte has address
        ``start``."""
        self.memory = shared(memory, start, "device", observer)
        self.features = features
        self.enable(layout, base)

    def enable(self, layout: SplitLayout, base: int = 0) -> None:
        """Begin to use a ring: the first, or another after a reset (2.6.1.2)."""
        self.layout = layout
        self.size = layout.size
        self.ring = SplitRing(self.memory, layout)
        self._next_available = base
        self._known = base
        # Where a predecessor ended; 0 in a new ring.
        self._next_used = self._published = self.ring.used_index
        self._held: dict[int, int] = {}
        self._order = InOrder() if self.features & IN_ORDER else None
        self._enabled = True

    def reset(self) -> None:
        """Forget all of the queue; until it is enabled again nothing is taken or announced (2.6.1.1)."""
        self._enabled = False
        self._held.clear()

    def kicked(self, data: int) -> int:
        """Learn from a notification with data how many heads there are, without a look at memory (2.9)."""
        ahead = (data - self._next_available) & 0xFFFF
        if ahead <= self.size:
            self._known = data
            return ahead
        # The kick was late: what it tells of has been taken already.
        return 0

    def pop(self) -> ModelChain | None:
        """Take the next buffer; None: nothing is available. :exc:`~virtio.ProtocolError`: it is malformed."""
        if not self._enabled:
            return None
        if self._known == self._next_available:
            index = self.ring.available_index
            ahead = (index - self._next_available) & 0xFFFF
            # 2.7.6.1 and 2.7.13: there are never more heads in the ring than it has entries.
            if ahead > self.size:
                raise ProtocolError(f"the available index is {ahead} ahead of {self.size} entries", "2.7.6.1")
            if not ahead:
                return None
            self._known = index
            self.memory.acquire()
        head = self.ring.available_entry(self._next_available)
        if head in self._held:
            raise ProtocolError(f"descriptor {head} is in use already", "2.7.5")
        chain = self._walk(head)
        self._held[head] = self._next_available
        if self._order is not None:
            self._order.taken(chain)
        self._next_available = (self._next_available + 1) & 0xFFFF
        return chain

    def _walk(self, head: int) -> ModelChain:
        """Follow a chain (2.7.5)."""
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        table: int | None = None
        entries, index = self.size, head
        seen = 0
        while True:
            if index >= entries:
                raise ProtocolError(f"descriptor {index} of {entries}", "2.7.5")
            descriptor = self.ring.descriptor(index, table)
            if descriptor.flags & INDIRECT:
                table, entries = self._indirect_table(descriptor, nested=table is not None)
                index = 0
                continue
            seen += 1
            # 2.7.5.2, 2.7.5.3.1: no loops, and no chain is longer than the queue.
            if seen > self.size:
                raise ProtocolError(f"a chain of more than {self.size} descriptors", "2.7.5.3.1")
            self.memory.view(descriptor.address, descriptor.length)
            element = (descriptor.address, descriptor.length)
            if descriptor.flags & WRITE:
                writable.append(element)
            elif writable:
                raise ProtocolError("a device-readable element after a device-writable one", "2.7.4.2")
            else:
                readable.append(element)
            if not descriptor.flags & NEXT:
                return ModelChain(head, tuple(readable), tuple(writable))
            index = descriptor.next

    def _indirect_table(self, descriptor: Descriptor, *, nested: bool) -> tuple[int, int]:
        """Check the descriptor of an indirect table (2.7.5.3.1); its WRITE flag means nothing (2.7.5.3.2)."""
        if not self.features & INDIRECT_DESC:
            raise ProtocolError("an indirect descriptor that was not negotiated", "2.7.5.3.1")
        if nested:
            raise ProtocolError("an indirect descriptor in an indirect table", "2.7.5.3.1")
        if descriptor.flags & NEXT:
            raise ProtocolError("an indirect descriptor with a next one", "2.7.5.3.1")
        if descriptor.length == 0 or descriptor.length % 16:
            raise ProtocolError(f"an indirect table of {descriptor.length} bytes", "2.7.5.3")
        self.memory.view(descriptor.address, descriptor.length)
        return descriptor.address, descriptor.length // 16

    def push(self, head: int, written: int) -> None:
        """Record a used buffer; the driver does not see it before :meth:`publish` (2.7.8.2)."""
        if not self._enabled:
            return
        self._held.pop(head, None)
        if self._order is None:
            self._use(head, written, 1)
        else:
            self._order.completed(head, written)
            self._tell(self._order, now=False)

    def _tell(self, order: InOrder, *, now: bool) -> None:
        for group in order.groups(tell=now):
            self._use(group.head, group.written, group.chains)

    def _use(self, head: int, written: int, chains: int) -> None:
        """Write a used entry; the index skips the chains that it stands for besides (2.7.9)."""
        self.ring.set_used_entry(self._next_used, head, written)
        self._next_used = (self._next_used + chains) & 0xFFFF

    def publish(self) -> bool:
        """Show the driver all that was pushed; return whether it wants a notification (2.7.7.2)."""
        if not self._enabled:
            return False
        if self._order is not None:
            self._tell(self._order, now=True)
        old, new = self._published, self._next_used
        if old == new:
            return False
        self.memory.release()
        self.ring.used_index = self._published = new
        # 2.7.7.2: the index is there before it is looked at what the driver wants.
        self.memory.fence()
        if self.features & EVENT_IDX:
            return passed(self.ring.used_event, new, old)
        return not self.ring.available_flags & NO_INTERRUPT

    def arm(self) -> bool:
        """Ask for a kick when more comes; True: something came already (2.7.10.2)."""
        if not self._enabled:
            return False
        if self.features & EVENT_IDX:
            self.ring.available_event = self._next_available
        else:
            self.ring.used_flags = 0
        self.memory.fence()
        return self.ring.available_index != self._next_available

    def disarm(self) -> None:
        """Advise the driver that no kick is needed (2.7.10.2)."""
        if not self.features & EVENT_IDX:
            # With the event index, one that is already passed stands for the same: nothing to write.
            self.ring.used_flags = NO_NOTIFY

    @property
    def base(self) -> int:
        """Where a successor continues: it takes those again that were not completed, as far as no younger one
        was; in order, those that no used entry stands for."""
        if self._order is not None:
            return (self._next_available - len(self._order)) & 0xFFFF
        base, held = self._next_available, set(self._held.values())
        while (base - 1) & 0xFFFF in held:
            base = (base - 1) & 0xFFFF
        return base
