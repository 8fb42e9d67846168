"""The client's side of a connection, without I/O: commands and their answers, and what the server asks.

A server that says something else than the protocol lets it is not to be spoken to any more:
:exc:`ViolationError`.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from virtio.errors import ConfigurationError, TransportError
from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user.codec import Decoder, Message, encode_command, encode_error, encode_reply
from virtio.transport.vfio_user.messages import MAX_TRANSFER, Command
from virtio.transport.vfio_user.payloads import DmaAccess, PayloadError


class ViolationError(TransportError):
    """The server does not keep to the protocol."""


class ClientMemory(Protocol):
    """What the server may reach by messages."""

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out; :exc:`~virtio.ConfigurationError` if they are not there."""

    def write(self, address: int, data: bytes) -> None:
        """Copy bytes in."""


@dataclass
class Answer:
    """What came back for a command."""

    payload: bytes = b""
    fds: list[int] = field(default_factory=list)
    """They belong to whoever asked."""
    refusal: str | None = None
    """Why there is no answer but an error."""


class Exchange:
    """Numbers commands, finds their answers, and answers the server."""

    def __init__(self, memory: ClientMemory) -> None:
        """Let the server reach ``memory``."""
        self._memory = memory
        self._decoder = Decoder()
        self._next = 0
        self._open: dict[int, Command] = {}

    @property
    def wanted(self) -> int:
        """Bytes to read next, so that descriptors stay with their message."""
        return self._decoder.wanted

    def begin(self, command: Command, payload: bytes, *, reply: bool = True) -> tuple[int, bytes]:
        """Return the number and the bytes of a command; with a ``reply`` it is open from now on."""
        number = self._next
        while number in self._open:
            number = (number + 1) & 0xFFFF
            if number == self._next:
                raise TransportError("65536 commands are open")
        self._next = (number + 1) & 0xFFFF
        if reply:
            self._open[number] = command
        return number, encode_command(number, command, payload, reply=reply)

    def receive(
        self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False
    ) -> tuple[list[tuple[int, Answer]], bytes]:
        """Take what the server sent; return answers by number, and what to send it."""
        answers: list[tuple[int, Answer]] = []
        outgoing = b""
        for message in self._decoder.receive(data, fds, lost=lost):
            if message.problem is not None:
                message.close()
                raise ViolationError(f"{message.name}: {message.problem}")
            if message.is_reply:
                answers.append(self._answered(message))
            elif message.is_command:
                close_all(message.fds)
                answer = self._serve(message)
                if message.wants_reply:
                    outgoing += answer
            else:
                message.close()
                raise ViolationError(f"{message.name} is neither a command nor a reply")
        if self._decoder.failure is not None:
            raise ViolationError(self._decoder.failure)
        return answers, outgoing

    def close(self) -> None:
        """Close the descriptors of what never was complete."""
        self._decoder.close()

    def _answered(self, message: Message) -> tuple[int, Answer]:
        command = self._open.pop(message.id, None)
        if command is None or command != message.command:
            message.close()
            raise ViolationError(f"an answer to {message.name}, which was not asked")
        if message.failed:
            message.close()
            return message.id, Answer(refusal=f"{message.name} refused: {message.reason}")
        return message.id, Answer(message.payload, message.fds)

    def _serve(self, message: Message) -> bytes:
        """Answer DMA_READ or DMA_WRITE."""
        try:
            access = DmaAccess.unpack(message.payload)
            data = message.payload[DmaAccess.FORM.size :]
            if access.count > MAX_TRANSFER:
                return encode_error(message, errno.EINVAL)
            if message.command == Command.DMA_READ and not data:
                data = self._memory.read(access.address, access.count)
                return encode_reply(message, access.pack() + data)
            if message.command == Command.DMA_WRITE and len(data) == access.count:
                self._memory.write(access.address, data)
                return encode_reply(message, access.pack())
        except ConfigurationError:
            return encode_error(message, errno.EFAULT)
        except PayloadError:
            return encode_error(message, errno.EINVAL)
        known = message.command in (Command.DMA_READ, Command.DMA_WRITE)
        return encode_error(message, errno.EINVAL if known else errno.ENOTSUP)
