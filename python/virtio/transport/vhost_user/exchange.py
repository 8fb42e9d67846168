"""Requests to a back end and their answers, and the requests that a back end makes; no sockets.

The back end is not to be trusted: whatever it sends is an answer to the one request that is open, in its
form, or it is a :exc:`ViolationError`.
"""

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from virtio.errors import RefusedError, TransportError
from virtio.transport.vhost_user.codec import Decoder, Message, encode_acknowledgement, encode_request
from virtio.transport.vhost_user.messages import BACK_END, FRONT_END, MessageType
from virtio.transport.vhost_user.payloads import Iotlb
from virtio.transport.vhost_user.translations import ACCESS_FAIL, MISS

_MOST_OWED = 65536


class ViolationError(TransportError):
    """The back end breaks the protocol; nothing that it says can be relied on any more."""


class UnrecoverableError(TransportError):
    """The back end is back, or may be one day, but what it did before cannot go on."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``fds`` are lent to it."""

    name: str
    payload: Any = None
    fds: tuple[int, ...] = ()


@dataclass(slots=True)
class Answer:
    """What came back: the payload, and a descriptor that belongs to who asked."""

    payload: Any = None
    fd: int | None = None


T = TypeVar("T")
Script = Generator[Ask, Answer, T]
"""A procedure of several requests: it yields each, is sent the answer, and returns what came of it.

:exc:`~virtio.errors.RefusedError` is thrown in where a request is refused.
"""


_ANSWERED_WITH_DESCRIPTOR = ("GET_INFLIGHT_FD", "SET_DEVICE_STATE_FD")


class Exchange:
    """One request at a time, and its answer."""

    def __init__(self) -> None:
        """Begin with nothing asked, and nothing negotiated."""
        self.acknowledged = False
        """REPLY_ACK is negotiated: every request is answered."""
        self._decoder = Decoder(FRONT_END)
        self._open: MessageType | None = None

    @property
    def wanted(self) -> int:
        """Bytes to read next, so that descriptors stay with their message."""
        return self._decoder.wanted

    def request(self, ask: Ask) -> tuple[bytes, bool]:
        """Return the bytes of a request, and whether it is going to be answered."""
        kind = FRONT_END[ask.name]
        need_reply = kind.reply is None and self.acknowledged
        data = encode_request(kind, ask.payload, need_reply=need_reply)
        answered = need_reply or kind.reply is not None
        self._open = kind if answered else None
        return data, answered

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> Answer | None:
        """Take what the back end sent; return the answer when it is complete."""
        messages = self._decoder.receive(data, fds, lost=lost)
        try:
            if self._decoder.failure is not None:
                raise ViolationError(self._decoder.failure)
            if not messages:
                return None
            if len(messages) > 1:
                raise ViolationError("several answers to one request")
            return self._match(messages[0])
        finally:
            for message in messages:
                message.close()

    def close(self) -> None:
        """Forget what was begun."""
        self._decoder.close()

    def _match(self, message: Message) -> Answer:
        kind, self._open = self._open, None
        name = FRONT_END.name(message.number)
        if kind is None:
            raise ViolationError(f"{name} came, but nothing was asked")
        if message.number != kind.number:
            raise ViolationError(f"an answer to {name} instead of {kind.name}")
        if not message.is_reply:
            raise ViolationError(f"the answer to {name} is not marked as one")
        if message.problem is not None:
            raise ViolationError(f"the answer to {name}: {message.problem}")
        if kind.reply is None and message.payload:
            raise RefusedError(f"the back end refuses {name} (answer {message.payload:#x})")
        wanted = kind.name in _ANSWERED_WITH_DESCRIPTOR and message.fds
        return Answer(message.payload, message.take_fd() if wanted else None)


# --- the other direction


@dataclass(frozen=True, slots=True)
class ConfigNews:
    """The configuration space has changed."""


@dataclass(frozen=True, slots=True)
class Called:
    """A queue has used buffers."""

    queue: int


@dataclass(frozen=True, slots=True)
class QueueBroke:
    """The back end gives up on a queue."""

    queue: int


@dataclass(frozen=True, slots=True)
class Missed:
    """An address has no translation (type 1), or not the permission that is needed (type 4)."""

    entry: Iotlb
    ticket: int | None = None
    """For :meth:`FrontEndChannel.settle`, if the back end wants to know when it was answered."""


News = ConfigNews | Called | QueueBroke | Missed


class FrontEndChannel:
    """What a back end asks for, with the answers that it wants."""

    def __init__(self, *, in_band: bool, config: bool, iotlb: bool, queues: int) -> None:
        """Take the messages of what is negotiated, and refuse all others."""
        self._decoder = Decoder(BACK_END)
        self._queues = queues
        # Acknowledgements, in the order of the requests; None: not known yet.
        self._owed: dict[int, tuple[int, int | None]] = {}
        self._tickets = itertools.count()
        self._allowed = {
            *(("BACKEND_VRING_CALL", "BACKEND_VRING_ERR") if in_band else ()),
            *(("BACKEND_CONFIG_CHANGE_MSG",) if config else ()),
            *(("BACKEND_IOTLB_MSG",) if iotlb else ()),
        }

    @property
    def wanted(self) -> int:
        """Bytes to read next."""
        return self._decoder.wanted

    def receive(
        self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False
    ) -> tuple[list[News], bytes]:
        """Take what the back end sent; return the news in it, and the bytes to answer with.

        Raises :exc:`ViolationError` where the next request cannot be found, or an answer comes to nothing.
        """
        messages = self._decoder.receive(data, fds, lost=lost)
        news: list[News] = []
        for message in messages:
            message.close()
        if self._decoder.failure is not None:
            raise ViolationError(f"on its own channel: {self._decoder.failure}")
        for message in messages:
            if message.is_reply:
                raise ViolationError("an answer on its own channel, where nothing was asked")
            found = self._understand(message)
            if message.needs_reply:
                ticket = next(self._tickets)
                later = isinstance(found, Missed) and found.entry.type == MISS
                self._owed[ticket] = (message.number, None if later else int(found is None))
                if later and isinstance(found, Missed):
                    found = Missed(found.entry, ticket)
            if found is not None:
                news.append(found)
        if len(self._owed) > _MOST_OWED:
            raise ViolationError("thousands of requests on its own channel without waiting for an answer")
        return news, self._due()

    def settle(self, ticket: int, done: bool) -> bytes:
        """Say what came of a miss; return the bytes to answer with."""
        if ticket in self._owed:
            self._owed[ticket] = (self._owed[ticket][0], int(not done))
        return self._due()

    def _due(self) -> bytes:
        """Return all acknowledgements up to the first that is not known."""
        data = b""
        while self._owed:
            ticket = next(iter(self._owed))
            number, value = self._owed[ticket]
            if value is None:
                break
            data += encode_acknowledgement(number, value)
            del self._owed[ticket]
        return data

    def close(self) -> None:
        """Forget what was begun."""
        self._decoder.close()

    def _understand(self, message: Message) -> News | None:
        """Return what a request means; None: it is refused."""
        kind = message.kind
        if kind is None or kind.name not in self._allowed or message.problem is not None:
            return None
        match kind.name:
            case "BACKEND_CONFIG_CHANGE_MSG":
                return ConfigNews()
            case "BACKEND_IOTLB_MSG":
                return Missed(message.payload) if message.payload.type in (MISS, ACCESS_FAIL) else None
            case _:
                queue = message.payload.ring
                if queue >= self._queues:
                    return None
                return Called(queue) if kind.name == "BACKEND_VRING_CALL" else QueueBroke(queue)
