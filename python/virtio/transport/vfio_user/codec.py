"""Bytes and descriptors to messages, and back; no sockets."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from virtio.transport.unix.framing import Framer, FramingError, close_all
from virtio.transport.vfio_user.messages import MAX_PAYLOAD, TYPE_MASK, Flag, command_name

HEADER = struct.Struct("=HHIII")


@dataclass(slots=True)
class Message:
    """A message as it came."""

    id: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: list[int] = field(default_factory=list)
    """Descriptors that came with it. Whoever handles the message closes them."""
    problem: str | None = None
    """Why it cannot be acted on. Its end was found, so the next one can be read."""

    @property
    def is_reply(self) -> bool:
        """Whether it answers something."""
        return self.flags & TYPE_MASK == Flag.REPLY

    @property
    def is_command(self) -> bool:
        """Whether it asks for something."""
        return self.flags & TYPE_MASK == 0

    @property
    def wants_reply(self) -> bool:
        """Whether the sender waits for an answer."""
        return not self.flags & Flag.NO_REPLY

    @property
    def failed(self) -> bool:
        """Whether it is an answer that says no."""
        return bool(self.flags & Flag.ERROR)

    @property
    def reason(self) -> str:
        """Why it says no, as far as it tells."""
        return os.strerror(self.error) if 0 < self.error < 4096 else "no reason given"

    @property
    def name(self) -> str:
        """What to call it in a log."""
        return command_name(self.command)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.fds)
        self.fds.clear()


class Decoder:
    """Finds messages in what is received."""

    def __init__(self) -> None:
        """Begin with the first message."""
        self._framer = Framer(HEADER.size, _measure)

    @property
    def failure(self) -> str | None:
        """Why no further message can be found; what is received then is dropped."""
        return self._framer.failure

    @property
    def wanted(self) -> int:
        """Bytes to the end of the header, then to the end of the message."""
        return self._framer.wanted

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Message]:
        """Take bytes and the descriptors that came with them; return the messages that are complete now.

        See :meth:`virtio.transport.unix.framing.Framer.receive`.
        """
        messages = []
        for frame in self._framer.receive(data, fds, lost=lost):
            number, command, _, flags, error = HEADER.unpack_from(frame.data)
            payload = frame.data[HEADER.size :]
            messages.append(Message(number, command, flags, error, payload, frame.fds, frame.problem))
        return messages

    def close(self) -> None:
        """Close the descriptors of a message that was never complete."""
        self._framer.close()


def _measure(buffer: bytearray) -> int:
    _, command, size, _, _ = HEADER.unpack_from(buffer)
    if not HEADER.size <= size <= HEADER.size + MAX_PAYLOAD:
        raise FramingError(f"{command_name(command)} announces {size} bytes")
    return int(size)


def encode_command(id: int, command: int, payload: bytes = b"", *, reply: bool = True) -> bytes:  # noqa: A002
    """Return the bytes of a command."""
    return encode(id, command, 0 if reply else Flag.NO_REPLY, payload)


def encode_reply(message: Message, payload: bytes = b"") -> bytes:
    """Return the bytes of the answer to a command."""
    return encode(message.id, message.command, Flag.REPLY, payload)


def encode_error(message: Message, error: int) -> bytes:
    """Return the bytes that say that a command failed. Only a header: no payload goes with it."""
    return encode(message.id, message.command, Flag.REPLY | Flag.ERROR, b"", error)


def encode(id: int, command: int, flags: int, payload: bytes, error: int = 0) -> bytes:  # noqa: A002
    """Return the bytes of any message, sensible or not."""
    return HEADER.pack(id, command, HEADER.size + len(payload), flags, error) + payload
