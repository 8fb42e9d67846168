"""Configuration, status, and what the back end says by itself."""

import pytest
from tests.transport.fakes import (
    NEEDS_RESET,
    VERSION_1,
)
from tests.transport.harness import Harness, P, requests

from virtio.transport.vhost_user.actions import (
    Disconnect,
    DropChannel,
)
from virtio.transport.vhost_user.codec import encode, encode_acknowledgement, encode_request
from virtio.transport.vhost_user.messages import (
    BACK_END,
    F_PROTOCOL_FEATURES,
    FRONT_END,
    Flag,
)
from virtio.transport.vhost_user.payloads import ConfigAccess, VringState

# --- configuration and status


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 8), (0, 60), (0, 57), (4, 3), (56, 8), (59, 200), (500, 4), (0, 0)]
)
def test_the_configuration_is_as_long_as_was_asked_for(harness: Harness, offset: int, size: int) -> None:
    access = harness.ask("GET_CONFIG", ConfigAccess(offset, size, 0, bytes(size)))
    whole = bytes(range(60)) + bytes(1000)
    assert access == ConfigAccess(offset, size, 0, whole[offset : offset + size])


@pytest.mark.parametrize(
    "access", [ConfigAccess(2**32 - 1, 1, 0, b"a"), ConfigAccess(2000, 60, 0, bytes(60))]
)
def test_a_failed_read_of_the_configuration_has_no_payload(harness: Harness, access: ConfigAccess) -> None:
    assert harness.ask("GET_CONFIG", access) is None


def test_the_driver_writes_its_configuration(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.CONFIG)
    harness.accepts("SET_CONFIG", ConfigAccess(52, 4, 0, b"abcd"))
    harness.accepts("SET_CONFIG", ConfigAccess(56, 4, 1, b"efgh"))
    assert bytes(harness.device.config[52:]) == b"abcdefgh"


def test_the_status_is_echoed(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.STATUS.mask)
    assert harness.ask("GET_STATUS") == 0
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    harness.say("SET_STATUS", 8)
    assert harness.ask("GET_STATUS") == 8
    harness.say("SET_STATUS", 0xF)
    assert harness.ask("GET_STATUS") == 0xF
    harness.say("SET_STATUS", 0)
    assert harness.ask("GET_STATUS") == 0


def test_a_broken_device_says_so_until_it_is_reset(harness: Harness) -> None:
    harness.negotiate(P.STATUS, P.CONFIG, P.BACKEND_REQ)
    harness.open_channel()
    harness.ring()
    harness.device.breaks(0)
    (request,) = requests(harness.deliver())
    assert request.kind == BACK_END["BACKEND_CONFIG_CHANGE_MSG"]
    assert harness.ask("GET_STATUS") & NEEDS_RESET
    harness.say("SET_VRING_ENABLE", VringState(0, 0))
    harness.say("SET_VRING_ENABLE", VringState(0, 1))
    assert not harness.device.queues[0].running, "a broken queue must not run again before a reset"
    harness.ask("GET_VRING_BASE", VringState(0, 0))
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)  # the same, but the device is broken
    assert not harness.ask("GET_STATUS") & NEEDS_RESET
    harness.ring()
    assert harness.device.queues[0].running


def test_a_broken_ring_is_told_in_band_once(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.CONFIG, P.BACKEND_REQ, P.INBAND_NOTIFICATIONS)
    harness.open_channel()
    harness.ring(kick=False)
    harness.device.breaks(0)
    harness.device.breaks(0)
    names = [message.kind.name for message in requests(harness.deliver()) if message.kind is not None]
    assert names == ["BACKEND_VRING_ERR", "BACKEND_CONFIG_CHANGE_MSG"]


# --- the back end's own channel


def test_changes_are_told_while_a_ring_is_started(harness: Harness) -> None:
    harness.negotiate(P.CONFIG, P.BACKEND_REQ)
    harness.open_channel()
    events = harness.device.events
    assert events is not None
    events.config_changed()
    assert harness.deliver() == []  # suspended: not a word
    harness.ring(enable=False)
    (request,) = requests(harness.say("SET_VRING_ENABLE", VringState(0, 1)))
    assert request.kind == BACK_END["BACKEND_CONFIG_CHANGE_MSG"]
    assert not request.needs_reply
    events.config_changed()
    assert len(requests(harness.deliver())) == 1
    harness.ask("GET_VRING_BASE", VringState(0, 0))
    events.config_changed()
    assert harness.deliver() == []


def test_requests_wait_for_their_acknowledgement(harness: Harness) -> None:
    harness.negotiate(P.CONFIG, P.BACKEND_REQ, P.REPLY_ACK)
    harness.open_channel()
    harness.ring()
    events = harness.device.events
    assert events is not None
    for count in (1, 0, 0):
        events.config_changed()
        assert len(requests(harness.deliver())) == count
    done = encode_acknowledgement(2, 0)
    (again,) = requests(harness.session.receive_channel(done))
    assert again.needs_reply
    assert harness.session.receive_channel(done) == []
    events.config_changed()
    assert len(requests(harness.deliver())) == 1


@pytest.mark.parametrize(
    "data",
    [
        encode_acknowledgement(3, 0),
        encode(2, Flag.VERSION, bytes(8)),
        encode(2, Flag.VERSION | Flag.REPLY, bytes(4)),
        encode(2, 0, b""),
        encode(2, 5, bytes(5000)),
    ],
    ids=["other request", "no answer", "wrong size", "no version", "too long"],
)
def test_nonsense_on_the_channel_ends_the_channel_only(harness: Harness, data: bytes) -> None:
    harness.negotiate(P.CONFIG, P.BACKEND_REQ, P.REPLY_ACK)
    harness.open_channel()
    harness.ring()
    events = harness.device.events
    assert events is not None
    events.config_changed()
    harness.deliver()
    (action,) = harness.session.receive_channel(data, (harness.give(),))
    assert isinstance(action, DropChannel)
    events.config_changed()
    assert harness.deliver() == []
    assert harness.ask("GET_QUEUE_NUM") == 2


def test_the_front_end_may_close_or_replace_the_channel(harness: Harness) -> None:
    harness.negotiate(P.CONFIG, P.BACKEND_REQ)
    harness.open_channel()
    harness.session.channel_closed()
    harness.open_channel()
    harness.open_channel()
    assert len(harness.channel_fds) == 3


# --- the end


def test_a_queue_that_does_not_stop_ends_the_connection(harness: Harness) -> None:
    harness.negotiate()
    harness.ring()
    harness.device.queues[0].hangs = True
    (action,) = harness.say("GET_VRING_BASE", VringState(0, 0))
    assert isinstance(action, Disconnect)


def test_a_queue_that_does_not_stop_is_reset_all_the_same(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.RESET_DEVICE)
    harness.ring()
    harness.device.queues[0].hangs = True
    resets = harness.device.resets
    harness.accepts("RESET_DEVICE")
    assert harness.device.resets == resets + 1
    assert not harness.device.queues[0].running


def test_nothing_is_done_after_the_end(harness: Harness) -> None:
    bad = encode(1, 2, b"")
    good = encode_request(FRONT_END["SET_FEATURES"], VERSION_1)
    kick = encode_request(FRONT_END["SET_VRING_KICK"], 0)
    actions = harness.session.receive(bad + good)
    assert [type(action) for action in actions] == [Disconnect]
    assert all(isinstance(action, Disconnect) for action in harness.session.receive(kick, (harness.give(),)))
    assert harness.device.negotiated_features == 0


def test_complaints_are_bounded(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        harness.say("SET_VRING_NUM", VringState(99, 1))
    assert len(caplog.records) < 50
