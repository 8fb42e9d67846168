"""Virtio over MMIO (4.2): the register block."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from dataclasses import dataclass

from virtio.spec.layout import Access
from virtio.spec.model import LEGACY, RW, V1_0, V1_2, Code, Codes, R, Struct, Version, W


@dataclass(frozen=True)
class Register:
    """A register of 32 bits; ``access`` is the driver's."""

    offset: int
    name: str
    access: Access
    doc: str
    since: Version = V1_0


MAGIC = 0x74726976
VERSION = 2
LEGACY_VERSION = 1
CONFIG_OFFSET = 0x100

# fmt: off
REGISTERS = (
    Register(0x000, "MagicValue", R, "\"virt\""),
    Register(0x004, "Version", R, "2; legacy devices have 1"),
    Register(0x008, "DeviceID", R, "device id; 0: a placeholder"),
    Register(0x00C, "VendorID", R, "whose device it is"),
    Register(0x010, "DeviceFeatures", R, "32 bits that the device offers"),
    Register(0x014, "DeviceFeaturesSel", W, "which 32 bits"),
    Register(0x020, "DriverFeatures", W, "32 bits that the driver accepts"),
    Register(0x024, "DriverFeaturesSel", W, "which 32 bits"),
    Register(0x030, "QueueSel", W, "which queue the other registers are about"),
    # Versions before 1.3 called these two QueueNumMax and QueueNum.
    Register(0x034, "QueueSizeMax", R, "most entries; 0: there is no such queue"),
    Register(0x038, "QueueSize", W, "entries"),
    Register(0x044, "QueueReady", RW, "1 starts the queue"),
    Register(0x050, "QueueNotify", W, "queue index, or notification data"),
    Register(0x060, "InterruptStatus", R, "why there is an interrupt"),
    Register(0x064, "InterruptACK", W, "which reasons were handled"),
    Register(0x070, "Status", RW, "device status; 0 resets"),
    Register(0x080, "QueueDescLow", W, "address of the descriptor area"),
    Register(0x084, "QueueDescHigh", W, "its upper half"),
    Register(0x090, "QueueDriverLow", W, "address of the driver area"),
    Register(0x094, "QueueDriverHigh", W, "its upper half"),
    Register(0x0A0, "QueueDeviceLow", W, "address of the device area"),
    Register(0x0A4, "QueueDeviceHigh", W, "its upper half"),
    Register(0x0AC, "SHMSel", W, "which shared memory region", V1_2),
    Register(0x0B0, "SHMLenLow", R, "bytes of the region; all ones: there is no such region", V1_2),
    Register(0x0B4, "SHMLenHigh", R, "its upper half", V1_2),
    Register(0x0B8, "SHMBaseLow", R, "address of the region", V1_2),
    Register(0x0BC, "SHMBaseHigh", R, "its upper half", V1_2),
    Register(0x0C0, "QueueReset", RW, "1 resets the queue (VIRTIO_F_RING_RESET)", V1_2),
    Register(0x0FC, "ConfigGeneration", R, "changes with the configuration"),
)
# What legacy devices (version 1) have besides, or instead of the three areas of a queue.
LEGACY_REGISTERS = (
    Register(0x028, "GuestPageSize", W, "bytes", LEGACY),
    Register(0x03C, "QueueAlign", W, "alignment of the used ring in bytes", LEGACY),
    Register(0x040, "QueuePFN", RW, "page number of the queue", LEGACY),
)

REG = Codes("registers", "", "4.2.2", *(Code(row.offset, row.name, f"{row.access}: {row.doc}", row.since) for row in REGISTERS))
LEGACY_REG = Codes(
    "legacy registers", "", "4.2.4",
    *(Code(row.offset, row.name, f"{row.access}: {row.doc}", row.since, legacy=True) for row in LEGACY_REGISTERS),
)
INTERRUPT = Codes(
    "interrupt status", "", "4.2.2",
    Code(1, "USED_BUFFER", "a buffer was used"),
    Code(2, "CONFIGURATION_CHANGE", "the configuration has changed"),
    flags=True,
)
# fmt: on

STRUCTS: tuple[Struct, ...] = ()
CODES = (REG, LEGACY_REG, INTERRUPT)
