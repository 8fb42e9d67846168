"""Bytes and descriptors through a socket that does not block."""

import array
import os
import socket
from collections import deque
from typing import NamedTuple

MAX_UNSENT = 64 * 1024
"""Bytes that the other side may leave unread, where answers are small and few: it has stopped reading."""

# SCM_MAX_FD, the most that the kernel lets a message carry: nothing is cut off for want of room.
_MAX_FDS = 253
_ANCILLARY_SIZE = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)


class Received(NamedTuple):
    """What one read brought."""

    data: bytes
    fds: list[int]
    lost: bool
    """Descriptors could not be delivered."""


def receive(source: socket.socket, wanted: int) -> Received | None:
    """Read up to ``wanted`` bytes; None: there are none yet. At the end of the stream they are empty."""
    try:
        data, ancillary, flags, _ = source.recvmsg(
            wanted, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
    except BlockingIOError:
        return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        for fd in fds:
            os.close(fd)
        return Received(b"", [], False)
    return Received(data, fds.tolist(), bool(flags & socket.MSG_CTRUNC))


def send(target: socket.socket, data: bytes | memoryview, fds: tuple[int, ...] = ()) -> int:
    """Send what the socket takes now; raises BlockingIOError if that is nothing."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return target.sendmsg([data], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


class Outbox:
    """What a socket could not take yet."""

    def __init__(self, target: socket.socket, most: int = MAX_UNSENT) -> None:
        """Send to ``target``, which does not block; more than ``most`` bytes waiting are too many."""
        self._most = most
        self._socket = target
        self._waiting: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._own: set[int] = set()
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._waiting)

    @property
    def overfull(self) -> bool:
        """Whether too much waits."""
        return self._size > self._most

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send now, or when the socket takes it: until then it has duplicates of the descriptors."""
        self._waiting.append((memoryview(data), fds))
        self._size += len(data)
        self.flush()
        if fds and self._waiting and self._waiting[-1][1] == fds:
            kept = tuple(os.dup(fd) for fd in fds)
            self._own.update(kept)
            self._waiting[-1] = (self._waiting[-1][0], kept)

    def flush(self) -> None:
        """Send what the socket takes."""
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                sent = send(self._socket, data, fds)
            except BlockingIOError:
                return
            self._size -= sent
            self._waiting.popleft()
            self._close(fds)
            if sent < len(data):
                self._waiting.appendleft((data[sent:], ()))

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._size = 0
        self._close(tuple(self._own))

    def _close(self, fds: tuple[int, ...]) -> None:
        for fd in self._own.intersection(fds):
            self._own.discard(fd)
            os.close(fd)
