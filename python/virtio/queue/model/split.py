"""The split virtqueue in plain Python, both ends, written from VIRTIO 1.4, 2.7.

Slow and readable on purpose: it says what the rules are, and tests hold the native ring against it. The
driver's end also drives devices where there is no guest. Neither end is safe to use from two threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.model.allocator import Allocator
from virtio.queue.model.ring import (
    EVENT_IDX,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    NO_INTERRUPT,
    NO_NOTIFY,
    WRITE,
    Addresses,
    Descriptor,
    SplitLayout,
    SplitRing,
    fence,
    passed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class Used(NamedTuple):
    """A buffer that the device gave back."""

    head: int
    """What :meth:`SplitDriver.add` returned for it."""
    written: int
    """Bytes that the device wrote into the device-writable part."""


@dataclass
class _Buffer:
    """A buffer that the driver exposed: what to take back when it is used."""

    descriptors: list[int] = field(default_factory=list)
    allocations: list[int] = field(default_factory=list)
    writable: list[tuple[int, int]] = field(default_factory=list)


class SplitDriver:
    """The driver's end (2.7.13, 2.7.14), with memory for buffers behind the ring.

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
    ) -> None:
        """Lay out an empty ring, with the index fields at 0 as 2.7.10.1 demands."""
        self.layout = SplitLayout.at(address, size)
        self.ring = SplitRing(memory, self.layout, start)
        self.size = size
        self.features = features
        self.allocator = Allocator(self.layout.end, start + len(self.ring.memory) if end is None else end)
        self._free = list(range(size))
        self._buffers: dict[int, _Buffer] = {}
        self._returned: dict[int, _Buffer] = {}
        self._next_available = 0
        self._next_used = 0
        self._kicked = 0
        self.ring.bytes_at(self.layout.descriptors, self.layout.end - self.layout.descriptors)[:] = bytes(
            self.layout.end - self.layout.descriptors
        )

    @property
    def addresses(self) -> Addresses:
        """Where the ring lies, as :meth:`virtio.queue.Queue.configure` takes it."""
        return self.layout.addresses

    @property
    def outstanding(self) -> int:
        """Buffers that were added and not yet polled as used."""
        return len(self._buffers)

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
        elements = [(item, 0) for item in readable] + [(item, WRITE) for item in writable]
        direct = len(elements) if indirect_after is None else indirect_after
        if not elements or not 0 <= direct <= len(elements):
            raise ConfigurationError("a buffer has at least one element")
        indirect = direct < len(elements)
        if indirect and not self.features & INDIRECT_DESC:
            raise ConfigurationError("indirect descriptors were not negotiated")
        if direct + indirect > len(self._free):
            raise ConfigurationError(f"no {direct + indirect} free descriptors")
        # 2.7.5.3.1: a chain is never longer than the queue, however it is written down.
        if len(elements) > self.size:
            raise ConfigurationError(f"{len(elements)} elements are more than the queue size {self.size}")

        buffer = _Buffer()
        try:
            placed = [self._place(buffer, item, flags) for item, flags in elements]
            table = self._take(buffer, 16 * (len(placed) - direct)) if indirect else 0
        except ConfigurationError:
            for address in buffer.allocations:
                self.allocator.free(address)
            raise

        chain = placed[:direct]
        if indirect:
            for index, entry in enumerate(placed[direct:]):
                last = index == len(placed) - direct - 1
                linked = entry if last else entry._replace(flags=entry.flags | NEXT, next=index + 1)
                self.ring.set_descriptor(index, linked, table)
            # 2.7.5.3.1: INDIRECT and NEXT never together, so the table comes last.
            chain.append(Descriptor(table, 16 * (len(placed) - direct), INDIRECT))
        buffer.descriptors = [self._free.pop(0) for _ in chain]
        for position, (index, entry) in enumerate(zip(buffer.descriptors, chain, strict=True)):
            if position + 1 < len(chain):
                following = buffer.descriptors[position + 1]
                entry = entry._replace(flags=entry.flags | NEXT, next=following)
            self.ring.set_descriptor(index, entry)

        head = buffer.descriptors[0]
        self._buffers[head] = buffer
        self._returned.pop(head, None)
        self.ring.set_available_entry(self._next_available, head)
        self._next_available = (self._next_available + 1) & 0xFFFF
        return head

    def _take(self, buffer: _Buffer, size: int) -> int:
        address = self.allocator.take(size)
        buffer.allocations.append(address)
        return address

    def _place(self, buffer: _Buffer, item: bytes | int, flags: int) -> Descriptor:
        data = bytes(item)
        address = self._take(buffer, len(data))
        self.ring.bytes_at(address, len(data))[:] = data
        if flags & WRITE:
            buffer.writable.append((address, len(data)))
        return Descriptor(address, len(data), flags)

    def publish(self) -> None:
        """Show the device all buffers that were added (2.7.13.3)."""
        fence()
        self.ring.available_index = self._next_available

    def needs_kick(self) -> bool:
        """Return whether the device wants a notification of what was published since the last call
        (2.7.10.1)."""
        fence()
        old, new = self._kicked, self.ring.available_index
        self._kicked = new
        if old == new:
            return False
        if self.features & EVENT_IDX:
            return passed(self.ring.available_event, new, old)
        return not self.ring.used_flags & NO_NOTIFY

    def poll_used(self) -> list[Used]:
        """Take back what the device has used (2.7.14).

        Raises :exc:`~virtio.ProtocolError` for a used entry that names no outstanding buffer or a length
        greater than its device-writable part (2.7.8.2).
        """
        found = []
        index = self.ring.used_index
        fence()
        while self._next_used != index:
            head, written = self.ring.used_entry(self._next_used)
            buffer = self._buffers.pop(head, None)
            if buffer is None:
                raise ProtocolError(f"used entry names {head}, which is not outstanding", "2.7.8")
            self._next_used = (self._next_used + 1) & 0xFFFF
            self._free.extend(buffer.descriptors)
            for address in buffer.allocations:
                self.allocator.free(address)
            self._returned[head] = buffer
            room = sum(length for _, length in buffer.writable)
            if written > room:
                raise ProtocolError(f"{written} bytes written into a buffer of {room}", "2.7.8.2")
            found.append(Used(head, written))
        return found

    def data(self, head: int) -> bytes:
        """Return the device-writable part of a buffer; of a used one only until something is added."""
        buffer = self._buffers.get(head) or self._returned[head]
        return b"".join(self.ring.bytes_at(address, length) for address, length in buffer.writable)

    def enable_interrupts(self) -> bool:
        """Ask for a notification of the next used buffer; True: there is one already (2.7.7.1, 2.7.14)."""
        if self.features & EVENT_IDX:
            self.ring.used_event = self._next_used
        else:
            self.ring.available_flags = 0
        fence()
        return self.ring.used_index != self._next_used

    def disable_interrupts(self) -> None:
        """Advise the device that no notification is needed (2.7.7.1)."""
        if self.features & EVENT_IDX:
            # The flag must stay 0; an index just passed is as far away as one can be.
            self.ring.used_event = self._next_used - 1
        else:
            self.ring.available_flags = NO_INTERRUPT

    def close(self) -> None:
        """Let go of the memory."""
        self.ring.close()


@dataclass(frozen=True)
class ModelChain:
    """A buffer as the device sees it: addresses and lengths."""

    head: int
    readable: tuple[tuple[int, int], ...]
    writable: tuple[tuple[int, int], ...]

    @property
    def room(self) -> int:
        """Bytes in the device-writable part."""
        return sum(length for _, length in self.writable)


class SplitDevice:
    """The device's end (2.7.8, 2.7.10, 2.7.13)."""

    def __init__(
        self,
        memory: Buffer,
        layout: SplitLayout,
        features: int = 0,
        *,
        start: int = 0,
        base: int = 0,
    ) -> None:
        """Continue at index ``base`` of the ring that lies in ``memory``, whose first byte has address
        ``start``."""
        self.ring = SplitRing(memory, layout, start)
        self.size = layout.size
        self.features = features
        self._next_available = base
        self._next_used = base
        self._notified = base

    def pop(self) -> ModelChain | None:
        """Take the next buffer; None: nothing is available. :exc:`~virtio.ProtocolError`: it is malformed."""
        waiting = (self.ring.available_index - self._next_available) & 0xFFFF
        if waiting == 0:
            return None
        # 2.7.6.1 and 2.7.13: there are never more heads in the ring than it has entries.
        if waiting > self.size:
            raise ProtocolError(f"the available index is {waiting} ahead of {self.size} entries", "2.7.6.1")
        fence()
        head = self.ring.available_entry(self._next_available)
        chain = self._walk(head)
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
            self.ring.bytes_at(descriptor.address, descriptor.length)
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
        self.ring.bytes_at(descriptor.address, descriptor.length)
        return descriptor.address, descriptor.length // 16

    def read(self, chain: ModelChain) -> bytes:
        """Copy the device-readable part."""
        return b"".join(self.ring.bytes_at(address, length) for address, length in chain.readable)

    def write(self, chain: ModelChain, data: bytes) -> None:
        """Put ``data`` into the device-writable part, from its begin (2.7.8.2)."""
        if len(data) > chain.room:
            raise ConfigurationError(f"{len(data)} bytes into {chain.room}")
        for address, length in chain.writable:
            piece, data = data[:length], data[length:]
            self.ring.bytes_at(address, len(piece))[:] = piece

    def push(self, head: int, written: int) -> None:
        """Record a used buffer; the driver does not see it before :meth:`publish` (2.7.8.2)."""
        self.ring.set_used_entry(self._next_used, head, written)
        self._next_used = (self._next_used + 1) & 0xFFFF

    def publish(self) -> bool:
        """Show the driver all that was pushed; return whether it wants a notification (2.7.7.2)."""
        fence()
        self.ring.used_index = self._next_used
        fence()
        old, self._notified = self._notified, self._next_used
        if old == self._next_used:
            return False
        if self.features & EVENT_IDX:
            return passed(self.ring.used_event, self._next_used, old)
        return not self.ring.available_flags & NO_INTERRUPT

    def arm(self) -> bool:
        """Ask for a kick when more comes; True: something came already (2.7.10.2)."""
        if self.features & EVENT_IDX:
            self.ring.available_event = self._next_available
        else:
            self.ring.used_flags = 0
        fence()
        return self.ring.available_index != self._next_available

    def disarm(self) -> None:
        """Advise the driver that no kick is needed (2.7.10.2)."""
        if not self.features & EVENT_IDX:
            # With the event index, one that is already passed stands for the same: nothing to write.
            self.ring.used_flags = NO_NOTIFY

    @property
    def base(self) -> int:
        """Where a successor continues: the next available index."""
        return self._next_available

    def close(self) -> None:
        """Let go of the memory."""
        self.ring.close()
