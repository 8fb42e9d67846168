"""Functions with a legacy interface besides (VIRTIO 1.4, 4.1.4.10): for drivers that know no other.

The legacy registers are BAR 0, in I/O space. Whoever uses them does not use the modern ones, and the other
way round: it is one device. Nothing offers this unasked.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from virtio.errors import ConfigurationError, ProtocolError, StateError
from virtio.spec import device_type, pci
from virtio.spec.core import STATUS
from virtio.transport.interface import DeviceEnd
from virtio.transport.legacy import LegacyRegisters
from virtio.transport.pci.capabilities import Structure
from virtio.transport.pci.function import PciFunction
from virtio.transport.pci.interrupts import NO_VECTOR, Interrupts
from virtio.transport.pci.layout import PAGE, Bar, Layout, Place
from virtio.transport.registers import QueueSetup

SECTION = "4.1.4.10"
LARGEST_QUEUE = 256
"""A legacy driver takes the size that it is shown, in one piece of memory (4.1.5.1.3.1)."""
ALIGNMENT = 4096

_CFG = pci.LEGACY_CFG
_WIDTHS = {_CFG.offset(each.name): (each.name, each.type.size or 0) for each in _CFG.fields}
_VECTORS = _CFG.offset("config_msix_vector")
_WHOLE = _CFG.size or 0

_COMMON = Place(2, 0)
LAYOUT = Layout(
    bars={0: Bar(io=True), 1: Bar(), 2: Bar(wide=True), 4: Bar(wide=True, prefetchable=True)},
    common=_COMMON,
    isr=Place(2, PAGE),
    device=Place(2, 2 * PAGE),
    notify=Place(2, 3 * PAGE),
    msix_table=Place(1, 0),
    revision=0,
)
"""The default layout, with BAR 0 for the legacy registers."""


class LegacyBlock:
    """The registers: a header, which is longer while MSI-X is enabled, and the device's configuration."""

    def __init__(
        self, registers: LegacyRegisters, interrupts: Interrupts, was_reset: Callable[[], object]
    ) -> None:
        """Show a device as its legacy driver knows it; ``was_reset`` is called when that resets it."""
        self._registers = registers
        self._interrupts = interrupts
        self._route = interrupts.route
        self._was_reset = was_reset
        self.size = _WHOLE + registers.device.config_size
        self.clear()

    def clear(self) -> None:
        """Go back to the beginning."""
        self._select = 0
        self._pages: dict[int, int] = {}
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * len(self._registers.queues)

    @property
    def header(self) -> int:
        """Where the device's configuration begins."""
        return _WHOLE if self._interrupts.msix_enabled else _VECTORS

    @property
    def _there(self) -> bool:
        return self._select < len(self._registers.queues)

    def read(self, offset: int, size: int) -> bytes:
        """Read a field, or configuration with any width."""
        if offset >= self.header:
            return self._registers.read_config(offset - self.header, size)
        name, width = _WIDTHS.get(offset, ("", 0))
        if width != size:
            self._registers.ignore(f"{size} bytes at {offset} of the legacy registers are read", SECTION)
            return bytes(size)
        return self._load(name).to_bytes(size, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Write a field, or configuration with any width."""
        if offset >= self.header:
            self._registers.write_config(offset - self.header, data)
            return
        name, width = _WIDTHS.get(offset, ("", 0))
        if width != len(data):
            self._registers.ignore(
                f"{len(data)} bytes at {offset} of the legacy registers are written", SECTION
            )
        else:
            self._store(name, int.from_bytes(data, "little"))

    def _load(self, name: str) -> int:
        registers = self._registers
        match name:
            case "device_features":
                return registers.device_features(0)
            case "driver_features":
                return registers.driver_features(0)
            case "queue_address":
                return self._pages.get(self._select, 0)
            case "queue_size":
                return min(registers.max_queue_size(self._select), LARGEST_QUEUE)
            case "queue_select":
                return self._select
            case "device_status":
                return registers.status
            case "isr_status":
                return self._interrupts.read_isr()
            case "config_msix_vector":
                return self.config_vector
            case "queue_msix_vector":
                return self.queue_vectors[self._select] if self._there else NO_VECTOR
            case _:  # queue_notify
                return 0

    def _store(self, name: str, value: int) -> None:
        registers = self._registers
        match name:
            case "driver_features":
                registers.accept(0, value)
            case "queue_address":
                self._place(value)
            case "queue_select":
                self._select = value
            case "queue_notify":
                registers.notify(value, None, "4.1.5.2")
            case "device_status":
                registers.set_status(value)
                if value == 0:
                    self.clear()
                    self._was_reset()
            case "config_msix_vector":
                self.config_vector = self._vector(value)
            case "queue_msix_vector":
                self._map_queue(value)
            case _:
                registers.ignore(f"{name}, which is read-only, is written", SECTION)

    def _vector(self, value: int) -> int:
        if value != NO_VECTOR and value >= self._interrupts.vectors:
            self._registers.ignore(
                f"vector {value} is mapped; there are {self._interrupts.vectors}", "4.1.5.1.2.2"
            )
            return NO_VECTOR
        return value

    def _map_queue(self, value: int) -> None:
        if not self._there:
            self._registers.ignore(f"queue {self._select}, which is not there, gets a vector", SECTION)
            return
        self.queue_vectors[self._select] = self._vector(value)
        self.rewire()

    def _place(self, page: int) -> None:
        """Say where a queue is, in pages; 0 takes it away."""
        index, registers = self._select, self._registers
        registers.disable(index)
        self._pages.pop(index, None)
        if page == 0 or not self._there:
            return
        size = min(registers.max_queue_size(index), LARGEST_QUEUE)
        registers.place(index, page * ALIGNMENT, size, ALIGNMENT)
        if registers.enable(index, SECTION, self._route(self.queue_vectors[index])):
            self._pages[index] = page

    def rewire(self) -> None:
        """Tell queues where their notifications go now."""
        for index, setup in enumerate(self._registers.queues):
            if setup.ready:
                self._registers.device.queues[index].set_call(self._route(self.queue_vectors[index]))


class LegacyFunction(PciFunction):
    """A function with legacy registers that no BAR shows: its owner reaches them by commands (2.12.1.1)."""

    def __init__(self, device: DeviceEnd, **options: Any) -> None:
        """Put ``device`` behind registers of both kinds; ``options`` are those of :class:`PciFunction`."""
        self._legacy = LegacyRegisters(device)
        super().__init__(device, **options)

    def _place_structures(self) -> dict[str, Structure]:
        self._legacy_block = LegacyBlock(self._legacy, self._interrupts, self._was_reset_by_legacy)
        return super()._place_structures()

    def legacy_read(self, offset: int, size: int, *, device: bool) -> bytes:
        """Read a legacy register, or with ``device`` a field of the configuration behind them.

        Raises :exc:`~virtio.ProtocolError` for what is not one field (2.12.1.1.6).
        """
        with self._lock:
            return self._legacy_block.read(self._one_field(offset, size, device), size)

    def legacy_write(self, offset: int, data: bytes, *, device: bool) -> None:
        """Write one."""
        with self._lock:
            place = self._one_field(offset, len(data), device)
            if self._attached:
                self._legacy_block.write(place, data)

    def _one_field(self, offset: int, size: int, device: bool) -> int:
        block = self._legacy_block
        if not device:
            if offset < block.header and _WIDTHS.get(offset, ("", 0))[1] == size:
                return offset
            raise ProtocolError(
                f"{size} bytes at {offset} are no field of the legacy registers", "2.12.1.1.6"
            )
        layout = device_type(self.device.device_id).config
        start = 0
        for field in layout.fields if layout is not None else ():
            end = start + (field.type.size or 0)
            if start <= offset < end and 0 < size <= end - offset:
                return block.header + offset
            start = end
        raise ProtocolError(f"{size} bytes at {offset} are no field of the configuration", "2.12.1.1.6")

    @property
    def legacy(self) -> bool:
        """Whether a legacy driver is at work."""
        return bool(self._legacy.status & STATUS.DRIVER)

    @property
    def ignored(self) -> dict[str, int]:
        """How many accesses were ignored, by the clause that forbids them."""
        return dict(self._registers.ignored + self._legacy.ignored)

    def _begin(self) -> None:
        self._legacy.forget()
        self._legacy_block.clear()
        super()._begin()

    def _was_reset(self) -> None:
        super()._was_reset()
        self._legacy.forget()
        self._legacy_block.clear()

    def _was_reset_by_legacy(self) -> None:
        self._interrupts.withdraw()
        self._registers.forget()
        self._common.clear()

    def _setups(self) -> Iterator[QueueSetup]:
        return chain(super()._setups(), self._legacy.queues)

    def _set_gate(self, open: bool) -> None:  # noqa: A002
        super()._set_gate(open)
        self._legacy.set_gate(open)

    def _rewire_all(self) -> None:
        super()._rewire_all()
        if self._attached:
            self._legacy_block.rewire()

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""
        block = self._legacy_block
        self._interrupts.raise_config(block.config_vector if self.legacy else self._common.config_vector)

    def save(self) -> bytes:
        """As :meth:`PciFunction.save`, unless a legacy driver is at work."""
        if self.legacy:
            raise StateError("what a legacy driver has set up cannot be moved")
        return super().save()


class TransitionalFunction(LegacyFunction):
    """A function for legacy drivers and for modern ones. Only block, console and entropy devices."""

    transitional = True

    def __init__(self, device: DeviceEnd, *, layout: Layout = LAYOUT, **options: Any) -> None:
        """Put ``device`` behind registers of both kinds; ``options`` are those of :class:`PciFunction`."""
        bar = layout.bars.get(0)
        if layout.revision != 0 or bar is None or not bar.io:
            raise ConfigurationError("a transitional device has revision 0, and I/O as BAR 0 (4.1.4.10)")
        super().__init__(device, layout=layout, **options)

    def _place_structures(self) -> dict[str, Structure]:
        found = super()._place_structures()
        self._space.place("legacy", Place(0, 0), self._legacy_block)
        return found
