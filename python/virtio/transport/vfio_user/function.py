"""What is served: a PCI function, described by its shape."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from virtio.transport.interface import GuestMemory
from virtio.transport.pci.interface import Notification, Region, Target


class Function(Protocol):
    """A function as its server sees it; :class:`virtio.transport.pci.PciFunction` is one."""

    @property
    def memory(self) -> GuestMemory:
        """What its DMA reaches; guest addresses are bus addresses."""

    @property
    def regions(self) -> Sequence[Region]:
        """By VFIO's index."""

    @property
    def interrupts(self) -> Sequence[int]:
        """Vectors by VFIO's index."""

    @property
    def notifications(self) -> Sequence[Notification]:
        """Writes that an eventfd can stand for."""

    def set_kick(self, queue: int, fd: int | None) -> None:
        """Take notifications of a queue from this eventfd too."""

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region."""

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region."""

    def set_interrupts(self, index: int, start: int, targets: Sequence[Target | None]) -> None:
        """Send vectors there."""

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back."""

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let them through again."""

    def reset(self) -> None:
        """Reset the function."""

    def dma_changing(self) -> None:
        """Memory is about to go away: no queue runs until :meth:`dma_changed`."""

    def dma_changed(self) -> None:
        """Memory is as it is to be: the queues run whose rings are there."""

    def attach(self) -> None:
        """A client arrives."""

    def detach(self) -> None:
        """It is gone."""


@runtime_checkable
class Movable(Protocol):
    """A function whose state can be taken to another one."""

    def save(self) -> bytes:
        """Return all of its state, while no queue runs."""

    def load(self, data: bytes) -> None:
        """Take it over; :exc:`~virtio.Error` if that cannot be."""
