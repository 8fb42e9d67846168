"""What a device has written, page by page, as the front end gets to know it."""

import os

from virtio.blocks import Closing
from virtio.errors import ConfigurationError
from virtio.memory.shared import SharedMemory
from virtio.transport.vhost_user.driver_end import VhostUserDriverEnd

PAGE = 4096
ROOM = 1 << 40
"""Bytes of guest memory that a log covers at least: it grows with the memory without being told anew."""


class DirtyPages(Closing):
    """Notes what a device writes to shared memory, for as long as the block lasts.

    Each :meth:`collect` puts a fresh log in the place of the last one, so that none is read while the device
    writes it. Bytes that the driver writes are not in it.

    ::

        with DirtyPages(end) as dirty:
            copy(everything)
            while pages := dirty.collect():
                copy(pages)
    """

    def __init__(self, end: VhostUserDriverEnd) -> None:
        """Begin to note; the driver must have accepted its features."""
        self._end = end
        self._fd = _create()
        try:
            end.log_to(self._fd, log_size(end.memory))
        except BaseException:
            os.close(self._fd)
            raise
        self._closed = False

    def collect(self) -> list[int]:
        """Return the guest addresses of the pages that were written since the last time."""
        if self._closed:
            raise ConfigurationError("nothing is noted any more")
        fresh = _create()
        try:
            self._end.log_to(fresh, log_size(self._end.memory))
        except BaseException:
            os.close(fresh)
            raise
        old, self._fd = self._fd, fresh
        return _take(old)

    def close(self) -> list[int]:
        """End it, and return what was written since the last time."""
        if self._closed:
            return []
        self._closed = True
        try:
            self._end.stop_logging()
        finally:
            pages = _take(self._fd)
        return pages


def log_size(memory: SharedMemory) -> int:
    """Return how many bytes a log needs, with room for memory to grow."""
    return max(1 << 20, 2 * memory.end // PAGE // 8)


def _create() -> int:
    fd = os.memfd_create("dirty log", os.MFD_CLOEXEC)
    os.ftruncate(fd, ROOM // PAGE // 8)  # takes no memory where nothing is noted
    return fd


def _take(fd: int) -> list[int]:
    """Read the pages out of a log that nobody writes any more, and close it."""
    pages: list[int] = []
    try:
        at = 0
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # no more
                return pages
            end = os.lseek(fd, at, os.SEEK_HOLE)
            for number, byte in enumerate(os.pread(fd, end - at, at), at):
                if byte:
                    pages += (PAGE * (number * 8 + bit) for bit in range(8) if byte >> bit & 1)
            at = end
    finally:
        os.close(fd)
