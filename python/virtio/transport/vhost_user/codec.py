"""Bytes and descriptors to messages, and back; no sockets."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from virtio.transport.unix.framing import Frame, Framer, FramingError, close_all
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


class Decoder:
    """Finds the messages of one direction in what is received."""

    def __init__(self, table: Table) -> None:
        """Expect messages of ``table``: requests, and replies to them."""
        self._table = table
        self._framer = Framer(_HEADER.size, self._measure)

    @property
    def failure(self) -> str | None:
        """Why no further message can be found; what is received then is dropped."""
        return self._framer.failure

    @property
    def wanted(self) -> int:
        """Bytes to the end of the header, then to the end of the message."""
        return self._framer.wanted

    @property
    def midway(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._framer.midway

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Message]:
        """Take bytes and the descriptors that came with them; return the messages that are complete now.

        See :meth:`virtio.transport.unix.framing.Framer.receive`.
        """
        return [self._message(frame) for frame in self._framer.receive(data, fds, lost=lost)]

    def close(self) -> None:
        """Close the descriptors of a message that was never complete."""
        self._framer.close()

    def _measure(self, buffer: bytearray) -> int:
        number, flags, size = _HEADER.unpack_from(buffer)
        if flags & VERSION_MASK != Flag.VERSION:
            raise FramingError(f"{self._table.name(number)} has version {flags & VERSION_MASK}, not 1")
        if size > MAX_PAYLOAD:
            raise FramingError(f"{self._table.name(number)} announces {size} bytes of payload")
        return _HEADER.size + int(size)

    def _message(self, frame: Frame) -> Message:
        number, flags, _ = _HEADER.unpack_from(frame.data)
        kind = self._table.by_number.get(number)
        message = Message(number, flags, kind, frame.data[_HEADER.size :], frame.fds, frame.problem)
        _interpret(message)
        return message


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
