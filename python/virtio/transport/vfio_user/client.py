"""The shell around an exchange: a connection to a server, read by a thread of its own.

Whoever calls sends its commands itself and waits for the answers, several callers at once; the thread reads
everything that the server sends, so that it is noticed at once when it goes, and served while callers wait.
"""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

from virtio.errors import Error, RefusedError, TransportError
from virtio.transport.unix.ancillary import receive, send
from virtio.transport.unix.connector import unanswered
from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user.exchange import Answer, ClientMemory, Exchange, ViolationError
from virtio.transport.vfio_user.messages import Command
from virtio.transport.vfio_user.twin import Twin

_log = logging.getLogger("virtio.transport.vfio_user")


class Client:
    """One connection, until it is lost or closed."""

    def __init__(self, connection: socket.socket, memory: ClientMemory, *, name: str, timeout: float) -> None:
        """Take over the socket; the server may reach ``memory``."""
        self._name = name
        self._timeout = timeout
        self._socket = connection
        self._socket.setblocking(False)
        self._memory = memory
        self._twin: Twin | None = None
        self._exchange = Exchange(memory)
        self._state = threading.Condition()
        self._turn = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._waited_for: set[int] = set()
        self._failure: Error | None = None
        self._tell: Callable[[Error], object] | None = None
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"vfio-user {name}", daemon=True)
        self._thread.start()

    def call(
        self, command: Command, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> tuple[bytes, list[int]]:
        """Carry out a command and return its answer; the descriptors in it are the caller's."""
        deadline = time.monotonic() + self._timeout
        number = self._send(command, payload, fds, deadline, reply=True)
        with self._state:
            self._state.wait_for(
                lambda: number in self._answers or self._failure is not None, deadline - time.monotonic()
            )
            self._waited_for.discard(number)
            answer = self._answers.pop(number, None)
        if answer is None:
            self.check()
            lost = unanswered(command.name, self._timeout, first=command is Command.VERSION)
            self._lose(lost)
            raise lost
        if answer.refusal is not None:
            raise RefusedError(answer.refusal)
        return answer.payload, answer.fds

    def post(self, command: Command, payload: bytes) -> None:
        """Send a command that is not answered."""
        self._send(command, payload, (), time.monotonic() + self._timeout, reply=False)

    def open_twin(self, fd: int) -> None:
        """Let the server ask by a socket of its own, which is taken over."""
        self._twin = Twin(fd, self._memory, self._lose, name=self._name)

    def on_lost(self, callback: Callable[[Error], object] | None) -> None:
        """Call this, once, when the connection is lost; at once if it is already."""
        with self._state:
            self._tell = callback
            failure = self._failure
        if failure is not None and callback is not None:
            callback(failure)

    def check(self) -> None:
        """Raise the error that ended the connection, if it is ended."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args) from self._failure

    def close(self) -> None:
        """End the connection. From its own thread it only begins to."""
        self.on_lost(None)
        self._lose(TransportError("the connection is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._twin is not None:
            self._twin.close()

    # --- any thread

    def _send(
        self, command: Command, payload: bytes, fds: Sequence[int], deadline: float, *, reply: bool
    ) -> int:
        with self._turn:
            with self._state:
                self.check()
                number, data = self._exchange.begin(command, payload, reply=reply)
                if reply:
                    self._waited_for.add(number)
            self._put(data, fds, deadline)
        return number

    def _put(self, data: bytes, fds: Sequence[int], deadline: float) -> None:
        left, passed = memoryview(data), tuple(fds)
        while left:
            try:
                left, passed = left[send(self._socket, left, passed) :], ()
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    lost = TransportError(f"the server does not read within {self._timeout:g} s")
                    self._lose(lost)
                    raise lost from None
            except OSError as error:
                lost = TransportError(f"the connection broke: {error.strerror}")
                self._lose(lost)
                raise lost from error

    def _lose(self, error: Error) -> None:
        with self._state:
            if self._failure is not None:
                return
            self._failure = error
            tell = self._tell
            self._state.notify_all()
            if not self._closed:
                os.eventfd_write(self._closing, 1)
        _log.debug("%s: the connection is lost: %s", self._name, error)
        if tell is not None:
            tell(error)

    # --- the connection's thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        try:
            while self._failure is None:
                poll.poll()
                if self._failure is None:
                    self._read()
        except Exception as error:
            _log.exception("%s: the connection fails", self._name)
            self._lose(TransportError(f"an error of our own: {error}"))
        finally:
            with self._state:
                self._closed = True
                for answer in self._answers.values():
                    close_all(answer.fds)
                self._answers.clear()
            self._exchange.close()
            with self._turn:
                self._socket.close()
            os.close(self._closing)

    def _read(self) -> None:
        try:
            received = receive(self._socket, self._exchange.wanted)
        except OSError as error:
            self._lose(TransportError(f"the connection broke: {error.strerror}"))
            return
        if received is None:
            return
        if not received.data:
            self._lose(TransportError("the server hung up"))
            return
        try:
            with self._state:
                answers, outgoing = self._exchange.receive(received.data, received.fds, lost=received.lost)
                for number, answer in answers:
                    if number in self._waited_for:
                        self._answers[number] = answer
                    else:  # nobody waits any more
                        close_all(answer.fds)
                self._state.notify_all()
        except ViolationError as error:
            self._lose(error)
            return
        if outgoing:
            # A failure to send has been noted: the loop ends.
            with contextlib.suppress(TransportError), self._turn:
                self._put(outgoing, (), time.monotonic() + self._timeout)
