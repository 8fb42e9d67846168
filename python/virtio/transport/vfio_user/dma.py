"""The client's memory, as it says it: what may be reached, and how."""

import bisect
import errno
from dataclasses import dataclass

from virtio.errors import ConfigurationError, TransportError
from virtio.transport.interface import GuestMemory
from virtio.transport.vfio_user.messages import DMA_UNMAP_ALL, DmaFlag
from virtio.transport.vfio_user.payloads import DmaMap, DmaUnmap
from virtio.transport.vfio_user.refusal import Refusal, invalid

_END = 1 << 64


@dataclass(frozen=True)
class Window:
    """A range of bus addresses that the device may reach."""

    address: int
    size: int
    writable: bool
    mapped: bool
    """Whether it came with a descriptor. One without is reached by messages only."""


class DmaTable:
    """All windows of a client."""

    def __init__(self, memory: GuestMemory, most: int) -> None:
        """Map into ``memory`` what can be mapped; ``most`` windows at once."""
        self._memory = memory
        self._most = most
        self._starts: list[int] = []
        self._windows: list[Window] = []

    @property
    def windows(self) -> list[Window]:
        """All, in order of their addresses."""
        return self._windows

    @property
    def by_messages(self) -> bool:
        """Whether what the device may write to can be reached by messages only."""
        writable = [window for window in self._windows if window.writable]
        return bool(writable) and not any(window.mapped for window in writable)

    @property
    def end(self) -> int:
        """The address behind the last window."""
        return self._windows[-1].address + self._windows[-1].size if self._windows else 0

    def reaches(self, address: int, size: int, *, write: bool) -> bool:
        """Whether the device may reach all of a range, across adjacent windows too."""
        index = bisect.bisect_right(self._starts, address) - 1
        at, end = address, address + size
        while 0 <= index < len(self._windows):
            window = self._windows[index]
            if not window.address <= at < window.address + window.size or (write and not window.writable):
                return False
            at = window.address + window.size
            if at >= end:
                return True
            index += 1
        return False

    def add(self, wanted: DmaMap, fd: int | None) -> None:
        """DMA_MAP."""
        if wanted.argsz < DmaMap.FORM.size:
            raise invalid(f"argsz is {wanted.argsz}")
        if not wanted.flags or wanted.flags & ~int(DmaFlag.READ | DmaFlag.WRITE):
            raise invalid(f"flags are {wanted.flags:#x}")
        end = wanted.address + wanted.size
        if not wanted.size or end > _END:
            raise invalid(f"{wanted.size:#x} bytes at {wanted.address:#x}")
        if len(self._windows) >= self._most:
            raise Refusal(errno.ENOSPC, f"there are {self._most} windows already")
        index = bisect.bisect_left(self._starts, wanted.address)
        before = self._windows[index - 1] if index else None
        after = self._windows[index] if index < len(self._windows) else None
        if (before and before.address + before.size > wanted.address) or (after and after.address < end):
            raise Refusal(errno.EEXIST, f"a window overlaps {wanted.size:#x} bytes at {wanted.address:#x}")
        writable = bool(wanted.flags & DmaFlag.WRITE)
        if fd is not None:
            try:
                self._memory.add(wanted.address, wanted.size, fd, wanted.offset, writable=writable)
            except (ConfigurationError, TransportError) as error:
                raise invalid(str(error)) from error
        self._starts.insert(index, wanted.address)
        self._windows.insert(index, Window(wanted.address, wanted.size, writable, fd is not None))

    def check_removal(self, wanted: DmaUnmap) -> list[Window]:
        """Return what DMA_UNMAP takes away; :exc:`Refusal` if it is not there."""
        if wanted.flags == DMA_UNMAP_ALL and not wanted.address and not wanted.size:
            return list(self._windows)
        if wanted.flags:
            raise invalid(f"flags are {wanted.flags:#x}")
        index = bisect.bisect_left(self._starts, wanted.address)
        found = self._windows[index] if index < len(self._windows) else None
        if found is None or (found.address, found.size) != (wanted.address, wanted.size):
            raise Refusal(errno.ENOENT, f"no window of {wanted.size:#x} bytes at {wanted.address:#x}")
        return [found]

    def remove(self, windows: list[Window]) -> None:
        """Unmap them, once nothing works on them any more."""
        for window in windows:
            index = bisect.bisect_left(self._starts, window.address)
            del self._starts[index], self._windows[index]
            if window.mapped:
                self._memory.remove(window.address, window.size)

    def clear(self) -> None:
        """Unmap everything."""
        self._starts.clear()
        self._windows.clear()
        self._memory.clear()
