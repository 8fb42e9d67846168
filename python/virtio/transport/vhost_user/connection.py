"""The shell around a session: one front end's sockets, served on the thread of the device."""

import contextlib
import logging
import selectors
import socket
from collections.abc import Callable

from virtio.transport.interface import DeviceEnd, GuestMemory
from virtio.transport.unix.ancillary import Outbox, receive
from virtio.transport.unix.mailbox import Mailbox
from virtio.transport.vhost_user.actions import (
    Action,
    Disconnect,
    DropChannel,
    Notice,
    Send,
    SendRequest,
    UseChannel,
    WatchTransfer,
)
from virtio.transport.vhost_user.session import Session
from virtio.transport.vhost_user.state_transfer import StateTransfer

_log = logging.getLogger("virtio.transport.vhost_user")

_READS_PER_TURN = 64


class Connection:
    """One front end, from its connection to its end."""

    def __init__(
        self,
        front_end: socket.socket,
        device: DeviceEnd,
        memory: GuestMemory,
        name: str,
        protocol_features: int,
    ) -> None:
        """Take over the socket and attach the device."""
        self._name = name
        self._socket = front_end
        self._socket.setblocking(False)
        self._outbox = Outbox(front_end)
        self._channel: socket.socket | None = None
        self._channel_outbox: Outbox | None = None
        self._transfer_fd = -1
        self._end: str | None = None
        self._selector = selectors.DefaultSelector()
        self._mailbox: Mailbox[Notice] = Mailbox()
        try:
            self._session = Session(
                device, memory, self._mailbox.post, name=name, protocol_features=protocol_features
            )
        except BaseException:
            self._mailbox.close()
            self._selector.close()
            raise

    def run(self, stop: int, waiting: socket.socket | None) -> str:
        """Serve until the front end goes, or ``stop`` becomes readable; return why it ended.

        ``waiting`` is where other front ends knock. They are left waiting: the one that is here may be
        about to leave, and then it is their turn.
        """
        self._watch(stop, lambda _: self._finish("the server stops"))
        self._watch(self._mailbox.fd, lambda _: self._read_mail())
        self._watch(self._socket, self._on_socket)
        if waiting is not None:
            self._watch(waiting, lambda _: self._leave_waiting(waiting))
        while self._end is None:
            for key, events in self._selector.select():
                if self._end is None:
                    key.data(events)
        return self._end

    def close(self) -> None:
        """Let go of the device, finishing what it has begun, and close everything."""
        try:
            self._session.close()
        finally:
            self._drop_channel()
            self._mailbox.close()
            self._selector.close()
            self._outbox.close()
            self._socket.close()

    # --- events

    def _on_socket(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ:
            for _ in range(_READS_PER_TURN):
                if self._end is not None or not self._read(self._socket):
                    return

    def _on_channel(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self._channel_outbox is not None:
            self._flush_channel(self._channel_outbox)
        if events & selectors.EVENT_READ and self._channel is not None:
            self._read(self._channel)

    def _read(self, source: socket.socket) -> bool:
        """Read up to the next boundary; tell whether there may be more."""
        main = source is self._socket
        wanted = self._session.wanted if main else self._session.channel_wanted
        try:
            received = receive(source, wanted)
        except OSError as error:
            self._lost(main, error.strerror or str(error))
            return False
        if received is None:
            return False
        data, fds, lost = received
        if not data:
            self._lost(main, "it hung up")
            return False
        take = self._session.receive if main else self._session.receive_channel
        self._do(take(data, fds, lost=lost))
        return True

    def _read_mail(self) -> None:
        for notice in self._mailbox.take():
            self._do(self._session.notice(notice))

    def _leave_waiting(self, listening: socket.socket) -> None:
        self._selector.unregister(listening)
        _log.warning("%s: another front end has connected; it waits until this one leaves", self._name)

    # --- actions

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(data, fds):
                    self._send(data, fds)
                case SendRequest(data):
                    self._send_request(data)
                case UseChannel(fd):
                    self._use_channel(fd)
                case DropChannel(reason):
                    _log.warning("%s: back-end channel closed: %s", self._name, reason)
                    self._drop_channel()
                case WatchTransfer(transfer):
                    self._watch_transfer(transfer)
                case Disconnect(reason):
                    self._finish(reason)

    def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        try:
            self._outbox.send(data, fds)
        except OSError as error:
            self._lost(True, error.strerror or str(error))
            return
        if self._outbox.overfull:
            self._finish("it does not read its answers")
        self._adjust(self._socket, self._outbox)

    def _flush(self) -> None:
        try:
            self._outbox.flush()
        except OSError as error:
            self._lost(True, error.strerror or str(error))
            return
        self._adjust(self._socket, self._outbox)

    def _send_request(self, data: bytes) -> None:
        if self._channel_outbox is not None:
            self._flush_channel(self._channel_outbox, data)

    def _flush_channel(self, outbox: Outbox, data: bytes = b"") -> None:
        try:
            if data:
                outbox.send(data)
            else:
                outbox.flush()
        except OSError as error:
            self._lost(False, error.strerror or str(error))
            return
        if outbox.overfull:
            self._finish("it does not read requests")
        if self._channel is not None:
            self._adjust(self._channel, outbox)

    def _use_channel(self, fd: int) -> None:
        self._drop_channel()
        self._channel = socket.socket(fileno=fd)
        self._channel.setblocking(False)
        self._channel_outbox = Outbox(self._channel)
        self._watch(self._channel, self._on_channel)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = self._channel_outbox = None

    def _watch_transfer(self, transfer: StateTransfer | None) -> None:
        if self._transfer_fd >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._transfer_fd)
            self._transfer_fd = -1
        if transfer is None or transfer.finished:
            return

        def step(_: int) -> None:
            transfer.step()
            if transfer.finished:
                self._watch_transfer(None)

        try:
            self._selector.register(transfer.fd, transfer.events, step)
        except PermissionError:  # a file, which is always ready
            transfer.run()
            return
        self._transfer_fd = transfer.fd

    def _lost(self, main: bool, reason: str) -> None:
        if main:
            self._finish(reason)
        else:
            _log.debug("%s: back-end channel: %s", self._name, reason)
            self._session.channel_closed()
            self._drop_channel()

    def _finish(self, reason: str) -> None:
        if self._end is None:
            self._end = reason

    def _watch(self, target: socket.socket | int, call: Callable[[int], object]) -> None:
        self._selector.register(target, selectors.EVENT_READ, call)

    def _adjust(self, target: socket.socket, outbox: Outbox) -> None:
        """Wait for room only while there is something to send."""
        key = self._selector.get_key(target)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if outbox.pending else 0)
        if key.events != events:
            self._selector.modify(target, events, key.data)
