"""The client's end of a second socket, on which the server asks and the client answers."""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable

from virtio.errors import Error, TransportError
from virtio.transport.unix.ancillary import receive, send
from virtio.transport.vfio_user.exchange import ClientMemory, Exchange, ViolationError


class Twin:
    """A thread that answers what comes by one socket, whatever happens on the other."""

    def __init__(self, fd: int, memory: ClientMemory, lose: Callable[[Error], object], *, name: str) -> None:
        """Take over ``fd``; ``lose`` is told when the server does not keep to the protocol, or is gone.

        Raises :exc:`ViolationError` if this is no such socket.
        """
        self._socket = _connected(fd)
        self._lose = lose
        self._exchange = Exchange(memory)
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"vfio-user {name}, asked", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End. From its own thread it only begins to. Twice: harmless."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._closing, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait(select.POLLIN):
                received = receive(self._socket, self._exchange.wanted)
                if received is None:
                    continue
                if not received.data:
                    self._lose(TransportError("the server hung up"))
                    return
                answers, outgoing = self._exchange.receive(received.data, received.fds, lost=received.lost)
                assert not answers  # nothing was asked here, so that an answer is a violation
                if not self._put(outgoing):
                    return
        except ViolationError as error:
            self._lose(error)
        except OSError as error:
            self._lose(TransportError(f"the connection broke: {error.strerror}"))
        finally:
            with self._lock:
                self._closed = True
                self._exchange.close()
                self._socket.close()
                os.close(self._closing)

    def _wait(self, events: int) -> bool:
        """Wait for the socket; False: it is to end."""
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        poll.register(self._socket, events)
        return self._closing not in (fd for fd, _ in poll.poll())

    def _put(self, data: bytes) -> bool:
        left = memoryview(data)
        while left:
            with contextlib.suppress(BlockingIOError):
                left = left[send(self._socket, left) :]
            if left and not self._wait(select.POLLOUT):
                return False
        return True


def _connected(fd: int) -> socket.socket:
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise ViolationError("the second socket is none") from error
    if (found.family, found.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        found.close()
        raise ViolationError("the second socket is of another kind")
    found.setblocking(False)
    return found
