"""What lies in the BARs of a function besides the common configuration (4.1.4.4 to 4.1.4.7)."""

import mmap
import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

from virtio.spec.core import F
from virtio.transport.pci.common_config import CommonConfig
from virtio.transport.pci.interrupts import ENTRY, Interrupts
from virtio.transport.registers import DeviceRegisters

QUEUE_MASK = 0xFFFF
NOTIFY_RULES = "4.1.5.2.1"
MSIX_RULES = "4.1.5.1.2"


class Block(Protocol):
    """Something with a place in a BAR. Accesses lie within it; any width may come."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly so many bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes."""


class Placed(NamedTuple):
    """A block, and where in its BAR it begins."""

    offset: int
    block: Block


def proper(registers: DeviceRegisters, offset: int, size: int) -> bool:
    """Whether an access has a width that 4.1.3.1 knows, at a multiple of it."""
    if size in (1, 2, 4) and offset % size == 0:
        return True
    registers.ignore(f"{size} bytes at {offset} are accessed", "4.1.3.1")
    return False


class IsrStatus:
    """The ISR status: reading clears it."""

    size = 4  # one byte is a must; the rest of the word is reserved

    def __init__(self, interrupts: Interrupts, registers: DeviceRegisters) -> None:
        """Show the status of ``interrupts``."""
        self._interrupts = interrupts
        self._registers = registers

    def read(self, offset: int, size: int) -> bytes:
        """Read it, if the access begins with it."""
        return (self._interrupts.read_isr() if offset == 0 else 0).to_bytes(size, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Nobody may."""
        self._registers.ignore(f"{len(data)} bytes of the ISR status at {offset} are written", "4.1.4.5")


class DeviceConfig:
    """The device-specific configuration."""

    def __init__(self, registers: DeviceRegisters, common: CommonConfig) -> None:
        """Show the configuration of the device, with the generation that ``common`` shows."""
        self._registers = registers
        self._common = common
        self.size = registers.device.config_size

    def read(self, offset: int, size: int) -> bytes:
        """Read with any proper width: fields that are arrays of bytes are read so."""
        if not proper(self._registers, offset, size):
            return bytes(size)
        data = self._registers.read_config(offset, size)
        self._common.config_was_read()
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write, if the device has such a field for the driver to write."""
        if proper(self._registers, offset, len(data)):
            self._registers.write_config(offset, data)


class NotifyArea:
    """Where the driver notifies queues."""

    def __init__(
        self,
        registers: DeviceRegisters,
        *,
        multiplier: int,
        notification_value: Callable[[int], int],
        notified: Callable[[int], object],
        least: int = 4,
    ) -> None:
        """Have a place for each queue; ``notified`` is called with the size of each notification.

        ``least``: bytes of which the area has a multiple.
        """
        self._registers = registers
        self._multiplier = multiplier
        self._notification_value = notification_value
        self._notified = notified
        # Four bytes at the last place: that suffices for either kind of notification (4.1.4.4.1).
        self.size = -(-max(multiplier * len(registers.queues), 4) // least) * least

    def place(self, index: int) -> int:
        """Where a queue is notified, from the start of the area."""
        return index * self._multiplier

    def read(self, offset: int, size: int) -> bytes:
        """Nothing is there to be read."""
        self._registers.ignore(f"{size} bytes of the notification area at {offset} are read", "4.1.4.4")
        return bytes(size)

    def write(self, offset: int, data: bytes) -> None:
        """Notify a queue."""
        negotiated = self._registers.negotiated
        carries = bool(negotiated & F.NOTIFICATION_DATA)
        if len(data) != (4 if carries else 2):
            self._registers.ignore(f"a notification of {len(data)} bytes", NOTIFY_RULES)
            return
        value = int.from_bytes(data, "little")
        index = self._find(value & QUEUE_MASK, negotiated)
        if index is None or (self._multiplier and offset != self.place(index)):
            self._registers.ignore(
                f"{value:#x} at {offset} of the notification area is no queue", NOTIFY_RULES
            )
            return
        self._notified(len(data))
        self._registers.notify(index, value if carries else None, NOTIFY_RULES)

    def _find(self, value: int, negotiated: int) -> int | None:
        if not negotiated & F.NOTIF_CONFIG_DATA:
            return value
        indexes = range(len(self._registers.queues))
        return next((index for index in indexes if self._notification_value(index) == value), None)


class MsixTable:
    """The MSI-X table."""

    def __init__(
        self, interrupts: Interrupts, registers: DeviceRegisters, rewire: Callable[[], object]
    ) -> None:
        """Show the table of ``interrupts``; ``rewire`` is called once it was written to."""
        self._interrupts = interrupts
        self._registers = registers
        self._rewire = rewire
        self.size = interrupts.vectors * ENTRY

    def read(self, offset: int, size: int) -> bytes:
        """Read entries."""
        return self._interrupts.read_table(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write words, or two at once (PCI 6.8.2)."""
        if len(data) not in (4, 8) or offset % len(data):
            self._registers.ignore(
                f"{len(data)} bytes at {offset} of the MSI-X table are written", MSIX_RULES
            )
            return
        self._interrupts.write_table(offset, data)
        self._rewire()


class MsixPending:
    """The pending bits of MSI-X."""

    def __init__(self, interrupts: Interrupts, registers: DeviceRegisters) -> None:
        """Show the bits of ``interrupts``."""
        self._interrupts = interrupts
        self._registers = registers
        self.size = -(-interrupts.vectors // 64) * 8

    def read(self, offset: int, size: int) -> bytes:
        """Read bits."""
        return self._interrupts.read_pending(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Nobody may."""
        self._registers.ignore(f"{len(data)} bytes at {offset} of the pending bits are written", MSIX_RULES)


class SharedMemoryBlock:
    """A shared memory region (2.10), as it is reached by who does not map it."""

    def __init__(self, fd: int, size: int, fd_offset: int = 0) -> None:
        """Map ``size`` bytes of a file, whose descriptor is duplicated."""
        self.size = size
        self._map = mmap.mmap(fd, size, offset=fd_offset)
        self.fd = os.dup(fd)

    def read(self, offset: int, size: int) -> bytes:
        """Read memory."""
        return self._map[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        """Write memory."""
        self._map[offset : offset + len(data)] = data

    def close(self) -> None:
        """Unmap it."""
        if not self._map.closed:
            self._map.close()
            os.close(self.fd)
