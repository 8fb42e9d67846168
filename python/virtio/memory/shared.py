"""Memory that a driver shares with its device: regions of memfds, and an allocator on them.

Guest and user addresses differ on purpose, as they do in a virtual machine: who takes one for the other is
found out by the first access, not by the first customer.
"""

import bisect
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from virtio._native import Memory
from virtio.errors import ConfigurationError, Error, TransportError
from virtio.memory.iommu import IommuDomain

_log = logging.getLogger("virtio.memory")

DEFAULT_SIZE = 64 << 20
"""Bytes of a region. They cost nothing until they are used."""

HUGE_PAGE = 2 << 20

FIRST_ADDRESS = HUGE_PAGE
"""Guest address of the first byte: nothing that is in use has the address 0."""

USER_OFFSET = 0x7E00_0000_0000
"""What a user address has above its guest address."""

_MFD_HUGE_2MB = getattr(os, "MFD_HUGE_2MB", 21 << 26)


class SharedRegion(NamedTuple):
    """A region, as it is told to a device."""

    guest_address: int
    size: int
    user_address: int
    fd: int
    """The memfd, from its beginning; it stays the memory's."""
    address: int
    """What descriptors call the first byte: its guest address, or with an IOMMU its I/O virtual one."""


class Piece:
    """A piece of shared memory in use: an :class:`~virtio.driver.wire.Allocation`."""

    __slots__ = ("_memory", "address", "size", "view")

    def __init__(self, memory: "SharedMemory", address: int, size: int, view: memoryview) -> None:
        """Take a piece that the allocator has set aside."""
        self._memory: SharedMemory | None = memory
        self.address = address
        self.size = size
        self.view = view

    def __repr__(self) -> str:
        """Show where it is."""
        return f"<Piece of {self.size} bytes at {self.address:#x}>"

    @property
    def user_address(self) -> int:
        """Its user address."""
        if self._memory is None:
            raise ConfigurationError("the piece was given back")
        return self._memory.to_user(self.address)

    def free(self) -> None:
        """Give it back. Twice: harmless."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.give_back(self)


@dataclass
class _Arena:
    """The free places of a region, in order: parallel lists of where they begin and end."""

    region: SharedRegion
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    fresh: int = 0
    """Nothing from here on was ever used: it is still zeros."""

    def __post_init__(self) -> None:
        """Begin with everything free."""
        self.fresh = self.region.address
        self.starts.append(self.region.address)
        self.ends.append(self.region.address + self.region.size)

    def take(self, size: int, alignment: int) -> int | None:
        """Take the first place that is large enough."""
        for index, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            address = -(-start // alignment) * alignment
            if address + size > end:
                continue
            rest = [(start, address), (address + size, end)]
            rest = [(a, b) for a, b in rest if a < b]
            self.starts[index : index + 1] = [a for a, _ in rest]
            self.ends[index : index + 1] = [b for _, b in rest]
            return address
        return None

    def put(self, address: int, size: int) -> None:
        """Take a place back and join it with its neighbours."""
        index = bisect.bisect(self.starts, address)
        self.starts.insert(index, address)
        self.ends.insert(index, address + size)
        if index + 1 < len(self.starts) and self.ends[index] == self.starts[index + 1]:
            del self.ends[index], self.starts[index + 1]
        if index > 0 and self.ends[index - 1] == self.starts[index]:
            del self.ends[index - 1], self.starts[index]


class SharedMemory:
    """The driver's memory. It grows by whole regions, as long as whoever shares it agrees."""

    def __init__(
        self,
        size: int = DEFAULT_SIZE,
        *,
        huge_pages: bool = False,
        max_size: int = 1 << 40,
        domain: IommuDomain | None = None,
    ) -> None:
        """Begin with one region of ``size`` bytes, rounded up to whole pages.

        ``huge_pages``: of 2 MiB, which the system must have set aside. ``max_size`` bounds all regions.
        ``domain``: what is shared is mapped there, and addresses are those of the domain.
        """
        self.native = Memory()
        self.domain = domain
        self._offset = domain.offset if domain is not None else 0
        self._page = HUGE_PAGE if huge_pages else mmap.PAGESIZE
        self._huge = huge_pages
        self._max_size = max_size
        self._step = self._round(size)
        self._arenas: list[_Arena] = []
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        self._share: Callable[[SharedRegion], object] | None = None
        self._closed = False
        if not 0 < size <= max_size:
            raise ConfigurationError(f"{size} bytes of shared memory; there can be 1 to {max_size}")
        self._add(self._step)

    @property
    def regions(self) -> list[SharedRegion]:
        """All regions, in order of their addresses."""
        return [arena.region for arena in self._arenas]

    @property
    def end(self) -> int:
        """The guest address behind the last region."""
        region = self._arenas[-1].region
        return region.guest_address + region.size

    def on_growth(self, share: Callable[[SharedRegion], object] | None) -> None:
        """Call this with each new region before it is used; what it raises undoes the growth."""
        self._share = share

    def allocate(self, size: int, alignment: int = 16) -> Piece:
        """Take a contiguous piece, filled with zeros."""
        if size <= 0 or alignment <= 0 or alignment & (alignment - 1):
            raise ConfigurationError(f"cannot allocate {size} bytes aligned to {alignment}")
        by_piece = self.domain is not None and self.domain.allocations
        if by_piece:  # No page is to be shared with what the device has no business with.
            size, alignment = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, max(alignment, mmap.PAGESIZE)
        piece = self._find_room(size, alignment)
        if by_piece and self.domain is not None:
            try:
                self.domain.map(piece.address, piece.size, piece)
            except BaseException:
                self._take_back(piece)
                raise
        return piece

    def _find_room(self, size: int, alignment: int) -> Piece:
        if (piece := self._allocate(size, alignment)) is not None:
            return piece
        with self._growing:
            # Another thread may have made room meanwhile.
            if (piece := self._allocate(size, alignment)) is not None:
                return piece
            self._add(max(self._step, self._round(size + alignment)))
            piece = self._allocate(size, alignment)
        if piece is None:
            raise TransportError(f"no room for {size} bytes in a new region")
        return piece

    def to_user(self, address: int) -> int:
        """Translate an address of :meth:`allocate`."""
        return address - self._offset + USER_OFFSET

    def give_back(self, piece: Piece) -> None:
        """Take a piece back, see :meth:`Piece.free`."""
        domain = None if self._closed else self.domain
        if domain is not None and domain.allocations and domain.overlaps(piece.address, piece.size):
            try:
                domain.unmap(piece.address, piece.size)
            except Error as error:  # The device may use it yet, so nobody else gets it.
                _log.warning("%r stays set aside: %s", piece, error)
                return
        self._take_back(piece)

    def _take_back(self, piece: Piece) -> None:
        with self._lock:
            for arena in self._arenas:
                start = arena.region.address
                if start <= piece.address < start + arena.region.size:
                    arena.put(piece.address, piece.size)

    def close(self) -> None:
        """Unmap everything. Views that are held stay valid, but nobody else sees what is written there."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            regions = self.regions
            for region in regions:
                os.close(region.fd)
            self._arenas.clear()
        if self.domain is not None:
            for region in regions:
                if self.domain.overlaps(region.address, region.size):
                    self.domain.unmap(region.address, region.size)
        self.native.clear()

    def _allocate(self, size: int, alignment: int) -> Piece | None:
        with self._lock:
            if self._closed:
                raise TransportError("the connection is closed, and its memory with it")
            for arena in self._arenas:
                address = arena.take(size, alignment)
                if address is not None:
                    view = self.native.view(address, size)
                    if address < arena.fresh:
                        view[:] = bytes(size)
                    arena.fresh = max(arena.fresh, address + size)
                    return Piece(self, address, size, view)
        return None

    def _add(self, size: int) -> None:
        total = sum(arena.region.size for arena in self._arenas) + size
        if total > self._max_size:
            raise TransportError(f"{total} bytes of shared memory; at most {self._max_size} were allowed")
        fd = self._create(size)
        address = self.end if self._arenas else FIRST_ADDRESS
        region = SharedRegion(address, size, address + USER_OFFSET, fd, address + self._offset)
        try:
            self.native.add(region.address, size, fd, user_address=region.user_address)
            try:
                if self._share is not None:
                    self._share(region)
                if self.domain is not None and not self.domain.allocations:
                    self.domain.map(region.address, size, region)
            except BaseException:
                self.native.remove(region.address, size)
                raise
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            self._arenas.append(_Arena(region))

    def _create(self, size: int) -> int:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if self._huge:
            flags |= os.MFD_HUGETLB | _MFD_HUGE_2MB
        try:
            fd = os.memfd_create("virtio", flags)
        except OSError as error:
            raise ConfigurationError(f"no shared memory: {error.strerror}") from error
        try:
            os.ftruncate(fd, size)
            if self._huge:
                # Reserved now: without a page, the first touch would end the process.
                os.posix_fallocate(fd, 0, size)
            # The device has the descriptor too: it must not cut off what we have mapped.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError as error:
            os.close(fd)
            what = f"{size // HUGE_PAGE} huge pages" if self._huge else f"{size} bytes of shared memory"
            raise ConfigurationError(
                f"no {what}: {error.strerror}" + (" (see /proc/sys/vm/nr_hugepages)" if self._huge else "")
            ) from error
        return fd

    def _round(self, size: int) -> int:
        return -(-size // self._page) * self._page
