"""Flow filters (VIRTIO 1.4, 5.1.9.6): which packets rules are for, and how they move with the device."""

import struct
from typing import Any

import pytest
from tests.device.test_net_flow import (
    CLASSIFIER,
    ENXIO,
    GROUP,
    OK,
    OP,
    OPCODE,
    RULE,
    TCP4,
    TYPE,
    Bench,
    classifier,
    group,
    rule,
)  # fmt: skip

import virtio
from virtio.device.net_flow import split_saved
from virtio.device.state import unpack
from virtio.errors import StateError
from virtio.spec.admin_data import bits_of


def tcp(version: int, port: int = 5000, protocol: int = 6, mac: str = "020000000001") -> bytes:
    ports = struct.pack(">HH", 40000, port)
    transport = ports + (bytes(8) + b"\x50\x10" + bytes(6) if protocol == 6 else b"\0\x08\0\0")
    if version == 4:
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
        )
        return bytes.fromhex(mac + "020000000009 0800") + ip + transport
    ip = struct.pack(
        ">IHBB16s16s", 6 << 28, len(transport), protocol, 64, b"\xfd" + bytes(15), b"\xfe" + bytes(15)
    )
    return bytes.fromhex(mac + "020000000009 86dd") + ip + transport


def queues_of(bench: Bench, *frames: bytes) -> list[int]:
    """Where frames come to, as the counts of drops tell: nobody serves the queues here."""
    found = []
    for frame in frames:
        before = [bench.device.port.statistics(pair)["rx_drops"] for pair in range(4)]
        assert not bench.device.port.deliver(frame)
        after = [bench.device.port.statistics(pair)["rx_drops"] for pair in range(4)]
        moved = [pair for pair in range(4) if after[pair] > before[pair]]
        found.append(moved[0] if moved else -1)
    return found


def test_rules_come_in_the_order_of_groups_and_priorities() -> None:
    """5.1.9.6.4: the highest group first, in it the highest priority; the first that matches is all."""
    bench = Bench()
    everything = classifier([(TYPE.ETH, bytes(14))])
    assert bench.create(GROUP, 1, group(4)) == bench.create(GROUP, 2, group(5)) == OK
    assert bench.create(CLASSIFIER, 1, everything) == bench.create(CLASSIFIER, 2, classifier(TCP4)) == OK
    frames = (tcp(4), tcp(4, 80), tcp(6))
    assert queues_of(bench, *frames) == [0, 0, 0], "as they are steered"
    assert bench.create(RULE, 0, rule(bytes(14), classifier=1, group=1, priority=9, queue=1)) == OK
    assert queues_of(bench, *frames) == [1, 1, 1]
    assert bench.create(RULE, 1, rule(classifier=2, group=2, priority=1, queue=2)) == OK
    assert queues_of(bench, *frames) == [2, 1, 1], "a higher group"
    assert bench.create(RULE, 2, rule(classifier=2, group=2, priority=2, queue=None)) == OK
    assert queues_of(bench, *frames) == [-1, 1, 1], "a higher priority in it"
    assert bench.modify(RULE, 2, rule(classifier=2, group=2, priority=0, queue=3)) == OK
    assert queues_of(bench, *frames) == [2, 1, 1]
    assert bench.destroy(RULE, 1) == OK
    assert queues_of(bench, *frames) == [3, 1, 1]
    assert bench.destroy(RULE, 2) == bench.destroy(RULE, 0) == OK
    assert queues_of(bench, *frames) == [0, 0, 0]


def test_a_filter_by_address_comes_before_rules() -> None:
    """5.1.9.6.1: what receive modes, addresses and VLANs keep out meets no rule."""
    bench = Bench()
    bench.three(queue=2)
    other = tcp(4, mac="020000000077")
    assert queues_of(bench, tcp(4), other) == [2, 2]
    bench.device._control.handle(b"\0\0\0")
    assert queues_of(bench, tcp(4), other) == [2, -1]


# --- another device in its place


def moved(bench: Bench, own: bytes | None = None) -> Bench:
    """Another device in the place of this one; ``own``: instead of what this one saved."""
    other = virtio.NetworkDevice(mac="02:00:00:00:00:01", pairs=4, flow_filters=True)
    saved = bench.device.saved()
    state = bench.device.save_state()
    assert state.endswith(saved)
    if own is not None:
        state = unpack(state)._replace(own=own).pack()
    other.set_status(1)
    other.set_status(3)
    other.load_state(state)
    other.negotiate(bench.device.negotiated_features)
    other.set_status(bench.device.status)
    again = Bench.__new__(Bench)
    again.device = other
    return again


def test_filters_move_with_the_device() -> None:
    bench = Bench()
    bench.three(queue=2)
    assert bench.create(GROUP, 9, group(6)) == OK
    assert bench.create(RULE, 5, rule(group=9, priority=7)) == OK
    bench.run(OP.LIST_USE, bits_of((0, 1, OP.RESOURCE_OBJ_QUERY)))
    again = moved(bench)
    assert again.device.saved() == bench.device.saved()
    assert again.query(RULE, 5) == (OK, rule(group=9, priority=7))
    assert again.destroy(RULE, 5) == OPCODE, "it may use what it said to use"
    assert queues_of(again, tcp(4), tcp(6)) == [-1, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own[:-1],
        lambda own: own + b"\1",
        lambda own: own + bytes(4),
        lambda own: own + b"\xff\xff\xff\xff",
        lambda own: own + b"\1\0\0\0",
    ],
    ids=range(5),
)
def test_a_state_that_is_none_is_refused(change: Any) -> None:
    bench = Bench()
    bench.three()
    with pytest.raises(StateError):
        moved(bench, change(bench.device.saved()))
    with pytest.raises(StateError, match="without"):
        virtio.NetworkDevice().check_saved(bench.device.saved(), {})


def test_commands_of_a_state_that_make_no_sense_are_refused() -> None:
    """As the driver's own are: what comes after them is carried out."""
    bench = Bench()
    bench.three(queue=1)
    _, commands = split_saved(bench.device.saved())
    wrong = commands[-3]  # the group's classifier, of which nothing is left but its type and number
    assert wrong[24:26] == CLASSIFIER.to_bytes(2, "little")
    again = moved(bench, bench.device.saved().replace(wrong[40:], bytes(len(wrong) - 40)))
    assert again.query(GROUP, 0) == (OK, group(5))
    assert again.query(CLASSIFIER, 0)[0] == again.query(RULE, 0)[0] == ENXIO
