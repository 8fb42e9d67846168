"""How a session drives its device: features, rings, memory."""

import os
from typing import Any

import pytest
from tests.transport.fakes import (
    EVENT_IDX,
    RING_PACKED,
    VERSION_1,
    FakeDevice,
)
from tests.transport.harness import ADDRESS, REGION, Harness, P, requests

from virtio.transport.vhost_user.actions import (
    Disconnect,
)
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.messages import (
    BACK_END,
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    NO_DESCRIPTOR,
)
from virtio.transport.vhost_user.payloads import LogArea, MemoryRegion, VringState

# --- features


def test_only_what_can_be_carried_is_offered() -> None:
    everything = FakeDevice(features=2**128 - 1)
    harness = Harness(everything)
    offered = harness.ask("GET_FEATURES")
    for bit in (24, 27, 31, 37, 38, 39, 41, 43):
        assert not offered >> bit & 1, bit
    for bit in (0, 23, 28, 29, 30, 32, 34, 35, 36, 50, 63):
        assert offered >> bit & 1, bit
    assert offered < 1 << 64
    harness.close()


def test_features_reach_the_device_without_the_protocols_own(harness: Harness) -> None:
    harness.say("SET_FEATURES", VERSION_1 | EVENT_IDX | F_PROTOCOL_FEATURES)
    assert harness.device.negotiated_features == VERSION_1 | EVENT_IDX
    assert harness.device.status == 0x0B


@pytest.mark.parametrize("features", [VERSION_1 | 1 << 33, VERSION_1 | 1 << 63, EVENT_IDX, 0], ids=hex)
@pytest.mark.parametrize("known", ["acknowledged", "status", "neither"])
def test_features_that_cannot_be_are_refused_visibly(harness: Harness, features: int, known: str) -> None:
    if known == "acknowledged":
        harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
        harness.refuses("SET_FEATURES", features)
    elif known == "status":
        harness.say("SET_PROTOCOL_FEATURES", P.STATUS.mask)
        assert harness.say("SET_FEATURES", features) == []
        harness.say("SET_STATUS", 0xB)
        assert harness.ask("GET_STATUS") == 0x3
    else:
        (action,) = harness.say("SET_FEATURES", features)
        assert isinstance(action, Disconnect)


@pytest.mark.parametrize(
    "features",
    [
        1 << 40,
        P.PAGEFAULT.mask,
        P.INBAND_NOTIFICATIONS.mask,
        P.INBAND_NOTIFICATIONS.mask | P.REPLY_ACK.mask,
        P.INBAND_NOTIFICATIONS.mask | P.BACKEND_REQ.mask,
    ],
    ids=hex,
)
def test_protocol_features_that_cannot_be_end_the_connection(harness: Harness, features: int) -> None:
    (action,) = harness.say("SET_PROTOCOL_FEATURES", features)
    assert isinstance(action, Disconnect)


def test_what_is_offered_is_there(harness: Harness) -> None:
    offered = harness.ask("GET_PROTOCOL_FEATURES")
    assert offered == PROTOCOL_FEATURES | IN_BAND
    for feature in (P.PAGEFAULT, P.CROSS_ENDIAN):
        assert not offered & feature.mask


def test_the_dirty_log_is_written_while_it_is_wanted(harness: Harness) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 8192)
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    assert harness.ask("SET_LOG_BASE", LogArea(4096, 4096), (os.dup(fd),)) is None
    assert harness.memory.log is None
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES | F_LOG_ALL)
    assert harness.memory.log == (4096, 4096)
    assert harness.device.negotiated_features == VERSION_1
    assert harness.ask("SET_LOG_BASE", LogArea(8192, 0), (fd,)) is None
    assert harness.memory.log == (8192, 0)
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    assert harness.memory.log is None


@pytest.mark.parametrize(
    "area", [LogArea(0, 0), LogArea(4097, 0), LogArea(4096, 1), LogArea(1 << 63, 1 << 63)]
)
def test_a_log_that_is_not_in_its_file_ends_the_connection(harness: Harness, area: LogArea) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 4096)
    (action,) = harness.say("SET_LOG_BASE", area, (fd,))  # it must be answered, but no answer says no
    assert isinstance(action, Disconnect)


def test_uml_asks_for_an_acknowledgement_of_reply_ack_itself(harness: Harness) -> None:
    harness.accepts("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)


def test_nothing_is_acknowledged_before_that_was_negotiated(harness: Harness) -> None:
    assert harness.say("SET_OWNER", ack=True) == []
    assert harness.say("SET_VRING_NUM", VringState(9, 9), ack=True) == []


# --- when a ring is live

Step = tuple[str, Any, bool]
NUM: Step = ("SET_VRING_NUM", VringState(0, 256), False)
BASE: Step = ("SET_VRING_BASE", VringState(0, 7), False)
ADDR: Step = ("SET_VRING_ADDR", ADDRESS, False)
KICK: Step = ("SET_VRING_KICK", 0, True)
POLL: Step = ("SET_VRING_KICK", NO_DESCRIPTOR, False)
CALL: Step = ("SET_VRING_CALL", 0, True)
ENABLE: Step = ("SET_VRING_ENABLE", VringState(0, 1), False)
DISABLE: Step = ("SET_VRING_ENABLE", VringState(0, 0), False)
GET_BASE: Step = ("GET_VRING_BASE", VringState(0, 0), False)
IN_BAND_KICK: Step = ("VRING_KICK", VringState(0, 0), False)
LIVE = (
    ("as QEMU", (CALL, NUM, BASE, ADDR, KICK, ENABLE), True),
    ("enabled first", (ENABLE, NUM, BASE, ADDR, KICK), True),
    ("polled", (NUM, BASE, ADDR, POLL, ENABLE), True),
    ("kick before address", (KICK, ENABLE, NUM, BASE, ADDR), True),
    ("not enabled", (NUM, BASE, ADDR, KICK), False),
    ("not kicked", (NUM, BASE, ADDR, ENABLE), False),
    ("no address", (NUM, BASE, KICK, ENABLE), False),
    ("no size", (BASE, ADDR, KICK, ENABLE), False),
    ("disabled", (NUM, BASE, ADDR, KICK, ENABLE, DISABLE), False),
    ("enabled again", (NUM, BASE, ADDR, KICK, ENABLE, DISABLE, ENABLE), True),
    ("stopped", (NUM, BASE, ADDR, KICK, ENABLE, GET_BASE), False),
    ("enabled, but stopped", (NUM, BASE, ADDR, KICK, ENABLE, GET_BASE, ENABLE), False),
    ("kicked anew", (NUM, BASE, ADDR, KICK, ENABLE, GET_BASE, KICK), True),
    ("reset", (NUM, BASE, ADDR, KICK, ENABLE, ("RESET_DEVICE", None, False)), False),
    ("no owner any more", (NUM, BASE, ADDR, KICK, ENABLE, ("RESET_OWNER", None, False)), False),
    ("status 0", (NUM, BASE, ADDR, KICK, ENABLE, ("SET_STATUS", 0, False)), False),
)


@pytest.mark.parametrize(("steps", "live"), [case[1:] for case in LIVE], ids=[case[0] for case in LIVE])
def test_when_a_ring_is_live(harness: Harness, steps: tuple[Step, ...], live: bool) -> None:
    harness.negotiate(P.STATUS, P.RESET_DEVICE)
    for name, payload, fd in steps:
        harness.say(name, payload, (harness.give(),) if fd else ())
    queue = harness.device.queues[0]
    assert queue.running == live
    assert not harness.device.queues[1].running
    if live:
        assert queue.rings == {
            "size": 256,
            "descriptors": 0x1000,
            "available": 0x2000,
            "used": 0x3000,
            "space": "user",
        }
        assert queue.base == 7
        assert harness.device.status & 0xF == 0xF


def test_without_protocol_features_a_ring_is_enabled_from_the_start(harness: Harness) -> None:
    harness.say("SET_FEATURES", VERSION_1)
    harness.ring(enable=False)
    assert harness.device.queues[0].running


@pytest.mark.parametrize("last", [ENABLE, IN_BAND_KICK])
def test_a_ring_may_be_live_without_a_kick_descriptor(harness: Harness, last: Step) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, P.INBAND_NOTIFICATIONS)
    harness.open_channel()
    harness.say("SET_VRING_ENABLE", VringState(0, 1))
    harness.ring(kick=False, enable=False)
    harness.say(last[0], last[1])
    queue = harness.device.queues[0]
    assert queue.running
    assert callable(queue.call)
    queue.call()
    (request,) = requests(harness.deliver())
    assert request.kind == BACK_END["BACKEND_VRING_CALL"]
    assert request.payload == VringState(0, 0)
    assert request.needs_reply
    before = queue.notified
    harness.accepts("VRING_KICK", VringState(0, 0))
    assert queue.notified == before + 1


def test_a_call_descriptor_is_preferred_to_messages(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK, P.BACKEND_REQ, P.INBAND_NOTIFICATIONS)
    harness.say("SET_VRING_CALL", 0, (harness.give(),))
    harness.ring()
    assert isinstance(harness.device.queues[0].call, int)


def test_a_call_descriptor_that_comes_late_is_signalled_at_once(harness: Harness) -> None:
    harness.negotiate()
    harness.ring()
    kept = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    harness.say("SET_VRING_CALL", 0, (os.dup(kept[0]),))
    assert os.eventfd_read(kept[0]) == 1  # chains may have been used before
    harness.say("SET_VRING_CALL", 0, (os.dup(kept[1]),))
    with pytest.raises(BlockingIOError):
        os.eventfd_read(kept[1])  # one descriptor for another: nothing was lost
    for fd in kept:
        os.close(fd)


def test_in_band_kicks_need_negotiation(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK)
    harness.refuses("VRING_KICK", VringState(0, 0))


# --- where a ring continues


def test_the_base_moves_with_the_ring(harness: Harness) -> None:
    harness.negotiate()
    harness.ring(base=0xFFFE)
    harness.device.queues[0].advance = 5
    assert harness.ask("GET_VRING_BASE", VringState(0, 0)) == VringState(0, 3)
    assert harness.ask("GET_VRING_BASE", VringState(0, 0)) == VringState(0, 3)
    assert harness.ask("GET_VRING_BASE", VringState(1, 0)) == VringState(1, 0)


def test_a_pause_keeps_the_place(harness: Harness) -> None:
    harness.negotiate()
    harness.ring(base=10)
    queue = harness.device.queues[0]
    queue.advance = 4
    harness.say("SET_VRING_ENABLE", VringState(0, 0))
    harness.say("SET_VRING_ENABLE", VringState(0, 1))
    assert queue.running
    assert queue.base == 14


@pytest.mark.parametrize("reset", ["SET_STATUS", "RESET_DEVICE"])
def test_qemu_asks_for_the_base_after_a_reset(harness: Harness, reset: str) -> None:
    harness.negotiate(P.STATUS, P.RESET_DEVICE)
    harness.ring(base=10)
    harness.device.queues[0].advance = 2
    harness.say(reset, 0 if reset == "SET_STATUS" else None)
    harness.say("SET_VRING_ENABLE", VringState(0, 0))
    assert harness.ask("GET_VRING_BASE", VringState(0, 0)) == VringState(0, 12)


def test_moving_a_live_ring_keeps_the_place(harness: Harness) -> None:
    harness.negotiate()
    harness.ring(base=1)
    queue = harness.device.queues[0]
    queue.advance = 1
    harness.say("SET_VRING_ADDR", ADDRESS)
    assert queue.starts == 1
    harness.say("SET_VRING_ADDR", ADDRESS._replace(descriptors=0x8000))
    assert queue.starts == 2
    assert queue.rings["descriptors"] == 0x8000
    assert queue.base == 2


@pytest.mark.parametrize(
    ("sent", "flags", "meant"),
    [
        (0x8000_8000, 0, 0x8000_8000),  # QEMU
        (0x8000, 0, 0x8000_8000),  # DPDK
        (0, 0, 0x8000_8000),  # UML: fresh
        (0, 0x8000, 0),  # an honest 0: the device has been here
        (0x8015_0015, 0, 0x8015_0015),
    ],
)
def test_packed_bases_are_what_front_ends_mean(sent: int, flags: int, meant: int) -> None:
    harness = Harness(FakeDevice(features=VERSION_1 | RING_PACKED))
    harness.memory.contents[ADDRESS.descriptors + 14] = flags.to_bytes(2, "little")
    harness.negotiate(features=VERSION_1 | RING_PACKED)
    harness.ring(base=sent)
    assert harness.device.queues[0].base == meant
    harness.close()


# --- a new driver


def test_other_features_are_a_new_driver(harness: Harness) -> None:
    harness.negotiate()
    harness.ring()
    harness.ask("GET_VRING_BASE", VringState(0, 0))
    resets = harness.device.resets
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    assert harness.device.resets == resets  # stopped and continued: the device keeps its state
    harness.say("SET_FEATURES", VERSION_1 | EVENT_IDX | F_PROTOCOL_FEATURES)
    assert harness.device.resets == resets + 1
    assert harness.device.negotiated_features == VERSION_1 | EVENT_IDX


def test_a_driver_of_uml_leaves_by_disabling_its_rings(harness: Harness) -> None:
    harness.negotiate()
    harness.ring()
    resets = harness.device.resets
    harness.say("SET_VRING_ENABLE", VringState(0, 0))
    harness.say("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    assert harness.device.resets == resets + 1


def test_features_stand_while_rings_are_live(harness: Harness) -> None:
    harness.negotiate(P.REPLY_ACK)
    harness.ring()
    harness.accepts("SET_FEATURES", VERSION_1 | F_PROTOCOL_FEATURES)
    harness.refuses("SET_FEATURES", VERSION_1 | EVENT_IDX | F_PROTOCOL_FEATURES)
    assert harness.device.queues[0].running


# --- memory


def test_memory_is_replaced_and_taken_apart(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
    harness.accepts("SET_MEM_TABLE", (REGION,), (os.memfd_create("guest"),))
    other = REGION._replace(guest_address=0x100000, user_address=0x7F01_0000_0000)
    harness.accepts("ADD_MEM_REG", other, (os.memfd_create("guest"),))
    assert [region.guest_address for region in harness.memory.regions] == [0, 0x100000]
    harness.refuses("REM_MEM_REG", other._replace(user_address=0))
    harness.accepts("REM_MEM_REG", other._replace(mmap_offset=5), (os.eventfd(0),))
    harness.accepts("SET_MEM_TABLE", ())
    assert harness.memory.regions == []


def test_there_are_as_many_slots_as_are_said(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.REPLY_ACK.mask)
    slots = harness.ask("GET_MAX_MEM_SLOTS")
    for index in range(slots):
        region = MemoryRegion(index << 16, 1 << 16, index << 16, 0)
        harness.accepts("ADD_MEM_REG", region, (os.memfd_create("guest"),))
    harness.refuses("ADD_MEM_REG", REGION._replace(guest_address=1 << 50), (os.memfd_create("guest"),))
