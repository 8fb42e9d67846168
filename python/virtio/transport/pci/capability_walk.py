"""Finding out what a function has, as a driver does: the capability list (VIRTIO 1.4, 4.1.4).

The function is not trusted: lists may be loops, structures may lie outside of their BARs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from virtio.errors import ProtocolError, TransportError
from virtio.spec import pci, pci_bus
from virtio.transport.pci.interface import PciBus, RegionIndex

MOST_CAPABILITIES = (pci_bus.CONFIG_SIZE - pci_bus.CAPABILITIES_START) // 4
"""A list that is longer runs in circles."""

_TYPE = pci.CAP_TYPE
_HEADER = pci_bus.HEADER


@dataclass(frozen=True)
class Structure:
    """A virtio structure: where it is, and how much of it."""

    cfg_type: int
    bar: int
    offset: int
    length: int
    id: int = 0
    more: bytes = b""
    """What the capability has beyond the part that all have in common."""


@dataclass(frozen=True)
class FunctionMap:
    """What a driver needs to know of a function."""

    device_id: int
    common: Structure
    notify: Structure
    isr: Structure
    device: Structure | None
    multiplier: int
    shared_memory: Mapping[int, Structure] = field(default_factory=dict)
    msix: int | None = None
    """Offset of the MSI-X capability."""
    power: int | None = None
    vectors: int = 0


class ConfigReader:
    """Configuration space, read by words as a kernel does."""

    def __init__(self, bus: PciBus) -> None:
        """Read by ``bus``."""
        self._bus = bus

    def get(self, offset: int, size: int) -> int:
        """An aligned field."""
        return int.from_bytes(self._bus.read(RegionIndex.CONFIG, offset, size), "little")

    def put(self, offset: int, value: int, size: int) -> None:
        """Write an aligned field."""
        self._bus.write(RegionIndex.CONFIG, offset, value.to_bytes(size, "little"))

    def header(self, name: str) -> int:
        """A field of the header."""
        return self.get(_HEADER.offset(name), _HEADER.field(name).type.size or 0)

    def bytes(self, offset: int, size: int) -> bytes:
        """Several bytes, of the words that they are in."""
        first = offset & ~3
        words = (self.get(at, 4).to_bytes(4, "little") for at in range(first, offset + size, 4))
        return b"".join(words)[offset - first : offset - first + size]

    def capabilities(self) -> Iterator[tuple[int, int]]:
        """Id and offset of each capability."""
        if not self.header("status") & pci_bus.STATUS.CAPABILITIES_LIST:
            return
        offset = self.header("capabilities_pointer") & ~3
        for _ in range(MOST_CAPABILITIES):
            if offset < pci_bus.CAPABILITIES_START:
                return
            word = self.get(offset, 2)
            if word & 0xFF == 0xFF:
                return
            yield word & 0xFF, offset
            offset = word >> 8 & ~3
        raise ProtocolError("the capability list of the function has no end", "4.1.4")


def walk(bus: PciBus) -> FunctionMap:
    """Find the device type and the structures of a function.

    Raises :exc:`~virtio.TransportError` if it is no virtio function, :exc:`~virtio.ProtocolError` if what it
    says of itself cannot be.
    """
    config = ConfigReader(bus)
    device_id = _identify(bus, config)
    found: dict[int, Structure] = {}
    shared: dict[int, Structure] = {}
    places: dict[int, int] = {}
    for number, offset in config.capabilities():
        if number != pci_bus.CAP_ID.VENDOR:
            places.setdefault(number, offset)
            continue
        structure = _read_structure(bus, config, offset)
        if structure is None:
            continue
        if structure.cfg_type == _TYPE.SHARED_MEMORY_CFG:
            if structure.id in shared:
                raise ProtocolError(f"two shared memory regions have the id {structure.id}", "4.1.4.7.1")
            shared[structure.id] = structure
        else:
            found.setdefault(structure.cfg_type, structure)  # the first is the best one (4.1.4.1)
    if _TYPE.COMMON_CFG not in found and _TYPE.NOTIFY_CFG not in found:
        raise TransportError(
            f"{bus.address}: a legacy device, which has no virtio capabilities (4.1.5.1.1.1)"
        )
    common = _require(found, _TYPE.COMMON_CFG, pci.COMMON_CFG.offset("queue_notif_config_data"), "4.1.4.3.1")
    notify = _require(found, _TYPE.NOTIFY_CFG, 2, "4.1.4.4.1")
    multiplier = int.from_bytes(notify.more[:4], "little")
    if len(notify.more) < 4 or multiplier & (multiplier - 1) or multiplier == 1:
        raise ProtocolError(f"notify_off_multiplier is {multiplier}", "4.1.4.4.1")
    msix = places.get(pci_bus.CAP_ID.MSIX)
    return FunctionMap(
        device_id=device_id,
        common=common,
        notify=notify,
        isr=_require(found, _TYPE.ISR_CFG, 1, "4.1.4.5.1"),
        device=found.get(_TYPE.DEVICE_CFG),
        multiplier=multiplier,
        shared_memory=shared,
        msix=msix,
        power=places.get(pci_bus.CAP_ID.POWER_MANAGEMENT),
        vectors=_vectors(config, msix),
    )


def _identify(bus: PciBus, config: ConfigReader) -> int:
    vendor, number = config.header("vendor_id"), config.header("device_id")
    if vendor != pci.VENDOR_ID or number not in pci.DEVICE_IDS:
        raise TransportError(f"{bus.address}: {vendor:04x}:{number:04x} is no virtio function (4.1.2)")
    if number >= pci.DEVICE_ID_BASE:
        return number - pci.DEVICE_ID_BASE
    for device_id, transitional in pci.TRANSITIONAL_IDS.items():
        if transitional == number:
            return device_id
    raise TransportError(
        f"{bus.address}: {vendor:04x}:{number:04x} is no type of device that is known (4.1.2.1)"
    )


def _vectors(config: ConfigReader, msix: int | None) -> int:
    if msix is None:
        return 0
    control = config.get(msix + pci_bus.MSIX_CAP.offset("control"), 2)
    return (control & pci_bus.MSIX_TABLE_SIZE) + 1


def _read_structure(bus: PciBus, config: ConfigReader, offset: int) -> Structure | None:
    """Read one capability; None: one that a driver must ignore (4.1.4.1)."""
    length, cfg_type = config.get(offset + 2, 1), config.get(offset + 3, 1)
    if cfg_type not in (code.value for code in _TYPE) or cfg_type in (_TYPE.VENDOR_CFG, _TYPE.PCI_CFG):
        return None
    least = pci.CAP64.size if cfg_type == _TYPE.SHARED_MEMORY_CFG else pci.CAP.size
    assert least is not None
    if length < least or offset + length > pci_bus.CONFIG_SIZE:
        raise ProtocolError(f"a virtio capability of {length} bytes at {offset:#x}", "4.1.4.2")
    data = config.bytes(offset, length)
    cap = pci.CAP.unpack(data[: pci.CAP.size])
    if cap.bar >= pci_bus.BARS:
        return None
    start, size, more = cap.offset, cap.length, data[pci.CAP.size :]
    if cfg_type == _TYPE.SHARED_MEMORY_CFG:
        start |= int.from_bytes(more[:4], "little") << 32
        size |= int.from_bytes(more[4:8], "little") << 32
    elif cfg_type in (_TYPE.COMMON_CFG, _TYPE.DEVICE_CFG) and start % 4:
        raise ProtocolError(f"a structure at {start:#x} is not aligned to 4", "4.1.4.3.1")
    elif cfg_type == _TYPE.NOTIFY_CFG and start % 2:
        raise ProtocolError(f"the notification structure at {start:#x} is not aligned to 2", "4.1.4.4.1")
    if start + size > bus.regions[cap.bar].size:
        raise ProtocolError(f"{size} bytes at {start:#x} are not within BAR {cap.bar}", "4.1.4")
    return Structure(cfg_type, cap.bar, start, size, cap.id, more)


def _require(found: Mapping[int, Structure], cfg_type: int, size: int, clause: str) -> Structure:
    structure = found.get(cfg_type)
    name = _TYPE.name(cfg_type)
    if structure is None:
        raise ProtocolError(f"the function has no {name}", clause)
    if structure.length < size:
        raise ProtocolError(f"{name} has {structure.length} bytes, and needs {size}", clause)
    return structure
