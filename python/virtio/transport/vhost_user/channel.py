"""The channel on which the back end makes requests, without its socket.

At most one message of a kind and queue (or address) is under way at a time when the front end acknowledges
them: what happens meanwhile is sent after the acknowledgement. So nothing piles up for a slow front end.
"""

from collections import OrderedDict
from typing import Any

from virtio.transport.vhost_user.codec import Decoder, Message, encode_request
from virtio.transport.vhost_user.messages import BACK_END, MessageType
from virtio.transport.vhost_user.payloads import Iotlb, VringState

_CONFIG_CHANGE = BACK_END["BACKEND_CONFIG_CHANGE_MSG"]
_CALL = BACK_END["BACKEND_VRING_CALL"]
_ERROR = BACK_END["BACKEND_VRING_ERR"]
_IOTLB = BACK_END["BACKEND_IOTLB_MSG"]

_Key = tuple[MessageType, Any]


class BackEndChannel:
    """Requests of the back end, and the answers to them."""

    def __init__(self, *, acknowledged: bool) -> None:
        """``acknowledged``: REPLY_ACK is negotiated, so that each request asks for an answer."""
        self._acknowledged = acknowledged
        self._decoder = Decoder(BACK_END)
        # By kind and payload, all of it that matters; value: once more after the answer.
        self._under_way: OrderedDict[_Key, bool] = OrderedDict()
        self._refused: list[Iotlb] = []
        self.failure: str | None = None
        """Why the channel is of no use any more."""

    @property
    def wanted(self) -> int:
        """Bytes to read next."""
        return self._decoder.wanted

    def config_changed(self) -> bytes:
        """Say that the configuration space has changed."""
        return self._request(_CONFIG_CHANGE, None)

    def call(self, queue: int) -> bytes:
        """Notify of used buffers in-band."""
        return self._request(_CALL, VringState(queue, 0))

    def error(self, queue: int) -> bytes:
        """Tell in-band that a queue is broken."""
        return self._request(_ERROR, VringState(queue, 0))

    def translate(self, entry: Iotlb) -> bytes:
        """Ask for a translation, or tell that an access has failed."""
        return self._request(_IOTLB, entry)

    def take_refused(self) -> list[Iotlb]:
        """Return what the front end has answered "no" to since the last time."""
        refused, self._refused = self._refused, []
        return refused

    def receive(self, data: bytes, fds: tuple[int, ...] = (), *, lost: bool = False) -> bytes:
        """Take answers; return what is to be sent because of them."""
        answer = b""
        for message in self._decoder.receive(data, fds, lost=lost):
            message.close()
            answer += self._answered(message)
        if self._decoder.failure is not None:
            self.failure = self._decoder.failure
        return answer

    def close(self) -> None:
        """Forget everything."""
        self._decoder.close()
        self._under_way.clear()

    def _request(self, kind: MessageType, payload: Any) -> bytes:
        if self.failure is not None:
            return b""
        if self._acknowledged:
            key = (kind, payload)
            if key in self._under_way:
                self._under_way[key] = True
                return b""
            self._under_way[key] = False
        return encode_request(kind, payload, need_reply=self._acknowledged)

    def _answered(self, message: Message) -> bytes:
        """Match an answer with the oldest request that has none; answers come in order."""
        if self.failure is not None:
            return b""
        if not self._under_way or not message.is_reply or message.problem is not None:
            problem = message.problem or "not an answer to anything"
            self.failure = f"{BACK_END.name(message.number)}: {problem}"
            return b""
        (kind, payload), again = self._under_way.popitem(last=False)
        if kind.number != message.number:
            self.failure = f"an answer to {BACK_END.name(message.number)} instead of {kind.name}"
            return b""
        if again:
            return self._request(kind, payload)
        # That the front end could not do another request changes nothing: it was told.
        if kind is _IOTLB and message.payload:
            self._refused.append(payload)
        return b""
