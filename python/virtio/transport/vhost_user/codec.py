"""Bytes and descriptors to messages, and back; no sockets.

The bytes of a message come in any pieces. Its descriptors come with its first byte: the sender attaches them
to the call that sends it, and the kernel delivers them with it. To be sure which message they belong to, read
:attr:`Decoder.wanted` bytes at a time: never across the end of a message.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtio.transport.vhost_user.messages import VERSION_MASK, Flag, MessageType, Table
from virtio.transport.vhost_user.payloads import EMPTY, MAX_PAYLOAD, U64, PayloadError

_HEADER = struct.Struct("=III")


@dataclass(slots=True)
class Message:
    """A message as it came."""

    number: int
    flags: int
    kind: MessageType | None
    """Its row in the table; None: not one that we know."""
    payload: Any = None
    """What its form says; the bytes if it is unknown."""
    fds: list[int] = field(default_factory=list)
    """Descriptors that came with it. Whoever handles the message closes them."""
    problem: str | None = None
    """Why it cannot be acted on. Its end was found, so the next one can be read."""

    @property
    def is_reply(self) -> bool:
        """Whether it answers something."""
        return bool(self.flags & Flag.REPLY)

    @property
    def needs_reply(self) -> bool:
        """Whether the sender waits to hear how it went."""
        return bool(self.flags & Flag.NEED_REPLY)

    def take_fd(self) -> int:
        """Take over the first descriptor."""
        return self.fds.pop(0)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.fds)
        self.fds.clear()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


class Decoder:
    """Finds the messages of one direction in what is received."""

    def __init__(self, table: Table) -> None:
        """Expect messages of ``table``: requests, and replies to them."""
        self._table = table
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._problem: str | None = None
        self.failure: str | None = None
        """Why no further message can be found; what is received then is dropped."""

    @property
    def wanted(self) -> int:
        """Bytes to the end of the header, then to the end of the message."""
        if len(self._buffer) < _HEADER.size:
            return _HEADER.size - len(self._buffer)
        return _HEADER.size + int(_HEADER.unpack_from(self._buffer)[2]) - len(self._buffer)

    @property
    def midway(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Message]:
        """Take bytes and the descriptors that came with them; return the messages that are complete now.

        ``lost``: the system could not deliver all descriptors (MSG_CTRUNC). The decoder owns ``fds`` from
        here, until it hands them out with a message.
        """
        if self.failure is not None or not data:
            close_all(fds)
            return []
        arrived = list(fds)
        if not self._buffer:
            self._fds, arrived = arrived, []
        self._buffer += data
        messages: list[Message] = []
        while (message := self._next()) is not None:
            messages.append(message)
            if self._buffer and arrived:
                self._fds, arrived = arrived, []
        if lost:
            self._blame("descriptors were lost, perhaps for want of free ones", messages)
        if arrived:
            close_all(arrived)
            self._blame("descriptors came after the first byte", messages)
        return messages

    def close(self) -> None:
        """Close the descriptors of a message that was never complete."""
        close_all(self._fds)
        self._fds = []
        self._buffer.clear()

    def _blame(self, problem: str, messages: list[Message]) -> None:
        if self._buffer or not messages:
            self._problem = self._problem or problem
        else:
            messages[-1].problem = messages[-1].problem or problem

    def _next(self) -> Message | None:
        if len(self._buffer) < _HEADER.size or self.failure is not None:
            return None
        number, flags, size = _HEADER.unpack_from(self._buffer)
        if flags & VERSION_MASK != Flag.VERSION:
            self._fail(f"{self._table.name(number)} has version {flags & VERSION_MASK}, not 1")
            return None
        if size > MAX_PAYLOAD:
            self._fail(f"{self._table.name(number)} announces {size} bytes of payload")
            return None
        end = _HEADER.size + size
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        message = Message(number, flags, self._table.by_number.get(number), payload, self._fds, self._problem)
        self._fds, self._problem = [], None
        _interpret(message)
        return message

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.close()


def _interpret(message: Message) -> None:
    """Replace the bytes by what they mean, or say why that is not possible."""
    kind = message.kind
    if kind is None:
        return
    least, most = (0, 1) if message.is_reply else kind.descriptors
    if message.problem is None and len(message.fds) > most:
        message.problem = f"{len(message.fds)} descriptors came where at most {most} may"
    elif message.problem is None and len(message.fds) < least:
        message.problem = "the descriptor is missing"
    form = (kind.reply or U64) if message.is_reply else kind.request
    try:
        message.payload = form.decode(message.payload)
    except PayloadError as error:
        message.payload = None
        message.problem = message.problem or str(error)


def encode_request(kind: MessageType, payload: Any = None, *, need_reply: bool = False) -> bytes:
    """Return the bytes of a request."""
    flags = Flag.VERSION | (Flag.NEED_REPLY if need_reply else 0)
    return encode(kind.number, flags, kind.request.encode(payload))


def encode_reply(kind: MessageType, payload: Any = None) -> bytes:
    """Return the bytes of the answer that a message always gets."""
    return encode(kind.number, Flag.VERSION | Flag.REPLY, (kind.reply or EMPTY).encode(payload))


def encode_acknowledgement(number: int, value: int) -> bytes:
    """Return the bytes that say how a message went: 0 well, else not."""
    return encode(number, Flag.VERSION | Flag.REPLY, U64.encode(value))


def encode(number: int, flags: int, payload: bytes) -> bytes:
    """Return the bytes of any message, sensible or not."""
    return _HEADER.pack(number, flags, len(payload)) + payload
