"""Configuration space and BARs of a function, poked by hand."""

import os
import select
from collections.abc import Iterator

import pytest
from tests.transport.contract import Mirror
from tests.transport.pci.rig import BASIC, CONFIG, MASTER, READY, Card, S, card, wait_for_used

from virtio.device.base import Device
from virtio.errors import ConfigurationError
from virtio.queue import Chain
from virtio.spec import core, entropy, pci, pci_bus
from virtio.transport.pci import Bar, Layout, PciFunction, Place, SharedMemory, VendorData

ALL_ONES = 0xFFFF_FFFF
CAP = pci.CAP_TYPE
VENDOR = pci_bus.CAP_ID.VENDOR


@pytest.fixture
def pci_card() -> Iterator[Card]:
    with card() as made:
        yield made


# --- identity


def test_what_it_is(pci_card: Card) -> None:
    assert pci_card.get(CONFIG, 0, 4) == 0x1042_1AF4
    assert pci_card.get(CONFIG, 8, 4) == 0x010000_01  # SCSI controller, revision 1
    assert pci_card.get(CONFIG, 0x2E, 2) >= 0x40  # 4.1.2.1
    assert pci_card.get(CONFIG, 0x3D, 1) == 1


def test_a_transitional_device_is_refused_unless_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="transitional"):
        PciFunction(Mirror(), layout=Layout(revision=0))


def test_bars_tell_their_size_and_keep_addresses(pci_card: Card) -> None:
    pci_card.put(CONFIG, 0x10, ALL_ONES, 4)
    pci_card.put(CONFIG, 0x14, ALL_ONES, 4)
    size = pci_card.function.regions[0].size
    assert pci_card.get(CONFIG, 0x10, 4) == (-size & ALL_ONES) | 0x4
    assert pci_card.get(CONFIG, 0x14, 4) == ALL_ONES
    pci_card.put(CONFIG, 0x10, 0xFE00_0000, 4)
    pci_card.put(CONFIG, 0x14, 0x12, 4)
    assert pci_card.get(CONFIG, 0x10, 8) == 0x12_FE00_0004
    pci_card.put(CONFIG, 0x18, ALL_ONES, 4)
    assert pci_card.get(CONFIG, 0x18, 4) == -pci_card.function.regions[2].size & ALL_ONES
    for absent in (0x1C, 0x20, 0x24, 0x30):
        pci_card.put(CONFIG, absent, ALL_ONES, 4)
        assert pci_card.get(CONFIG, absent, 4) == 0


def test_what_is_read_only_stays(pci_card: Card) -> None:
    space = pci_card.function.read(CONFIG, 0, 4096)
    pci_card.function.write(CONFIG, 0, bytes(4))
    pci_card.function.write(CONFIG, 8, b"\xff" * 4)
    pci_card.function.write(CONFIG, 0x2C, b"\xff" * 4)
    pci_card.function.write(CONFIG, 0x34, b"\xff")
    assert pci_card.function.read(CONFIG, 0, 4096) == space
    assert pci_card.function.read(CONFIG, 4094, 8) == bytes(2) + b"\xff" * 6
    pci_card.function.write(CONFIG, 4094, bytes(8))


# --- features


def test_features_are_shown_by_words(pci_card: Card) -> None:
    offered = 0
    for word in range(6):
        pci_card["device_feature_select"] = word
        assert pci_card["device_feature_select"] == word
        value = pci_card["device_feature"]
        offered |= value << 32 * word
        if word > 3:
            assert value == 0
    assert offered == pci_card.device.offered_features | core.F.RING_RESET


def test_a_word_that_was_accepted_reads_back(pci_card: Card) -> None:
    pci_card["device_status"] = S.ACKNOWLEDGE | S.DRIVER
    pci_card["driver_feature_select"] = 1
    pci_card["driver_feature"] = 1
    assert pci_card["driver_feature"] == 1
    pci_card["driver_feature_select"] = 7
    assert pci_card["driver_feature"] == 0


def test_features_never_offered_are_refused_and_then_others_taken(pci_card: Card) -> None:
    pci_card["device_status"] = S.ACKNOWLEDGE | S.DRIVER
    pci_card["driver_feature_select"] = 3
    pci_card["driver_feature"] = 0x8000_0000
    pci_card["device_status"] = READY
    assert not pci_card["device_status"] & S.FEATURES_OK
    pci_card["driver_feature"] = 0
    pci_card["driver_feature_select"] = 1
    pci_card["driver_feature"] = 1
    pci_card["device_status"] = READY
    assert pci_card["device_status"] == READY
    with pci_card.ignores("3.1.1"):
        pci_card["driver_feature"] = 0
    assert pci_card["driver_feature"] == 1


def test_status_0_resets_all_that_was_written(pci_card: Card) -> None:
    pci_card.negotiate()
    pci_card.queue(0)
    pci_card["queue_select"] = 1
    pci_card["queue_msix_vector"] = 1
    pci_card["config_msix_vector"] = 0
    pci_card["device_status"] = READY | S.DRIVER_OK
    pci_card["device_status"] = 0
    assert pci_card["device_status"] == 0
    assert pci_card["queue_select"] == 0
    assert pci_card["config_msix_vector"] == 0xFFFF
    for index in (0, 1):
        pci_card["queue_select"] = index
        assert pci_card["queue_enable"] == 0
        assert pci_card["queue_desc"] == 0
        assert pci_card["queue_size"] == pci_card.device.queues[0].max_size
        assert pci_card["queue_msix_vector"] == 0xFFFF


# --- what a driver must not do


def test_queues_that_are_not_there(pci_card: Card) -> None:
    pci_card.negotiate()
    pci_card["queue_select"] = 2
    for name in ("queue_size", "queue_enable", "queue_notify_off", "queue_desc"):
        assert pci_card[name] == 0
    assert pci_card["queue_msix_vector"] == 0xFFFF
    for name in ("queue_size", "queue_enable", "queue_msix_vector"):
        with pci_card.ignores("4.1.4.3.2"):
            pci_card[name] = 1
    with pci_card.ignores("4.1.5.2.1"):
        pci_card.put(0, pci_card.layout.notify.offset, 2, 2)


def test_what_queues_refuse(pci_card: Card) -> None:
    with pci_card.ignores("3.1.1"):
        pci_card["queue_enable"] = 1
    pci_card.negotiate()
    for size in (0, 3, 15):
        with pci_card.ignores("4.1.4.3.2"):
            pci_card["queue_size"] = size
    with pci_card.ignores("4.1.4.3"):
        pci_card["queue_size"] = 2048
    assert pci_card["queue_size"] == 1024
    with pci_card.ignores("4.1.4.3.2"):
        pci_card["queue_enable"] = 0
    with pci_card.ignores("4.1.4.3.2"):
        pci_card["queue_enable"] = 2
    pci_card["queue_desc"] = 0x1001
    with pci_card.ignores("2.7"):
        pci_card["queue_enable"] = 1
    assert pci_card["queue_enable"] == 0
    with pci_card.ignores("4.1.5.2.1"):
        pci_card.notify(0)
    pci_card.queue(0)
    assert pci_card["queue_enable"] == 1
    with pci_card.ignores("4.1.4.3.2"):
        pci_card["queue_enable"] = 1
    with pci_card.ignores("4.1.4.3.2", 2):
        pci_card["queue_desc"] = 0
    with pci_card.ignores("4.1.4.3"):  # the feature of queue_reset was not negotiated
        pci_card["queue_reset"] = 1
    assert pci_card["queue_enable"] == 1


class Odd(Device):
    spec = entropy

    def on_requests(self, chain: Chain) -> None:
        del chain


def test_a_split_queue_shows_a_power_of_two() -> None:
    with card(Odd(queue_size=100)) as made:
        assert made["queue_size"] == 64
        made.negotiate()
        assert made["queue_size"] == 64
        made.queue(0, size=64).close()
        made.negotiate(BASIC | core.F.RING_PACKED)
        assert made["queue_size"] == 100


def test_read_only_fields_are_not_written(pci_card: Card) -> None:
    for name in ("device_feature", "num_queues", "config_generation", "queue_notify_off"):
        before = pci_card[name]
        with pci_card.ignores("4.1.4.3.2"):
            pci_card[name] = 0x7F
        assert pci_card[name] == before
    with pci_card.ignores("4.1.4.5"):
        pci_card.put(0, pci_card.layout.isr.offset, 3, 1)


def test_driver_ok_without_features_ok_is_refused(pci_card: Card) -> None:
    pci_card["device_status"] = S.ACKNOWLEDGE | S.DRIVER
    with pci_card.ignores("3.1.1"):
        pci_card["device_status"] = S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK
    assert pci_card["device_status"] == S.ACKNOWLEDGE | S.DRIVER


@pytest.mark.parametrize(
    "addresses", [(0xFFFF_FFFF_FFFF_F000,) * 3, (1 << 40, 1 << 41, 1 << 42), (MEM := 1 << 20,) * 3]
)
@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
def test_wild_addresses_hurt_nobody(pci_card: Card, addresses: tuple[int, int, int], layout: int) -> None:
    pci_card.negotiate(BASIC | layout)
    for name, address in zip(("queue_desc", "queue_driver", "queue_device"), addresses, strict=True):
        pci_card[name] = address
    pci_card["queue_enable"] = 1
    ring = pci_card.queue(1, BASIC | layout)
    pci_card["device_status"] = READY | S.DRIVER_OK
    pci_card.notify(0)
    pci_card.function.dma_changed()  # the rings of queue 0 are nowhere
    pci_card["device_status"] = 0
    assert pci_card["device_status"] == 0
    ring.close()


# --- every width at every place


@pytest.mark.parametrize("region", range(10))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16])
def test_every_width_at_every_place(region: int, size: int) -> None:
    with card() as made:
        made.negotiate()
        limit = made.function.regions[region].size if region < 9 else 64
        places = range(limit + 20)
        for offset in places:
            assert len(made.function.read(region, offset, size)) == size
        for pattern in (b"\xff", b"\xa5"):
            for offset in places:
                made.function.write(region, offset, pattern * size)
        made.function.reset()
        made.put(CONFIG, 4, MASTER, 2)
        made.negotiate()


def test_the_widths_that_are_proper(pci_card: Card) -> None:
    common = pci_card.layout.common
    for offset, size in ((0, 2), (0, 1), (1, 1), (0x10, 4), (0x14, 2), (0x20, 8), (0x21, 4), (0x40, 4)):
        assert pci_card.function.read(common.bar, common.offset + offset, size) == bytes(size)
    assert pci_card.ignored("4.1.3.1") == 7  # and 0x40 lies behind the structure
    assert pci_card.ignored("4.1.4") == 1


# --- the window


def window(pci_card: Card, bar: int, offset: int, size: int) -> int:
    at = pci_card.capability(VENDOR, CAP.PCI_CFG)
    pci_card.put(CONFIG, at + 4, bar, 1)
    pci_card.put(CONFIG, at + 8, offset, 4)
    pci_card.put(CONFIG, at + 12, size, 4)
    return at + 16


def test_the_window_leads_to_the_bars(pci_card: Card) -> None:
    data = window(pci_card, 0, 0x14, 1)
    pci_card.put(CONFIG, data, S.ACKNOWLEDGE, 1)
    assert pci_card["device_status"] == S.ACKNOWLEDGE
    assert pci_card.get(CONFIG, data, 1) == S.ACKNOWLEDGE
    data = window(pci_card, pci_card.layout.device.bar, pci_card.layout.device.offset, 4)
    assert pci_card.get(CONFIG, data, 4) == 8


def test_dumping_configuration_space_does_no_harm(pci_card: Card) -> None:
    isr = pci_card.layout.isr
    pci_card.function.config_changed()
    for width in (1, 2, 4):
        for at in range(0, 4096, width):
            pci_card.function.read(CONFIG, at, width)
    window(pci_card, isr.bar, isr.offset, 1)
    pci_card.function.read(CONFIG, 0, 256)  # in one piece: no access to the window's place
    assert pci_card.get(isr.bar, isr.offset, 1) == 2
    assert pci_card.function.ignored == {}


@pytest.mark.parametrize(("bar", "offset", "size"), [(0, 0, 3), (0, 1, 2), (7, 0, 4), (255, 0, 1), (0, 2, 4)])
def test_a_window_that_leads_nowhere(pci_card: Card, bar: int, offset: int, size: int) -> None:
    data = window(pci_card, bar, offset, size)
    with pci_card.ignores("4.1.4.9.2", 2):
        pci_card.get(CONFIG, data, 4)
        pci_card.put(CONFIG, data, 1, 4)


# --- power and reset


def test_a_sleeping_function_does_not_answer(pci_card: Card) -> None:
    power = pci_card.capability(pci_bus.CAP_ID.POWER_MANAGEMENT) + 4
    pci_card.negotiate()
    pci_card.put(CONFIG, power, 3, 2)
    assert pci_card.get(CONFIG, power, 2) & 3 == 3
    assert pci_card["device_status"] == 0xFF
    pci_card.put(CONFIG, power, 1, 2)  # D1 is not there
    assert pci_card.get(CONFIG, power, 2) & 3 == 3
    pci_card.put(CONFIG, power, 0, 2)
    assert pci_card["device_status"] == READY  # no soft reset


def test_waking_up_may_be_a_reset() -> None:
    with card(layout=Layout(no_soft_reset=False)) as made:
        power = made.capability(pci_bus.CAP_ID.POWER_MANAGEMENT) + 4
        made.negotiate()
        made.put(CONFIG, power, 3, 2)
        made.put(CONFIG, power, 0, 2)
        assert made["device_status"] == 0
        assert made.get(CONFIG, 4, 2) == 0


def test_a_function_level_reset(pci_card: Card) -> None:
    express = pci_card.capability(pci_bus.CAP_ID.EXPRESS)
    assert pci_card.get(CONFIG, express + 4, 4) & pci_bus.EXPRESS_FLR
    pci_card.negotiate()
    pci_card.queue(0).close()
    pci_card["device_status"] = READY | S.DRIVER_OK
    pci_card.put(CONFIG, 0x10, 0xFE00_0000, 4)
    pci_card.put(CONFIG, express + 8, pci_bus.EXPRESS_CONTROL_FLR, 2)
    assert pci_card.get(CONFIG, 0x10, 4) == 4
    assert pci_card.get(CONFIG, 4, 2) == 0
    assert pci_card.get(CONFIG, express + 8, 2) == 0
    assert pci_card["device_status"] == 0
    assert not pci_card.device.queues[0].running


@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
def test_without_bus_mastering_nothing_runs(pci_card: Card, layout: int) -> None:
    """It goes on where it was when it may again."""
    pci_card.negotiate(BASIC | layout)
    ring = pci_card.queue(0, BASIC | layout)
    pci_card["device_status"] = READY | S.DRIVER_OK
    for round_ in range(3):
        head = ring.add([b"abc"], [3])
        ring.publish()
        if round_ == 1:
            pci_card.put(CONFIG, 4, 0, 2)
            pci_card.notify(0)
            assert ring.poll_used() == []
            pci_card.put(CONFIG, 4, MASTER, 2)
        pci_card.notify(0)
        assert wait_for_used(ring) == [head]
        assert ring.data(head) == b"cba"
    ring.close()


# --- layouts


def test_a_layout_of_ones_own() -> None:
    layout = Layout(
        bars={0: Bar(), 4: Bar(wide=True, prefetchable=True, size=1 << 16)},
        common=Place(4, 0x0),
        isr=Place(4, 0x100),
        device=Place(4, 0x200),
        notify=Place(4, 0x3000),
        msix_table=Place(0, 0),
        msix_pending=Place(0, 0x800),
        notify_multiplier=0x1000,
        serial_number=0x0102_0304_0506_0708,
        express=True,
        intx=False,
        vendor_data=(VendorData(0x1234, b"abc", writable=b"\xff"),),
        subsystem_id=0x4242,
        class_code=0x0C0330,
    )
    with card(layout=layout) as made:
        assert made.function.regions[4].size == 1 << 16
        assert made.function.interrupts == (0, 0, 3, 1, 1)
        assert [each.offset for each in made.function.notifications] == [0x3000, 0x4000]
        assert made.get(CONFIG, 9, 2) == 0x0330
        made.negotiate()
        made.queue(1).close()
        at = made.capability(VENDOR, CAP.VENDOR_CFG)
        assert made.get(CONFIG, at + 2, 1) % 4 == 0
        made.put(CONFIG, at + 6, 0x7A7A, 2)
        assert made.function.read(CONFIG, at + 6, 3) == b"zbc"


@pytest.mark.parametrize(
    "wrong",
    [
        {"bars": {5: Bar(wide=True)}},
        {"bars": {0: Bar(wide=True), 1: Bar()}},
        {"bars": {0: Bar(io=True, wide=True), 2: Bar()}},
        {"bars": {0: Bar(size=12345), 2: Bar()}},
        {"common": Place(0, 2)},
        {"common": Place(3, 0)},
        {"isr": Place(0, 0)},
        {"msix_pending": Place(2, 8)},
        {"notify_multiplier": 3},
        {"notify_multiplier": 2},
        {"vectors": 4096},
        {"vectors": 0, "intx": False},
        {"vendor_data": (VendorData(0x1AF4, b""),)},
        {"vendor_data": (VendorData(1, bytes(200)),)},
        {"revision": 256},
    ],
    ids=str,
)
def test_layouts_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        PciFunction(Mirror(), layout=Layout(**wrong))  # type: ignore[arg-type]


def test_shared_memory_is_there_and_can_be_mapped() -> None:
    fd = os.memfd_create("shared")
    os.ftruncate(fd, 1 << 16)
    with card(shared_memory=(SharedMemory(7, fd, 1 << 16), SharedMemory(8, fd, 4096))) as made:
        at = made.capability(VENDOR, CAP.SHARED_MEMORY_CFG)
        cap = pci.CAP64.unpack(made.function.read(CONFIG, at, 24))
        assert (cap.cap.bar, cap.cap.id, cap.cap.offset, cap.cap.length) == (4, 7, 0, 1 << 16)
        region = made.function.regions[4]
        assert region.size == 1 << 17
        assert [(area.offset, area.size) for area in region.areas] == [(0, 1 << 16), (1 << 16, 4096)]
        os.pwrite(fd, b"hello", 4)
        assert made.function.read(4, 4, 5) == b"hello"
        made.function.write(4, 1 << 16, b"x")
        assert os.pread(fd, 5, 0)[:1] == b"x"
    os.close(fd)


# --- notifications


def test_notifications_with_data_and_values_of_the_devices_own() -> None:
    extra = core.F.NOTIFICATION_DATA | core.F.NOTIF_CONFIG_DATA
    with card(features=extra, notification_value=lambda index: 0x40 + index) as made:
        made.negotiate(BASIC | extra)
        assert made.function.notifications == ()
        made["queue_select"] = 1
        assert made["queue_notif_config_data"] == 0x41
        ring = made.queue(1)
        made["device_status"] = READY | S.DRIVER_OK
        head = ring.add([b"abc"], [3])
        ring.publish()
        with made.ignores("4.1.5.2.1", 2):
            made.notify(1)
            made.notify(1, 4, 1)
        made.notify(1, 4, 1 << 16 | 0x41)
        assert wait_for_used(ring) == [head]
        ring.close()
    with card() as made, made.ignores("4.1.4.3"):
        assert made["queue_notif_config_data"] == 0


def test_an_eventfd_may_stand_for_a_notification(pci_card: Card) -> None:
    fd, done = os.eventfd(0), os.eventfd(0)
    for notification in pci_card.function.notifications:
        pci_card.function.set_kick(notification.queue, fd)
    pci_card.negotiate()
    pci_card.function.set_interrupts(2, 0, [None, done])
    pci_card.enable_msix()
    for _ in range(2):  # it stays attached over a reset
        ring = pci_card.queue(0)
        pci_card["queue_msix_vector"] = 1
        pci_card["device_status"] = READY | S.DRIVER_OK
        ring.enable_interrupts()
        ring.add([b"abc"], [3])
        ring.publish()
        os.eventfd_write(fd, 1)
        assert select.select([done], [], [], 10)[0]
        os.eventfd_read(done)
        pci_card.negotiate()
        ring.close()
    for index in (-1, 2):
        with pytest.raises(ConfigurationError):
            pci_card.function.set_kick(index, fd)
    os.close(fd)
    os.close(done)


# --- generation


def test_the_generation_changes_when_a_change_was_seen(pci_card: Card) -> None:
    device = pci_card.layout.device
    for value in range(300):
        before = pci_card["config_generation"]
        pci_card.device.config["capacity"] = 1000 + value
        pci_card.device.config["capacity"] = 2000 + value
        pci_card.get(device.bar, device.offset, 4)
        assert pci_card["config_generation"] == (before + 1) & 0xFF
        pci_card.get(device.bar, device.offset + 4, 4)
        assert pci_card["config_generation"] == (before + 1) & 0xFF


# --- memory


def test_queues_pause_while_memory_is_away(pci_card: Card) -> None:
    pci_card.negotiate()
    ring = pci_card.queue(0)
    pci_card["device_status"] = READY | S.DRIVER_OK
    function = pci_card.function
    assert pci_card.device.queues[0].running
    for _ in range(3):
        function.dma_changing()
        assert not pci_card.device.queues[0].running
        function.memory.clear()
        function.dma_changed()
        assert not pci_card.device.queues[0].running
        function.memory.add(0, 1 << 20, pci_card._fd)
        function.dma_changed()
        assert pci_card.device.queues[0].running
        head = ring.add([b"abc"], [3])
        ring.publish()
        pci_card.notify(0)
        assert wait_for_used(ring) == [head]
    ring.close()
