"""A virtio device as a PCI function (VIRTIO 1.4, 4.1): a state machine on accesses to its regions.

No I/O, no threads, no clocks. Whoever has a bus (the vfio-user server, a simulator, a test) passes on the
driver's reads and writes, maps memory into :attr:`PciFunction.memory`, and says where interrupts go.
Whatever a driver does, nothing is raised: what it must not do is ignored, counted under the broken clause
and logged.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from virtio._native import Memory
from virtio.errors import ConfigurationError, Error, ProtocolError
from virtio.spec import pci, pci_bus
from virtio.spec.core import F
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci import capabilities
from virtio.transport.pci.capabilities import Structure
from virtio.transport.pci.common_config import CommonConfig
from virtio.transport.pci.interface import InterruptIndex, MapArea, Notification, Region, RegionIndex, Target
from virtio.transport.pci.interrupts import Interrupts
from virtio.transport.pci.layout import PAGE, Bar, Layout, Place
from virtio.transport.pci.virtio_regions import (
    Block,
    DeviceConfig,
    IsrStatus,
    MsixPending,
    MsixTable,
    NotifyArea,
    Placed,
    SharedMemoryBlock,
)
from virtio.transport.registers import DeviceRegisters, QueueSetup

_log = logging.getLogger("virtio.transport.pci")

CARRIED_FEATURES = (1 << 128) - 1
"""PCI has a way for all of them."""

OWN_FEATURES = F.RING_RESET
"""What a function offers by itself, whatever its device does."""

_COMMAND = pci_bus.HEADER.offset("command")
_STATUS = pci_bus.HEADER.offset("status")
_DATA = pci.CFG_CAP.offset("pci_cfg_data")


class SharedMemory(NamedTuple):
    """A shared memory region of the device (2.10): a part of a file."""

    id: int
    fd: int
    size: int
    fd_offset: int = 0


class PciFunction:
    """The function. Calls come from one thread at a time, but for :meth:`set_interrupts` and its like."""

    def __init__(
        self,
        device: DeviceEnd,
        *,
        layout: Layout | None = None,
        features: int = OWN_FEATURES,
        notification_value: Callable[[int], int] = lambda index: index,
        shared_memory: Sequence[SharedMemory] = (),
    ) -> None:
        """Put ``device`` behind registers.

        ``layout``: where they are. ``features``: what to offer beyond the device's own; of these the function
        can RING_RESET, NOTIFICATION_DATA, NOTIF_CONFIG_DATA and ACCESS_PLATFORM. ``notification_value``: what
        a queue is notified with under NOTIF_CONFIG_DATA. Descriptors of ``shared_memory`` are duplicated.
        """
        self.device = device
        self.layout = layout or Layout()
        self.layout.check()
        self.memory = Memory()
        self._attached = False
        self._lock = threading.RLock()
        self._notification_value = notification_value
        self._registers = DeviceRegisters(device, CARRIED_FEATURES, added=features)
        vectors = self.layout.vectors
        if vectors is None:
            vectors = min(len(device.queues) + 1, pci_bus.MSIX_VECTORS)
        self._interrupts = Interrupts(vectors, intx=self.layout.intx)
        self._common = CommonConfig(
            self._registers,
            vectors=vectors,
            notification_value=notification_value,
            route=self._interrupts.route,
            rewire=self._rewire,
        )
        self._common.admin_queues = device.admin_queues
        self._notify = NotifyArea(
            self._registers,
            multiplier=self.layout.notify_multiplier,
            notification_value=notification_value,
            notified=self.notified,
        )
        self._blocks: dict[int, list[Placed]] = {index: [] for index in self.layout.bars}
        structures = self._place_structures()
        shared = self._place_shared_memory(shared_memory)
        self.regions: Sequence[Region] = self._make_regions(shared_memory, shared)
        self.config, self._placement = capabilities.build(
            self.layout, device.device_id, self.regions, structures, vectors=vectors, shared_memory=shared
        )
        self._kick_fds: dict[int, int] = {}
        self._windowed = False
        self._decode()
        self._watch()

    # --- building

    def _place_structures(self) -> dict[str, Structure]:
        layout, registers, interrupts = self.layout, self._registers, self._interrupts
        blocks: dict[str, tuple[Place, Block]] = {
            "common": (layout.common, self._common),
            "notify": (layout.notify, self._notify),
            "isr": (layout.isr, IsrStatus(interrupts, registers)),
        }
        if self.device.config_size:
            blocks["device"] = (layout.device, DeviceConfig(registers, self._common))
        if interrupts.vectors:
            table = MsixTable(interrupts, registers, self._rewire_all)
            pending = layout.msix_pending
            if pending is None:
                behind = -(-table.size // PAGE) * PAGE
                pending = Place(layout.msix_table.bar, layout.msix_table.offset + behind)
            blocks["msix_table"] = (layout.msix_table, table)
            blocks["msix_pending"] = (pending, MsixPending(interrupts, registers))
        return {name: self._place(name, place, block) for name, (place, block) in blocks.items()}

    def _place(self, name: str, place: Place, block: Block) -> Structure:
        for other in self._blocks[place.bar]:
            if place.offset < other.offset + other.block.size and other.offset < place.offset + block.size:
                raise ConfigurationError(f"{name} overlaps another structure in BAR {place.bar}")
        self._blocks[place.bar].append(Placed(place.offset, block))
        return Structure(place, block.size)

    def _place_shared_memory(self, regions: Sequence[SharedMemory]) -> dict[int, Structure]:
        found: dict[int, Structure] = {}
        bar = self.layout.shared_memory_bar
        for region in regions:
            if region.id in found:
                raise ConfigurationError(f"there are two shared memory regions {region.id} (4.1.4.7.1)")
            if bar not in self._blocks:
                raise ConfigurationError(f"there is no BAR {bar} for shared memory")
            block = SharedMemoryBlock(region.fd, region.size, region.fd_offset)
            found[region.id] = self._place("shared memory", Place(bar, _end(self._blocks[bar])), block)
        return found

    def _make_regions(
        self, memories: Sequence[SharedMemory], shared: Mapping[int, Structure]
    ) -> tuple[Region, ...]:
        regions = [Region()] * len(RegionIndex)
        for index, bar in self.layout.bars.items():
            if self._blocks[index] or bar.size:
                areas = tuple(
                    MapArea(shared[memory.id].place.offset, memory.size, memory.fd, memory.fd_offset)
                    for memory in memories
                    if shared[memory.id].place.bar == index
                )
                regions[index] = Region(
                    size=_bar_size(bar, _end(self._blocks[index])),
                    kind="io" if bar.io else "memory64" if bar.wide else "memory32",
                    prefetchable=bar.prefetchable,
                    areas=areas,
                )
        size = pci_bus.EXTENDED_CONFIG_SIZE if self.layout.express else pci_bus.CONFIG_SIZE
        regions[RegionIndex.CONFIG] = Region(size=size, kind="config")
        return tuple(regions)

    def _watch(self) -> None:
        at, watch = self._placement, self.config.watch
        watch(_COMMAND, 2, self._decode)
        if at.msix is not None:
            watch(at.msix + pci_bus.MSIX_CAP.offset("control"), 2, self._msix_written)
        if at.power is not None:
            # The state is written by hand, since only two of its four values may be.
            self._power_offset = at.power + pci_bus.POWER_CAP.offset("control")

    _power_offset: int | None = None

    # --- what carries the function looks at

    @property
    def interrupts(self) -> Sequence[int]:
        """Vectors by :class:`~virtio.transport.pci.interface.InterruptIndex`."""
        return self._interrupts.counts

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many accesses were ignored, by the clause that forbids them."""
        return self._registers.ignored

    @property
    def notifications(self) -> Sequence[Notification]:
        """Writes that eventfds may stand for; none while notifications carry data, which these cannot."""
        if self._registers.negotiated & F.NOTIFICATION_DATA:
            return ()
        place, step = self.layout.notify, self.layout.notify_multiplier
        with_data = self._registers.negotiated & F.NOTIF_CONFIG_DATA
        return tuple(
            Notification(
                region=place.bar,
                offset=place.offset + self._notify.place(index),
                size=2,
                value=None if step else self._notification_value(index) if with_data else index,
                queue=index,
            )
            for index in range(len(self._registers.queues))
        )

    # --- a driver's side comes and goes

    def attach(self) -> None:
        """A driver's side arrives; the function is as after power-on."""
        with self._lock:
            self._registers.attach(self.memory, self)
            self._attached = True
            self._begin()
            self._registers.set_gate(self._may_run)

    def detach(self) -> None:
        """It is gone: queues stop, and descriptors that it gave are closed. Memory stays mapped."""
        with self._lock:
            if self._attached:
                self._attached = False
                self._registers.detach()
            self._interrupts.close()
            self._begin()

    def reset(self) -> None:
        """Reset the function, as FLR does. Memory, and where interrupts go, stay: they are the bus's."""
        with self._lock:
            if self._attached:
                self._registers.reset()
            self._begin()
            self._registers.set_gate(self._may_run)

    def _begin(self) -> None:
        self.config.reset()
        self._common.clear()
        self._interrupts.reset()
        self._dma_paused = False
        self._decode()

    # --- accesses

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region, in one access. What is not there reads as zeros; asleep, all reads as ones."""
        if size <= 0:
            return b""
        with self._lock:
            if region == RegionIndex.CONFIG:
                return self._read_config(offset, size)
            if not self._reachable(region, offset, size):
                return b"\xff" * size
            found = self._find(region, offset, size)
            if found is None:
                self._registers.ignore(f"{size} bytes at {offset:#x} of BAR {region} are read", "4.1.4")
                return bytes(size)
            return found.block.read(offset - found.offset, size)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region, in one access."""
        if not data:
            return
        with self._lock:
            if region == RegionIndex.CONFIG:
                self._write_config(offset, bytes(data))
            elif self._reachable(region, offset, len(data)):
                found = self._find(region, offset, len(data))
                if found is None:
                    self._registers.ignore(
                        f"{len(data)} bytes at {offset:#x} of BAR {region} are written", "4.1.4"
                    )
                elif self._attached:
                    found.block.write(offset - found.offset, bytes(data))

    def _reachable(self, region: int, offset: int, size: int) -> bool:
        if not 0 <= region < len(self.regions) or offset < 0 or offset + size > self.regions[region].size:
            self._registers.ignore(f"{size} bytes at {offset:#x} of region {region} are not there", "4.1.4")
            return False
        if self.power_state != pci_bus.D0:
            self._registers.ignore("a function in D3hot is accessed", "4.1.1")
            return False
        return True

    def _find(self, region: int, offset: int, size: int) -> Placed | None:
        for placed in self._blocks.get(region, ()):
            if placed.offset <= offset and offset + size <= placed.offset + placed.block.size:
                return placed
        return None

    # --- configuration space

    def _read_config(self, offset: int, size: int) -> bytes:
        if offset < 0:
            return b"\xff" * size
        pending = not self._interrupts.msix_enabled and self._interrupts.isr
        status = self.config.get(_STATUS, 2) & ~pci_bus.STATUS.INTERRUPT
        self.config.put(_STATUS, status | (pci_bus.STATUS.INTERRUPT if pending else 0), 2)
        start = self._placement.window + _DATA
        if start <= offset and offset + size <= start + 4:
            self._use_window(write=False)
        return self.config.read(offset, size)

    def _write_config(self, offset: int, data: bytes) -> None:
        if offset < 0:
            return
        self.config.write(offset, data)
        start = self._placement.window + _DATA
        if start <= offset and offset + len(data) <= start + 4:
            self._use_window(write=True)
        self._write_power(offset, data)
        self._write_express(offset, data)

    def _use_window(self, *, write: bool) -> None:
        """Carry out an access by way of configuration space (4.1.4.9)."""
        base, cap = self._placement.window, pci.CAP
        size = self.config.field(cap, "length", base)
        bar, offset = self.config.field(cap, "bar", base), self.config.field(cap, "offset", base)
        if size == 0:
            return  # whoever dumps configuration space passes here
        if size not in (1, 2, 4) or offset % size or bar >= pci_bus.BARS or self._windowed:
            self._registers.ignore(
                f"{size} bytes at {offset:#x} of BAR {bar}, through the window", "4.1.4.9.2"
            )
            return
        self._windowed = True
        try:
            if write:
                self.write(bar, offset, bytes(self.config.data[base + _DATA : base + _DATA + size]))
            else:
                self.config.data[base + _DATA : base + _DATA + size] = self.read(bar, offset, size)
        finally:
            self._windowed = False

    def _msix_written(self) -> None:
        assert self._placement.msix is not None
        self._interrupts.set_control(self.config.field(pci_bus.MSIX_CAP, "control", self._placement.msix))
        self._rewire_all()

    # --- power, reset, bus mastering

    @property
    def power_state(self) -> int:
        """D0 or D3hot."""
        if self._power_offset is None:
            return pci_bus.D0
        return self.config.get(self._power_offset, 2) & pci_bus.POWER_STATE

    def _write_power(self, offset: int, data: bytes) -> None:
        place = self._power_offset
        if place is None or not offset <= place < offset + len(data):
            return
        wanted, state = data[place - offset] & pci_bus.POWER_STATE, self.power_state
        if wanted == state or wanted not in (pci_bus.D0, pci_bus.D3_HOT):
            return  # D1 and D2 are optional, and not there: nothing happens (PCI PM 3.2.4)
        if wanted == pci_bus.D0 and not self.layout.no_soft_reset:
            self.reset()
        self.config.put(place, self.config.get(place, 2) & ~pci_bus.POWER_STATE | wanted, 2)
        self._decode()

    def _write_express(self, offset: int, data: bytes) -> None:
        if self._placement.express is None:
            return
        high = self._placement.express + pci_bus.EXPRESS_CAP.offset("device_control") + 1
        if offset <= high < offset + len(data) and data[high - offset] << 8 & pci_bus.EXPRESS_CONTROL_FLR:
            self.reset()

    _dma_paused = False

    @property
    def _may_run(self) -> bool:
        """Whether queues may run: the function may use memory, and memory is there."""
        masters = self.config.get(_COMMAND, 2) & pci_bus.COMMAND.BUS_MASTER
        return bool(masters) and self.power_state == pci_bus.D0 and not self._dma_paused

    def _decode(self) -> None:
        """The command register, or the power state, has changed."""
        command = self.config.get(_COMMAND, 2)
        awake = self.power_state == pci_bus.D0
        self._interrupts.set_gate(
            awake and bool(command & pci_bus.COMMAND.BUS_MASTER),
            pin_disabled=not awake or bool(command & pci_bus.COMMAND.INTERRUPT_DISABLE),
        )
        self._registers.set_gate(self._may_run)
        self._rewire_all()

    # --- memory

    def dma_changing(self) -> None:
        """Memory is about to go away: queues pause until :meth:`dma_changed`."""
        with self._lock:
            self._dma_paused = True
            self._registers.set_gate(False)

    def dma_changed(self) -> None:
        """Mappings came or went: queues run again if the rings of all of them are there."""
        with self._lock:
            self._dma_paused = not all(self._mapped(setup) for setup in self._registers.queues if setup.ready)
            self._registers.set_gate(self._may_run)

    def _mapped(self, setup: QueueSetup) -> bool:
        regions = [
            (region.guest_address, region.guest_address + region.size) for region in self.memory.regions
        ]
        return all(
            any(start <= address < stop for start, stop in regions)
            for address in (setup.descriptors, setup.driver, setup.device)
        )

    # --- interrupts

    def set_interrupts(self, index: int, start: int, targets: Sequence[Target | None]) -> None:
        """Send vectors from ``start`` on to eventfds or functions; none given: switch off all of the kind.

        Descriptors are duplicated. Raises :exc:`~virtio.ConfigurationError` for vectors that are not there.
        """
        self._interrupts.set_targets(index, start, targets)
        if index == InterruptIndex.MSIX:
            with self._lock:
                self._rewire_all()

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back."""
        self._interrupts.mask(index, start, count)
        with self._lock:
            self._rewire_all()

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again; what was held back comes now."""
        self._interrupts.unmask(index, start, count)
        with self._lock:
            self._rewire_all()

    def set_kick(self, index: int, fd: int | None) -> None:
        """Take notifications of a queue from an eventfd too, which a client signals instead of writing."""
        if not 0 <= index < len(self._registers.queues):
            raise ConfigurationError(f"there is no queue {index}")
        self.device.queues[index].set_kick(fd)

    def _rewire_all(self) -> None:
        for index, setup in enumerate(self._registers.queues):
            if setup.ready:
                self._rewire(index)

    def _rewire(self, index: int) -> None:
        """Tell a queue where its notifications go now."""
        if self._attached and self._registers.queues[index].ready:
            self.device.queues[index].set_call(self._interrupts.route(self._common.queue_vectors[index]))

    def notified(self, size: int) -> None:
        """The driver has notified a queue, by a write of so many bytes."""

    # --- the device speaks, on any thread

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""
        self._interrupts.raise_config(self._common.config_vector)

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device cannot go on: the status says so, and the notification that it sends besides."""

    # --- the end

    def close(self) -> None:
        """Detach, and let go of memory and shared memory. The device stays the caller's."""
        self.detach()
        with self._lock:
            try:
                self.memory.clear()
            except Error as error:
                _log.warning("%s: memory is still in use: %s", self.device.name, error)
            for placed in self._blocks.get(self.layout.shared_memory_bar, ()):
                if isinstance(placed.block, SharedMemoryBlock):
                    placed.block.close()


def _end(blocks: Sequence[Placed]) -> int:
    """The first free page behind some blocks."""
    end = max((placed.offset + placed.block.size for placed in blocks), default=0)
    return -(-end // PAGE) * PAGE


def _bar_size(bar: Bar, used: int) -> int:
    """Bytes of a BAR: a power of two."""
    least = 32 if bar.io else PAGE
    return max(1 << (used - 1).bit_length() if used else 0, bar.size, least)
