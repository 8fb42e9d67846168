"""What a request costs on the bus of a card: every transaction of a PCI function, counted.

A model of the driver's end drives a function of :mod:`virtio.transport.pci.hardware` through its registers:
notifications are writes with data in them, interrupts are messages, and the card reads and writes memory for
the ring and for the buffers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from virtio.bench.count import BATCHES, SIZE
from virtio.bench.ring import LAYOUTS
from virtio.driver.wire import QueueWire
from virtio.memory.shared import SharedMemory
from virtio.queue.model import PackedDriver, SplitDriver
from virtio.queue.model.ring import IN_ORDER
from virtio.spec import entropy
from virtio.spec.core import STATUS, F
from virtio.transport.pci.card import CardDevice
from virtio.transport.pci.driver_end import PciDriverEnd
from virtio.transport.pci.hardware import CardFunction, HardwareProfile, Traffic
from virtio.transport.pci.local import FunctionServer, LocalBus

READABLE: Final = 16
WRITABLE: Final = 64
"""Bytes of a request, in one descriptor each: little, so that the queue shows and not the data."""

_READY = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK
_LAPS = 2


@dataclass(frozen=True, slots=True)
class CardCost:
    """Transactions for one request, on average."""

    layout: str
    batch: int
    notifications: float
    reads: float
    writes: float
    interrupts: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.notifications + self.reads + self.writes + self.interrupts


class _Echo(CardDevice):
    """Answers with as much as there is room for."""

    spec = entropy

    def answer(self, queue_index: int, data: bytes, room: int) -> bytes:
        return bytes(room)


def count_card(
    layouts: Iterable[str] = tuple(LAYOUTS),
    batches: Sequence[int] = BATCHES,
    profile: HardwareProfile | None = None,
) -> list[CardCost]:
    """Count what a request costs, of one readable and one writable descriptor, notified of in batches."""
    behaviour = profile or HardwareProfile()
    return [_cost(layout, batch, behaviour) for layout in layouts for batch in batches]


def _cost(layout: str, batch: int, profile: HardwareProfile) -> CardCost:
    features = F.VERSION_1 | F.EVENT_IDX | F.ORDER_PLATFORM | profile.features
    features |= LAYOUTS[layout] & (F.RING_PACKED | IN_ORDER)
    device = _Echo(features=F.ORDER_PLATFORM | F.IN_ORDER)
    name = f"count-{os.getpid()}-{id(device):x}"
    function = CardFunction(device, profile=profile)
    rounds = _LAPS * SIZE // 2 // batch
    with (
        contextlib.closing(device),
        FunctionServer(function, name) as server,
        PciDriverEnd(LocalBus(server, SharedMemory(1 << 20), 5.0)) as end,
        _driven(end, features) as (driver, wire),
    ):
        before = function.traffic
        for _ in range(rounds):
            _exchange(driver, wire, batch)
        after = function.traffic
    return _average(layout, batch, before, after, rounds * batch)


@contextlib.contextmanager
def _driven(end: PciDriverEnd, features: int) -> Iterator[tuple[SplitDriver | PackedDriver, QueueWire]]:
    """Take the function to DRIVER_OK, with one queue."""
    end.set_status(STATUS.ACKNOWLEDGE | STATUS.DRIVER)
    end.accept(features)
    end.set_status(_READY)
    piece = end.memory.allocate(1 << 18, 4096)
    kind = PackedDriver if features & F.RING_PACKED else SplitDriver
    start, stop = piece.address, piece.address + piece.size
    driver = kind(piece.view, start, SIZE, features, start=start, end=stop)
    try:
        wire = end.start_queue(0, size=SIZE, **driver.addresses)
        end.set_status(_READY | STATUS.DRIVER_OK)
        yield driver, wire
    finally:
        driver.close()


def _exchange(driver: SplitDriver | PackedDriver, wire: QueueWire, batch: int) -> None:
    driver.enable_interrupts()
    for _ in range(batch):
        driver.add([bytes(READABLE)], [WRITABLE])
    driver.publish()
    if driver.needs_kick():
        wire.kick(driver.notification_data << 16)
    used = driver.poll_used()
    assert len(used) == batch, "a card answers before the notification is over"


def _average(layout: str, batch: int, before: Traffic, after: Traffic, requests: int) -> CardCost:
    return CardCost(
        layout,
        batch,
        (after.notifications - before.notifications) / requests,
        (after.reads - before.reads) / requests,
        (after.writes - before.writes) / requests,
        (after.interrupts - before.interrupts) / requests,
    )
