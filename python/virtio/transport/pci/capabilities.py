"""The configuration space of a virtio function: header, BARs and capabilities (4.1.2, 4.1.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from virtio.errors import ConfigurationError
from virtio.spec import pci, pci_bus
from virtio.transport.pci.config_space import ConfigSpace
from virtio.transport.pci.interface import Region
from virtio.transport.pci.layout import CLASS_CODES, UNCLASSIFIED, Layout, Place

LINK_2_5GT_X1 = 0x0011
PORT_WITH_ACTIVE_POWER = 1 << 10
"""In the link's capabilities: it supports ASPM L0s, as every device must say."""

_HEADER = pci_bus.HEADER
_TYPE = pci.CAP_TYPE


@dataclass(frozen=True)
class Structure:
    """Where a virtio structure is."""

    place: Place
    size: int


class ExtendedCapability(Protocol):
    """Something that has a capability of its own in extended configuration space."""

    def add_capability(self, space: ConfigSpace, device_id: int) -> None:
        """Add it to a space that is being built, of a function with a device of this type."""


class Placement:
    """Offsets of what reacts when it is written to; None: it is not there."""

    msix: int | None = None
    power: int | None = None
    express: int | None = None
    window: int = 0


def build(
    layout: Layout,
    device_id: int,
    regions: Sequence[Region],
    structures: Mapping[str, Structure],
    *,
    vectors: int,
    shared_memory: Mapping[int, Structure],
    more: Sequence[ExtendedCapability] = (),
) -> tuple[ConfigSpace, Placement]:
    """Return the space and where things are in it.

    ``structures``: ``common``, ``notify``, ``isr``, ``device`` if there is one, ``msix_table`` and
    ``msix_pending`` if there are vectors. ``shared_memory``: by the id of the region.
    """
    space = ConfigSpace(pci_bus.EXTENDED_CONFIG_SIZE if layout.express else pci_bus.CONFIG_SIZE)
    placement = Placement()
    _write_header(space, layout, device_id)
    _write_bars(space, regions)
    if vectors:
        placement.msix = _add_msix(space, vectors, structures["msix_table"], structures["msix_pending"])
    _add_virtio(space, layout, structures, shared_memory)
    placement.window = space.capabilities[-1][1]
    for vendor in layout.vendor_data:
        _add_vendor_data(space, vendor.vendor_id, vendor.data, vendor.writable)
    if layout.power_management:
        placement.power = _add_power(space, no_soft_reset=layout.no_soft_reset)
    if layout.express:
        placement.express = _add_express(space)
        if layout.serial_number is not None:
            serial = layout.serial_number.to_bytes(8, "little")
            space.add_extended_capability(pci_bus.EXTENDED_CAP_ID.SERIAL_NUMBER, 1, serial)
    for capability in more:
        capability.add_capability(space, device_id)
    space.seal()
    return space, placement


def _write_header(space: ConfigSpace, layout: Layout, device_id: int) -> None:
    transitional = layout.revision == 0
    if transitional and device_id not in pci.TRANSITIONAL_IDS:
        raise ConfigurationError(f"device type {device_id} has no transitional devices (4.1.2.1)")
    number = pci.TRANSITIONAL_IDS[device_id] if transitional else pci.DEVICE_ID_BASE + device_id
    class_code = layout.class_code
    if class_code is None:
        class_code = CLASS_CODES.get(device_id, UNCLASSIFIED)
    subsystem = layout.subsystem_id
    if subsystem is None:
        # 4.1.2.1 and .3: from 0x40 on, unless it is what a legacy driver knows the type by.
        subsystem = device_id if transitional else number
    vendor = layout.subsystem_vendor_id
    space.data[: _HEADER.size] = _HEADER.pack(
        vendor_id=pci.VENDOR_ID,
        device_id=number,
        revision_id=layout.revision,
        class_code=class_code.to_bytes(3, "little"),
        subsystem_vendor_id=pci.VENDOR_ID if vendor is None else vendor,
        subsystem_id=subsystem,
        interrupt_pin=int(layout.intx),
    )
    command = sum(code.value for code in pci_bus.COMMAND)
    space.allow(_HEADER.offset("command"), command, 2)
    space.allow_clearing(_HEADER.offset("status"), pci_bus.STATUS_CLEARABLE, 2)
    space.allow(_HEADER.offset("cache_line_size"), 0xFF, 1)
    space.allow(_HEADER.offset("interrupt_line"), 0xFF, 1)


def _write_bars(space: ConfigSpace, regions: Sequence[Region]) -> None:
    for index, region in enumerate(regions[: pci_bus.BARS]):
        if not region.size:
            continue
        offset = _HEADER.offset("bar") + 4 * index
        if region.kind == "io":
            space.put(offset, pci_bus.BAR_IO, 4)
            space.allow(offset, -region.size & 0xFFFF_FFFC, 4)
            continue
        wide = region.kind == "memory64"
        flags = pci_bus.BAR_MEMORY_64 if wide else 0
        flags |= pci_bus.BAR_PREFETCHABLE if region.prefetchable else 0
        space.put(offset, flags, 4)
        space.allow(offset, -region.size & ~0xF & ((1 << (64 if wide else 32)) - 1), 8 if wide else 4)


def _add_msix(space: ConfigSpace, vectors: int, table: Structure, pending: Structure) -> int:
    body = pci_bus.MSIX_CAP.pack(
        control=vectors - 1,
        table=table.place.offset | table.place.bar,
        pending=pending.place.offset | pending.place.bar,
    )
    offset = space.add_capability(pci_bus.CAP_ID.MSIX, body[2:])
    space.allow(offset + pci_bus.MSIX_CAP.offset("control"), pci_bus.MSIX_ENABLE | pci_bus.MSIX_MASK_ALL, 2)
    return offset


def _add_virtio(
    space: ConfigSpace,
    layout: Layout,
    structures: Mapping[str, Structure],
    shared_memory: Mapping[int, Structure],
) -> None:
    types = {
        "common": _TYPE.COMMON_CFG,
        "notify": _TYPE.NOTIFY_CFG,
        "isr": _TYPE.ISR_CFG,
        "device": _TYPE.DEVICE_CFG,
    }
    for name, cfg_type in types.items():
        found = structures.get(name)
        if found is not None:
            more = layout.notify_multiplier.to_bytes(4, "little") if name == "notify" else b""
            _add_structure(space, cfg_type, found.place, found.size, more)
    for number, found in shared_memory.items():
        more = (found.place.offset >> 32).to_bytes(4, "little") + (found.size >> 32).to_bytes(4, "little")
        _add_structure(space, _TYPE.SHARED_MEMORY_CFG, found.place, found.size, more, number)
    offset = _add_structure(space, _TYPE.PCI_CFG, Place(0, 0), 0, bytes(4))
    for name in ("bar", "offset", "length"):
        size = pci.CAP.field(name).type.size or 0
        space.allow(offset + pci.CAP.offset(name), (1 << 8 * size) - 1, size)
    space.allow(offset + pci.CFG_CAP.offset("pci_cfg_data"), 0xFFFF_FFFF, 4)


def _add_structure(
    space: ConfigSpace, cfg_type: int, place: Place, size: int, more: bytes = b"", number: int = 0
) -> int:
    body = pci.CAP.pack(
        cap_len=(pci.CAP.size or 0) + len(more),
        cfg_type=cfg_type,
        bar=place.bar,
        id=number,
        offset=place.offset & 0xFFFF_FFFF,
        length=size & 0xFFFF_FFFF,
    )
    return space.add_capability(pci_bus.CAP_ID.VENDOR, body[2:] + more)


def _add_vendor_data(space: ConfigSpace, vendor_id: int, data: bytes, writable: bytes) -> None:
    if vendor_id == pci.VENDOR_ID:
        raise ConfigurationError("vendor data is another vendor's (4.1.4.8.1)")
    padded = data.ljust(-(-(6 + len(data)) // 4) * 4 - 6, b"\0")
    if len(writable) > len(padded):
        raise ConfigurationError("there is more to be written than vendor data")
    body = pci.VNDR_DATA.pack(
        cap_len=6 + len(padded), cfg_type=_TYPE.VENDOR_CFG, vendor_id=vendor_id, data=padded
    )
    offset = space.add_capability(pci_bus.CAP_ID.VENDOR, body[2:])
    space.allow(offset + pci.VNDR_DATA.offset("data"), writable)


def _add_power(space: ConfigSpace, *, no_soft_reset: bool) -> int:
    body = pci_bus.POWER_CAP.pack(
        capabilities=pci_bus.POWER_VERSION, control=pci_bus.POWER_NO_SOFT_RESET if no_soft_reset else 0
    )
    return space.add_capability(pci_bus.CAP_ID.POWER_MANAGEMENT, body[2:])


def _add_express(space: ConfigSpace) -> int:
    cap = pci_bus.EXPRESS_CAP
    # Version 1 is shorter. What version 2 adds is empty here: it gives way to capabilities that are not.
    version = pci_bus.EXPRESS_VERSION if space.room >= (cap.size or 0) else 1
    body = cap.pack(
        capabilities=version,
        device_capabilities=pci_bus.EXPRESS_ROLE_BASED_ERRORS | pci_bus.EXPRESS_FLR,
        link_capabilities=LINK_2_5GT_X1 | PORT_WITH_ACTIVE_POWER,
        link_status=LINK_2_5GT_X1,
    )
    end = cap.size if version > 1 else pci_bus.EXPRESS_V1_SIZE
    offset = space.add_capability(pci_bus.CAP_ID.EXPRESS, body[2:end])
    # Error reporting, payload and read request sizes, ordering: they mean nothing here, but are kept.
    space.allow(offset + cap.offset("device_control"), 0x78FF, 2)
    space.allow_clearing(offset + cap.offset("device_status"), pci_bus.EXPRESS_STATUS_CLEARABLE, 2)
    space.allow(offset + cap.offset("link_control"), 0x00CB, 2)
    return offset
