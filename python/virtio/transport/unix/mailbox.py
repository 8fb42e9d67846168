"""News from any thread to the one that serves a connection."""

import contextlib
import os
import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class Mailbox(Generic[N]):
    """Notices from any thread to the thread of the connection. Equal ones that wait are one."""

    def __init__(self) -> None:
        """Open the descriptor that becomes readable when there is mail."""
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._waiting: dict[N, None] = {}
        self._closed = False

    def post(self, notice: N) -> None:
        """Leave a notice; dropped if nobody will read it any more."""
        with self._lock:
            if not self._closed:
                self._waiting[notice] = None
                os.eventfd_write(self.fd, 1)

    def take(self) -> list[N]:
        """Return all notices in order."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            notices = list(self._waiting)
            self._waiting.clear()
            return notices

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
