"""Bytes to messages and back."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.transport.frontend import open_descriptors

from virtio.transport.vhost_user.codec import (
    Decoder,
    encode,
    encode_acknowledgement,
    encode_reply,
    encode_request,
)
from virtio.transport.vhost_user.messages import BACK_END, FRONT_END, Flag, ProtocolFeature, Table
from virtio.transport.vhost_user.payloads import (
    MAX_PAYLOAD,
    ConfigAccess,
    Inflight,
    Iotlb,
    LogArea,
    MemoryRegion,
    StateTransfer,
    VringAddress,
    VringArea,
    VringState,
)

REGION = MemoryRegion(0x1000, 0x2000, 0x7F00_0000_0000, 0x3000)
EXAMPLES: dict[str, Any] = {
    "nothing": None,
    "u64": 0x0123_4567_89AB_CDEF,
    "vring state": VringState(1, 256),
    "vring address": VringAddress(1, 0, 0x1000, 0x3000, 0x2000, 2**64 - 1),
    "memory regions": (REGION, REGION._replace(guest_address=0x9000)),
    "memory region": REGION,
    "configuration access": ConfigAccess(4, 3, 1, b"abc"),
    "log": LogArea(1, 2),
    "IOTLB": Iotlb(1, 2, 3, 1, 2),
    "vring area": VringArea(1, 2, 3),
    "inflight": Inflight(1, 2, 3, 4),
    "device state transfer": StateTransfer(1, 0),
    "bytes": b"whatever",
}
SIZES = {
    "nothing": 0,
    "u64": 8,
    "vring state": 8,
    "vring address": 40,
    "memory regions": 8 + 2 * 32,
    "memory region": 40,
    "configuration access": 12 + 3,
    "log": 16,
    "IOTLB": 32,
    "vring area": 24,
    "inflight": 24,
    "device state transfer": 8,
    "bytes": 8,
}


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Descriptors to give away."""
    made: list[int] = []
    before = open_descriptors()
    made += [os.eventfd(0) for _ in range(10)]
    yield made
    assert open_descriptors() == before


@pytest.mark.parametrize("table", [FRONT_END, BACK_END], ids=["front end", "back end"])
def test_every_message_survives_the_way(table: Table) -> None:
    for kind in table:
        example = EXAMPLES[kind.request.name]
        data = encode_request(kind, example, need_reply=True)
        assert len(data) == 12 + SIZES[kind.request.name]
        decoder = Decoder(table)
        (message,) = decoder.receive(data)
        assert (message.number, message.kind, message.payload) == (kind.number, kind, example)
        assert message.needs_reply
        assert not message.is_reply
        assert message.problem == ("the descriptor is missing" if kind.descriptors[0] else None)
        if kind.reply is not None:
            (message,) = decoder.receive(encode_reply(kind, EXAMPLES[kind.reply.name]))
            assert message.is_reply
            assert message.payload == EXAMPLES[kind.reply.name]


def test_the_numbers_leave_no_gap() -> None:
    assert [kind.number for kind in FRONT_END] == list(range(1, 44))
    assert [kind.number for kind in BACK_END] == list(range(1, 9))
    assert [feature.value for feature in ProtocolFeature] == list(range(21))


def test_a_header_is_three_words() -> None:
    assert encode_request(FRONT_END["GET_FEATURES"]) == bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    assert encode_acknowledgement(5, 1)[:12] == bytes([5, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0])


def test_uml_leaves_room_in_its_memory_table() -> None:
    payload = FRONT_END["SET_MEM_TABLE"].request.encode((REGION,)) + bytes(32)
    assert len(payload) == 72
    (message,) = Decoder(FRONT_END).receive(encode(5, Flag.VERSION, payload))
    assert message.problem is None
    assert message.payload == (REGION,)


@given(st.lists(st.integers(min_value=1, max_value=30), max_size=40))
def test_pieces_of_any_size_make_the_same_messages(cuts: list[int]) -> None:
    whole = b"".join(encode_request(kind, EXAMPLES[kind.request.name]) for kind in FRONT_END)
    decoder = Decoder(FRONT_END)
    names = []
    position = 0
    for cut in [*cuts, len(whole)]:
        names += [
            message.kind.name for message in decoder.receive(whole[position : position + cut]) if message.kind
        ]
        position += cut
    assert names == [kind.name for kind in FRONT_END]
    assert not decoder.midway


def test_wanted_never_goes_beyond_a_message() -> None:
    data = encode_request(FRONT_END["SET_VRING_NUM"], VringState(0, 256))
    decoder = Decoder(FRONT_END)
    assert decoder.wanted == 12
    decoder.receive(data[:5])
    assert decoder.wanted == 7
    decoder.receive(data[5:12])
    assert decoder.wanted == 8
    decoder.receive(data[12:])
    assert decoder.wanted == 12


def test_descriptors_stay_with_their_message(fds: list[int]) -> None:
    kick = encode_request(FRONT_END["SET_VRING_KICK"], 0)
    decoder = Decoder(FRONT_END)
    assert decoder.receive(kick[:3], fds[:1]) == []
    (message,) = decoder.receive(kick[3:])
    assert message.fds == fds[:1]
    message.close()
    # The end of one message and the start of the next in one piece: descriptors come with a first byte.
    decoder.receive(kick[:6])
    first, second = decoder.receive(kick[6:] + kick, fds[1:2])
    assert (first.fds, second.fds) == ([], fds[1:2])
    second.close()
    for fd in fds[2:]:
        os.close(fd)


def test_descriptors_in_the_middle_of_a_message_are_closed(fds: list[int]) -> None:
    kick = encode_request(FRONT_END["SET_VRING_KICK"], 0)
    decoder = Decoder(FRONT_END)
    decoder.receive(kick[:4])
    (message,) = decoder.receive(kick[4:], fds)
    assert message.fds == []
    assert message.problem == "descriptors came after the first byte"
    (message,) = decoder.receive(kick)
    assert message.problem is None


def test_lost_descriptors_spoil_the_message() -> None:
    (message,) = Decoder(FRONT_END).receive(encode_request(FRONT_END["SET_VRING_KICK"], 0), lost=True)
    assert message.problem is not None
    assert "lost" in message.problem


def test_too_many_descriptors_are_named(fds: list[int]) -> None:
    (message,) = Decoder(FRONT_END).receive(encode_request(FRONT_END["SET_VRING_KICK"], 0), fds)
    assert message.problem == "10 descriptors came where at most 1 may"
    message.close()


def test_a_decoder_that_is_closed_midway_keeps_nothing(fds: list[int]) -> None:
    decoder = Decoder(FRONT_END)
    decoder.receive(b"\x0c", fds)
    decoder.close()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (encode(1, 0, b""), "version 0"),
        (encode(1, 2, b""), "version 2"),
        (encode(1, 3 | Flag.NEED_REPLY, b""), "version 3"),
        (bytes([1, 0, 0, 0, 1, 0, 0, 0]) + (MAX_PAYLOAD + 1).to_bytes(4, "little"), "announces"),
        (bytes([1, 0, 0, 0, 1, 0, 0, 0]) + b"\xff\xff\xff\xff", "announces"),
    ],
)
def test_a_header_that_cannot_be_followed_ends_it(header: bytes, reason: str, fds: list[int]) -> None:
    decoder = Decoder(FRONT_END)
    good = encode_request(FRONT_END["GET_FEATURES"])
    assert [message.number for message in decoder.receive(good + header)] == [1]
    assert decoder.failure is not None
    assert reason in decoder.failure
    assert decoder.receive(good, fds) == []


WRONG_SIZES = [
    (kind.name, change)
    for kind in FRONT_END
    for change in (-1, 1, 8)
    if kind.request.name != "bytes"
    and not (kind.request.name == "nothing" and change < 0)
    and not (kind.request.name == "memory regions" and change > 0)
]


@pytest.mark.parametrize(("name", "change"), WRONG_SIZES)
def test_a_payload_of_the_wrong_size_is_a_problem(name: str, change: int) -> None:
    kind = FRONT_END[name]
    payload = kind.request.encode(EXAMPLES[kind.request.name])
    payload = payload[:change] if change < 0 else payload + bytes(change)
    decoder = Decoder(FRONT_END)
    (message,) = decoder.receive(encode(kind.number, Flag.VERSION, payload))
    assert message.problem is not None
    assert message.payload is None
    assert not decoder.midway


def test_an_unknown_message_is_passed_on() -> None:
    (message,) = Decoder(FRONT_END).receive(encode(999, Flag.VERSION, b"abc"))
    assert (message.kind, message.payload, message.problem) == (None, b"abc", None)


@pytest.mark.parametrize("count", [9, 2**32 - 1])
def test_a_memory_table_has_at_most_eight_regions(count: int) -> None:
    payload = count.to_bytes(4, "little") + bytes(4) + bytes(32 * 9)
    (message,) = Decoder(FRONT_END).receive(encode(5, Flag.VERSION, payload))
    assert message.problem == f"memory table of {count} regions; there are at most 8"


@given(st.binary(max_size=400), st.lists(st.integers(min_value=1, max_value=50), max_size=20))
def test_any_bytes_are_survived(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(FRONT_END)
    position = 0
    for cut in [*cuts, len(data)]:
        decoder.receive(data[position : position + cut])
        position += cut
        assert 0 < decoder.wanted <= 12 + MAX_PAYLOAD
