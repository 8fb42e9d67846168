"""The descriptors by which a driver and the queue of its device notify each other."""

import contextlib
import os
import threading
from collections.abc import Callable


class Notifier:
    """The notifications of one queue: a :class:`~virtio.driver.wire.QueueWire`."""

    def __init__(self, kick: Callable[[int], object] | None = None) -> None:
        """Make the descriptors.

        ``kick`` is the transport's own way to notify the device, if it has one, called with what
        VIRTIO_F_NOTIFICATION_DATA tells.
        """
        self._own_kick = kick
        self._lock = threading.Lock()
        self._closed = False
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        fds: list[int] = []
        try:
            fds += (os.eventfd(0, flags) for _ in range(3))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        self.device_kick_fd, self.call_fd, self.error_fd = fds

    @property
    def kick_fd(self) -> int | None:
        """What a driver writes to; None: it calls :meth:`kick`."""
        return self.device_kick_fd if self._own_kick is None else None

    def kick(self, data: int = 0) -> None:
        """Notify the device of available buffers. On a queue that was stopped: nothing."""
        if self._own_kick is None:
            self._signal(self.device_kick_fd)  # no eventfd carries the data
        elif not self._closed:
            self._own_kick(data)

    def call(self) -> None:
        """Notify the driver of used buffers."""
        self._signal(self.call_fd)

    @property
    def closed(self) -> bool:
        """Whether the queue was stopped."""
        return self._closed

    def close(self) -> None:
        """Close the descriptors: their numbers may be somebody else's soon."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for fd in (self.device_kick_fd, self.call_fd, self.error_fd):
                    os.close(fd)

    def _signal(self, fd: int) -> None:
        # A full counter is as good as a signal.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.eventfd_write(fd, 1)
