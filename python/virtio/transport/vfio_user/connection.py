"""The shell around a session: one client's socket, served on the thread of the device."""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable

from virtio.transport.unix.ancillary import Outbox, receive
from virtio.transport.unix.mailbox import Mailbox
from virtio.transport.vfio_user.actions import Action, Disconnect, Notice, Send
from virtio.transport.vfio_user.messages import MAX_PAYLOAD
from virtio.transport.vfio_user.session import Session

_log = logging.getLogger("virtio.transport.vfio_user")

_READS_PER_TURN = 64
_SETTLE_SECONDS = 0.02
"""How long a client that exchanges memory may pause before its memory is taken to be complete."""

_MAX_UNSENT = 64 * MAX_PAYLOAD


class Connection:
    """One client, from its connection to its end."""

    def __init__(
        self, client: socket.socket, begin: Callable[[Callable[[Notice], object]], Session], name: str
    ) -> None:
        """Take over the socket; ``begin`` makes the session."""
        self._name = name
        self._socket = client
        self._socket.setblocking(False)
        self._outbox = Outbox(client, _MAX_UNSENT)
        self._end: str | None = None
        self._heard = 0.0  # when the client last said something
        self._selector = selectors.DefaultSelector()
        self._mailbox: Mailbox[Notice] = Mailbox()
        try:
            self._session = begin(self._mailbox.post)
        except BaseException:
            self._mailbox.close()
            self._selector.close()
            raise

    def run(self, stop: int, waiting: socket.socket | None) -> str:
        """Serve until the client goes, or ``stop`` becomes readable; return why it ended."""
        register = self._selector.register
        register(stop, selectors.EVENT_READ, lambda _: self._finish("the server stops"))
        register(self._mailbox.fd, selectors.EVENT_READ, lambda _: self._read_mail())
        register(self._socket, selectors.EVENT_READ, self._on_socket)
        if waiting is not None:
            register(waiting, selectors.EVENT_READ, lambda _: self._leave_waiting(waiting))
        while self._end is None:
            timeout = None
            if self._session.unsettled:
                timeout = max(0.0, self._heard + _SETTLE_SECONDS - time.monotonic())
            for key, events in self._selector.select(timeout):
                if self._end is None:
                    key.data(events)
            if self._session.unsettled and time.monotonic() >= self._heard + _SETTLE_SECONDS:
                self._do(self._session.settle())
        return self._end

    def close(self) -> None:
        """Let go of the function, finishing what it has begun, and close everything."""
        with contextlib.ExitStack() as steps:
            steps.callback(self._socket.close)
            steps.callback(self._selector.close)
            steps.callback(self._mailbox.close)
            steps.callback(self._session.close)

    def _on_socket(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send()
        if events & selectors.EVENT_READ:
            for _ in range(_READS_PER_TURN):
                if self._end is not None or not self._read():
                    return

    def _read(self) -> bool:
        """Read up to the next boundary; tell whether there may be more."""
        try:
            received = receive(self._socket, self._session.wanted)
        except OSError as error:
            self._finish(error.strerror or str(error))
            return False
        if received is None:
            return False
        data, fds, lost = received
        if not data:
            self._finish("it hung up")
            return False
        self._do(self._session.receive(data, fds, lost=lost))
        self._heard = time.monotonic()
        return True

    def _read_mail(self) -> None:
        for notice in self._mailbox.take():
            self._do(self._session.notice(notice))

    def _leave_waiting(self, listening: socket.socket) -> None:
        self._selector.unregister(listening)
        _log.warning("%s: another client has connected; it waits until this one leaves", self._name)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(data, fds):
                    self._send(data, fds)
                case Disconnect(reason):
                    self._finish(reason)

    def _send(self, data: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        try:
            if data:
                self._outbox.send(data, fds)
            else:
                self._outbox.flush()
        except OSError as error:
            self._finish(error.strerror or str(error))
            return
        if self._outbox.overfull:
            self._finish("it does not read what it is sent")
        # Wait for room only while there is something to send.
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox.pending else 0)
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events, self._on_socket)

    def _finish(self, reason: str) -> None:
        if self._end is None:
            self._end = reason
