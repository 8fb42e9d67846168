"""Functions with the manners of cards, and what they cost on the bus."""

import contextlib
import json

import pytest
from tests.transport.contract import Mirror, Ring
from tests.transport.pci.rig import BASIC, READY, S

import virtio
from virtio.bench.count_card import count_card
from virtio.cli import run
from virtio.spec import core, entropy
from virtio.transport import pci
from virtio.transport.pci.card import CardDevice
from virtio.transport.pci.hardware import CardFunction, HardwareProfile, Traffic

DATA = core.F.NOTIFICATION_DATA | core.F.NOTIF_CONFIG_DATA | core.F.ACCESS_PLATFORM


class Backwards(CardDevice):
    spec = entropy

    def answer(self, queue_index: int, data: bytes, room: int) -> bytes:
        return data[::-1] or bytes(room)


@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("data", [0, DATA], ids=["plain", "with data"])
def test_a_card_serves_a_driver(layout: int, data: int) -> None:
    features = BASIC | layout | data | core.F.ORDER_PLATFORM | core.F.EVENT_IDX | core.F.INDIRECT_DESC
    device = Backwards()
    function = CardFunction(device)
    with (
        contextlib.closing(device),
        pci.start(function, "card"),
        pci.open_driver_end("card", memory_size=1 << 20) as end,
    ):
        assert end.device_features & features == features
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        end.accept(features)
        end.set_status(READY)
        ring = Ring(end, 0, features)
        ring.start()
        assert ring.wire is not None
        assert ring.wire.kick_fd is None
        end.set_status(READY | S.DRIVER_OK)
        for number in range(40):
            before = function.traffic
            ring.model.enable_interrupts()
            head = ring.model.add([b"abc", b"def"], [2, 10])
            ring.model.publish()
            ring.wire.kick(ring.model.notification_data << 16)
            assert ring.wait() == [head], number
            assert ring.model.data(head)[:6] == b"fedcba"
            after = function.traffic
            assert after.notifications == before.notifications + 1
            assert after.interrupts == before.interrupts + 1
            assert after.register_writes == before.register_writes
            assert after.reads > before.reads
        assert function.ignored == {}
        end.reset()
        ring.close()


def test_our_driver_reads_random_bytes_from_a_card() -> None:
    device = Backwards()
    with (
        contextlib.closing(device),
        pci.start(CardFunction(device), "noise"),
        virtio.connect("pci:noise") as driver,
    ):
        assert driver.read(100) == bytes(100)


def test_a_driver_that_breaks_rules_loses_the_card() -> None:
    device = Backwards()
    with (
        contextlib.closing(device),
        pci.start(CardFunction(device), "card"),
        pci.open_driver_end("card", memory_size=1 << 20) as end,
    ):
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        end.accept(BASIC)
        end.set_status(READY)
        ring = Ring(end, 0, BASIC)
        ring.start()
        end.set_status(READY | S.DRIVER_OK)
        address = ring.model.addresses["available"] + 2
        end.memory.native.write(address, (0x7000).to_bytes(2, "little"))
        assert ring.wire is not None
        ring.wire.kick(0)
        assert end.status & S.DEVICE_NEEDS_RESET
        end.reset()
        ring.close()


def test_a_queue_pauses_and_goes_on() -> None:
    device = Backwards()
    function = CardFunction(device)
    with (
        contextlib.closing(device),
        pci.start(function, "card"),
        pci.open_driver_end("card", memory_size=1 << 20) as end,
    ):
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        end.accept(BASIC)
        end.set_status(READY)
        ring = Ring(end, 0, BASIC)
        ring.start()
        end.set_status(READY | S.DRIVER_OK)
        ring.mirror(b"before")
        function.dma_changing()
        head = ring.offer(b"meanwhile")
        assert ring.wait(0) == []
        function.dma_changed()
        assert ring.wait() == [head]
        end.reset()
        ring.close()


def test_reads_take_time_and_writes_do_not() -> None:
    waited: list[float] = []
    device = Backwards()
    function = CardFunction(device, profile=HardwareProfile(latency=0.25, wait=waited.append))
    with contextlib.closing(device), pci.start(function, "slow"), virtio.connect("pci:slow") as driver:
        driver.read(8)
        assert sum(waited) == 0.25 * function.traffic.reads


def test_a_device_with_native_queues_is_a_card_too() -> None:
    device = Mirror()
    function = CardFunction(
        device, profile=HardwareProfile(notification_data=False, first_notification_value=0)
    )
    with contextlib.closing(device), pci.start(function, "native"):
        end = pci.open_driver_end("native", memory_size=1 << 20)
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        assert not end.device_features & core.F.NOTIFICATION_DATA
        end.accept(BASIC)
        end.set_status(READY)
        ring = Ring(end, 0, BASIC)
        ring.start()
        end.set_status(READY | S.DRIVER_OK)
        ring.mirror(b"hello")
        assert function.traffic.notifications == 1
        assert function.traffic.total > 10
        end.reset()
        ring.close()
        end.close()


def test_counts_that_can_be_worked_out_by_hand() -> None:
    (split,) = count_card(["split"], [1])
    # Available entry (its index came with the notification), descriptors, data; event, and the index again.
    assert split.reads == 5
    # Data, used entry, used index, event: and data now and then across 256 bytes.
    assert 4 <= split.writes < 4.3
    assert (split.notifications, split.interrupts) == (1, 1)
    packed, eight = count_card(["packed"], [1, 8])
    assert packed.total < split.total
    assert (eight.notifications, eight.interrupts) == (1 / 8, 1 / 8)
    assert eight.total < packed.total / 2


def test_small_transactions_are_more() -> None:
    (small,) = count_card(["split"], [16], HardwareProfile(burst=64))
    (large,) = count_card(["split"], [16])
    assert small.reads > large.reads


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["bench", "ring", "--count", "--card", "--batch", "4", "--layout", "packed"]
    assert run([*few, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["notifications"] == 0.25
    assert run([*few, "--csv"]) == 0
    assert capsys.readouterr().out.startswith("layout,batch,notifications")
    assert run(few) == 0
    assert "NOTIFICATION_DATA" in capsys.readouterr().out
    assert run(["bench", "ring", "--card"]) == 2


def test_traffic_starts_at_nothing() -> None:
    assert Traffic().total == 0
