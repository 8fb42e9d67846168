"""What a device has written, page by page, as the front end gets to know it."""

import contextlib
import os
import select

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

    def __init__(self, end: VhostUserDriverEnd, *, notify: bool = False) -> None:
        """Begin to note; the driver must have accepted its features.

        ``notify``: have the device signal news, for :meth:`wait`. Not every back end does: some accept the
        descriptor (SET_LOG_FD) and leave it alone.
        """
        self._end = end
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if notify else None
        self._fd = _create()
        try:
            end.log_to(self._fd, log_size(end.memory), self._event)
        except BaseException:
            self._close()
            raise
        self._closed = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the device has written to a page that was clean.

        False: it has not, in ``timeout`` seconds. True may also come of a page of the last :meth:`collect`.
        """
        if self._event is None:
            raise ConfigurationError("nobody asked to be notified of dirty pages: notify=True does")
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(timeout, 0) * 1000))

    def collect(self) -> list[int]:
        """Return the guest addresses of the pages that were written since the last time."""
        if self._closed:
            raise ConfigurationError("nothing is noted any more")
        if self._event is not None:
            # Before the logs change: what is written to the fresh one must not go unheard.
            _clear(self._event)
        fresh = _create()
        try:
            self._end.log_to(fresh, log_size(self._end.memory))
        except BaseException:
            os.close(fresh)
            raise
        old, self._fd = self._fd, fresh
        try:
            return _take(old)
        finally:
            os.close(old)

    def close(self) -> list[int]:
        """End it, and return what was written since the last time."""
        if self._closed:
            return []
        self._closed = True
        try:
            self._end.stop_logging()
        finally:
            pages = _take(self._fd)
            self._close()
        return pages

    def _close(self) -> None:
        os.close(self._fd)
        if self._event is not None:
            os.close(self._event)


def log_size(memory: SharedMemory) -> int:
    """Return how many bytes a log needs, with room for memory to grow."""
    return max(1 << 20, 2 * memory.end // PAGE // 8)


def _create() -> int:
    fd = os.memfd_create("dirty log", os.MFD_CLOEXEC)
    os.ftruncate(fd, ROOM // PAGE // 8)  # takes no memory where nothing is noted
    return fd


def _take(fd: int) -> list[int]:
    """Read the pages out of a log that nobody writes any more."""
    pages: list[int] = []
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


def _clear(event: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(event)
