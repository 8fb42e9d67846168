"""A virtio device as a PCI function (VIRTIO 1.4, 4.1): a state machine on accesses to its regions.

No I/O, no threads, no clocks. Whoever has a bus (the vfio-user server, a simulator, a test) passes on the
driver's reads and writes, maps memory into :attr:`PciFunction.memory`, and says where interrupts go.
Whatever a driver does, nothing is raised: what it must not do is ignored, counted under the broken clause
and logged.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from virtio._native import Memory
from virtio.errors import ConfigurationError, Error, ProtocolError, StateError
from virtio.spec import pci_bus
from virtio.spec.core import STATUS, F
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci import capabilities, lspci
from virtio.transport.pci.address_space import AddressSpace, SharedMemory
from virtio.transport.pci.capabilities import ExtendedCapability, Structure
from virtio.transport.pci.common_config import CommonConfig
from virtio.transport.pci.config_access import ConfigRegisters
from virtio.transport.pci.interface import InterruptIndex, Notification, Region, RegionIndex, Target
from virtio.transport.pci.interrupts import NO_VECTOR, Interrupts
from virtio.transport.pci.layout import PAGE, Layout, Place
from virtio.transport.pci.state import FunctionState, QueueState, unpack
from virtio.transport.pci.virtio_regions import (
    Block,
    DeviceConfig,
    IsrStatus,
    MsixPending,
    MsixTable,
    NotifyArea,
)
from virtio.transport.registers import FEATURE_WORDS, WORD, DeviceRegisters, QueueSetup

_log = logging.getLogger("virtio.transport.pci")

CARRIED_FEATURES = (1 << 128) - 1
"""PCI has a way for all of them."""

OWN_FEATURES = F.RING_RESET
"""What a function offers by itself, whatever its device does."""


class PciFunction:
    """The function. Calls may come from any thread; one is carried out at a time."""

    transitional = False
    """Whether there is a legacy interface too."""

    def __init__(
        self,
        device: DeviceEnd,
        *,
        layout: Layout | None = None,
        features: int = OWN_FEATURES,
        notification_value: Callable[[int], int] = lambda index: index,
        shared_memory: Sequence[SharedMemory] = (),
        virtual_functions: ExtendedCapability | None = None,
    ) -> None:
        """Put ``device`` behind registers.

        ``layout``: where they are. ``features``: what to offer beyond the device's own; of these the function
        can RING_RESET, NOTIFICATION_DATA, NOTIF_CONFIG_DATA and ACCESS_PLATFORM. ``notification_value``: what
        a queue is notified with under NOTIF_CONFIG_DATA. Descriptors of ``shared_memory`` are duplicated.
        ``virtual_functions`` make it a physical function, see :mod:`virtio.transport.pci.sriov`.
        """
        if virtual_functions is not None:
            features |= F.SR_IOV
        self.device = device
        self.layout = layout or Layout()
        self.layout.check()
        if self.layout.revision == 0 and not self.transitional:
            raise ConfigurationError(
                f"{device.name}: revision 0 is for transitional devices (4.1.2.3), see TransitionalFunction"
            )
        self.memory = Memory()
        self._attached = False
        self._lock = threading.RLock()
        self.notification_value = notification_value
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
            withdraw=self._was_reset,
        )
        self._notify = NotifyArea(
            self._registers,
            multiplier=self.layout.notify_multiplier,
            notification_value=notification_value,
            notified=self.notified,
            least=PAGE if self.layout.notify_mapped else 4,
        )
        self._space = AddressSpace(self.layout)
        try:
            structures = self._place_structures()
            shared = self._space.place_shared_memory(shared_memory)
            self.regions: Sequence[Region] = self._space.regions()
            space, placement = capabilities.build(
                self.layout,
                device.device_id,
                self.regions,
                structures,
                vectors=vectors,
                shared_memory=shared,
                more=() if virtual_functions is None else (virtual_functions,),
            )
        except BaseException:
            self._space.close()
            raise
        self._config = ConfigRegisters(
            space, placement, self, self._registers, no_soft_reset=self.layout.no_soft_reset
        )
        self._dma_paused = False
        self._stopped = False
        self.decode()

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
        return {
            name: (
                self._space.place_unread(name, place, block)
                if name == "notify" and layout.notify_mapped
                else self._space.place(name, place, block)
            )
            for name, (place, block) in blocks.items()
        }

    # --- what carries the function looks at

    @property
    def interrupts(self) -> Sequence[int]:
        """Vectors by :class:`~virtio.transport.pci.interface.InterruptIndex`."""
        return self._interrupts.counts

    @property
    def offered(self) -> int:
        """The features that the driver is shown."""
        return self._registers.offered

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
                value=None if step else self.notification_value(index) if with_data else index,
                queue=index,
            )
            for index in range(len(self._registers.queues))
        )

    def lspci(self, slot: str = "00:00.0") -> str:
        """Describe it as ``lspci -vv`` does."""
        config = self.read(RegionIndex.CONFIG, 0, self.regions[RegionIndex.CONFIG].size)
        return lspci.text(config, self.regions, slot)

    __str__ = lspci

    # --- a driver's side comes and goes

    def attach(self) -> None:
        """A driver's side arrives; the function is as after power-on."""
        with self._lock:
            self._registers.attach(self.memory, self)
            if self.layout.notify_mapped:
                for queue in self.device.queues:
                    queue.set_kicks(False)
            self._attached = True
            self._begin()
            self._set_gate(self._may_run)

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
            self._set_gate(self._may_run)

    def _begin(self) -> None:
        self._config.reset()
        self._common.clear()
        self._interrupts.reset()
        self._dma_paused = False
        self.decode()

    # --- accesses

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region, in one access. What is not there reads as zeros; asleep, all reads as ones."""
        if size <= 0:
            return b""
        with self._lock:
            if region == RegionIndex.CONFIG:
                if offset < 0:
                    return b"\xff" * size
                pin = not self._interrupts.msix_enabled and bool(self._interrupts.isr)
                return self._config.read(offset, size, interrupt=pin)
            if not self._reachable(region, offset, size):
                return b"\xff" * size
            found = self._space.find(region, offset, size)
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
                if offset >= 0:
                    self._config.write(offset, bytes(data))
            elif self._reachable(region, offset, len(data)):
                found = self._space.find(region, offset, len(data))
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
        if not self._config.awake:
            self._registers.ignore("a function in D3hot is accessed", "4.1.1")
            return False
        return True

    # --- what configuration space says

    @property
    def _may_run(self) -> bool:
        """Whether queues may run: the function may use memory, and memory is there."""
        masters = self._config.command & pci_bus.COMMAND.BUS_MASTER
        return bool(masters) and self._config.awake and not self._dma_paused and not self._stopped

    def decode(self) -> None:
        """Act by what the command register and the power state say."""
        command, awake = self._config.command, self._config.awake
        self._interrupts.set_gate(
            awake and bool(command & pci_bus.COMMAND.BUS_MASTER) and not self._stopped,
            pin_disabled=not awake or bool(command & pci_bus.COMMAND.INTERRUPT_DISABLE),
        )
        self._set_gate(self._may_run)
        self._rewire_all()

    def msix_written(self, control: int) -> None:
        """Act by what the message control field of MSI-X says."""
        self._interrupts.set_control(control)
        self._rewire_all()

    # --- memory

    def dma_changing(self) -> None:
        """Memory is about to go away: queues pause until :meth:`dma_changed`."""
        with self._lock:
            self._dma_paused = True
            self._set_gate(False)

    def dma_changed(self) -> None:
        """Mappings came or went: queues run again if the rings of all of them are there."""
        with self._lock:
            self._dma_paused = not all(self._mapped(setup) for setup in self._setups() if setup.ready)
            self._set_gate(self._may_run)

    def _was_reset(self) -> None:
        """The driver has reset the device by the common configuration."""
        self._interrupts.withdraw()

    def _set_gate(self, open: bool) -> None:  # noqa: A002
        self._registers.set_gate(open)

    def _setups(self) -> Iterator[QueueSetup]:
        return iter(self._registers.queues)

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
        with self._lock:
            self._interrupts.set_targets(index, start, targets)
            self._rewire_all()

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back."""
        with self._lock:
            self._interrupts.mask(index, start, count)
            self._rewire_all()

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again; what was held back comes now."""
        with self._lock:
            self._interrupts.unmask(index, start, count)
            self._rewire_all()

    def request_release(self) -> None:
        """Ask whoever has the function to let go of it; VFIO has an interrupt for that."""
        self._interrupts.signal(InterruptIndex.REQUEST)

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

    # --- stopped by its owner (2.12.1.4.3.4)

    def stop(self) -> None:
        """Touch no memory and notify nobody until :meth:`resume`; what was begun is finished."""
        with self._lock:
            self._stopped = True
            self.decode()

    def resume(self) -> None:
        """Go on."""
        with self._lock:
            self._stopped = False
            self.decode()

    # --- moving

    def save(self) -> bytes:
        """Return all that a function like this one needs to go on in its place, but for memory.

        Queues must stand still: :meth:`dma_changing` comes first.
        """
        with self._lock:
            return self._snapshot().pack()

    def _snapshot(self) -> FunctionState:
        common, interrupts, registers = self._common, self._interrupts, self._registers
        ends = self.device.queues
        queues = [
            QueueState(
                setup.size,
                setup.descriptors,
                setup.driver,
                setup.device,
                common.queue_vectors[index],
                setup.ready,
                ends[index].stop() if setup.ready else 0,
            )
            for index, setup in enumerate(registers.queues)
        ]
        return FunctionState(
            device_id=self.device.device_id,
            config=bytes(self._config.space.data),
            status=registers.status & ~STATUS.DEVICE_NEEDS_RESET,
            features=sum(registers.driver_features(word) << 32 * word for word in range(FEATURE_WORDS)),
            device_feature_select=common.device_feature_select,
            driver_feature_select=common.driver_feature_select,
            queue_select=common.queue_select,
            config_vector=common.config_vector,
            isr=interrupts.isr,
            msix_table=interrupts.table,
            msix_written=interrupts.written,
            msix_pending=interrupts.pending,
            device=self.device.save_state(),
            queues=queues,
        )

    def load(self, data: bytes) -> None:
        """Go on in the place of the function that returned ``data`` from :meth:`save`.

        Queues run again after :meth:`dma_changed`. Raises :exc:`~virtio.StateError` for what is no state, or
        another function's; the function is as after a reset then.
        """
        with self._lock:
            if not self._attached:
                raise StateError("a function is loaded with its memory: attach it first")
            self.reset()
            self.dma_changing()
            try:
                self._restore(unpack(data))
            except Error:
                self.reset()
                raise

    def _restore(self, state: FunctionState) -> None:
        common, registers = self._common, self._registers
        if state.device_id != self.device.device_id or len(state.queues) != len(registers.queues):
            raise StateError("the state belongs to a function with another device")
        if len(state.config) != len(self._config.space.data):
            raise StateError("the state belongs to a function with another configuration space")
        if unknown := state.features & ~registers.offered:
            raise StateError(f"the driver uses features {unknown:#x}, which this function does not offer")
        self._config.load(state.config)
        self._interrupts.restore(state.msix_table, state.msix_written, state.msix_pending, state.isr)
        self.device.load_state(state.device)
        for word in range(FEATURE_WORDS):
            registers.accept(word, state.features >> 32 * word & WORD)
        live = STATUS.DRIVER_OK | STATUS.SUSPEND
        if state.status:
            registers.set_status(state.status & ~live)
        for index, queue in enumerate(state.queues):
            common.queue_vectors[index] = (
                queue.vector if queue.vector < self._interrupts.vectors else NO_VECTOR
            )
            setup = registers.queues[index]
            setup.size, setup.descriptors = queue.size, queue.descriptors
            setup.driver, setup.device = queue.driver, queue.device
            if queue.ready and not registers.enable(index, "2.6", None, base=queue.base):
                raise StateError(f"queue {index} cannot be as the state says")
        if state.status & live:
            registers.set_status(state.status & ~STATUS.SUSPEND | STATUS.DRIVER_OK)
            registers.set_status(state.status | state.status & STATUS.SUSPEND)
        if registers.status != state.status:
            raise StateError(f"the device's status is {registers.status:#x}, and was {state.status:#x}")
        common.config_vector = state.config_vector
        common.device_feature_select = state.device_feature_select
        common.driver_feature_select = state.driver_feature_select
        common.queue_select = state.queue_select
        if self._interrupts.vectors:
            self.msix_written(self._config.msix_control)
        self.decode()

    # --- the end

    def close(self) -> None:
        """Detach, and let go of memory and shared memory. The device stays the caller's."""
        self.detach()
        with self._lock:
            try:
                self.memory.clear()
            except Error as error:
                _log.warning("%s: memory is still in use: %s", self.device.name, error)
            self._space.close()
