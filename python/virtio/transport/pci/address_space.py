"""What lies where in the BARs of a function."""

import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple

from virtio.errors import ConfigurationError
from virtio.spec import pci_bus
from virtio.transport.pci.capabilities import Structure
from virtio.transport.pci.interface import MapArea, Region, RegionIndex
from virtio.transport.pci.layout import PAGE, Bar, Layout, Place
from virtio.transport.pci.virtio_regions import Block, Placed, SharedMemoryBlock

LEAST_IO_SIZE = 32


class SharedMemory(NamedTuple):
    """A shared memory region of the device (2.10): a part of a file."""

    id: int
    fd: int
    size: int
    fd_offset: int = 0


class AddressSpace:
    """The blocks in the BARs of a layout."""

    def __init__(self, layout: Layout) -> None:
        """Begin with nothing."""
        self._layout = layout
        self._blocks: dict[int, list[Placed]] = {index: [] for index in layout.bars}
        self._areas: dict[int, list[MapArea]] = {index: [] for index in layout.bars}
        self._scratch: list[int] = []

    def place(self, name: str, place: Place, block: Block) -> Structure:
        """Put a block somewhere."""
        for other in self._blocks[place.bar]:
            if place.offset < other.offset + other.block.size and other.offset < place.offset + block.size:
                raise ConfigurationError(f"{name} overlaps another structure in BAR {place.bar}")
        self._blocks[place.bar].append(Placed(place.offset, block))
        return Structure(place, block.size)

    def place_unread(self, name: str, place: Place, block: Block) -> Structure:
        """Put a block on pages of its own that may be mapped, too: nobody reads what is stored there."""
        structure = self.place(name, place, block)
        end = place.offset + block.size
        fd = os.memfd_create("notifications", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._scratch.append(fd)
        os.ftruncate(fd, end)
        # Who maps it need not fear that it shrinks under a store.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._areas[place.bar].append(MapArea(place.offset, block.size, fd, place.offset))
        return structure

    def place_shared_memory(self, memories: Sequence[SharedMemory]) -> dict[int, Structure]:
        """Put shared memory into the BAR for it; return where, by id."""
        found: dict[int, Structure] = {}
        bar = self._layout.shared_memory_bar
        for memory in memories:
            if memory.id in found:
                raise ConfigurationError(f"there are two shared memory regions {memory.id} (4.1.4.7.1)")
            if bar not in self._blocks:
                raise ConfigurationError(f"there is no BAR {bar} for shared memory")
            if self._areas[bar] and self._scratch:
                raise ConfigurationError(f"in BAR {bar} notifications are mapped, and so cannot be more")
            block = SharedMemoryBlock(memory.fd, memory.size, memory.fd_offset)
            place = Place(bar, _end(self._blocks[bar]))
            found[memory.id] = self.place("shared memory", place, block)
            self._areas[bar].append(MapArea(place.offset, memory.size, block.fd, memory.fd_offset))
        return found

    def regions(self) -> tuple[Region, ...]:
        """All regions, by :class:`~virtio.transport.pci.interface.RegionIndex`."""
        regions = [Region()] * len(RegionIndex)
        for index, bar in self._layout.bars.items():
            if self._blocks[index] or bar.size:
                regions[index] = Region(
                    size=_bar_size(bar, _end(self._blocks[index])),
                    kind="io" if bar.io else "memory64" if bar.wide else "memory32",
                    prefetchable=bar.prefetchable,
                    areas=tuple(self._areas[index]),
                )
        size = pci_bus.EXTENDED_CONFIG_SIZE if self._layout.express else pci_bus.CONFIG_SIZE
        regions[RegionIndex.CONFIG] = Region(size=size, kind="config")
        return tuple(regions)

    def find(self, region: int, offset: int, size: int) -> Placed | None:
        """The block that all of an access lies in."""
        for placed in self._blocks.get(region, ()):
            if placed.offset <= offset and offset + size <= placed.offset + placed.block.size:
                return placed
        return None

    def close(self) -> None:
        """Unmap shared memory."""
        while self._scratch:
            os.close(self._scratch.pop())
        for placed in self._blocks.get(self._layout.shared_memory_bar, ()):
            if isinstance(placed.block, SharedMemoryBlock):
                placed.block.close()


def _end(blocks: Sequence[Placed]) -> int:
    """The first free page behind some blocks."""
    end = max((placed.offset + placed.block.size for placed in blocks), default=0)
    return -(-end // PAGE) * PAGE


def _bar_size(bar: Bar, used: int) -> int:
    """Bytes of a BAR: a power of two."""
    least = LEAST_IO_SIZE if bar.io else PAGE
    return max(1 << (used - 1).bit_length() if used else 0, bar.size, least)
