"""What both layouts have in common: buffers as each end knows them, and the order that they come back in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from virtio.errors import ConfigurationError
from virtio.queue.model.allocator import Allocator
from virtio.queue.model.ring import WRITE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtio.queue.model.shared import SharedMemory


class Used(NamedTuple):
    """A buffer that the device gave back."""

    head: int
    """What the driver's ``add`` returned for it."""
    written: int
    """Bytes that the device wrote into the device-writable part."""


class Element(NamedTuple):
    """One piece of a buffer: contiguous memory that the device reads, or writes (2.7.4, 2.8.5)."""

    address: int
    length: int
    flags: int
    """:data:`~virtio.queue.model.ring.WRITE` or 0."""


@dataclass
class Placed:
    """A buffer that the driver has put into memory."""

    elements: list[Element] = field(default_factory=list)
    table: int | None = None
    """Address of its indirect table."""
    descriptors: list[int] = field(default_factory=list)
    """What it occupies in the ring."""

    @property
    def room(self) -> int:
        """Bytes in the device-writable part."""
        return sum(element.length for element in self.elements if element.flags & WRITE)


class Buffers:
    """The driver's buffers: memory for them, and which of them the device has."""

    def __init__(self, memory: SharedMemory, start: int, end: int | None) -> None:
        """Use the memory from ``start`` up to ``end``, or to the end of memory."""
        self._memory = memory
        self._end = memory.start + len(memory) if end is None else end
        self.clear(start)

    def clear(self, start: int) -> None:
        """Forget all buffers; use the memory from ``start`` on."""
        self._allocator = Allocator(start, self._end)
        self.out: dict[int, Placed] = {}
        """Those that the device has, oldest first, by what the driver calls them in the ring."""
        self._returned: dict[int, Placed] = {}

    def place(
        self, readable: Sequence[bytes | int], writable: Sequence[int], table_from: int | None = None
    ) -> Placed:
        """Write a buffer into memory, with room for an indirect table of the elements from ``table_from`` on.

        Raises :exc:`~virtio.ConfigurationError` if there is no memory left.
        """
        placed = Placed()
        contents = [(bytes(item), 0) for item in readable] + [(bytes(item), WRITE) for item in writable]
        try:
            for data, flags in contents:
                address = self._allocator.take(len(data))
                placed.elements.append(Element(address, len(data), flags))
                self._memory.view(address, len(data))[:] = data
            if table_from is not None:
                placed.table = self._allocator.take(16 * (len(contents) - table_from))
        except ConfigurationError:
            self._free(placed)
            raise
        return placed

    def lend(self, key: int, placed: Placed) -> None:
        """Remember that the device gets this buffer, under this name."""
        self._returned.pop(key, None)
        self.out[key] = placed

    def until(self, key: int) -> list[int]:
        """Names of those that the device has had for at least as long as ``key``, oldest first."""
        names = list(self.out)
        return names[: names.index(key) + 1]

    def take_back(self, key: int) -> Placed:
        """Take a buffer back; its contents can be read until its memory is used again."""
        placed = self.out.pop(key)
        self._free(placed)
        self._returned[key] = placed
        return placed

    def data(self, key: int) -> bytes:
        """Return the device-writable part of a buffer."""
        placed = self.out.get(key) or self._returned[key]
        views = (self._memory.view(at, length) for at, length, flags in placed.elements if flags & WRITE)
        return b"".join(views)

    def _free(self, placed: Placed) -> None:
        for element in placed.elements:
            self._allocator.free(element.address)
        if placed.table is not None:
            self._allocator.free(placed.table)


@dataclass(frozen=True)
class ModelChain:
    """A buffer as the device sees it: addresses and lengths."""

    head: int
    """Index of the first descriptor (split), or the buffer id (packed)."""
    readable: tuple[tuple[int, int], ...]
    writable: tuple[tuple[int, int], ...]
    slots: int = 1
    """Descriptors that it occupies in a packed ring."""

    @property
    def room(self) -> int:
        """Bytes in the device-writable part."""
        return sum(length for _, length in self.writable)

    @property
    def only_room(self) -> bool:
        """Whether the driver gave nothing but room, so that the length is what it waits for."""
        return self.room > 0 and not any(length for _, length in self.readable)

    def read(self, memory: SharedMemory) -> bytes:
        """Copy the device-readable part."""
        return b"".join(memory.view(address, length) for address, length in self.readable)

    def write(self, memory: SharedMemory, data: bytes) -> None:
        """Put ``data`` into the device-writable part, from its begin (2.7.8.2)."""
        if len(data) > self.room:
            raise ConfigurationError(f"{len(data)} bytes into {self.room}")
        for address, length in self.writable:
            piece, data = data[:length], data[length:]
            memory.view(address, len(piece))[:] = piece


class Group(NamedTuple):
    """Chains that one used element stands for."""

    head: int
    """The youngest of them: the one that the element names."""
    written: int
    chains: int
    slots: int


class InOrder:
    """The device's memory of chains under VIRTIO_F_IN_ORDER (2.7.9, 2.8.8).

    The driver hears of them in the order in which they were taken, whatever the order of completion.
    """

    def __init__(self) -> None:
        """Begin with no chain."""
        self._waiting: deque[ModelChain] = deque()
        self._written: dict[int, int] = {}
        self._open = Group(0, 0, 0, 0)

    def __len__(self) -> int:
        """Chains that no used element has been written for."""
        return len(self._waiting) + self._open.chains

    def taken(self, chain: ModelChain) -> None:
        """Append a chain."""
        self._waiting.append(chain)

    def completed(self, head: int, written: int) -> None:
        """Note that a chain is done; the driver is told when all older ones are."""
        self._written[head] = written

    def groups(self, *, tell: bool) -> Iterator[Group]:
        """Take out those whose turn it is, by used elements to write; those that younger ones could still
        join, only when it is time to ``tell`` the driver.

        Chains that an element skips count as used completely, so one that was not written to its end has to
        be the last of its group. So is one that only had room: a driver could infer its length, but DPDK's
        for networks looks for it in an element of the chain's own.
        """
        while self._waiting and self._waiting[0].head in self._written:
            chain = self._waiting.popleft()
            written = self._written.pop(chain.head)
            chains, slots = self._open.chains + 1, self._open.slots + chain.slots
            self._open = Group(chain.head, written, chains, slots)
            if written != chain.room or chain.only_room:
                yield self._close()
        if tell and self._open.chains:
            yield self._close()

    def _close(self) -> Group:
        group, self._open = self._open, Group(0, 0, 0, 0)
        return group
