"""The channel on which the back end makes requests, without its socket.

At most one message of a kind and queue is under way at a time when the front end acknowledges them: what
happens meanwhile is sent after the acknowledgement. So nothing piles up for a front end that is slow.
"""

from collections import OrderedDict

from virtio.transport.vhost_user.codec import Decoder, Message, encode_request
from virtio.transport.vhost_user.messages import BACK_END, MessageType
from virtio.transport.vhost_user.payloads import VringState

_CONFIG_CHANGE = BACK_END["BACKEND_CONFIG_CHANGE_MSG"]
_CALL = BACK_END["BACKEND_VRING_CALL"]
_ERROR = BACK_END["BACKEND_VRING_ERR"]

_Key = tuple[MessageType, int]


class BackEndChannel:
    """Requests of the back end, and the answers to them."""

    def __init__(self, *, acknowledged: bool) -> None:
        """``acknowledged``: REPLY_ACK is negotiated, so that each request asks for an answer."""
        self._acknowledged = acknowledged
        self._decoder = Decoder(BACK_END)
        self._under_way: OrderedDict[_Key, bool] = OrderedDict()  # value: once more after the answer
        self.failure: str | None = None
        """Why the channel is of no use any more."""

    @property
    def wanted(self) -> int:
        """Bytes to read next."""
        return self._decoder.wanted

    def config_changed(self) -> bytes:
        """Say that the configuration space has changed."""
        return self._request(_CONFIG_CHANGE, 0, None)

    def call(self, queue: int) -> bytes:
        """Notify of used buffers in-band."""
        return self._request(_CALL, queue, VringState(queue, 0))

    def error(self, queue: int) -> bytes:
        """Tell in-band that a queue is broken."""
        return self._request(_ERROR, queue, VringState(queue, 0))

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

    def _request(self, kind: MessageType, index: int, payload: VringState | None) -> bytes:
        if self.failure is not None:
            return b""
        if self._acknowledged:
            key = (kind, index)
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
        (kind, index), again = self._under_way.popitem(last=False)
        if kind.number != message.number:
            self.failure = f"an answer to {BACK_END.name(message.number)} instead of {kind.name}"
            return b""
        # That the front end could not do it (payload not 0) changes nothing: it was told.
        if not again:
            return b""
        return self._request(kind, index, None if kind is _CONFIG_CHANGE else VringState(index, 0))
