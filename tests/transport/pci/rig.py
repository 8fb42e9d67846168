"""A function in a driver's hand, register by register."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.transport.contract import Mirror

from virtio.device.base import Device
from virtio.queue.model.packed import PackedDriver
from virtio.queue.model.split import SplitDriver
from virtio.spec import core, pci, pci_bus
from virtio.transport.pci import InterruptIndex, Layout, PciFunction, RegionIndex

S = core.STATUS
CONFIG = RegionIndex.CONFIG
MEMORY = 1 << 20
BASIC = core.F.VERSION_1
READY = S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK
MASTER = pci_bus.COMMAND.BUS_MASTER | pci_bus.COMMAND.MEMORY_SPACE
FIELDS = {
    field.name: (pci.COMMON_CFG.offset(field.name), field.type.size or 0) for field in pci.COMMON_CFG.fields
}


def wait_for_used(ring: PackedDriver | SplitDriver) -> list[int]:
    """Wait for used buffers without notifications."""
    deadline = time.monotonic() + 10
    while not (used := ring.poll_used()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return [entry.head for entry in used]


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what is logged about drivers, the quiet lines too."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("virtio.transport.registers"), Collector()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class Card:
    """A function on a bus that does nothing by itself."""

    def __init__(self, device: Device | None = None, **options: object) -> None:
        self.device = device or Mirror()
        self.function = PciFunction(self.device, **options)  # type: ignore[arg-type]
        self.layout: Layout = self.function.layout
        self._fd = os.memfd_create("memory")
        os.ftruncate(self._fd, MEMORY)
        self.function.memory.add(0, MEMORY, self._fd)
        self.function.attach()
        self.put(CONFIG, 4, MASTER, 2)
        self.signals: list[tuple[int, int]] = []
        self._next = 0x1000

    # --- accesses

    def get(self, region: int, offset: int, size: int) -> int:
        return int.from_bytes(self.function.read(region, offset, size), "little")

    def put(self, region: int, offset: int, value: int, size: int) -> None:
        self.function.write(region, offset, value.to_bytes(size, "little"))

    def __getitem__(self, name: str) -> int:
        offset, size = FIELDS[name]
        place = self.layout.common
        halves = range(0, size, 4) if size == 8 else (0,)
        values = [self.get(place.bar, place.offset + offset + half, min(size, 4)) for half in halves]
        return sum(value << 32 * index for index, value in enumerate(values))

    def __setitem__(self, name: str, value: int) -> None:
        offset, size = FIELDS[name]
        place = self.layout.common
        if size < 8:
            self.put(place.bar, place.offset + offset, value, size)
            return
        for half in (0, 4):
            self.put(place.bar, place.offset + offset + half, value >> 8 * half & 0xFFFF_FFFF, 4)

    def capability(self, number: int, cfg_type: int | None = None) -> int:
        """Where the first capability of a kind is."""
        at = self.get(CONFIG, 0x34, 1)
        while at:
            if self.get(CONFIG, at, 1) == number and cfg_type in (None, self.get(CONFIG, at + 3, 1)):
                return at
            at = self.get(CONFIG, at + 1, 1)
        raise LookupError(number)

    def ignored(self, clause: str) -> int:
        return self.function.ignored.get(clause, 0)

    @contextmanager
    def ignores(self, clause: str, times: int = 1) -> Iterator[None]:
        """What happens within is counted under the clause, which is in the log."""
        before = dict(self.function.ignored)
        with logged() as lines:
            yield
        assert len(lines) == times
        assert all(line.endswith(f"(VIRTIO 1.4, {clause})") for line in lines)
        after = dict(self.function.ignored)
        new = {
            each: count - before.get(each, 0) for each, count in after.items() if count != before.get(each, 0)
        }
        assert new == {clause: times}

    # --- steps of a driver

    def negotiate(self, features: int = BASIC) -> None:
        self["device_status"] = 0
        self["device_status"] = S.ACKNOWLEDGE
        self["device_status"] = S.ACKNOWLEDGE | S.DRIVER
        for word in range(4):
            self["driver_feature_select"] = word
            self["driver_feature"] = features >> 32 * word & 0xFFFF_FFFF
        self["device_status"] = READY
        assert self["device_status"] == READY

    def queue(self, index: int, features: int = BASIC, size: int = 16) -> "PackedDriver | SplitDriver":
        """Make a ring, tell of it, and enable it."""
        model = PackedDriver if features & core.F.RING_PACKED else SplitDriver
        start, end = self._next, self._next + 0x8000
        self._next = end
        view = self.function.memory.view(start, end - start)
        ring = model(view, start, size, features, start=start, end=end)
        self["queue_select"] = index
        self["queue_size"] = size
        self["queue_desc"] = ring.addresses["descriptors"]
        self["queue_driver"] = ring.addresses["available"]
        self["queue_device"] = ring.addresses["used"]
        self["queue_enable"] = 1
        return ring

    def notify(self, index: int, size: int = 2, value: int | None = None) -> None:
        place = self.layout.notify
        at = place.offset + index * self.layout.notify_multiplier
        self.put(place.bar, at, index if value is None else value, size)

    def enable_msix(self, *, mask_all: bool = False) -> None:
        control = self.capability(pci_bus.CAP_ID.MSIX) + 2
        value = pci_bus.MSIX_ENABLE | (pci_bus.MSIX_MASK_ALL if mask_all else 0)
        self.put(CONFIG, control, value, 2)

    def listen(self, index: int = InterruptIndex.MSIX) -> None:
        """Note what vectors are signalled."""

        def target(vector: int) -> Callable[[], object]:
            return lambda: self.signals.append((index, vector))

        count = self.function.interrupts[index]
        self.function.set_interrupts(index, 0, [target(vector) for vector in range(count)])

    def take(self) -> list[tuple[int, int]]:
        found, self.signals[:] = self.signals[:], []
        return found

    def close(self) -> None:
        self.function.close()
        self.device.close()
        os.close(self._fd)


@contextmanager
def card(device: Device | None = None, **options: object) -> Iterator[Card]:
    made = Card(device, **options)
    try:
        yield made
    finally:
        made.close()
