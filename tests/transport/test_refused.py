"""What a front end asks for in vain, and what it hears."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.transport.harness import ADDRESS, REGION, Harness, P, answer

from virtio.transport.vhost_user.actions import (
    Disconnect,
)
from virtio.transport.vhost_user.codec import encode, encode_acknowledgement
from virtio.transport.vhost_user.messages import (
    FRONT_END,
    NO_DESCRIPTOR,
    Flag,
)
from virtio.transport.vhost_user.payloads import ConfigAccess, VringState

# --- what is refused, with everything else left as it was

REFUSED: tuple[tuple[str, str, Any, Callable[[], int] | None], ...] = (
    ("ring out of range", "SET_VRING_NUM", VringState(2, 256), None),
    ("ring far out of range", "SET_VRING_ENABLE", VringState(2**32 - 1, 1), None),
    ("address of no ring", "SET_VRING_ADDR", ADDRESS._replace(ring=2), None),
    ("kick for no ring", "SET_VRING_KICK", 2, lambda: os.eventfd(0)),
    ("kick with odd bits", "SET_VRING_KICK", 1 << 9, lambda: os.eventfd(0)),
    ("call for no ring", "SET_VRING_CALL", 255, lambda: os.eventfd(0)),
    ("size 0", "SET_VRING_NUM", VringState(1, 0), None),
    ("size not a power of two", "SET_VRING_NUM", VringState(1, 100), None),
    ("size too large", "SET_VRING_NUM", VringState(1, 65536), None),
    ("size of a live ring", "SET_VRING_NUM", VringState(0, 128), None),
    ("base of a live ring", "SET_VRING_BASE", VringState(0, 1), None),
    ("base with 17 bits", "SET_VRING_BASE", VringState(1, 0x10000), None),
    ("unaligned descriptors", "SET_VRING_ADDR", ADDRESS._replace(ring=1, descriptors=0x1008), None),
    ("unaligned available ring", "SET_VRING_ADDR", ADDRESS._replace(ring=1, available=0x2001), None),
    ("unaligned used ring", "SET_VRING_ADDR", ADDRESS._replace(ring=1, used=0x3002), None),
    ("descriptors wrap", "SET_VRING_ADDR", ADDRESS._replace(ring=0, descriptors=2**64 - 16), None),
    ("used ring wraps", "SET_VRING_ADDR", ADDRESS._replace(ring=0, used=2**64 - 8), None),
    ("logging not negotiated", "SET_VRING_ADDR", ADDRESS._replace(ring=1, flags=1), None),
    ("kick is missing", "SET_VRING_KICK", 0, None),
    ("call is missing", "SET_VRING_CALL", 0, None),
    ("kick that says it is none", "SET_VRING_KICK", NO_DESCRIPTOR, lambda: os.eventfd(0)),
    ("kick is a file", "SET_VRING_KICK", 1, lambda: os.memfd_create("file")),
    ("call is a file", "SET_VRING_CALL", 0, lambda: os.memfd_create("file")),
    ("error is a file", "SET_VRING_ERR", 0, lambda: os.memfd_create("file")),
    ("enable with 2", "SET_VRING_ENABLE", VringState(0, 2), None),
    ("more regions than descriptors", "SET_MEM_TABLE", (REGION, REGION), lambda: os.memfd_create("guest")),
    ("regions without descriptors", "SET_MEM_TABLE", (REGION,), None),
    ("descriptors without regions", "SET_MEM_TABLE", (), lambda: os.memfd_create("guest")),
    ("region that is not there", "REM_MEM_REG", REGION, None),
    ("region without descriptor", "ADD_MEM_REG", REGION, None),
    ("channel is not a socket", "SET_BACKEND_REQ_FD", None, lambda: os.eventfd(0)),
    ("channel is missing", "SET_BACKEND_REQ_FD", None, None),
    ("write to a read-only field", "SET_CONFIG", ConfigAccess(0, 4, 0, b"abcd"), None),
    ("write behind the end", "SET_CONFIG", ConfigAccess(58, 4, 0, b"abcd"), None),
    ("write far behind the end", "SET_CONFIG", ConfigAccess(2**32 - 1, 4, 0, b"abcd"), None),
    ("write with odd flags", "SET_CONFIG", ConfigAccess(52, 4, 4, b"abcd"), None),
    ("status with 9 bits", "SET_STATUS", 0x100, None),
    ("not offered: inflight", "SET_INFLIGHT_FD", (1, 2, 3, 4), lambda: os.eventfd(0)),
    ("not offered: RARP", "SEND_RARP", 0, None),
    ("not offered: MTU", "NET_SET_MTU", 1500, None),
    ("not offered: endian", "SET_VRING_ENDIAN", VringState(0, 0), None),
    ("not offered: postcopy", "POSTCOPY_LISTEN", None, None),
    ("not offered: crypto", "CLOSE_CRYPTO_SESSION", 0, None),
    ("not for us: GPU", "GPU_SET_SOCKET", None, lambda: os.eventfd(0)),
    ("failing answer: IOTLB", "IOTLB_MSG", (0, 0, 0, 0, 2), None),
    ("failing answer: device state", "CHECK_DEVICE_STATE", None, None),
    ("failing answer: postcopy", "POSTCOPY_END", None, None),
)


@pytest.mark.parametrize(
    ("name", "payload", "make"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
def test_what_cannot_be_done_is_refused(
    harness: Harness, name: str, payload: Any, make: Callable[[], int] | None, asked: bool
) -> None:
    harness.negotiate(P.REPLY_ACK, P.CONFIG, P.STATUS)
    harness.ring()
    rings, config = dict(harness.device.queues[0].rings), bytes(harness.device.config)
    fds = (make(),) if make is not None else ()
    actions = harness.say(name, payload, fds, ack=asked)
    if asked or FRONT_END[name].reply is not None:
        assert answer(actions).payload == 1
    else:
        assert actions == []
    queue = harness.device.queues[0]
    assert queue.running
    assert (queue.rings, queue.base, queue.starts) == (rings, 0, 1)
    assert bytes(harness.device.config) == config
    assert harness.ask("GET_QUEUE_NUM") == 2


@pytest.mark.parametrize("name", ["POSTCOPY_ADVISE", "CREATE_CRYPTO_SESSION", "SET_LOG_BASE"])
def test_what_must_be_answered_and_cannot_be_ends_the_connection(harness: Harness, name: str) -> None:
    payload = {"CREATE_CRYPTO_SESSION": b"", "SET_LOG_BASE": (0, 0)}.get(name)
    (action,) = harness.say(name, payload)
    assert isinstance(action, Disconnect)
    assert name in action.reason


def test_the_base_of_no_ring_ends_the_connection(harness: Harness) -> None:
    (action,) = harness.say("GET_VRING_BASE", VringState(7, 0))
    assert isinstance(action, Disconnect)


def test_unknown_messages_are_refused_if_they_ask(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
    assert harness.session.receive(encode(99, Flag.VERSION, b"abc"), (harness.give(),)) == []
    message = answer(harness.session.receive(encode(99, Flag.VERSION | Flag.NEED_REPLY, b"abc")))
    assert (message.number, message.kind) == (99, None)
    assert message.payload == (1).to_bytes(8, "little")


def test_answers_are_not_requests(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
    assert harness.session.receive(encode_acknowledgement(1, 0)) == []
    assert harness.session.receive(encode(1, Flag.VERSION | Flag.REPLY | Flag.NEED_REPLY, bytes(8))) == []


def test_a_ring_is_not_started_without_features(harness: Harness) -> None:
    harness.ring()
    assert not harness.device.queues[0].running


def test_a_device_that_fails_does_not_take_the_connection_with_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.negotiate(P.REPLY_ACK, P.CONFIG)

    def fail(*_: object) -> None:
        raise RuntimeError("a bug of the author's")

    monkeypatch.setattr(harness.device, "write_config", fail)
    harness.refuses("SET_CONFIG", ConfigAccess(52, 1, 0, b"a"))
    assert harness.ask("GET_QUEUE_NUM") == 2
