"""IOTLB messages: what the back end does with them, and how the front end answers its questions."""

from collections.abc import Iterator

import pytest
from tests.transport.fakes import ACCESS_PLATFORM, VERSION_1, FakeDevice
from tests.transport.harness import ADDRESS, Harness, P, answer, requests

from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import encode_acknowledgement, encode_request
from virtio.transport.vhost_user.exchange import ConfigNews, FrontEndChannel, Missed, ViolationError
from virtio.transport.vhost_user.messages import BACK_END, F_PROTOCOL_FEATURES
from virtio.transport.vhost_user.payloads import Iotlb
from virtio.transport.vhost_user.translations import ACCESS_FAIL, INVALIDATE, MISS, UPDATE

FEATURES = VERSION_1 | ACCESS_PLATFORM
IOTLB = BACK_END["BACKEND_IOTLB_MSG"]


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness(FakeDevice(features=FEATURES))
    yield made
    made.close()


def acknowledged(harness: Harness, value: int) -> list[Iotlb]:
    """Answer the oldest request; what the back end asks then."""
    actions = harness.session.receive_channel(encode_acknowledgement(IOTLB.number, value))
    return [message.payload for message in requests(actions)]


def asked(harness: Harness) -> list[Iotlb]:
    return [message.payload for message in requests(harness.deliver())]


def test_translations_reach_the_memory_and_are_acknowledged(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, features=FEATURES)
    assert harness.memory.translated
    assert harness.ask("IOTLB_MSG", Iotlb(0x1000, 0x2000, 0x7000, 3, UPDATE)) == 0
    # What else QEMU has in an invalidation is noise.
    assert harness.ask("IOTLB_MSG", Iotlb(0x5000, 0x1000, 0xDEAD, 0xEE, INVALIDATE)) == 0
    assert harness.memory.translations == {0x1000: (0x2000, 0x7000, 3)}
    for entry in (Iotlb(0, 0, 0, 3, UPDATE), Iotlb(0, 1, 0, 3, MISS), Iotlb(0, 1, 0, 3, 9)):
        assert harness.ask("IOTLB_MSG", entry) == 1
    # Another driver knows nothing of it.
    harness.say("SET_FEATURES", FEATURES | F_PROTOCOL_FEATURES)
    assert harness.memory.translations == {}


def test_rings_have_the_addresses_of_descriptors(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, features=FEATURES)
    harness.ring()
    assert harness.device.queues[0].rings["space"] == "guest"
    assert harness.device.queues[0].rings["used"] == ADDRESS.used


def test_misses_are_asked_once_the_channel_is_there(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, features=FEATURES)
    harness.memory.miss(0x1000, 1)
    assert asked(harness) == []
    harness.open_channel()
    assert asked(harness) == [Iotlb(0x1000, 0, 0, 1, MISS)]
    harness.memory.miss(0x2000, 2)
    harness.memory.miss(0x3000, 3, failed=True)
    assert asked(harness) == [Iotlb(0x2000, 0, 0, 2, MISS), Iotlb(0x3000, 0, 0, 3, ACCESS_FAIL)]
    # The second is refused; that the third can't be helped is no news.
    assert acknowledged(harness, 0) == []
    assert acknowledged(harness, 1) == []
    assert acknowledged(harness, 1) == []
    assert harness.memory.refused == [(0x2000, 2)]


def test_what_is_missed_again_is_asked_after_the_answer(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, features=FEATURES)
    harness.open_channel()
    harness.memory.miss(0x1000, 1)
    assert len(asked(harness)) == 1
    harness.memory.miss(0x1000, 1)
    assert asked(harness) == []
    assert acknowledged(harness, 1) == [Iotlb(0x1000, 0, 0, 1, MISS)]
    assert acknowledged(harness, 0) == []
    assert harness.memory.refused == []


def test_there_is_no_translation_without_the_feature_and_the_channel() -> None:
    harness = Harness(FakeDevice(features=FEATURES), protocol=PROTOCOL_FEATURES & ~P.BACKEND_REQ.mask)
    assert not harness.ask("GET_FEATURES") & ACCESS_PLATFORM
    harness.close()
    harness = Harness(FakeDevice(features=FEATURES))
    assert harness.ask("GET_FEATURES") & ACCESS_PLATFORM
    harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
    harness.refuses("SET_FEATURES", FEATURES | F_PROTOCOL_FEATURES)
    harness.accepts("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    assert not harness.memory.translated
    assert harness.ask("IOTLB_MSG", Iotlb(0, 0x1000, 0x7000, 3, UPDATE)) == 1
    harness.ring()
    assert harness.device.queues[0].rings["space"] == "user"
    harness.close()


def test_the_front_end_acknowledges_in_order_and_when_it_has_answered() -> None:
    channel = FrontEndChannel(in_band=False, config=True, iotlb=True, queues=1)
    config = BACK_END["BACKEND_CONFIG_CHANGE_MSG"]
    miss = Iotlb(0x1000, 0, 0, 1, MISS)
    data = encode_request(IOTLB, miss, need_reply=True)
    data += encode_request(config, None, need_reply=True)
    data += encode_request(IOTLB, miss._replace(type=ACCESS_FAIL), need_reply=True)
    data += encode_request(IOTLB, miss._replace(type=UPDATE), need_reply=True)
    news: list[object] = []
    replies = b""
    while data:
        size = channel.wanted
        found, reply = channel.receive(data[:size])
        data, replies, news = data[size:], replies + reply, news + list(found)
    assert [type(item) for item in news] == [Missed, ConfigNews, Missed]
    assert replies == b""
    first = news[0]
    assert isinstance(first, Missed)
    assert first.ticket is not None
    expected = [(IOTLB, 0), (config, 0), (IOTLB, 0), (IOTLB, 1)]
    assert channel.settle(first.ticket, True) == b"".join(
        encode_acknowledgement(kind.number, value) for kind, value in expected
    )
    channel.close()


def test_a_back_end_that_only_asks_is_left() -> None:
    channel = FrontEndChannel(in_band=False, config=True, iotlb=True, queues=1)
    data = encode_request(IOTLB, Iotlb(0x1000, 0, 0, 1, MISS), need_reply=True)

    def flood() -> None:
        for _ in range(70000):
            channel.receive(data[:12])
            channel.receive(data[12:])

    with pytest.raises(ViolationError, match="without waiting"):
        flood()
    channel.close()


def test_misses_are_refused_where_there_is_no_iommu() -> None:
    channel = FrontEndChannel(in_band=False, config=True, iotlb=False, queues=1)
    data = encode_request(IOTLB, Iotlb(0x1000, 0, 0, 1, MISS), need_reply=True)
    channel.receive(data[:12])
    assert channel.receive(data[12:]) == ([], encode_acknowledgement(IOTLB.number, 1))
    channel.close()


def test_a_refused_answer_has_a_message(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, features=VERSION_1)
    message = answer(harness.say("IOTLB_MSG", Iotlb(0, 0x1000, 0x7000, 3, UPDATE)))
    assert (message.number, message.payload) == (22, 1)
