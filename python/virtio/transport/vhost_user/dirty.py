"""The dirty log of a connection on the device's side: where it is, and when it is written."""

import os

from virtio.errors import TransportError
from virtio.transport.interface import GuestMemory
from virtio.transport.vhost_user.payloads import LogArea


class DirtyLog:
    """Pages that the device writes are noted while there is a log and the front end asks for it."""

    def __init__(self, memory: GuestMemory, timeout: float) -> None:
        """Begin without a log. ``timeout`` bounds the wait until every queue writes it."""
        self._memory = memory
        self._timeout = timeout
        self._area: LogArea | None = None
        self._fd: int | None = None
        self._notify: int | None = None
        self._wanted = False

    def set_area(self, area: LogArea, fds: list[int]) -> None:
        """Take the log itself; another one takes its place at once."""
        if len(fds) != 1:
            raise TransportError("a log without a descriptor")
        if not 0 < area.size <= os.fstat(fds[0]).st_size - area.offset:
            raise TransportError(f"a log of {area.size} bytes from {area.offset}, which is not in its file")
        if self._wanted:
            self._memory.set_dirty_log(
                fds[0], area.size, area.offset, notify=self._notify, timeout=self._timeout
            )
        _close(self._fd)
        self._fd, self._area = os.dup(fds[0]), area

    def set_notify(self, fd: int) -> None:
        """Take the eventfd that says that there is something new in the log."""
        _close(self._notify)
        self._notify = os.dup(fd)
        self._apply()

    @property
    def wanted(self) -> bool:
        """Whether the front end asks for it."""
        return self._wanted

    def want(self, wanted: bool) -> None:
        """Begin or end to write it."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._apply()

    def close(self) -> None:
        """Forget it."""
        _close(self._fd)
        _close(self._notify)
        self._fd = self._notify = self._area = None

    def _apply(self) -> None:
        area, fd = self._area, self._fd
        if self._wanted and area is not None and fd is not None:
            self._memory.set_dirty_log(fd, area.size, area.offset, notify=self._notify, timeout=self._timeout)
        else:
            self._memory.set_dirty_log(None, timeout=self._timeout)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
