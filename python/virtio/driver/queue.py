"""A virtqueue of a driver: its memory, its ring, its notifications."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from virtio._native import DriverCounters, IndirectPolicy
from virtio._native import DriverQueue as NativeQueue
from virtio.driver.wire import Allocation, DriverEnd, QueueWire
from virtio.errors import ConfigurationError
from virtio.spec import core

PAGE = 4096
TABLE_POLICY = IndirectPolicy()
"""Requests of few descriptors stay in the ring, where the device finds them sooner, until it fills up."""


@dataclass(frozen=True)
class Plan:
    """How a queue's memory is laid out, from the beginning of one allocation."""

    size: int
    features: int
    table_entries: int
    """Descriptors of each indirect table; 0: no tables."""
    more: int
    """Bytes that the driver wants for itself, from a page on."""

    @property
    def packed(self) -> bool:
        """Whether the ring is a packed one."""
        return bool(self.features & core.F.RING_PACKED)

    @property
    def available(self) -> int:
        """Where the driver's part begins."""
        return _up(16 * self.size, PAGE)

    @property
    def used(self) -> int:
        """Where the device's part begins: on a cache line that the driver does not write."""
        return self.available + _up(4 if self.packed else 6 + 2 * self.size, 128)

    @property
    def tables(self) -> int:
        """Where the indirect tables begin."""
        return self.used + _up(4 if self.packed else 6 + 8 * self.size, 128)

    @property
    def own(self) -> int:
        """Where the driver's own memory begins."""
        return _up(self.tables + 16 * self.size * self.table_entries, PAGE)

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.own + self.more


class DriverQueue:
    """One virtqueue, from the driver's side."""

    def __init__(
        self,
        end: DriverEnd,
        index: int,
        name: str,
        *,
        features: int,
        size: int,
        tables: int,
        more: Callable[[int], int] | None = None,
    ) -> None:
        """Take memory for queue ``index``; ``more`` says how much of it is the driver's own at a size.

        ``size`` is reduced to what the device can. ``tables``: descriptors of each indirect table.
        """
        self.index = index
        self.name = name
        self._end = end
        self._features = features
        self._tables = tables if features & core.F.INDIRECT_DESC else 0
        self._more = more or (lambda _: 0)
        self._again: Callable[[int], object] | None = None
        self.native: NativeQueue
        self.wire: QueueWire
        self.take(size)

    def take(self, size: int) -> None:
        """Take memory for a ring of this size, or what the device can of it."""
        most = self._end.max_queue_size(self.index)
        if most == 0:
            raise ConfigurationError(f"the device has no queue {self.index} ({self.name})")
        size = min(size, most)
        if not self._features & core.F.RING_PACKED:
            size = 1 << size.bit_length() - 1  # 2.7: a power of two
        self.size = size
        self.plan = Plan(size, self._features, self._tables, self._more(size))
        self._memory: Allocation | None = self._end.memory.allocate(self.plan.bytes, PAGE)
        self.address = self._memory.address

    def __repr__(self) -> str:
        """Show which queue it is."""
        return f"<DriverQueue {self.index} {self.name}, {self.size} entries>"

    @property
    def own_address(self) -> int:
        """Guest address of the driver's own memory."""
        return self.address + self.plan.own

    @property
    def tables(self) -> tuple[int, int, IndirectPolicy] | None:
        """Address and size of the indirect tables, and when to use one."""
        entries = self.plan.table_entries
        return (self.address + self.plan.tables, entries, TABLE_POLICY) if entries else None

    @property
    def ring(self) -> dict[str, int]:
        """Where the ring is."""
        return {
            "size": self.size,
            "descriptors": self.address,
            "available": self.address + self.plan.available,
            "used": self.address + self.plan.used,
        }

    @property
    def native_ring(self) -> dict[str, int]:
        """The same with the queue's number, and the features that say its layout."""
        return {**self.ring, "index": self.index, "features": self.plan.features}

    def start(self, make: "Callable[[DriverQueue, QueueWire], N]") -> "N":
        """Tell the device about the queue, and make its native end with ``make``."""
        self.wire = self._end.start_queue(self.index, **self.ring)
        native = make(self, self.wire)
        self.native = native if isinstance(native, NativeQueue) else native.queue  # type: ignore[attr-defined]
        return native

    def on_reset(self, again: Callable[[int], object]) -> None:
        """Start the queue with this when it was reset; it gets the new size."""
        self._again = again

    def reset(self, size: int | None = None) -> None:
        """Reset this queue alone, and start it anew, with another size if that is given (2.6.1).

        Requests that are out are given up: who waits for them gets a :exc:`~virtio.TransportError`. Needs
        VIRTIO_F_RING_RESET.
        """
        if not self._features & core.F.RING_RESET or self._again is None:
            raise ConfigurationError("the device does not reset single queues (VIRTIO_F_RING_RESET)")
        if size is not None and size < 1:
            raise ConfigurationError(f"a queue of {size} entries")
        self.native.fail(f"queue {self.index} was reset")
        self._end.reset_queue(self.index)
        self.free()
        self._again(size or self.size)

    @property
    def counters(self) -> DriverCounters:
        """What has been done so far."""
        return self.native.counters

    @property
    def outstanding(self) -> int:
        """Requests that the device has."""
        return self.native.outstanding

    def close(self) -> None:
        """Give the memory back, for good."""
        self._again = None  # it refers to the driver, and through that to us
        self.free()

    def free(self) -> None:
        """Give the memory back; the device must not use the queue any more (3.3.1)."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.free()


N = TypeVar("N")


def kick_of(wire: QueueWire) -> "int | Callable[[int], object]":
    """How to notify the device: by a descriptor where there is one."""
    return wire.kick if wire.kick_fd is None else wire.kick_fd


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
