"""A function in the words of ``lspci -vv``, from the bytes of its configuration space.

The form is that of pciutils. Virtio capabilities that pciutils does not know have names here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from virtio.errors import ProtocolError
from virtio.spec import pci, pci_bus
from virtio.spec.core import DEVICE_IDS
from virtio.spec.model import Record, Struct
from virtio.transport.pci.interface import PciBus, Region, RegionIndex

CLASSES = {
    0x00FF: "Unclassified device [00ff]",
    0x0100: "SCSI storage controller",
    0x0180: "Mass storage controller",
    0x0200: "Ethernet controller",
    0x0280: "Network controller",
    0x0380: "Display controller",
    0x0401: "Multimedia audio controller",
    0x0480: "Multimedia controller",
    0x0500: "RAM memory",
    0x0580: "Memory controller",
    0x0780: "Communication controller",
    0x0803: "RTC",
    0x0806: "IOMMU",
    0x0880: "System peripheral",
    0x0980: "Input device controller",
    0x0C09: "CANBUS",
    0x0C80: "Serial bus controller",
    0x1080: "Encryption controller",
}
VENDOR = "Red Hat, Inc."
NAMES = {
    1: "network device",
    2: "block device",
    3: "console",
    4: "RNG",
    5: "memory balloon",
    8: "SCSI",
    9: "filesystem",
    16: "GPU",
    18: "input",
    19: "socket",
}
"""As the list of PCI ids has them; other types are called as the standard calls them."""

_CONTROL = {
    "I/O": 0x1,
    "Mem": 0x2,
    "BusMaster": 0x4,
    "SpecCycle": 0x8,
    "MemWINV": 0x10,
    "VGASnoop": 0x20,
    "ParErr": 0x40,
    "Stepping": 0x80,
    "SERR": 0x100,
    "FastB2B": 0x200,
    "DisINTx": 0x400,
}
_STRUCTURES = {
    pci.CAP_TYPE.COMMON_CFG: "CommonCfg",
    pci.CAP_TYPE.NOTIFY_CFG: "Notify",
    pci.CAP_TYPE.ISR_CFG: "ISR",
    pci.CAP_TYPE.DEVICE_CFG: "DeviceCfg",
    pci.CAP_TYPE.PCI_CFG: "PciCfg",
    pci.CAP_TYPE.SHARED_MEMORY_CFG: "SharedMemory",
}
_DEVSEL = ("fast", "medium", "slow", "??")
_PORT_TYPES = {0: "Endpoint", 1: "Legacy Endpoint", 9: "Root Complex Integrated Endpoint"}
_L0S = ("<64ns", "<128ns", "<256ns", "<512ns", "<1us", "<2us", "<4us", "unlimited")
_L1 = ("<1us", "<2us", "<4us", "<8us", "<16us", "<32us", "<64us", "unlimited")
_SPEEDS = {1: "2.5GT/s", 2: "5GT/s", 3: "8GT/s", 4: "16GT/s"}
_ASPM = ("not supported", "L0s", "L1", "L0s L1")
_ASPM_ENABLED = ("Disabled", "L0s Enabled", "L1 Enabled", "L0s L1 Enabled")


def read(bus: PciBus) -> bytes:
    """Read all of a configuration space."""
    size = bus.regions[RegionIndex.CONFIG].size
    return b"".join(bus.read(RegionIndex.CONFIG, at, 4) for at in range(0, size, 4))


def dump(config: bytes, slot: str = "00:00.0") -> str:
    """Configuration space in hexadecimal, as ``lspci -F`` reads it."""
    rows = (f"{at:02x}: {config[at : at + 16].hex(' ')}" for at in range(0, len(config), 16))
    return "\n".join((f"{slot} virtio", *rows)) + "\n"


def text(
    config: bytes, regions: Sequence[Region] = (), slot: str = "00:00.0", *, numbers: bool = False
) -> str:
    """Describe configuration space. ``regions`` tell sizes; ``numbers``: no names, as with ``-n``."""
    header = pci_bus.HEADER.unpack(config[: pci_bus.HEADER.size])
    lines = list(_header_lines(header, config, regions, slot, numbers=numbers))
    for number, offset in _capabilities(config, header):
        printer = _PRINTERS.get(number, _unknown)
        try:
            first, *more = printer(config, offset)
        except (ProtocolError, IndexError):
            first, more = "<cut off>", []
        lines.append(f"\tCapabilities: [{offset:02x}] {first}")
        lines += ("\t\t" + line for line in more)
    lines += _extended(config)
    return "\n".join(lines) + "\n"


def _flags(value: int, names: Mapping[str, int]) -> str:
    return " ".join(f"{name}{'+' if value & bit else '-'}" for name, bit in names.items())


def _name(number: int) -> str:
    if number not in pci.DEVICE_IDS:
        return f"Device {number:04x}"
    device_id = number - pci.DEVICE_ID_BASE
    if number < pci.DEVICE_ID_BASE:
        device_id = next((known for known, old in pci.TRANSITIONAL_IDS.items() if old == number), 0)
    title = next((row.title for row in DEVICE_IDS if row.id == device_id), f"device {device_id}")
    generation = "Virtio" if number < pci.DEVICE_ID_BASE else "Virtio 1.0"
    return f"{generation} {NAMES.get(device_id, title)}"


def _header_lines(
    header: Record, config: bytes, regions: Sequence[Region], slot: str, *, numbers: bool
) -> Iterator[str]:
    kind = header.class_code[2] << 8 | header.class_code[1]
    revision = f" (rev {header.revision_id:02x})" if header.revision_id else ""
    subsystem = f"{header.subsystem_vendor_id:04x}:{header.subsystem_id:04x}"
    if numbers:
        yield f"{slot} {kind:04x}: {header.vendor_id:04x}:{header.device_id:04x}{revision}"
        yield f"\tSubsystem: {subsystem}"
    else:
        known = header.vendor_id == pci.VENDOR_ID
        name = f"{VENDOR} {_name(header.device_id)}" if known else f"Device {header.vendor_id:04x}"
        yield f"{slot} {CLASSES.get(kind, f'Class [{kind:04x}]')}: {name}{revision}"
        same = header.subsystem_vendor_id == pci.VENDOR_ID and header.subsystem_id == header.device_id
        yield f"\tSubsystem: {name if same else 'Device ' + subsystem}"
    yield f"\tControl: {_flags(header.command, _CONTROL)}"
    status = header.status
    yield (
        f"\tStatus: {_flags(status, {'Cap': 0x10, '66MHz': 0x20, 'UDF': 0x40, 'FastB2B': 0x80})} "
        f"{_flags(status, {'ParErr': 0x100})} DEVSEL={_DEVSEL[status >> 9 & 3]} "
        f"{_flags(status, {'>TAbort': 0x800, '<TAbort': 0x1000, '<MAbort': 0x2000})} "
        f"{_flags(status, {'>SERR': 0x4000, '<PERR': 0x8000, 'INTx': 0x8})}"
    )
    if header.command & pci_bus.COMMAND.BUS_MASTER:
        cache = f", Cache Line Size: {4 * header.cache_line_size} bytes" if header.cache_line_size else ""
        yield f"\tLatency: {header.latency_timer}{cache}"
    if header.interrupt_pin or header.interrupt_line:
        pin = chr(64 + header.interrupt_pin) if header.interrupt_pin else "?"
        yield f"\tInterrupt: pin {pin} routed to IRQ {header.interrupt_line}"
    yield from _bar_lines(header, config, regions)


def _bar_lines(header: Record, config: bytes, regions: Sequence[Region]) -> Iterator[str]:
    base = pci_bus.HEADER.offset("bar")
    skip = False
    for index in range(pci_bus.BARS):
        if skip:
            skip = False
            continue
        value = int.from_bytes(config[base + 4 * index : base + 4 * index + 4], "little")
        size = _size(regions[index].size) if index < len(regions) and regions[index].size else ""
        if value & pci_bus.BAR_IO:
            where = f"{value & ~3:04x}" if value & ~3 else "<unassigned>"
            off = "" if header.command & pci_bus.COMMAND.IO_SPACE else " [disabled]"
            yield f"\tRegion {index}: I/O ports at {where}{off}{size}"
            continue
        wide = bool(value & pci_bus.BAR_MEMORY_64)
        address = value & ~0xF
        if wide:
            skip = True
            address |= int.from_bytes(config[base + 4 * index + 4 : base + 4 * index + 8], "little") << 32
        if not value and not address and not size:
            continue
        where = f"{address:0{16 if address >> 32 else 8}x}" if address else "<unassigned>"
        off = "" if header.command & pci_bus.COMMAND.MEMORY_SPACE else " [disabled]"
        prefetchable = "" if value & pci_bus.BAR_PREFETCHABLE else "non-"
        kind = f"({64 if wide else 32}-bit, {prefetchable}prefetchable)"
        yield f"\tRegion {index}: Memory at {where} {kind}{off}{size}"


def _size(size: int) -> str:
    for unit, suffix in ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size >= unit and size % unit == 0:
            return f" [size={size // unit}{suffix}]"
    return f" [size={size}]"


def _capabilities(config: bytes, header: Record) -> Iterator[tuple[int, int]]:
    if not header.status & pci_bus.STATUS.CAPABILITIES_LIST:
        return
    offset, seen = header.capabilities_pointer & ~3, set[int]()
    while offset >= pci_bus.CAPABILITIES_START and offset not in seen:
        seen.add(offset)
        yield config[offset], offset
        offset = config[offset + 1] & ~3


def _field(layout: Struct, config: bytes, offset: int) -> Record:
    return layout.unpack(config[offset : offset + (layout.size or 0)])


def _msix(config: bytes, offset: int) -> list[str]:
    cap = _field(pci_bus.MSIX_CAP, config, offset)
    enable = _flags(cap.control, {"Enable": pci_bus.MSIX_ENABLE})
    masked = _flags(cap.control, {"Masked": pci_bus.MSIX_MASK_ALL})
    return [
        f"MSI-X: {enable} Count={(cap.control & pci_bus.MSIX_TABLE_SIZE) + 1} {masked}",
        f"Vector table: BAR={cap.table & 7} offset={cap.table & ~7:08x}",
        f"PBA: BAR={cap.pending & 7} offset={cap.pending & ~7:08x}",
    ]


def _vendor(config: bytes, offset: int) -> list[str]:
    length, cfg_type = config[offset + 2], config[offset + 3]
    if cfg_type == pci.CAP_TYPE.VENDOR_CFG:
        vendor = int.from_bytes(config[offset + 4 : offset + 6], "little")
        data = config[offset + 6 : offset + length].hex(" ")
        return ["Vendor Specific Information: VirtIO: VendorData", f"Vendor={vendor:04x} data: {data}"]
    cap = _field(pci.CAP, config, offset)
    name = _STRUCTURES.get(cfg_type, "<unknown>")
    start, size, more = cap.offset, cap.length, ""
    if cfg_type == pci.CAP_TYPE.NOTIFY_CFG:
        multiplier = _field(pci.NOTIFY_CAP, config, offset).notify_off_multiplier
        more = f" multiplier={multiplier:08x}"
    elif cfg_type == pci.CAP_TYPE.SHARED_MEMORY_CFG:
        wide = _field(pci.CAP64, config, offset)
        start, size, more = start | wide.offset_hi << 32, size | wide.length_hi << 32, f" id={cap.id}"
    return [
        f"Vendor Specific Information: VirtIO: {name}",
        f"BAR={cap.bar} offset={start:08x} size={size:08x}{more}",
    ]


def _power(config: bytes, offset: int) -> list[str]:
    cap = _field(pci_bus.POWER_CAP, config, offset)
    flags, control = cap.capabilities, cap.control
    states = {"D0": 0x800, "D1": 0x1000, "D2": 0x2000, "D3hot": 0x4000, "D3cold": 0x8000}
    current = (0, 55, 100, 160, 220, 270, 320, 375)[flags >> 6 & 7]
    able = _flags(flags, {"PMEClk": 8, "DSI": 0x20, "D1": 0x200, "D2": 0x400})
    return [
        f"Power Management version {flags & 7}",
        f"Flags: {able} AuxCurrent={current}mA PME({_flags(flags, states).replace(' ', ',')})",
        f"Status: D{control & 3} {_flags(control, {'NoSoftRst': 8, 'PME-Enable': 0x100})} "
        f"DSel={control >> 9 & 15} DScale={control >> 13 & 3} {_flags(control, {'PME': 0x8000})}",
    ]


def _express(config: bytes, offset: int) -> list[str]:
    whole = config[offset : offset + (pci_bus.EXPRESS_CAP.size or 0)]
    cap = pci_bus.EXPRESS_CAP.unpack(whole.ljust(pci_bus.EXPRESS_CAP.size or 0, b"\0"))
    able, control, status = cap.device_capabilities, cap.device_control, cap.device_status
    link, link_control, link_status = cap.link_capabilities, cap.link_control, cap.link_status
    kind = _PORT_TYPES.get(cap.capabilities >> 4 & 15, f"Unknown type {cap.capabilities >> 4 & 15}")
    lines = [
        f"Express (v{cap.capabilities & 15}) {kind}, MSI {cap.capabilities >> 9 & 31:02x}",
        f"DevCap:\tMaxPayload {128 << (able & 7)} bytes, PhantFunc {(1 << (able >> 3 & 3)) - 1}, "
        f"Latency L0s {_L0S[able >> 6 & 7]}, L1 {_L1[able >> 9 & 7]}",
        "\t"
        + _flags(
            able,
            {
                "ExtTag": 0x20,
                "AttnBtn": 0x1000,
                "AttnInd": 0x2000,
                "PwrInd": 0x4000,
                "RBE": 0x8000,
                "FLReset": 1 << 28,
            },
        )
        + " SlotPowerLimit 0W",
        "DevCtl:\t" + _flags(control, {"CorrErr": 1, "NonFatalErr": 2, "FatalErr": 4, "UnsupReq": 8}),
        "\t"
        + _flags(
            control,
            {
                "RlxdOrd": 0x10,
                "ExtTag": 0x100,
                "PhantFunc": 0x200,
                "AuxPwr": 0x400,
                "NoSnoop": 0x800,
                "FLReset": 0x8000,
            },
        ),
        f"\tMaxPayload {128 << (control >> 5 & 7)} bytes, MaxReadReq {128 << (control >> 12 & 7)} bytes",
        "DevSta:\t"
        + _flags(
            status,
            {"CorrErr": 1, "NonFatalErr": 2, "FatalErr": 4, "UnsupReq": 8, "AuxPwr": 0x10, "TransPend": 0x20},
        ),
    ]
    aspm = link >> 10 & 3
    exits = {0: "", 1: f"L0s {_L0S[link >> 12 & 7]}", 2: f"L1 {_L1[link >> 15 & 7]}"}
    exit_latency = exits.get(aspm, f"L0s {_L0S[link >> 12 & 7]}, L1 {_L1[link >> 15 & 7]}")
    lines += [
        f"LnkCap:\tPort #{link >> 24}, Speed {_SPEEDS.get(link & 15, 'unknown')}, Width x{link >> 4 & 63}, "
        f"ASPM {_ASPM[aspm]}" + (f", Exit Latency {exit_latency}" if aspm else ""),
        "\t"
        + _flags(
            link,
            {
                "ClockPM": 1 << 18,
                "Surprise": 1 << 19,
                "LLActRep": 1 << 20,
                "BwNot": 1 << 21,
                "ASPMOptComp": 1 << 22,
            },
        ),
        f"LnkCtl:\tASPM {_ASPM_ENABLED[link_control & 3]}; RCB {128 if link_control & 8 else 64} bytes, "
        + _flags(link_control, {"Disabled": 0x10, "CommClk": 0x40}),
        "\t"
        + _flags(
            link_control,
            {"ExtSynch": 0x80, "ClockPM": 0x100, "AutWidDis": 0x200, "BWInt": 0x400, "AutBWInt": 0x800},
        ),
        f"LnkSta:\tSpeed {_SPEEDS.get(link_status & 15, 'unknown')}, Width x{link_status >> 4 & 63}",
        "\t"
        + _flags(
            link_status,
            {
                "TrErr": 0x400,
                "Train": 0x800,
                "SlotClk": 0x1000,
                "DLActive": 0x2000,
                "BWMgmt": 0x4000,
                "ABWMgmt": 0x8000,
            },
        ),
    ]
    return lines


def _unknown(config: bytes, offset: int) -> list[str]:
    return [f"#{config[offset]:02x} [{int.from_bytes(config[offset + 2 : offset + 4], 'little'):04x}]"]


_PRINTERS: Mapping[int, Callable[[bytes, int], list[str]]] = MappingProxyType(
    {
        pci_bus.CAP_ID.MSIX: _msix,
        pci_bus.CAP_ID.VENDOR: _vendor,
        pci_bus.CAP_ID.POWER_MANAGEMENT: _power,
        pci_bus.CAP_ID.EXPRESS: _express,
    }
)


def _extended(config: bytes) -> Iterator[str]:
    offset, seen = pci_bus.EXTENDED_CAP_START, set[int]()
    while pci_bus.EXTENDED_CAP_START <= offset <= len(config) - 4 and offset not in seen:
        seen.add(offset)
        cap = _field(pci_bus.EXTENDED_CAP, config, offset)
        if not cap.id:
            return
        head = f"\tCapabilities: [{offset:03x} v{cap.version_and_next & 15}]"
        if cap.id == pci_bus.EXTENDED_CAP_ID.SERIAL_NUMBER:
            yield f"{head} Device Serial Number {config[offset + 4 : offset + 12][::-1].hex('-')}"
        else:
            name = pci_bus.EXTENDED_CAP_ID.name(cap.id)
            words = name.replace("_", " ").capitalize() if name else f"Extended Capability ID {cap.id:#x}"
            yield f"{head} {words}"
        offset = cap.version_and_next >> 4 & ~3
