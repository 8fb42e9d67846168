"""What a request costs in cache lines and in bus transactions: counted, not measured.

The model's two ends exchange requests, every access of theirs to the ring is recorded, and two caches, or a
bus between device and memory, are worked out from the record. What the standard prescribes is all that goes
in; there is no machine in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from virtio.bench.ring import LAYOUTS
from virtio.queue.model import PackedDevice, PackedDriver, SplitDevice, SplitDriver, SplitLayout, Touch
from virtio.queue.model.ring import IN_ORDER
from virtio.queue.model.shared import ORDERINGS
from virtio.transport.pci.hardware import transactions

BATCHES: Final = (1, 2, 4, 8, 16, 32)
LINE: Final = 64
"""Bytes of a cache line."""
BURSTS: Final = (64, 256)
"""Bytes that one transaction on the bus carries at most."""
SIZE: Final = 256
"""Queue size."""
ALIGNMENTS: Final = {
    "entries": "a split ring's first entry begins a cache line, and idx is in the line before",
    "parts": "each part of a split ring begins a cache line, so idx and the first entries share one",
}
"""How the available and the used ring of a split queue may lie. A packed ring has no such choice."""

_PAGE = 4096
_LAPS = 3
"""Times around the ring: the first finds caches that hold nothing and is not counted."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request costs, on average over the ring."""

    layout: str
    alignment: str
    batch: int
    fetched: float
    """Cache lines that an end had to get from the other, which had written to it."""
    claimed: float
    """Cache lines that an end had, but had to take from the other's cache before it could write."""
    reads: dict[int, float]
    """Bus reads by the device, by how many bytes one may carry."""
    writes: dict[int, float]
    """Bus writes by the device, likewise."""

    @property
    def moved(self) -> float:
        """Cache lines that changed hands, one way or the other."""
        return self.fetched + self.claimed


def count(
    layouts: Iterable[str] = tuple(LAYOUTS),
    batches: Sequence[int] = BATCHES,
    alignments: Iterable[str] = tuple(ALIGNMENTS),
    *,
    told: bool = False,
) -> list[Cost]:
    """Count what a request of one descriptor costs, made available and used in batches.

    Both ends poll, and neither looks in vain. ``told``: the kicks carry what is available
    (VIRTIO_F_NOTIFICATION_DATA), so a device with a split ring need not read the index.
    """
    return [
        _cost(layout, alignment, batch, told)
        for layout in layouts
        for alignment in alignments
        for batch in batches
    ]


def _cost(layout: str, alignment: str, batch: int, told: bool) -> Cost:
    caches = Caches()
    requests = 0
    reads = dict.fromkeys(BURSTS, 0)
    writes = dict.fromkeys(BURSTS, 0)
    for lap, touches in _rounds(layout, alignment, batch, told):
        counted = lap > 0
        for touch in touches:
            caches.touch(touch, counted=counted)
        if counted:
            requests += batch
            for burst in BURSTS:
                reads[burst] += transactions(touches, burst, write=False)
                writes[burst] += transactions(touches, burst, write=True)
    return Cost(
        layout,
        alignment,
        batch,
        caches.fetched / requests,
        caches.claimed / requests,
        {burst: number / requests for burst, number in reads.items()},
        {burst: number / requests for burst, number in writes.items()},
    )


def _rounds(layout: str, alignment: str, batch: int, told: bool) -> Iterator[tuple[int, list[Touch]]]:
    """Exchange batches; yield the lap of the ring and what was touched, for each."""
    touches: list[Touch] = []
    driver, device = _pair(layout, alignment, touches)
    # An end that polls wants no notification.
    driver.disable_interrupts()
    device.disarm()
    for number in range(_LAPS * SIZE // batch):
        touches.clear()
        for _ in range(batch):
            driver.add([0])
        driver.publish()
        driver.needs_kick()
        if told:
            device.kicked(driver.notification_data)
        for _ in range(batch):
            chain = device.pop()
            assert chain is not None, "a published chain is there"
            if isinstance(device, PackedDevice):
                device.push(chain, 0)
            else:
                device.push(chain.head, 0)
        device.publish()
        used = driver.poll_used()
        assert len(used) == batch, "what was published is used"
        yield number * batch // SIZE, touches


def _pair(
    layout: str, alignment: str, touches: list[Touch]
) -> tuple[SplitDriver | PackedDriver, SplitDevice | PackedDevice]:
    features = LAYOUTS[layout] & IN_ORDER
    memory = bytearray(8 * _PAGE)
    if layout.startswith("packed"):
        packed = PackedDriver(memory, _PAGE, SIZE, features, observer=touches.append)
        return packed, PackedDevice(memory, packed.layout, features, observer=touches.append)
    # flags and idx are the 4 bytes in front of the entries (2.7.6, 2.7.8).
    before = LINE - 4 if alignment == "entries" else 0
    place = SplitLayout(SIZE, _PAGE, 3 * _PAGE + before, 5 * _PAGE + before)
    split = SplitDriver(memory, 0, SIZE, features, layout=place, observer=touches.append)
    return split, SplitDevice(memory, place, features, observer=touches.append)


class Caches:
    """Two caches of any size, one for each end, that keep each other coherent (as MESI does).

    A line is held by nobody, by one end or by both; who writes to it holds it alone.
    """

    def __init__(self) -> None:
        """Begin with empty caches."""
        self.fetched = 0
        self.claimed = 0
        self._holders: dict[int, set[str]] = {}

    def touch(self, touch: Touch, *, counted: bool = True) -> None:
        """Let an end access memory."""
        if touch.part in ORDERINGS:
            return
        for line in range(touch.address // LINE, (touch.address + touch.size - 1) // LINE + 1):
            holders = self._holders.setdefault(line, set())
            if counted and holders:
                if touch.end not in holders:
                    self.fetched += 1
                elif touch.write and len(holders) > 1:
                    self.claimed += 1
            if touch.write:
                holders.clear()
            holders.add(touch.end)
