"""Where a function has what: BARs, structures, capabilities, and how it names itself.

The default suits every system that is known. An author who wants another card::

    Layout(
        bars={0: Bar(), 4: Bar(wide=True, prefetchable=True)},
        common=Place(4, 0x0), isr=Place(4, 0x1000), device=Place(4, 0x2000), notify=Place(4, 0x3000),
        msix_table=Place(0, 0), msix_pending=Place(0, 0x800),
    )
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from virtio.errors import ConfigurationError
from virtio.spec import pci_bus

PAGE = 0x1000

CLASS_CODES = {
    1: 0x020000,  # net: Ethernet controller
    2: 0x010000,  # block: SCSI storage controller, as every driver's tables have it
    3: 0x078000,  # console: communication controller
    8: 0x010000,
    9: 0x018000,  # 9P: mass storage controller
    16: 0x038000,  # GPU: display controller
    18: 0x098000,  # input: input device controller
    19: 0x028000,  # vsock: network controller
    20: 0x108000,  # crypto: encryption controller
    23: 0x080600,  # IOMMU
    24: 0x050000,  # mem: RAM
    25: 0x040100,  # sound: multimedia audio controller
    26: 0x018000,
    27: 0x058000,  # pmem: memory controller
    32: 0x088000,
    34: 0x0C8000,  # I2C: serial bus controller
    36: 0x0C0900,  # CAN
    45: 0x0C8000,  # SPI
    48: 0x048000,  # media: multimedia controller
}
UNCLASSIFIED = 0x00FF00


@dataclass(frozen=True)
class Bar:
    """What a base address register is. It is as large as it must be, or as ``size`` says."""

    wide: bool = False
    """64 bits: it takes the next register too."""
    prefetchable: bool = False
    io: bool = False
    size: int = 0


class Place(NamedTuple):
    """A place in a BAR."""

    bar: int
    offset: int


_COMMON = Place(0, 0)
_ISR = Place(0, PAGE)
_DEVICE = Place(0, 2 * PAGE)
_NOTIFY = Place(0, 3 * PAGE)
_MSIX_TABLE = Place(2, 0)


@dataclass(frozen=True)
class VendorData:
    """Contents of a vendor data capability (4.1.4.8); ``writable``: which bits may be written."""

    vendor_id: int
    data: bytes
    writable: bytes = b""


@dataclass(frozen=True)
class Layout:
    """How a function looks. See the module's text."""

    bars: Mapping[int, Bar] = field(
        default_factory=lambda: {
            0: Bar(wide=True),
            2: Bar(),
            4: Bar(wide=True, prefetchable=True),
        }
    )
    common: Place = _COMMON
    isr: Place = _ISR
    device: Place = _DEVICE
    notify: Place = _NOTIFY
    msix_table: Place = _MSIX_TABLE
    msix_pending: Place | None = None
    """By default on the page behind the table."""
    shared_memory_bar: int = 4

    notify_multiplier: int = 4
    """Bytes between the places where queues are notified; 0: all at one place."""
    notify_mapped: bool = False
    """Whether the driver's side may map the pages where queues are notified. Its stores tell nobody: queues
    look at their rings without end."""
    vectors: int | None = None
    """MSI-X vectors; by default one for each queue and one for the configuration. 0: no MSI-X."""
    intx: bool = True
    """Whether there is an interrupt pin."""
    express: bool = True
    """Whether there is a PCI Express capability, and with it extended configuration space and FLR."""
    power_management: bool = True
    no_soft_reset: bool = True
    """Whether the function keeps its state on the way from D3hot to D0."""
    serial_number: int | None = None
    vendor_data: tuple[VendorData, ...] = ()

    revision: int = 1
    class_code: int | None = None
    """By default what suits the type of the device."""
    subsystem_vendor_id: int | None = None
    subsystem_id: int | None = None

    def check(self) -> None:
        """Raise :exc:`~virtio.ConfigurationError` for what the standard forbids."""
        taken: set[int] = set()
        for index, bar in sorted(self.bars.items()):
            registers = {index, index + 1} if bar.wide else {index}
            if not registers <= set(range(pci_bus.BARS)) or registers & taken:
                raise ConfigurationError(f"there is no room for BAR {index}")
            if bar.io and (bar.wide or bar.prefetchable):
                raise ConfigurationError(f"BAR {index} is I/O: it has 32 bits and is not prefetchable")
            if bar.size & (bar.size - 1):
                raise ConfigurationError(f"the size of BAR {index} is not a power of two")
            taken |= registers
        places = {"common": 4, "isr": 1, "device": 4, "notify": 4, "msix_table": 8, "msix_pending": 8}
        for name, alignment in places.items():
            place = getattr(self, name)
            if place is None or (name.startswith("msix") and self.vectors == 0):
                continue
            if place.bar not in self.bars:
                raise ConfigurationError(f"{name} is in BAR {place.bar}, which is not there")
            if place.offset < 0 or place.offset % alignment:
                raise ConfigurationError(f"{name} is not at a multiple of {alignment} (4.1.4)")
        if self.notify_mapped and self.notify.offset % PAGE:
            raise ConfigurationError("notify is to be mapped, and does not begin with a page")
        step = self.notify_multiplier
        if step & (step - 1) or step in (1, 2):
            # 4.1.4.4.1: 2 would do without VIRTIO_F_NOTIFICATION_DATA, but features are not known here.
            raise ConfigurationError("notify_multiplier is a power of two from 4 on, or 0 (4.1.4.4.1)")
        if self.vectors is not None and not 0 <= self.vectors <= pci_bus.MSIX_VECTORS:
            raise ConfigurationError(f"{self.vectors} MSI-X vectors; there can be {pci_bus.MSIX_VECTORS}")
        if self.vectors == 0 and not self.intx:
            raise ConfigurationError("a function without MSI-X and INTx cannot notify its driver")
        if not 0 <= self.revision <= 0xFF:
            raise ConfigurationError(f"{self.revision} is no revision")
