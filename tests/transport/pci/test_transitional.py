"""Transitional functions: the legacy registers, poked as legacy drivers do, and the modern ones besides."""

import contextlib
import os
import select
from collections.abc import Iterator

import pytest
from tests.transport.contract import Mirror
from tests.transport.fakes import FakeDevice
from tests.transport.pci.rig import CONFIG, MASTER, MEMORY, Card, S, wait_for_used
from tests.transport.pci.test_contract import PciContract

import virtio
from virtio.errors import ConfigurationError, StateError
from virtio.queue.model.ring import SplitLayout
from virtio.queue.model.split import SplitDriver
from virtio.spec import core, pci, pci_bus
from virtio.transport.pci import InterruptIndex, Layout, TransitionalFunction, start
from virtio.transport.pci.transitional import LARGEST_QUEUE, LAYOUT

AT = {each.name: (pci.LEGACY_CFG.offset(each.name), each.type.size or 0) for each in pci.LEGACY_CFG.fields}
SECTION = "4.1.4.10"
RING = 0x4000


class Old(Card):
    """A legacy driver's card."""

    def __init__(self) -> None:
        self.device = Mirror()
        self.function = self.transitional = TransitionalFunction(self.device)
        self.layout = self.function.layout
        self._fd = os.memfd_create("memory")
        os.ftruncate(self._fd, MEMORY)
        self.function.memory.add(0, MEMORY, self._fd)
        self.function.attach()
        self.put(CONFIG, 4, MASTER | pci_bus.COMMAND.IO_SPACE, 2)
        self.signals: list[tuple[int, int]] = []

    def load(self, name: str) -> int:
        return self.get(0, *AT[name])

    def store(self, name: str, value: int) -> None:
        offset, size = AT[name]
        self.put(0, offset, value, size)

    def begin(self, features: int = 0) -> SplitDriver:
        """Do what a legacy driver does up to DRIVER_OK, with queue 0."""
        for status in (0, S.ACKNOWLEDGE, S.ACKNOWLEDGE | S.DRIVER):
            self.store("device_status", status)
        self.store("driver_features", features)
        self.store("queue_select", 0)
        size = self.load("queue_size")
        used = -(-(RING + 16 * size + 6 + 2 * size) // 4096) * 4096
        layout = SplitLayout(size, RING, RING + 16 * size, used)
        view = self.function.memory.view(RING, MEMORY - RING)
        ring = SplitDriver(view, RING, size, features, layout=layout, start=RING, end=MEMORY)
        self.store("queue_address", RING // 4096)
        return ring


@pytest.fixture
def old() -> Iterator[Old]:
    made = Old()
    yield made
    made.close()


def test_what_it_is(old: Old) -> None:
    assert old.get(CONFIG, 0, 4) == 0x1001_1AF4
    assert old.get(CONFIG, 8, 1) == 0
    assert old.get(CONFIG, 0x2E, 2) == 2
    assert old.get(CONFIG, 0x10, 4) & 1
    old.put(CONFIG, 0x10, 0xFFFF_FFFF, 4)
    assert old.get(CONFIG, 0x10, 4) == (-old.function.regions[0].size & 0xFFFF_FFFC) | 1
    assert "I/O ports" in str(old.function)


def test_a_legacy_driver_uses_it(old: Old) -> None:
    fd = os.eventfd(0)
    old.function.set_interrupts(InterruptIndex.INTX, 0, [fd])
    assert old.load("device_features") & core.F.ANY_LAYOUT
    assert old.load("device_features") == old.device.offered_features & 0xFFFF_FFFF | core.F.ANY_LAYOUT
    ring = old.begin(core.F.ANY_LAYOUT)
    old.store("device_status", S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK)
    assert old.load("queue_address") == RING // 4096
    for _ in range(20):
        ring.enable_interrupts()
        head = ring.add([b"abc"], [3])
        ring.publish()
        old.store("queue_notify", 0)
        assert select.select([fd], [], [], 10)[0]
        os.eventfd_read(fd)
        assert old.load("isr_status") == 1
        old.function.unmask(InterruptIndex.INTX, 0, 1)
        assert wait_for_used(ring) == [head]
        assert ring.data(head) == b"cba"
    assert old.transitional.legacy
    with pytest.raises(StateError):
        old.function.save()
    old.store("device_status", 0)
    assert not old.transitional.legacy
    assert old.load("queue_address") == 0
    assert not old.device.queues[0].running
    ring.close()
    os.close(fd)


def test_a_queue_is_used_before_driver_ok(old: Old) -> None:
    ring = old.begin()
    head = ring.add([b"abc"], [3])
    ring.publish()
    old.store("queue_notify", 0)
    assert wait_for_used(ring) == [head]
    ring.close()


def test_configuration_moves_with_msix(old: Old) -> None:
    assert old.get(0, 20, 4) == 8
    assert old.function.read(0, 21, 3) == bytes(3)  # any width will do
    old.enable_msix()
    assert old.get(0, 24, 4) == 8
    old.store("config_msix_vector", 1)
    assert old.load("config_msix_vector") == 1
    old.store("config_msix_vector", 9)
    assert old.load("config_msix_vector") == 0xFFFF
    old.store("queue_select", 1)
    old.store("queue_msix_vector", 2)
    assert old.load("queue_msix_vector") == 2
    writeback = 24 + 32
    old.put(0, writeback, 0, 1)
    assert old.device.config["writeback"] == 0
    old.put(0, 24, 77, 4)
    assert old.device.config["capacity"] == 8


def test_vectors_are_signalled(old: Old) -> None:
    old.listen()
    old.enable_msix()
    old.store("config_msix_vector", 0)
    ring = old.begin()
    old.store("config_msix_vector", 0)
    old.store("queue_msix_vector", 1)
    old.store("device_status", S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK)
    old.device.config["capacity"] = 9
    assert (InterruptIndex.MSIX, 0) in old.take()
    ring.close()


def test_queues_pause(old: Old) -> None:
    ring = old.begin()
    old.store("device_status", S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK)
    old.function.dma_changing()
    assert not old.device.queues[0].running
    old.function.memory.clear()
    old.function.dma_changed()
    assert not old.device.queues[0].running
    old.function.memory.add(0, MEMORY, old._fd)
    old.function.dma_changed()
    assert old.device.queues[0].running
    ring.close()


def test_what_must_not_be(old: Old) -> None:
    for offset, size in ((0, 1), (0, 2), (2, 2), (18, 2), (1, 4), (16, 4)):
        with old.ignores(SECTION, 2):
            old.get(0, offset, size)
            old.put(0, offset, 0xFF, size)
    for name in ("device_features", "queue_size", "isr_status"):
        with old.ignores(SECTION):
            old.store(name, 1)
    old.store("queue_select", 9)
    assert old.load("queue_size") == 0
    old.store("queue_address", 5)
    assert old.load("queue_address") == 0
    with old.ignores("4.1.5.2"):
        old.store("queue_notify", 7)
    old.store("queue_select", 0)
    old.store("queue_address", 0xFFFF_FFFF)  # nowhere: it waits for memory there
    old.store("device_status", S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK)
    old.store("queue_notify", 0)
    old.store("device_status", 0)
    assert old.load("queue_size") == LARGEST_QUEUE


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_every_width_at_every_place(old: Old, size: int) -> None:
    for offset in range(140):
        assert len(old.function.read(0, offset, size)) == size
        old.function.write(0, offset, b"\xff" * size)
        old.function.write(0, offset, b"\x01" * size)
    old.function.reset()
    assert old.load("device_status") == 0


def test_other_types_and_layouts_are_refused() -> None:
    net = FakeDevice()
    net.device_id = 1
    with pytest.raises(ConfigurationError, match="block, console, entropy"):
        TransitionalFunction(net)
    with contextlib.closing(Mirror()) as device:
        for layout in (Layout(), Layout(revision=0)):
            with pytest.raises(ConfigurationError):
                TransitionalFunction(device, layout=layout)
    assert LAYOUT.revision == 0


def test_a_reset_by_either_interface_is_one_of_both(old: Old) -> None:
    old.begin().close()
    assert old.transitional.legacy
    old["device_status"] = 0
    assert not old.transitional.legacy
    assert old.load("queue_address") == 0
    old.negotiate()
    old["queue_select"] = 1
    old.store("device_status", 0)
    assert old["device_status"] == 0
    assert old["queue_select"] == 0


class TestModernDriver(PciContract):
    """Modern drivers do not notice the legacy registers."""

    address = "pci:transitional"

    @pytest.fixture(autouse=True)
    def _transitional(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            virtio, "start", lambda device, _: start(TransitionalFunction(device), "transitional")
        )
