"""The commands of vfio-user and its numbers, as tables, after QEMU's ``docs/interop/vfio-user.rst``.

Numbers that the protocol takes from ``<linux/vfio.h>`` have their names from there, without ``VFIO_``.
"""

from enum import IntEnum, IntFlag
from typing import NamedTuple

MAJOR = 0
MINOR = 1
"""The version that is spoken here. 0.0 has the same messages."""

MAX_TRANSFER = 1 << 20
"""Bytes that one message carries at most, unless the other side takes fewer (``max_data_xfer_size``)."""

MAX_PAYLOAD = MAX_TRANSFER + 64
"""No message has more: the transfer and what describes it."""

PAGE = 4096


class Command(IntEnum):
    """What a message is about."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flag(IntFlag):
    """The third word of a header."""

    REPLY = 0x1
    NO_REPLY = 0x10
    ERROR = 0x20


TYPE_MASK = 0xF
"""The bits of a header's flags that tell commands (0) and replies (1) apart."""


class Expected(NamedTuple):
    """What a command may look like."""

    least: int
    """Bytes of the payload."""
    most: int
    descriptors: int = 0
    """Descriptors that may come with it, at most."""


_TRANSFER = 16 + MAX_TRANSFER
COMMANDS: dict[Command, Expected] = {
    Command.VERSION: Expected(4, 4 + 8192),
    Command.DMA_MAP: Expected(32, 32, 1),
    Command.DMA_UNMAP: Expected(24, 24),
    Command.DEVICE_GET_INFO: Expected(16, 16),
    Command.DEVICE_GET_REGION_INFO: Expected(32, 32),
    Command.DEVICE_GET_REGION_IO_FDS: Expected(16, 16),
    Command.DEVICE_GET_IRQ_INFO: Expected(16, 16),
    Command.DEVICE_SET_IRQS: Expected(20, 20 + 4096, 253),
    Command.REGION_READ: Expected(16, 16),
    Command.REGION_WRITE: Expected(16, _TRANSFER),
    Command.DEVICE_RESET: Expected(0, 0),
    Command.REGION_WRITE_MULTI: Expected(8, _TRANSFER),
    Command.DEVICE_FEATURE: Expected(8, _TRANSFER),
    Command.MIG_DATA_READ: Expected(8, 8),
    Command.MIG_DATA_WRITE: Expected(8, 8 + MAX_TRANSFER),
}
"""What a client may send."""

SERVER_COMMANDS: dict[Command, Expected] = {
    Command.DMA_READ: Expected(16, 16),
    Command.DMA_WRITE: Expected(16, _TRANSFER),
}
"""What a server may send."""


def command_name(number: int) -> str:
    """Return what to call a command in a log, known or not."""
    try:
        return Command(number).name
    except ValueError:
        return f"command {number}"


class DeviceFlag(IntFlag):
    """Of a device."""

    RESET = 1
    PCI = 2


class RegionFlag(IntFlag):
    """Of a region."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqFlag(IntFlag):
    """Of a kind of interrupts."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSet(IntFlag):
    """Of DEVICE_SET_IRQS: what comes with it, and what to do."""

    DATA_NONE = 0x01
    DATA_BOOL = 0x02
    DATA_EVENTFD = 0x04
    ACTION_MASK = 0x08
    ACTION_UNMASK = 0x10
    ACTION_TRIGGER = 0x20


IRQ_DATA = IrqSet.DATA_NONE | IrqSet.DATA_BOOL | IrqSet.DATA_EVENTFD
IRQ_ACTION = IrqSet.ACTION_MASK | IrqSet.ACTION_UNMASK | IrqSet.ACTION_TRIGGER


class DmaFlag(IntFlag):
    """Of DMA_MAP."""

    READ = 1
    WRITE = 2


DMA_UNMAP_ALL = 2
"""In the flags of DMA_UNMAP, as the kernel has it: everything; address and size are 0."""

CAP_SPARSE_MMAP = 1
"""The capability of a region that says which parts of it may be mapped."""

IO_FD_IOEVENTFD = 0
IOEVENTFD_DATAMATCH = 1
"""KVM_IOEVENTFD_FLAG_DATAMATCH: only this value."""


class FeatureFlag(IntFlag):
    """Of DEVICE_FEATURE, above the 16 bits of its number."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


class Feature(IntEnum):
    """Numbers of DEVICE_FEATURE."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8


class MigrationState(IntEnum):
    """Where a device stands in its migration."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


MIGRATION_STOP_COPY = 1
"""In the answer to MIGRATION: the states STOP, STOP_COPY and RESUMING are there."""
