"""What the ends of both layouts have in common: memory, the buffers that are out, how they begin anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from virtio.queue.model.buffers import Buffers, ModelChain
from virtio.queue.model.packed_ring import PackedLayout
from virtio.queue.model.ring import Addresses, SplitLayout
from virtio.queue.model.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from virtio.queue.model.shared import SharedMemory, Touch

L = TypeVar("L", SplitLayout, PackedLayout)


class DriverEnd(ABC, Generic[L]):
    """A driver's end, whatever the layout."""

    layout: L
    size: int

    def __init__(
        self,
        memory: Buffer | SharedMemory,
        layout: L,
        features: int,
        *,
        start: int,
        end: int | None,
        observer: Callable[[Touch], object] | None,
    ) -> None:
        """Lay out an empty ring, zero-initialised as 2.7.10.1 and 2.8.13 demand."""
        self.memory = shared(memory, start, "driver", observer)
        self.features = features
        self.buffers = Buffers(self.memory, layout.end, end)
        self._begin(layout)

    def _begin(self, layout: L) -> None:
        self.layout = layout
        self.size = layout.size
        self._enable(layout)
        span = layout.end - layout.descriptors
        self.memory.view(layout.descriptors, span)[:] = bytes(span)

    @abstractmethod
    def _enable(self, layout: L) -> None:
        """Begin to use a ring that is empty."""

    @property
    def addresses(self) -> Addresses:
        """Where the ring lies, as :meth:`virtio.queue.Queue.configure` takes it."""
        return self.layout.addresses

    @property
    def outstanding(self) -> int:
        """Buffers that were added and not yet polled as used."""
        return len(self.buffers.out)

    def data(self, key: int) -> bytes:
        """Return the device-writable part of a buffer; of a used one only until something is added."""
        return self.buffers.data(key)

    def reset(self, size: int | None = None) -> list[int]:
        """Begin anew with an empty ring, of another size if one is given (2.6.1).

        The device has confirmed that the queue is reset, so all buffers that it had are the driver's again,
        unused: their heads, or buffer ids, are returned.
        """
        unused = list(self.buffers.out)
        layout = self.layout.at(self.layout.descriptors, self.size if size is None else size)
        self.buffers.clear(layout.end)
        self._begin(layout)
        return unused

    def close(self) -> None:
        """Let go of the memory."""
        self.memory.close()


class DeviceEnd:
    """A device's end, whatever the layout."""

    memory: SharedMemory

    def read(self, chain: ModelChain) -> bytes:
        """Copy the device-readable part."""
        return chain.read(self.memory)

    def write(self, chain: ModelChain, data: bytes) -> None:
        """Put ``data`` into the device-writable part, from its begin (2.7.8.2)."""
        chain.write(self.memory, data)

    def close(self) -> None:
        """Let go of the memory."""
        self.memory.close()
