"""A back end that answers everything properly, but for what a test wants it to do instead."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.transport.frontend import DisconnectedError

from virtio.transport.unix import ancillary
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import (
    Decoder,
    Message,
    encode_acknowledgement,
    encode_reply,
)
from virtio.transport.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FRONT_END,
    NO_DESCRIPTOR,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import ConfigAccess, VringState

FEATURES = 1 << 32 | 1 << 29 | 1 << 28 | F_PROTOCOL_FEATURES

Deed = Callable[["Rogue", Message, bytes], None]
"""What to do at a message, given the proper answer to it (empty: there is none)."""


def silence(rogue: "Rogue", _message: Message, _answer: bytes) -> None:
    """Never answer."""
    rogue.sulk()


class Rogue:
    """The back end's end of a socket pair, on a thread."""

    def __init__(self, at: str, deed: Deed, *, protocol: int = PROTOCOL_FEATURES | IN_BAND) -> None:
        self.socket, theirs = socket.socketpair()
        self.place = f"fd={theirs.detach()}"
        self.channel: socket.socket | None = None
        self.memory_fds: list[int] = []
        self.done = 0
        self._at, self._deed = at, deed
        self._protocol = protocol
        self._status = 0
        self._acknowledges = False
        self._decoder = Decoder(FRONT_END)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.socket.close()
        if self.channel is not None:
            self.channel.close()
        for fd in self.memory_fds:
            os.close(fd)
        self._decoder.close()

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send whatever it is."""
        self.socket.setblocking(True)
        with contextlib.suppress(OSError):
            ancillary.send(self.socket, data, fds)

    def hang_up(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        raise DisconnectedError

    def sulk(self) -> None:
        """Do nothing until the test is over."""
        self._over.wait()
        raise DisconnectedError

    def _run(self) -> None:
        with contextlib.suppress(DisconnectedError, OSError):
            while True:
                self.socket.setblocking(True)
                first = self.socket.recv(1, socket.MSG_PEEK)
                received = ancillary.receive(self.socket, self._decoder.wanted)
                if not first or received is None or not received.data:
                    return
                for message in self._decoder.receive(received.data, received.fds):
                    self._take(message)

    def _take(self, message: Message) -> None:
        assert message.kind is not None
        assert message.problem is None, message.problem
        name = message.kind.name
        if name == "SET_BACKEND_REQ_FD":
            self.channel = socket.socket(fileno=message.take_fd())
        loading = name == "SET_DEVICE_STATE_FD" and message.payload.direction == 1
        if loading or name in ("ADD_MEM_REG", "SET_MEM_TABLE"):
            self.memory_fds += message.fds
            message.fds.clear()
        message.close()
        answer = self._answer(message, name)
        if name == self._at:
            self.done += 1
            self._deed(self, message, answer)
        elif answer:
            self.send(answer)

    def _answer(self, message: Message, name: str) -> bytes:
        kind = message.kind
        assert kind is not None
        if name == "SET_PROTOCOL_FEATURES":
            self._acknowledges = bool(message.payload & ProtocolFeature.REPLY_ACK.mask)
        if name == "SET_STATUS":
            self._status = message.payload
        if kind.reply is not None:
            return encode_reply(kind, self._value(name, message.payload))
        if message.needs_reply and self._acknowledges:
            return encode_acknowledgement(kind.number, 0)
        return b""

    def _value(self, name: str, payload: Any) -> Any:
        match name:
            case "GET_FEATURES":
                return FEATURES
            case "GET_PROTOCOL_FEATURES":
                return self._protocol
            case "GET_QUEUE_NUM":
                return 2
            case "GET_MAX_MEM_SLOTS":
                return 8
            case "GET_STATUS":
                return self._status
            case "GET_CONFIG":
                return ConfigAccess(payload.offset, payload.size, 0, bytes(payload.size))
            case "GET_INFLIGHT_FD":
                return payload
            case "SET_DEVICE_STATE_FD":
                return NO_DESCRIPTOR
            case "CHECK_DEVICE_STATE":
                return 0
            case "GET_VRING_BASE":
                return VringState(payload.ring, 0)
        raise AssertionError(name)
