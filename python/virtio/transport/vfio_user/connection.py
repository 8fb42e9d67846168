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


class _Channel:
    """A socket to the client, and what takes what comes by it."""

    def __init__(
        self, connected: socket.socket, wanted: Callable[[], int], take: Callable[..., list[Action]]
    ) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.outbox = Outbox(connected, _MAX_UNSENT)
        self.wanted = wanted
        self.take = take


class Connection:
    """One client, from its connection to its end."""

    def __init__(
        self,
        client: socket.socket,
        begin: Callable[[Callable[[Notice], object], Callable[[], int]], Session],
        name: str,
    ) -> None:
        """Take over the socket; ``begin`` makes the session, given what posts notices, opens a second one."""
        self._name = name
        self._main = _Channel(
            client, lambda: self._session.wanted, lambda *a, **k: self._session.receive(*a, **k)
        )
        self._twin: _Channel | None = None
        self._end: str | None = None
        self._heard = 0.0  # when the client last said something
        self._selector = selectors.DefaultSelector()
        self._mailbox: Mailbox[Notice] = Mailbox()
        try:
            self._session = begin(self._mailbox.post, self._open_twin)
        except BaseException:
            self._mailbox.close()
            self._selector.close()
            raise

    def run(self, stop: int, waiting: socket.socket | None) -> str:
        """Serve until the client goes, or ``stop`` becomes readable; return why it ended."""
        register = self._selector.register
        register(stop, selectors.EVENT_READ, lambda _: self._finish("the server stops"))
        register(self._mailbox.fd, selectors.EVENT_READ, lambda _: self._read_mail())
        register(self._main.socket, selectors.EVENT_READ, self._on_main)
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
            for channel in (self._main, self._twin):
                if channel is not None:
                    steps.callback(channel.outbox.close)
                    steps.callback(channel.socket.close)
            steps.callback(self._selector.close)
            steps.callback(self._mailbox.close)
            steps.callback(self._session.close)

    def _open_twin(self) -> int:
        """Make a second socket, on which we ask and the client answers; return its end."""
        ours, theirs = socket.socketpair()
        self._twin = _Channel(ours, lambda: self._session.twin_wanted, self._session.receive_twin)
        self._selector.register(ours, selectors.EVENT_READ, self._on_twin)
        return theirs.detach()

    def _on_main(self, events: int) -> None:
        self._on_socket(self._main, events)

    def _on_twin(self, events: int) -> None:
        assert self._twin is not None
        self._on_socket(self._twin, events)

    def _on_socket(self, channel: _Channel, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(channel)
        if events & selectors.EVENT_READ:
            for _ in range(_READS_PER_TURN):
                if self._end is not None or not self._read(channel):
                    return

    def _read(self, channel: _Channel) -> bool:
        """Read up to the next boundary; tell whether there may be more."""
        try:
            received = receive(channel.socket, channel.wanted())
        except OSError as error:
            self._finish(error.strerror or str(error))
            return False
        if received is None:
            return False
        data, fds, lost = received
        if not data:
            self._finish("it hung up")
            return False
        self._do(channel.take(data, fds, lost=lost))
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
                case Send(data, fds, twin):
                    channel = self._twin if twin else self._main
                    assert channel is not None
                    self._send(channel, data, fds)
                case Disconnect(reason):
                    self._finish(reason)

    def _send(self, channel: _Channel, data: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        outbox = channel.outbox
        try:
            if data:
                outbox.send(data, fds)
            else:
                outbox.flush()
        except OSError as error:
            self._finish(error.strerror or str(error))
            return
        if outbox.overfull:
            self._finish("it does not read what it is sent")
        # Wait for room only while there is something to send.
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if outbox.pending else 0)
        key = self._selector.get_key(channel.socket)
        if key.events != events:
            self._selector.modify(channel.socket, events, key.data)

    def _finish(self, reason: str) -> None:
        if self._end is None:
            self._end = reason
