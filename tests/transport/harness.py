"""A session on a device that writes down what is done to it."""

import os
import socket
from typing import Any

from tests.transport.fakes import (
    VERSION_1,
    FakeDevice,
    FakeMemory,
)

from virtio.transport.vhost_user.actions import (
    Action,
    Notice,
    Send,
    SendRequest,
    UseChannel,
)
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import Decoder, Message, encode_request
from virtio.transport.vhost_user.messages import (
    BACK_END,
    F_PROTOCOL_FEATURES,
    FRONT_END,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import MemoryRegion, VringAddress, VringState
from virtio.transport.vhost_user.session import Session

P = ProtocolFeature
ADDRESS = VringAddress(0, 0, 0x1000, 0x3000, 0x2000, 0)
REGION = MemoryRegion(0, 0x10000, 0x7F00_0000_0000, 0)


class Harness:
    """A session on fakes; all notices are delivered at once."""

    def __init__(self, device: FakeDevice | None = None, protocol: int = PROTOCOL_FEATURES | IN_BAND) -> None:
        self.device = device or FakeDevice()
        self.memory = FakeMemory()
        self.notices: list[Notice] = []
        self.session = Session(self.device, self.memory, self.notices.append, protocol_features=protocol)
        self.channel_fds: list[int] = []
        self.fds: list[int] = []

    def give(self) -> int:
        """Make a descriptor; the session closes what it is given."""
        return os.eventfd(0)

    def say(
        self, name: str, payload: Any = None, fds: tuple[int, ...] = (), *, ack: bool = False
    ) -> list[Action]:
        data = encode_request(FRONT_END[name], payload, need_reply=ack)
        return self.note(self.session.receive(data, fds))

    def note(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            if isinstance(action, UseChannel):
                self.channel_fds.append(action.fd)
        return actions

    def ask(self, name: str, payload: Any = None, fds: tuple[int, ...] = ()) -> Any:
        """Send a request and return the payload of its answer."""
        return answer(self.say(name, payload, fds)).payload

    def refuses(self, name: str, payload: Any = None, fds: tuple[int, ...] = ()) -> None:
        """Check that a request is answered with an error, and nothing else happens."""
        message = answer(self.say(name, payload, fds, ack=True))
        assert message.payload == 1

    def accepts(self, name: str, payload: Any = None, fds: tuple[int, ...] = ()) -> None:
        message = answer([a for a in self.say(name, payload, fds, ack=True) if isinstance(a, Send)])
        assert message.payload == 0

    def negotiate(self, *protocol: P, features: int = VERSION_1) -> None:
        mask = sum(feature.mask for feature in protocol)
        if mask:
            assert self.say("SET_PROTOCOL_FEATURES", mask) == []
        assert self.say("SET_FEATURES", features | F_PROTOCOL_FEATURES) == []

    def ring(self, *, kick: bool = True, enable: bool = True, base: int = 0) -> None:
        """Describe ring 0."""
        self.say("SET_VRING_NUM", VringState(0, 256))
        self.say("SET_VRING_BASE", VringState(0, base))
        self.say("SET_VRING_ADDR", ADDRESS)
        if kick:
            self.say("SET_VRING_KICK", 0, (self.give(),))
        if enable:
            self.say("SET_VRING_ENABLE", VringState(0, 1))

    def open_channel(self) -> None:
        ours, theirs = socket.socketpair()
        ours.close()
        self.say("SET_BACKEND_REQ_FD", None, (theirs.detach(),))

    def deliver(self) -> list[Action]:
        actions: list[Action] = []
        while self.notices:
            actions += self.session.notice(self.notices.pop(0))
        return actions

    def close(self) -> None:
        self.session.close()
        for fd in self.channel_fds:
            os.close(fd)


def answer(actions: list[Action]) -> Message:
    assert len(actions) == 1, actions
    assert isinstance(actions[0], Send), actions
    (message,) = Decoder(FRONT_END).receive(actions[0].data)
    assert message.is_reply
    return message


def requests(actions: list[Action]) -> list[Message]:
    """The back end's own requests among what is to be done."""
    decoder = Decoder(BACK_END)
    found = []
    for action in actions:
        if isinstance(action, SendRequest):
            found += decoder.receive(action.data)
    return found
