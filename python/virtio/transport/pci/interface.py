"""The seam between a PCI function and what carries it: regions, interrupts, memory, numbered as VFIO does."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from virtio.driver.wire import DriverMemory
from virtio.errors import Error

Target = int | Callable[[], object]
"""Where an interrupt goes: an eventfd or a function."""


class RegionIndex(enum.IntEnum):
    """Regions of a function."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class InterruptIndex(enum.IntEnum):
    """Kinds of interrupts of a function."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERROR = 3
    REQUEST = 4


class MapArea(NamedTuple):
    """A part of a region that its user may map."""

    offset: int
    size: int
    fd: int
    fd_offset: int = 0


@dataclass(frozen=True)
class Region:
    """A region of a function. One that is not there has no size."""

    size: int = 0
    kind: Literal["", "memory32", "memory64", "io", "config"] = ""
    prefetchable: bool = False
    readable: bool = True
    writable: bool = True
    areas: tuple[MapArea, ...] = ()


class Notification(NamedTuple):
    """A write that does nothing but notify a queue, so that an eventfd can stand for it."""

    region: int
    offset: int
    size: int
    value: int | None
    """Only this value notifies the queue; None: any."""
    queue: int


class PciBus(Protocol):
    """What a driver reaches a function by. Calls raise :exc:`~virtio.TransportError` when it is lost."""

    @property
    def address(self) -> str:
        """Where the function is, in the form that :func:`virtio.connect` takes."""

    @property
    def timeout(self) -> float:
        """Seconds after which a call that waits for the function gives up."""

    @property
    def regions(self) -> Sequence[Region]:
        """By :class:`RegionIndex`."""

    @property
    def interrupts(self) -> Sequence[int]:
        """How many vectors there are, by :class:`InterruptIndex`."""

    @property
    def memory(self) -> DriverMemory:
        """Memory that the function reaches: its addresses are bus addresses."""

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region, in one access."""

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region, in one access."""

    def kick_fd(self, notification: Notification) -> int | None:
        """Eventfd that stands for this write, if the bus can have one; it stays the bus's.

        Asked once for each place where a queue will be notified: a bus may have cheaper writes for these.
        """

    def set_interrupts(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        """Send vectors from ``start`` on to these eventfds; none given: switch all of them off."""

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again: INTx masks itself whenever it is signalled."""

    def reset(self) -> None:
        """Reset the function."""

    def on_lost(self, callback: Callable[[Error], object] | None) -> None:
        """Call this, from any thread, once, when the function is lost; at once if it is already."""

    def close(self) -> None:
        """Let go of the function, and unmap the memory. Twice: harmless."""
