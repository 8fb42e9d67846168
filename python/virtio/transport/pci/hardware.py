"""A function with the manners of a card: what it offers, and what it costs on the bus.

A card is behind an IOMMU and orders its accesses itself; it wants to know from the notification what there
is, and to name its queues as suits it; and each of its accesses to memory is a transaction, which takes time.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from virtio.errors import ConfigurationError
from virtio.queue.model import Touch
from virtio.queue.model.shared import ACQUIRE, ORDERINGS
from virtio.spec.core import F
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci.function import OWN_FEATURES, PciFunction
from virtio.transport.pci.interface import Notification, RegionIndex
from virtio.transport.pci.layout import Layout

DESCRIPTOR = 16


@dataclass
class Traffic:
    """Transactions on the bus. What the processor does to the card, and what the card does to memory."""

    register_reads: int = 0
    register_writes: int = 0
    """Without notifications."""
    notifications: int = 0
    reads: int = 0
    """Of memory, by the card."""
    writes: int = 0
    """To memory, by the card."""
    interrupts: int = 0
    """Messages of MSI-X, which are writes too."""

    @property
    def total(self) -> int:
        """All of them."""
        return (
            self.register_reads
            + self.register_writes
            + self.notifications
            + self.reads
            + self.writes
            + self.interrupts
        )


@dataclass(frozen=True)
class HardwareProfile:
    """How a card behaves."""

    burst: int = 256
    """Most bytes of a transaction, which also does not cross a multiple of them."""
    notification_data: bool = True
    """Whether a notification tells what is available."""
    first_notification_value: int = 0x40
    """What queue 0 is notified with; queue 1 with one more, and so on. 0: with the index."""
    latency: float = 0.0
    """Seconds that a read of memory takes. Writes are posted."""
    wait: Callable[[float], object] = time.sleep
    """What lets that time pass."""

    @property
    def features(self) -> int:
        """What the function offers by itself."""
        data = F.NOTIFICATION_DATA if self.notification_data else 0
        own_values = F.NOTIF_CONFIG_DATA if self.first_notification_value else 0
        return OWN_FEATURES | F.ACCESS_PLATFORM | data | own_values

    def notification_value(self, index: int) -> int:
        """What a queue is notified with under VIRTIO_F_NOTIF_CONFIG_DATA."""
        return self.first_notification_value + index


class CardFunction(PciFunction):
    """A function that counts.

    Accesses to memory are counted if its device is a :class:`~virtio.transport.pci.card.CardDevice`. Queues
    of other devices run natively, out of sight.
    """

    def __init__(self, device: DeviceEnd, *, profile: HardwareProfile | None = None, **options: Any) -> None:
        """Put ``device`` on a card. ``options`` are those of :class:`PciFunction`."""
        self.profile = profile or HardwareProfile()
        self._traffic = Traffic()
        layout: Layout | None = options.get("layout")
        if layout is not None and layout.notify_mapped:
            raise ConfigurationError("notifications that are mapped cannot be counted")
        super().__init__(
            device,
            features=self.profile.features,
            notification_value=self.profile.notification_value,
            **options,
        )
        self._interrupts.direct = False
        connect = getattr(device, "connect_bus", None)
        if connect is not None:
            connect(self.profile, self._traffic)

    @property
    def traffic(self) -> Traffic:
        """What has been on the bus so far; a copy."""
        counted = self._traffic
        return Traffic(
            counted.register_reads,
            counted.register_writes,
            counted.notifications,
            counted.reads,
            counted.writes,
            self._interrupts.raised,
        )

    @property
    def notifications(self) -> tuple[Notification, ...]:
        """None: an eventfd would pass unseen."""
        return ()

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region."""
        if region != RegionIndex.CONFIG:
            self._traffic.register_reads += 1
        return super().read(region, offset, size)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region."""
        if region != RegionIndex.CONFIG:
            self._traffic.register_writes += 1
        super().write(region, offset, data)

    def notified(self, size: int) -> None:
        """A write that was a notification."""
        self._traffic.register_writes -= 1
        self._traffic.notifications += 1


def transactions(touches: Iterable[Touch], burst: int, *, write: bool) -> int:
    """Count the device's reads or writes of memory over a bus.

    Contiguous bytes of one part go in one transaction, up to ``burst`` of them and not across a multiple of
    that. Reads are merged over a whole batch: a device that knows how much there is reads it at once. Writes
    are not merged where one makes others visible. Of a descriptor all is written: its address means nothing
    any more (2.8.4).
    """
    number = 0
    pieces: dict[str, set[int]] = {}
    for touch in touches:
        if touch.end != "device":
            continue
        if touch.part in ORDERINGS:
            if write and touch.part != ACQUIRE:
                number += _blocks(pieces, burst)
                pieces.clear()
        elif touch.write is write:
            first, size = touch.address, touch.size
            if touch.part == "descriptor":
                first, size = first // DESCRIPTOR * DESCRIPTOR, DESCRIPTOR
            pieces.setdefault(touch.part, set()).update(range(first, first + size))
    return number + _blocks(pieces, burst)


def _blocks(pieces: dict[str, set[int]], burst: int) -> int:
    """Count runs of bytes, each cut at multiples of ``burst``."""
    return sum(
        1
        for addresses in pieces.values()
        for address in addresses
        if address % burst == 0 or address - 1 not in addresses
    )
