"""Fuzzes the vhost-user codec and session: bytes, descriptors and events in any order, on guest memory.

``tools/fuzz vhost_user`` runs it. An input is a list of steps (see ``steps``); mutations work on bytes
and on whole messages. Inputs that reach new lines, or lines in a new order, are kept and mutated further.
What must hold after every step is in :class:`Scene`.
"""

# ruff: noqa: E402 - the path to the tests comes first

import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.fuzz import cuts, fuzz, nothing_left_open, spoil, step, steps
from tests.transport.fakes import FakeDevice

from virtio._native import Memory
from virtio.transport import vhost_user
from virtio.transport.vhost_user.actions import (
    Action,
    Disconnect,
    DropChannel,
    Notice,
    Send,
    SendRequest,
    UseChannel,
)
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import Decoder, encode_acknowledgement, encode_request
from virtio.transport.vhost_user.messages import BACK_END, FRONT_END
from virtio.transport.vhost_user.payloads import (
    MAX_PAYLOAD,
    ConfigAccess,
    Inflight,
    Iotlb,
    LogArea,
    MemoryRegion,
    StateTransfer,
    VringAddress,
    VringState,
)
from virtio.transport.vhost_user.session import Session

_MAX_INPUT = 4096
MAIN, CHANNEL, CONFIG, BROKEN, CALL, HANG = range(6)

FEATURES = 1 << 32 | 1 << 30
REGION = MemoryRegion(0, 0x10000, 0x7F00_0000_0000, 0)
PAYLOADS: dict[str, tuple[Any, ...]] = {
    "nothing": (None,),
    "u64": (
        0,
        1,
        0x100,
        0xF,
        FEATURES,
        FEATURES | 1 << 29 | 1 << 34,
        FEATURES | 1 << 33,
        1 << 3 | 1 << 5,
        PROTOCOL_FEATURES | IN_BAND,
        1 << 3 | 1 << 16,
    ),
    "vring state": (
        VringState(0, 0),
        VringState(0, 1),
        VringState(1, 256),
        VringState(0, 0x8000),
        VringState(9, 9),
    ),
    "vring address": (VringAddress(0, 0, REGION.user_address, REGION.user_address + 0x3000, 0x1000, 0),),
    "memory regions": ((), (REGION,), (REGION, REGION._replace(guest_address=1 << 32, user_address=1 << 40))),
    "memory region": (REGION, REGION._replace(guest_address=1 << 33, user_address=1 << 41, size=0x1000)),
    "configuration access": (ConfigAccess(0, 8, 0, bytes(8)), ConfigAccess(52, 4, 1, b"abcd")),
    "log": (LogArea(4096, 0),),
    "IOTLB": (
        Iotlb(0, 4096, 0, 3, 2),
        Iotlb(1 << 32, 0x2000, REGION.user_address + 0x1000, 3, 2),
        Iotlb((1 << 32) + 0x1000, 0x1000, REGION.user_address, 1, 2),
        Iotlb(2**64 - 0x1000, 0x1000, REGION.user_address, 0xFF, 2),
        Iotlb((1 << 32) + 0x800, 0x800, 0, 6, 3),
        Iotlb(0, 0, 0, 0, 3),
        Iotlb(0x1000, 2**64 - 0x1000, 0, 0, 3),
    ),
    "inflight": (Inflight(0, 0, 2, 256), Inflight(0x4000, 0x100, 2, 256), Inflight(0x10000, 0, 1, 256)),
    "device state transfer": (StateTransfer(0, 0), StateTransfer(1, 0), StateTransfer(2, 1)),
    "bytes": (bytes(16),),
}


class Scene:
    """A session on a device that keeps notes, and what must hold of both."""

    def __init__(self) -> None:
        self.device = FakeDevice(features=1 << 32 | 1 << 33 | 1 << 34 | 1 << 29 | 3)
        self.notices: list[Notice] = []
        self.session = Session(
            self.device,
            Memory(),
            self.notices.append,
            protocol_features=PROTOCOL_FEATURES | IN_BAND,
            timeout=0.01,
        )
        self.channels: list[int] = []
        self.ended = False
        self._answers = Decoder(FRONT_END)
        self._requests = Decoder(BACK_END)

    def step(self, kind: int, data: bytes, fds: list[int]) -> None:
        if kind == MAIN:
            self._check(self.session.receive(data, fds))
        elif kind == CHANNEL:
            if self.channels:
                self._check(self.session.receive_channel(data, fds))
            else:
                _close(fds)
        else:
            _close(fds)
            queue = self.device.queues[data[0] % 2 if data else 0]
            events = self.device.events
            assert events is not None
            if kind == CONFIG:
                events.config_changed()
            elif kind == BROKEN and queue.running:
                self.device.breaks(queue.index)
            elif kind == CALL and callable(queue.call):
                queue.call()
            elif kind == HANG:
                queue.hangs = not queue.hangs
        while self.notices:
            self._check(self.session.notice(self.notices.pop(0)))

    def _check(self, actions: list[Action]) -> None:
        assert 0 < self.session.wanted <= MAX_PAYLOAD + 12
        for action in actions:
            match action:
                case Send(data, fds):
                    assert not self.ended, "an answer after the end"
                    (message,) = self._answers.receive(data)
                    inflight = message.number == FRONT_END["GET_INFLIGHT_FD"].number
                    assert len(fds) == (inflight and message.payload.mmap_size > 0)
                    assert message.is_reply
                    assert message.problem is None
                case SendRequest(data):
                    for message in self._requests.receive(data):
                        assert not message.is_reply
                        assert message.problem is None
                case UseChannel(fd):
                    self.channels.append(fd)
                case Disconnect(reason):
                    assert reason
                    self.ended = True
                case DropChannel(reason):
                    assert reason
        for queue in self.device.queues:
            if queue.running:
                size, base = queue.rings["size"], queue.base
                packed = self.device.negotiated_features >> 34 & 1
                assert 0 < size <= 32768
                assert packed or (size & (size - 1) == 0 and base <= 0xFFFF)
                assert self.device.negotiated_features >> 32 & 1

    def close(self) -> None:
        for queue in self.device.queues:
            queue.hangs = False
        self.session.close()
        _close(self.channels)
        assert not self.device.attached


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Descriptors:
    """A few of each kind, duplicated for each input: bits 0 to 3 how many, 4 to 6 which kind first."""

    def __init__(self) -> None:
        memory = os.memfd_create("guest")
        os.ftruncate(memory, REGION.size)
        ours, theirs = socket.socketpair()
        self._keep = ours
        # Nobody writes to the pipe, nor reads from it, and it is not closed.
        self._kinds = [os.eventfd(0), memory, theirs.detach(), os.open("/dev/null", os.O_RDWR), *os.pipe()]

    def close(self) -> None:
        _close(self._kinds)
        self._keep.close()

    def take(self, code: int) -> list[int]:
        return [
            os.dup(self._kinds[(index + (code >> 4)) % (4 if index else len(self._kinds))])
            for index in range(code & 15)
        ]


def run(data: bytes, descriptors: Descriptors) -> None:
    """Run one input; whatever is wrong raises."""
    with nothing_left_open():
        scene = Scene()
        try:
            for kind, fds, content in steps(data, 6):
                scene.step(kind, content, descriptors.take(fds))
                if scene.ended:
                    break
        finally:
            scene.close()


# --- inputs


def message(choice: random.Random) -> bytes:
    """A message as it should be, with the descriptors that it should have."""
    kind = choice.choice(list(FRONT_END))
    payload = choice.choice(PAYLOADS[kind.request.name])
    data = encode_request(kind, payload, need_reply=choice.random() < 0.5)
    if kind.request.name == "memory regions":
        return step(MAIN, 0x10 | len(payload), data)
    first = 1 if "MEM" in kind.name or "INFLIGHT" in kind.name else 2 if "REQ_FD" in kind.name else 0
    if kind.name == "SET_DEVICE_STATE_FD":
        first = choice.choice((1, 2, 4, 5))
    return step(MAIN, first << 4 | kind.descriptors[1], data)


def beginning() -> bytes:
    """What brings a session to where things happen."""
    said: list[tuple[str, Any, int]] = [
        ("SET_PROTOCOL_FEATURES", PROTOCOL_FEATURES | IN_BAND, 0),
        ("SET_BACKEND_REQ_FD", None, 0x21),
        ("SET_FEATURES", FEATURES, 0),
        ("SET_MEM_TABLE", (REGION,), 0x11),
        ("SET_VRING_NUM", VringState(0, 256), 0),
        ("SET_VRING_BASE", VringState(0, 0), 0),
        ("SET_VRING_ADDR", PAYLOADS["vring address"][0], 0),
        ("SET_VRING_KICK", 0, 1),
        ("SET_VRING_ENABLE", VringState(0, 1), 0),
    ]
    return b"".join(step(MAIN, fds, encode_request(FRONT_END[name], payload)) for name, payload, fds in said)


def seeds() -> list[bytes]:
    """One input per message, and some that put them in order."""
    choice = random.Random(1)
    start = beginning()
    single = [
        step(MAIN, kind.descriptors[1], encode_request(kind, payload))
        for kind in FRONT_END
        for payload in PAYLOADS[kind.request.name]
    ]
    channel = step(CONFIG, 0, b"") * 2 + step(CHANNEL, 0, encode_acknowledgement(2, 0)) + step(CALL, 0, b"")
    moving = [
        step(MAIN, 0, encode_request(FRONT_END["GET_VRING_BASE"], VringState(0, 0)))
        + step(
            MAIN, kind << 4 | 1, encode_request(FRONT_END["SET_DEVICE_STATE_FD"], StateTransfer(direction, 0))
        )
        + step(MAIN, 0, encode_request(FRONT_END["CHECK_DEVICE_STATE"]))
        + step(MAIN, 0, encode_request(FRONT_END["SET_FEATURES"], FEATURES | 1 << 29))
        for direction in (0, 1)
        for kind in (1, 2, 4, 5)
    ]
    broken = step(BROKEN, 0, b"") + step(CHANNEL, 0, encode_acknowledgement(5, 0))
    return [
        *single,
        start,
        start + channel,
        start + broken,
        *(start + move for move in moving),
        *(start + message(choice) for _ in range(50)),
    ]


def mutate(data: bytes, others: list[bytes], choice: random.Random) -> bytes:
    """Change an input a little."""
    places = cuts(data)
    changed = bytearray(data)
    for _ in range(1 << choice.randrange(4)):
        at = choice.choice(places)
        match choice.randrange(8):
            case 0 | 1:
                changed[at:at] = message(choice)
            case 2:
                changed[at:at] = step(
                    choice.randrange(1, 6), 0, encode_acknowledgement(choice.randrange(9), 0)
                )
            case 3 if len(places) > 2:
                del changed[at : choice.choice(places)]
            case 4 if others:
                other = choice.choice(others)
                changed[at:] = other[choice.randrange(len(other) + 1) :] if choice.random() < 0.2 else other
            case _:
                spoil(changed, choice)
    return bytes(changed[:_MAX_INPUT])


def main() -> int:
    """Fuzz for a while."""
    descriptors = Descriptors()
    return fuzz(
        "vhost_user",
        lambda data: run(data, descriptors),
        seeds=seeds(),
        mutate=mutate,
        sources=str(Path(vhost_user.__file__).parent),
    )


if __name__ == "__main__":
    sys.exit(main())
