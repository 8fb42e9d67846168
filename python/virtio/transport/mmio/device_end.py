"""The register block of virtio over MMIO, from the device's side (VIRTIO 1.4, 4.2).

A state machine on accesses: no I/O, no threads. Whoever owns the bus (a VMM, a simulator, a test) passes the
driver's loads and stores to :meth:`MmioRegisters.read` and :meth:`~MmioRegisters.write`, maps the driver's
memory, and is told of the level of the interrupt line.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import mmio
from virtio.spec.core import F
from virtio.transport.interface import DeviceEnd, GuestMemory
from virtio.transport.registers import WORD, DeviceRegisters, QueueSetup

CARRIED_FEATURES = ((1 << 128) - 1) & ~(F.SR_IOV | F.ADMIN_VQ | F.NOTIF_CONFIG_DATA | F.ACCESS_PLATFORM)
"""All but those of PCI alone, the administration queue (4.2.5), and an IOMMU, which this bus has not."""

VENDOR_ID = 0x1AF4
CONTROL = mmio.CONFIG_OFFSET
"""Bytes of control registers; configuration space follows."""

LAYOUT_SECTION = "4.2.2.2"
"""Of the rules for drivers."""

_INTERRUPTS = sum(code.value for code in mmio.INTERRUPT)
_NOWHERE = (1 << 64) - 1


class SharedMemoryRegion(NamedTuple):
    """A shared memory region (2.10): where the driver finds it, in bytes."""

    address: int
    size: int


class MmioRegisters:
    """A device behind MMIO registers, version 2."""

    version = mmio.VERSION
    table: Sequence[mmio.Register] = mmio.REGISTERS

    def __init__(
        self,
        device: DeviceEnd,
        interrupt: Callable[[bool], object],
        *,
        vendor_id: int = VENDOR_ID,
        shared_memory: Mapping[int, SharedMemoryRegion] | None = None,
        registers: DeviceRegisters | None = None,
    ) -> None:
        """Stand in front of ``device``.

        ``interrupt`` is called with the level of the interrupt line whenever that changes, from any thread,
        and must not call back. ``shared_memory`` has the regions by their ids.
        """
        self._registers = registers or DeviceRegisters(device, CARRIED_FEATURES)
        self._readable = {row.offset: row.name for row in self.table if "R" in row.access}
        self._writable = {row.offset: row.name for row in self.table if "W" in row.access}
        self._interrupt = interrupt
        self._vendor_id = vendor_id
        self._shared = dict(shared_memory or {})
        # Workers of the device raise interrupts while an access may wait for those workers: two locks.
        self._access = threading.RLock()
        self._line = threading.Lock()
        self._raised = 0
        self._select()

    def _select(self) -> None:
        self._device_word = self._driver_word = self._queue = self._region = 0

    @property
    def device(self) -> DeviceEnd:
        """What is behind the registers."""
        return self._registers.device

    @property
    def size(self) -> int:
        """Bytes from the first register to the end of configuration space."""
        return CONTROL + self.device.config_size

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many accesses were ignored, by the clause that forbids them."""
        return self._registers.ignored

    # --- the driver's side

    def attach(self, memory: GuestMemory) -> None:
        """A driver's side arrives, with its memory."""
        with self._access:
            self._select()
            self._registers.attach(memory, self)

    def detach(self) -> None:
        """It is gone."""
        with self._access:
            self._registers.detach()
            self._clear(WORD)

    def read(self, offset: int, size: int) -> bytes:
        """Return what a load of ``size`` bytes at ``offset`` gives; what is not to be read gives zeros."""
        with self._access:
            if offset >= CONTROL:
                return self._read_config(offset - CONTROL, size)
            if (name := self._name(offset, size, self._readable, "read")) is None:
                return bytes(max(0, size))
            return (self._load(name) & WORD).to_bytes(4, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Take a store at ``offset``; what is not to be written is ignored and counted."""
        with self._access:
            if offset >= CONTROL:
                self._write_config(offset - CONTROL, data)
            elif (name := self._name(offset, len(data), self._writable, "written")) is not None:
                self._store(name, int.from_bytes(data, "little"))

    def _name(self, offset: int, size: int, allowed: Mapping[int, str], what: str) -> str | None:
        if size != 4 or offset % 4:
            self._registers.ignore(f"{size} bytes of control registers at {offset:#x}", LAYOUT_SECTION)
        elif offset in allowed:
            return allowed[offset]
        else:
            self._registers.ignore(f"the register at {offset:#x} is not to be {what}", LAYOUT_SECTION)
        return None

    # --- control registers

    def _load(self, name: str) -> int:
        registers = self._registers
        match name:
            case "MagicValue":
                return mmio.MAGIC
            case "Version":
                return self.version
            case "DeviceID":
                return self.device.device_id
            case "VendorID":
                return self._vendor_id
            case "DeviceFeatures":
                return registers.device_features(self._device_word)
            case "QueueSizeMax":
                return registers.max_queue_size(self._queue)
            case "QueueReady":
                return int(self._queue < len(registers.queues) and registers.queues[self._queue].ready)
            case "InterruptStatus":
                return self._raised
            case "Status":
                return registers.status
            case "SHMLenLow" | "SHMLenHigh" | "SHMBaseLow" | "SHMBaseHigh":
                region = self._shared.get(self._region, SharedMemoryRegion(_NOWHERE, _NOWHERE))
                value = region.size if "Len" in name else region.address
                return value >> 32 if name.endswith("High") else value
            case "ConfigGeneration":
                return self.device.config_generation
            case _:  # QueueReset: a reset is over when the write that asked for it returns
                return 0

    def _store(self, name: str, value: int) -> None:
        registers = self._registers
        match name:
            case "DeviceFeaturesSel":
                self._device_word = value
            case "DriverFeaturesSel":
                self._driver_word = value
            case "DriverFeatures":
                registers.accept(self._driver_word, value)
            case "QueueSel":
                self._queue = value
            case "SHMSel":
                self._region = value
            case "QueueNotify":
                self._notify(value)
            case "InterruptACK":
                self._acknowledge(value)
            case "Status":
                registers.set_status(value)
                if value == 0:
                    self._select()
                    self._clear(WORD)
            case "QueueReady":
                self._set_ready(value)
            case "QueueReset":
                if value == 1:
                    registers.reset_queue(self._queue, LAYOUT_SECTION)
            case _:
                if (setup := registers.setup(self._queue, LAYOUT_SECTION)) is not None:
                    store_setup(setup, name, value)

    def _set_ready(self, value: int) -> None:
        if value & 1:
            self._registers.enable(self._queue, LAYOUT_SECTION, self._used)
        else:
            self._registers.disable(self._queue)

    def _notify(self, value: int) -> None:
        if self.device.negotiated_features & F.NOTIFICATION_DATA:
            self._registers.notify(value & 0xFFFF, value, "4.2.3.3")
        else:
            self._registers.notify(value, None, "4.2.3.3")

    # --- configuration space

    def _read_config(self, offset: int, size: int) -> bytes:
        if size not in (1, 2, 4) or offset % size:
            self._registers.ignore(f"{size} bytes of configuration space at {offset:#x}", LAYOUT_SECTION)
            return bytes(max(0, size))
        return self._registers.read_config(offset, size)

    def _write_config(self, offset: int, data: bytes) -> None:
        size = len(data)
        if size not in (1, 2, 4) or offset % size:
            self._registers.ignore(f"{size} bytes of configuration space at {offset:#x}", LAYOUT_SECTION)
        else:
            self._registers.write_config(offset, data)

    # --- the interrupt line: the device's events, from any thread

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""
        self._raise(mmio.INTERRUPT["CONFIGURATION_CHANGE"].value)

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device cannot go on. The status says so, and the notification that the device sends besides."""

    def _used(self) -> None:
        self._raise(mmio.INTERRUPT["USED_BUFFER"].value)

    def _raise(self, bits: int) -> None:
        with self._line:
            before, self._raised = self._raised, self._raised | bits
            if not before:
                self._interrupt(True)  # last: the driver looks at once

    def _acknowledge(self, bits: int) -> None:
        if bits & ~_INTERRUPTS:
            self._registers.ignore(f"interrupts {bits:#x} are acknowledged", LAYOUT_SECTION)
        self._clear(bits)

    def _clear(self, bits: int) -> None:
        with self._line:
            before, self._raised = self._raised, self._raised & ~bits
            if before and not self._raised:
                self._interrupt(False)


def store_setup(setup: QueueSetup, name: str, value: int) -> None:
    """Write one of the registers that set up a queue."""
    match name:
        case "QueueSize":
            setup.size = value
        case "QueueDescLow" | "QueueDescHigh":
            setup.descriptors = _half(setup.descriptors, name, value)
        case "QueueDriverLow" | "QueueDriverHigh":
            setup.driver = _half(setup.driver, name, value)
        case "QueueDeviceLow" | "QueueDeviceHigh":
            setup.device = _half(setup.device, name, value)
        case _:
            raise ConfigurationError(f"{name} does not set up a queue")


def _half(address: int, name: str, value: int) -> int:
    return address & WORD | value << 32 if name.endswith("High") else address & ~WORD | value
