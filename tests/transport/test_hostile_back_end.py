"""Back ends that do wrong at each message: a typed error in time, never a hang, and nothing is left open."""

import contextlib
import os
import socket
import struct
import time
from typing import Any

import pytest
from tests.transport.contract import BASIC, READY, Failures, Ring, negotiate
from tests.transport.rogue import FEATURES, Deed, Rogue, silence

from virtio.errors import RefusedError, TransportError
from virtio.spec import core
from virtio.transport.interface import DriverEnd
from virtio.transport.vhost_user import open_driver_end
from virtio.transport.vhost_user.codec import Decoder, Message, encode, encode_acknowledgement, encode_reply
from virtio.transport.vhost_user.exchange import ViolationError
from virtio.transport.vhost_user.messages import BACK_END, FRONT_END, MessageType, ProtocolFeature
from virtio.transport.vhost_user.payloads import ConfigAccess, VringState

TIMEOUT = 5.0
SHORT = 0.3
"""Where the back end says nothing. On a busy machine it may be late with an answer before."""
SLACK = 30.0
P = ProtocolFeature

MESSAGES = [
    "SET_OWNER",
    "GET_FEATURES",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "GET_MAX_MEM_SLOTS",
    "SET_BACKEND_REQ_FD",
    "SET_FEATURES",
    "SET_STATUS",
    "GET_STATUS",
    "RESET_DEVICE",
    "GET_CONFIG",
    "SET_CONFIG",
    "ADD_MEM_REG",
    "SET_VRING_NUM",
    "SET_VRING_BASE",
    "SET_VRING_ADDR",
    "SET_VRING_ERR",
    "SET_VRING_CALL",
    "SET_VRING_KICK",
    "SET_VRING_ENABLE",
    "GET_VRING_BASE",
]
UNANSWERED = {"SET_OWNER", "SET_PROTOCOL_FEATURES"}


def live(place: str, timeout: float = TIMEOUT) -> None:
    """A whole life of a driver's end."""
    with open_driver_end(place, timeout=timeout, memory_size=1 << 20) as end:
        use(end)


def use(end: DriverEnd) -> None:
    negotiate(end, BASIC)
    end.read_config(0, 8)
    end.write_config(0, b"1")
    ring = Ring(end, 0, BASIC)
    try:
        ring.start()
        end.set_status(READY | core.STATUS.DRIVER_OK)
        end.memory.allocate(1 << 20).free()
        end.stop_queue(0)
        end.reset()
        for _ in range(3):
            end.status  # noqa: B018 (asks)
            time.sleep(0.001)
    finally:
        ring.close()


def hang_up(rogue: Rogue, _message: Message, _answer: bytes) -> None:
    rogue.hang_up()


def answer_and_hang_up(rogue: Rogue, _message: Message, answer: bytes) -> None:
    rogue.send(answer)
    rogue.hang_up()


def half_and_hang_up(rogue: Rogue, _message: Message, answer: bytes) -> None:
    rogue.send(answer[: len(answer) // 2] or b"\1")
    rogue.hang_up()


def half(rogue: Rogue, _message: Message, answer: bytes) -> None:
    rogue.send(answer[: len(answer) // 2] or b"\1")
    rogue.sulk()


def twice(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send((answer or encode_acknowledgement(message.number, 0)) * 2)


def of_another(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send(encode(message.number % 16 + 40, 5, answer[12:]))


def unmarked(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send(encode(message.number, 1, answer[12:]))


def other_version(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send(encode(message.number, 4 | 2, answer[12:]))


def too_short(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send(encode(message.number, 5, answer[12:-1]))


def too_long(rogue: Rogue, message: Message, answer: bytes) -> None:
    rogue.send(encode(message.number, 5, answer[12:] + b"\0"))


def endless(rogue: Rogue, message: Message, _answer: bytes) -> None:
    rogue.send(struct.pack("=III", message.number, 5, 1 << 30))


def with_descriptors(rogue: Rogue, message: Message, answer: bytes) -> None:
    fds = tuple(os.memfd_create("gift") for _ in range(16))
    try:
        rogue.send(answer or encode_acknowledgement(message.number, 0), fds)
    finally:
        for fd in fds:
            os.close(fd)


def descriptors_late(rogue: Rogue, message: Message, answer: bytes) -> None:
    answer = answer or encode_acknowledgement(message.number, 0)
    rogue.send(answer[:7])
    gift = os.eventfd(0)
    rogue.send(answer[7:], (gift,))
    os.close(gift)


def noise(rogue: Rogue, _message: Message, _answer: bytes) -> None:
    rogue.send(os.urandom(64) + b"\xff" * 16)


DEEDS: list[Deed] = [
    hang_up,
    answer_and_hang_up,
    half_and_hang_up,
    half,
    silence,
    twice,
    of_another,
    unmarked,
    other_version,
    too_short,
    too_long,
    endless,
    with_descriptors,
    noise,
]


def test_without_a_deed_all_is_well() -> None:
    with Rogue("", silence) as rogue:
        live(rogue.place)


@pytest.mark.parametrize("at", MESSAGES)
@pytest.mark.parametrize("deed", DEEDS, ids=[deed.__name__ for deed in DEEDS])
def test_a_typed_error_in_time(deed: Deed, at: str) -> None:
    for timeout in (SHORT, TIMEOUT) if deed in (half, silence) else (TIMEOUT,):
        began = time.monotonic()
        with Rogue(at, deed) as rogue, pytest.raises(TransportError) as caught:
            live(rogue.place, timeout)
        if rogue.done:
            break
    assert rogue.done
    assert not isinstance(caught.value, RefusedError)
    assert time.monotonic() - began < timeout * 2 + SLACK


@pytest.mark.parametrize("at", MESSAGES)
def test_late_descriptors_are_an_error_or_closed(at: str) -> None:
    """The kernel may deliver them with the first byte all the same, where they are harmless."""
    with Rogue(at, descriptors_late) as rogue, contextlib.suppress(ViolationError):
        live(rogue.place)


# --- answers in form, but absurd


def value(reply: Any) -> Deed:
    def say(rogue: Rogue, message: Message, _answer: bytes) -> None:
        assert message.kind is not None
        rogue.send(encode_reply(message.kind, reply))

    return say


ABSURD = [
    ("GET_QUEUE_NUM", 0),
    ("GET_QUEUE_NUM", 1 << 17),
    ("GET_QUEUE_NUM", (1 << 64) - 1),
    ("GET_MAX_MEM_SLOTS", 0),
    ("GET_STATUS", 0x1FF),
    ("GET_STATUS", 0x0F),  # after a reset
    ("GET_CONFIG", ConfigAccess(0, 9, 0, bytes(9))),
    ("GET_CONFIG", ConfigAccess(0, 4000, 0, bytes(4000))),
    ("GET_CONFIG", ConfigAccess(1, 8, 0, bytes(8))),
    ("GET_VRING_BASE", VringState(1, 0)),
    ("GET_VRING_BASE", VringState(0, 0x10000)),
    ("GET_VRING_BASE", VringState(0xFFFFFFFF, 0xFFFFFFFF)),
]


@pytest.mark.parametrize(("at", "reply"), ABSURD)
def test_absurd_answers_end_the_connection(at: str, reply: Any) -> None:
    with Rogue(at, value(reply)) as rogue, pytest.raises(ViolationError):
        live(rogue.place)


def test_a_configuration_size_that_lies() -> None:
    def lie(rogue: Rogue, message: Message, _answer: bytes) -> None:
        rogue.send(encode(message.number, 5, struct.pack("=III", 0, 1 << 31, 0) + bytes(8)))

    with Rogue("GET_CONFIG", lie) as rogue, pytest.raises(ViolationError):
        live(rogue.place)


def test_more_queues_than_messages_can_name() -> None:
    with Rogue("GET_QUEUE_NUM", value(1000)) as rogue, open_driver_end(rogue.place) as end:
        assert end.max_queues == 256


def test_no_more_memory_slots() -> None:
    with (
        Rogue("GET_MAX_MEM_SLOTS", value(1)) as rogue,
        open_driver_end(rogue.place, memory_size=1 << 20) as end,
    ):
        with pytest.raises(RefusedError):
            use(end)
        end.reset()


def test_all_protocol_features_that_there_are() -> None:
    with Rogue("GET_PROTOCOL_FEATURES", value((1 << 64) - 1)) as rogue:
        live(rogue.place)


@pytest.mark.parametrize("protocol", [0, P.REPLY_ACK.mask, P.MQ.mask, P.STATUS.mask, P.CONFIG.mask])
def test_few_protocol_features(protocol: int) -> None:
    with (
        Rogue("", silence, protocol=protocol) as rogue,
        open_driver_end(rogue.place, timeout=TIMEOUT, memory_size=1 << 20) as end,
    ):
        if protocol & P.CONFIG.mask:
            use(end)
        else:
            assert end.config_size == 0
            with pytest.raises(RefusedError):
                use(end)
        end.reset()


def test_no_protocol_features_at_all() -> None:
    with (
        Rogue("GET_FEATURES", value(FEATURES & ~(1 << 30))) as rogue,
        open_driver_end(rogue.place, timeout=TIMEOUT, memory_size=1 << 20) as end,
    ):
        negotiate(end, BASIC)
        ring = Ring(end, 0, BASIC)
        ring.start()
        end.set_status(READY | core.STATUS.DRIVER_OK)
        assert end.stop_queue(0) == 0
        ring.close()


# --- refusals


REFUSABLE = [
    name for name in MESSAGES if FRONT_END[name].reply is None and name not in UNANSWERED | {"SET_FEATURES"}
]


@pytest.mark.parametrize("at", REFUSABLE)
def test_a_refusal_is_an_error_of_its_own(at: str) -> None:
    def refuse(rogue: Rogue, message: Message, _answer: bytes) -> None:
        rogue.send(encode_acknowledgement(message.number, 1))

    with Rogue(at, refuse) as rogue, pytest.raises(RefusedError, match=at):
        live(rogue.place)


def test_refused_features_show_in_the_status() -> None:
    def refuse(rogue: Rogue, message: Message, _answer: bytes) -> None:
        rogue.send(encode_acknowledgement(message.number, 1))

    with Rogue("SET_FEATURES", refuse) as rogue, open_driver_end(rogue.place, timeout=TIMEOUT) as end:
        end.accept(BASIC)
        end.set_status(READY)
        assert not end.status & core.STATUS.FEATURES_OK


# --- the back end's own channel


def on_channel(rogue: Rogue, data: bytes, fds: tuple[int, ...] = ()) -> None:
    assert rogue.channel is not None
    socket.send_fds(rogue.channel, [data], fds)


def ask_on_channel(rogue: Rogue, kind: MessageType | int, payload: bytes, fds: tuple[int, ...] = ()) -> int:
    """Make a request and return the answer."""
    assert rogue.channel is not None
    number = kind if isinstance(kind, int) else kind.number
    on_channel(rogue, encode(number, 1 | 8, payload), fds)
    rogue.channel.settimeout(5)
    decoder = Decoder(BACK_END)
    while not (messages := decoder.receive(rogue.channel.recv(decoder.wanted))):
        pass
    assert messages[0].number == number
    payload = messages[0].payload  # bytes, where the message is unknown to the decoder
    return payload if isinstance(payload, int) else int.from_bytes(payload, "little")


@pytest.fixture
def connected() -> Any:
    with Rogue("", silence) as rogue, open_driver_end(rogue.place, timeout=TIMEOUT) as end:
        yield rogue, end


def test_a_request_that_is_unknown_is_refused(connected: tuple[Rogue, DriverEnd]) -> None:
    rogue, end = connected
    assert ask_on_channel(rogue, 77, b"what") == 1
    assert ask_on_channel(rogue, BACK_END["BACKEND_SHARED_OBJECT_ADD"], bytes(16)) == 1
    assert end.status == 0


def test_descriptors_that_nobody_asked_for_are_closed(connected: tuple[Rogue, DriverEnd]) -> None:
    rogue, end = connected
    gifts = tuple(os.memfd_create("gift") for _ in range(200))
    assert ask_on_channel(rogue, BACK_END["BACKEND_VRING_HOST_NOTIFIER_MSG"], bytes(24), gifts) == 1
    for gift in gifts:
        os.close(gift)
    assert end.status == 0


def test_calls_for_queues_that_are_none_are_refused(connected: tuple[Rogue, DriverEnd]) -> None:
    rogue, end = connected
    # Not negotiated here either: calls come by descriptors.
    assert ask_on_channel(rogue, BACK_END["BACKEND_VRING_CALL"], struct.pack("=II", 0, 0)) == 1
    assert end.status == 0


@pytest.mark.parametrize("data", [encode(2, 5, bytes(8)), encode(2, 2, b""), encode(2, 1, bytes(5000))])
def test_a_channel_that_makes_no_sense_ends_the_connection(
    connected: tuple[Rogue, DriverEnd], data: bytes
) -> None:
    rogue, end = connected
    failures = Failures()
    end.on_failure(failures.take)
    on_channel(rogue, data)
    assert isinstance(failures.wait(), ViolationError)
    with pytest.raises(ViolationError):
        end.reset()


def test_a_channel_may_be_closed(connected: tuple[Rogue, DriverEnd]) -> None:
    rogue, end = connected
    assert rogue.channel is not None
    rogue.channel.close()
    time.sleep(0.01)
    end.reset()


def test_a_flood_of_news_does_not_pile_up(connected: tuple[Rogue, DriverEnd]) -> None:
    rogue, end = connected
    assert rogue.channel is not None
    told = 0

    def look() -> None:
        nonlocal told
        told += 1
        time.sleep(0.01)

    failures = Failures()
    end.on_config_change(look)
    end.on_failure(failures.take)
    rogue.channel.settimeout(1)
    try:
        for _ in range(20000):
            rogue.channel.sendall(encode(2, 1 | 8, b""))
    except OSError:
        pass
    assert isinstance(failures.wait(), ViolationError)  # it does not read its answers
    assert told < 5000


def test_memory_cannot_be_cut_off_by_who_shares_it() -> None:
    with Rogue("", silence) as rogue, open_driver_end(rogue.place, timeout=TIMEOUT) as end:
        negotiate(end, BASIC)
        ring = Ring(end, 0, BASIC)
        ring.start()
        for fd in rogue.memory_fds:
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
        ring.close()
