"""The shell around a front end: a connection to a back end, read by a thread of its own.

Whoever calls sends its requests itself and waits for the answers; the thread reads everything that the back
end sends, so that it is noticed at once when it goes, and answered while callers wait.
"""

import contextlib
import logging
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence

from virtio.errors import Error, RefusedError, TransportError
from virtio.transport.unix.ancillary import Outbox, receive, send
from virtio.transport.unix.connector import unanswered
from virtio.transport.vhost_user.exchange import (
    Answer,
    Ask,
    Exchange,
    FrontEndChannel,
    News,
    QueueBroke,
    Script,
    T,
    ViolationError,
)

_log = logging.getLogger("virtio.transport.vhost_user")


class Client:
    """One connection, until it is lost or closed."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        name: str,
        timeout: float,
        on_news: Callable[[News], object],
        on_lost: Callable[[Error], object],
    ) -> None:
        """Take over the socket. The callbacks are called on the connection's thread: they must not wait."""
        self._name = name
        self._timeout = timeout
        self._on_news = on_news
        self._on_lost = on_lost
        self._socket = connection
        self._socket.setblocking(False)
        self._turn = threading.Lock()
        self._state = threading.Condition()
        self._sending = threading.Lock()
        self._exchange = Exchange()
        self._answer: Answer | RefusedError | None = None
        self._heard = False
        self._failure: Error | None = None
        self._channel: tuple[socket.socket, Outbox, FrontEndChannel] | None = None
        self._chores: list[Callable[[], object]] = []
        self._ending = False
        self._released = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ, self._read_socket)
        self._selector.register(self._wake, selectors.EVENT_READ, self._do_chores)
        self._thread = threading.Thread(target=self._run, name=f"vhost-user {name}", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Error | None:
        """Why the connection is of no use any more."""
        return self._failure

    def call(self, script: Script[T]) -> T:
        """Carry out a procedure; all of it within the timeout."""
        with self._turn:
            deadline = time.monotonic() + self._timeout
            try:
                step = next(script)
                while True:
                    try:
                        answer = self._ask(step, deadline)
                    except RefusedError as refusal:
                        step = script.throw(refusal)
                    else:
                        step = script.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            except ViolationError as error:
                self._lose(error)
                raise
            finally:
                script.close()

    def acknowledge(self) -> None:
        """REPLY_ACK is negotiated."""
        self._exchange.acknowledged = True

    def open_channel(self, channel: FrontEndChannel) -> int:
        """Open the back end's own channel; return the descriptor to hand over, and close afterwards."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        ours.setblocking(False)
        with self._state:
            if self._released:
                ours.close()
                theirs.close()
                self.check()
            self._channel = (ours, Outbox(ours), channel)
        self._later(lambda: self._selector.register(ours, selectors.EVENT_READ, self._read_channel))
        return theirs.detach()

    def settle(self, ticket: int, done: bool) -> None:
        """Acknowledge a miss: it was answered, or cannot be."""
        self._later(lambda: self._settle(ticket, done))

    def watch_error(self, fd: int, queue: int) -> None:
        """Report when a queue's error descriptor is signalled."""

        def report(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 8)
                self._on_news(QueueBroke(queue))

        self._later(lambda: self._selector.register(fd, selectors.EVENT_READ, report), wait=True)

    def forget_error(self, fd: int) -> None:
        """Watch a descriptor no more; when this returns, it may be closed."""
        self._later(lambda: self._unregister(fd), wait=True)

    def close(self) -> None:
        """End the connection. From the connection's own thread it only begins to."""
        self._ending = True
        self._poke()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- the caller's thread

    def _ask(self, ask: Ask, deadline: float) -> Answer:
        with self._state:
            self.check()
            data, answered = self._exchange.request(ask)
            self._answer = None
        self._send(data, ask.fds, deadline, ask.name)
        if not answered:
            return Answer()
        with self._state:
            self._state.wait_for(
                lambda: self._answer is not None or self._failure is not None, deadline - time.monotonic()
            )
            found, self._answer = self._answer, None
            if found is None:
                self.check()
        if found is None:
            raise self._lose(unanswered(ask.name, self._timeout, first=not self._heard))
        self._heard = True
        if isinstance(found, RefusedError):
            raise found
        return found

    def _send(self, data: bytes, fds: Sequence[int], deadline: float, name: str) -> None:
        left = memoryview(data)
        passed = tuple(fds)
        while left:
            try:
                with self._sending:  # else the descriptor could be closed, and be another one's already
                    left, passed = left[send(self._socket, left, passed) :], ()
            except BlockingIOError:
                poll = select.poll()
                with self._sending:
                    if self._socket.fileno() < 0:
                        continue
                    poll.register(self._socket, select.POLLOUT)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    lost = TransportError(f"the back end does not read {name} within {self._timeout:g} s")
                    raise self._lose(lost) from None
            except OSError as error:
                raise self._lose(TransportError(f"cannot send {name}: {error.strerror}")) from error

    def check(self) -> None:
        """Raise the error that ended the connection, if it is ended."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args) from self._failure
        if self._ending:
            raise TransportError("the connection is closed")

    def _lose(self, error: Error) -> Error:
        """Give up, for the first reason that there is; return it."""
        with self._state:
            first = self._failure is None and not self._ending
            if self._failure is None:
                self._failure = error
            self._state.notify_all()
        self._poke()
        if first:
            _log.info("%s: the connection is lost: %s", self._name, error)
            self._on_lost(error)
        return self._failure

    def _later(self, chore: Callable[[], object], *, wait: bool = False) -> None:
        """Have the thread do something; a selector is not to be changed by others."""
        if threading.current_thread() is self._thread:
            chore()
            return
        done = threading.Event()

        def do() -> None:
            chore()
            done.set()

        with self._state:
            self._chores.append(do)
        self._poke()
        while wait and self._thread.is_alive() and not done.wait(0.05):
            pass

    def _poke(self) -> None:
        with self._state:
            if not self._released:
                os.eventfd_write(self._wake, 1)

    # --- the connection's thread

    def _run(self) -> None:
        try:
            while not self._ending and self._failure is None:
                for key, events in self._selector.select():
                    key.data(events)
        except Exception as error:
            _log.exception("%s: the connection fails", self._name)
            self._lose(TransportError(f"an error of our own: {error}"))
        finally:
            self._release()

    def _release(self) -> None:
        with self._state:
            self._released = True
            self._failure = self._failure or TransportError("the connection is closed")
            self._state.notify_all()
            if isinstance(self._answer, Answer) and self._answer.fd is not None:
                os.close(self._answer.fd)
            self._answer = None
        self._selector.close()
        self._exchange.close()
        with self._sending:
            self._socket.close()
        if self._channel is not None:
            self._channel[0].close()
            self._channel[2].close()
        os.close(self._wake)

    def _do_chores(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._state:
            chores, self._chores = self._chores, []
        for chore in chores:
            chore()

    def _read_socket(self, _: int) -> None:
        try:
            received = receive(self._socket, self._exchange.wanted)
        except OSError as error:
            self._lose(TransportError(f"the connection broke: {error.strerror}"))
            return
        if received is None:
            return
        if not received.data:
            self._lose(TransportError("the back end hung up"))
            return
        try:
            with self._state:
                answer: Answer | RefusedError | None
                try:
                    answer = self._exchange.receive(received.data, received.fds, lost=received.lost)
                except RefusedError as refusal:
                    answer = refusal
                if answer is not None:
                    self._answer = answer
                    self._state.notify_all()
        except ViolationError as error:
            self._lose(error)

    def _read_channel(self, events: int) -> None:
        assert self._channel is not None
        ours, outbox, channel = self._channel
        try:
            if events & selectors.EVENT_WRITE:
                outbox.flush()
            received = receive(ours, channel.wanted) if events & selectors.EVENT_READ else None
            if received is not None and not received.data:
                # It needs no channel to go on; should it be gone itself, the other socket tells.
                self._unregister(ours)
                return
            if received is not None:
                news, answer = channel.receive(received.data, received.fds, lost=received.lost)
                for item in news:
                    self._on_news(item)
                if answer:
                    outbox.send(answer)
        except OSError:
            self._unregister(ours)
            return
        except ViolationError as error:
            self._lose(error)
            return
        self._adjust(ours, outbox)

    def _settle(self, ticket: int, done: bool) -> None:
        assert self._channel is not None
        ours, outbox, channel = self._channel
        try:
            if answer := channel.settle(ticket, done):
                outbox.send(answer)
        except OSError:
            self._unregister(ours)
            return
        self._adjust(ours, outbox)

    def _adjust(self, ours: socket.socket, outbox: Outbox) -> None:
        if outbox.overfull:
            self._lose(ViolationError("the back end does not read the answers on its own channel"))
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if outbox.pending else 0)
        registered = self._selector.get_map().get(ours)
        if registered is not None and registered.events != wanted:
            self._selector.modify(ours, wanted, self._read_channel)

    def _unregister(self, target: socket.socket | int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(target)
