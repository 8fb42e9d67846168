"""A function's state, taken from one function to another."""

import json
import random
import struct
import zlib
from typing import Any

import pytest
from tests.transport.pci.rig import BASIC, CONFIG, MEMORY, READY, Card, S, card, wait_for_used

from virtio.device.entropy import EntropyDevice
from virtio.errors import StateError
from virtio.spec import core
from virtio.transport.pci import Layout
from virtio.transport.pci.state import MAGIC


def saved(made: Card) -> bytes:
    made.function.dma_changing()
    return made.function.save()


@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
def test_queues_go_on_elsewhere(layout: int) -> None:
    """The rings go on in the middle, with the same interrupts; the old function is not heard any more."""
    with card() as old, card() as new:
        old.negotiate(BASIC | layout)
        old.enable_msix()
        old["config_msix_vector"] = 0
        ring = old.queue(0, BASIC | layout)
        old["queue_msix_vector"] = 1
        old["device_status"] = READY | S.DRIVER_OK
        for _ in range(21):
            head = ring.add([b"abc"], [3])
            ring.publish()
            old.notify(0)
            assert wait_for_used(ring) == [head]
        state = saved(old)
        # Guest memory moves with the machine; here it is the new one's from now on.
        new.function.memory.clear()
        new.function.memory.add(0, MEMORY, old._fd)
        new.function.load(state)
        new.function.dma_changed()
        assert new.function.read(CONFIG, 0, 4096) == old.function.read(CONFIG, 0, 4096)
        for name in (
            "device_status",
            "queue_select",
            "config_msix_vector",
            "queue_msix_vector",
            "queue_desc",
        ):
            assert new[name] == old[name], name
        new.listen()
        head = ring.add([b"xyz"], [3])
        ring.publish()
        ring.enable_interrupts()
        new.notify(0)
        assert wait_for_used(ring) == [head]
        assert ring.data(head) == b"zyx"
        new.device.config["capacity"] = 11
        assert (2, 0) in new.take()
        ring.close()


def test_before_there_is_a_driver() -> None:
    with card() as old, card() as new:
        new.function.load(saved(old))
        assert new["device_status"] == 0
        new.negotiate()


def test_what_was_held_back_comes_there() -> None:
    with card() as old, card() as new:
        old.negotiate()
        old["config_msix_vector"] = 2
        old["device_status"] = READY | S.DRIVER_OK
        old.enable_msix(mask_all=True)
        old.device.config["capacity"] = 99
        new.device.config["capacity"] = 99  # the disk itself is the same
        new.function.load(saved(old))
        new.listen()
        assert new.take() == []
        new.enable_msix()
        assert new.take() == [(2, 2)]


@pytest.mark.parametrize(
    "other",
    [
        {"layout": Layout(vectors=2)},
        {"layout": Layout(express=False)},
        {"device": EntropyDevice()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_kind_of_function_refuses(other: dict[str, Any]) -> None:
    with card() as old, card(**other) as new:
        old.negotiate(BASIC | core.F.RING_RESET)
        old["device_status"] = READY | S.DRIVER_OK
        with pytest.raises(StateError):
            new.function.load(saved(old))
        assert new["device_status"] == 0


def test_features_that_are_not_offered_are_refused() -> None:
    extra = core.F.NOTIFICATION_DATA
    with card(features=extra) as old, card() as new:
        old.negotiate(BASIC | extra)
        with pytest.raises(StateError, match="does not offer"):
            new.function.load(saved(old))


def parts(state: bytes) -> dict[str, Any]:
    found = json.loads(state[16:])
    assert isinstance(found, dict)
    return found


def whole(values: object) -> bytes:
    body = json.dumps(values).encode()
    return struct.pack("<8sII", MAGIC, 1, zlib.crc32(body)) + body


@pytest.mark.parametrize(
    "change",
    [
        {"status": 0x100},
        {"status": -1},
        {"status": "15"},
        {"status": True},
        {"features": 1 << 128},
        {"config": "!"},
        {"config": ""},
        {"msix_table": "AAAA"},
        {"msix_pending": [77]},
        {"msix_written": ["a"]},
        {"queues": []},
        {"queues": [{}]},
        {"queues": 7},
        {"device": ""},
        {"device_id": 1},
        {"more": 1},
    ],
    ids=str,
)
def test_states_that_cannot_be(change: dict[str, Any]) -> None:
    with card() as old, card() as new:
        old.negotiate()
        old.queue(0).close()
        old["device_status"] = READY | S.DRIVER_OK
        state = parts(saved(old))
        with pytest.raises(StateError):
            new.function.load(whole({**state, **change}))
        assert new["device_status"] == 0
        new.negotiate()


def test_bytes_that_are_no_state() -> None:
    with card() as made:
        state = saved(made)
        wrong = [b"", bytes(100), state[:-1], state + b"x", b"x" + state[1:], whole([]), whole(None)]
        wrong.append(state[:8] + b"\2" + state[9:])
        for data in wrong:
            with pytest.raises(StateError):
                made.function.load(data)


def test_damaged_values_never_hurt() -> None:
    choice = random.Random(5)
    with card() as old, card() as new:
        old.negotiate()
        old.queue(0).close()
        old["device_status"] = READY | S.DRIVER_OK
        state = parts(saved(old))
        for _ in range(200):
            values = json.loads(json.dumps(state))
            target = choice.choice([values, choice.choice(values["queues"])])
            name = choice.choice(list(target))
            target[name] = choice.choice((0, 1, -1, 0xFFFF, 1 << 63, None, "x", [], {}, 1.5, [0], True))
            try:
                new.function.load(whole(values))
            except StateError:
                assert new["device_status"] == 0
            new.function.dma_changed()


def test_a_function_without_memory_cannot_be_loaded() -> None:
    with card() as made:
        state = saved(made)
        made.function.detach()
        with pytest.raises(StateError):
            made.function.load(state)
