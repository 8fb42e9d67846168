"""A PCI function, as its driver sees it (VIRTIO 1.4, 4.1.5)."""

import contextlib
import os
from collections.abc import Callable

from virtio.errors import ConfigurationError, ProtocolError, TransportError
from virtio.spec import pci, pci_bus
from virtio.spec.core import STATUS, F
from virtio.transport.config_access import ConfigAccess
from virtio.transport.notifier import Notifier
from virtio.transport.pci.capability_walk import ConfigReader, FunctionMap, Structure, walk
from virtio.transport.pci.driver_interrupts import DriverInterrupts
from virtio.transport.pci.interface import Notification, PciBus
from virtio.transport.register_end import RegisterDriverEnd
from virtio.transport.registers import FEATURE_WORDS, WORD

GONE = 0xFF
"""What the status of a function reads as that is not there any more."""

_FIELDS = {
    field.name: (pci.COMMON_CFG.offset(field.name), field.type.size or 0) for field in pci.COMMON_CFG.fields
}
_LATER_FIELDS = (
    (F.NOTIF_CONFIG_DATA, "queue_notif_config_data"),
    (F.RING_RESET, "queue_reset"),
    (F.ADMIN_VQ, "admin_queue_num"),
)
"""Features, and the last field that each needs: a function whose structure is shorter cannot have them."""


class PciQueueWire:
    """The notifications of one queue: a :class:`~virtio.driver.wire.QueueWire`."""

    def __init__(self, kick_fd: int | None, kick: Callable[[int], object]) -> None:
        """Signal ``kick_fd`` if there is one, else call ``kick`` with the data of the notification."""
        self._notifier = Notifier(kick)
        self.kick_fd = kick_fd
        self.call_fd = self._notifier.call_fd

    def kick(self, data: int = 0) -> None:
        """Notify the device. On a queue that was stopped: nothing."""
        if self.kick_fd is None:
            self._notifier.kick(data)
        elif not self._notifier.closed:
            with contextlib.suppress(OSError):  # the bus has closed it: the function is gone
                os.eventfd_write(self.kick_fd, 1)

    def call(self) -> None:
        """Wake who waits for the device."""
        self._notifier.call()

    def close(self) -> None:
        """Close the descriptors that are ours."""
        self._notifier.close()


class PciDriverEnd(RegisterDriverEnd[PciQueueWire]):
    """The driver's end: a :class:`~virtio.driver.wire.DriverEnd`.

    PCI has no word for a queue's position: a queue cannot be stopped to go on later, only be reset.
    """

    def __init__(self, bus: PciBus, *, msix: bool = True) -> None:
        """Find out what ``bus`` leads to, and reset it; the bus belongs to this end from here.

        Without ``msix``, or if the function has none, interrupts come by INTx. Raises
        :exc:`~virtio.TransportError` or :exc:`~virtio.ProtocolError` for what cannot be driven.
        """
        super().__init__(bus.address, bus.timeout)
        self.memory = bus.memory
        self._bus = bus
        self._sizes: dict[int, int] = {}
        self.function: FunctionMap = walk(bus)
        self.device_id: int | None = self.function.device_id
        device = self.function.device
        self.config_size: int | None = device.length if device is not None else 0
        self._config = ConfigAccess(self.function.device_id, self.config_size)
        self._wake_up()
        self._reset()
        self.max_queues: int | None = self._get("num_queues")
        self._interrupts = DriverInterrupts(
            bus,
            self.function,
            # One more for an administration virtqueue: what there is of those, FEATURES_OK tells.
            queues=self.max_queues + bool(self.device_features & F.ADMIN_VQ),
            msix=msix,
            on_queues=self._call_all,
            on_config=self._look_around,
        )
        try:
            self._map_config_vector()
            bus.on_lost(self._lose)
        except BaseException:
            self._interrupts.close()
            raise

    @property
    def bus(self) -> PciBus:
        """What leads to the function."""
        return self._bus

    def _wake_up(self) -> None:
        """Have the function in D0, decode its addresses, and let it use memory."""
        config, power = ConfigReader(self._bus), self.function.power
        if power is not None:
            control = power + pci_bus.POWER_CAP.offset("control")
            state = config.get(control, 2)
            if state & pci_bus.POWER_STATE:
                config.put(control, state & ~pci_bus.POWER_STATE, 2)
        wanted = pci_bus.COMMAND.IO_SPACE | pci_bus.COMMAND.MEMORY_SPACE | pci_bus.COMMAND.BUS_MASTER
        config.put(pci_bus.HEADER.offset("command"), config.header("command") | wanted, 2)

    # --- features and status

    @property
    def device_features(self) -> int:
        """What the device offers, without what this transport cannot carry."""
        with self._use():
            features = 0
            for select in range(FEATURE_WORDS):
                self._set("device_feature_select", select)
                features |= self._get("device_feature") << 32 * select
            for feature, name in _LATER_FIELDS:
                if not self._has(name):
                    features &= ~feature
            if self.function.notify.length < 4 or self.function.multiplier == 2:
                features &= ~F.NOTIFICATION_DATA
            return features

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        if unexpected := features & ~self.device_features:
            raise ConfigurationError(f"features {unexpected:#x} are not offered")
        with self._use():
            for select in range(FEATURE_WORDS):
                self._set("driver_feature_select", select)
                self._set("driver_feature", features >> 32 * select & WORD)
            self._accepted = features

    @property
    def status(self) -> int:
        """The device status field."""
        with self._use():
            return self._read_status()

    def _read_status(self) -> int:
        status = self._get("device_status")
        if status == GONE:
            error = TransportError(f"{self.address}: the function does not answer any more")
            self._lose(error)
            raise error
        return status

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets."""
        if status == 0:
            self.reset()
            return
        with self._use():
            self._set("device_status", status)

    def reset(self) -> None:
        """Reset the device, and wait until it says so."""
        with self._use():
            self._reset()
            for index in list(self._wires):
                self._release(index)
            self._accepted = 0
            self._desk.forget()
            self._map_config_vector()

    def _reset(self) -> None:
        self._set("device_status", 0)
        self._await(lambda: self._get("device_status") == 0, "reset")

    def _map_config_vector(self) -> None:
        if self._interrupts.vectors:
            self._map("config_msix_vector", self._interrupts.config_vector)

    # --- configuration space

    @property
    def config_generation(self) -> int:
        """The device's own number."""
        with self._use():
            return self._get("config_generation")

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space, each field by accesses of its width."""
        with self._use():
            pieces = list(self._config.pieces(offset, size))
            place = self.function.device
            if place is None:
                return b""
            return b"".join(self._bus.read(place.bar, place.offset + at, width) for at, width in pieces)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        with self._use():
            pieces = list(self._config.pieces(offset, len(data), write=True))
            place = self.function.device
            if place is not None:
                for at, width in pieces:
                    self._bus.write(place.bar, place.offset + at, data[at - offset : at - offset + width])

    # --- queues

    @property
    def admin_queues(self) -> range:
        """Which queues are administration virtqueues (4.1.4.3)."""
        with self._use():
            if not self._accepted & F.ADMIN_VQ:
                return range(0)
            start, count = self._get("admin_queue_index"), self._get("admin_queue_num")
        if start < (self.max_queues or 0) or start + count > 0x1_0000:
            raise ProtocolError(f"{count} administration virtqueues, from {start}", "4.1.4.3.1")
        return range(start, start + count)

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue; 0: there is no such queue."""
        with self._use():
            if not 0 <= index <= 0xFFFF:
                return 0
            if index in self._wires:
                return self._sizes[index]  # what the register shows by now is the size that was chosen
            self._set("queue_select", index)
            return self._get("queue_size")

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> PciQueueWire:
        """Tell the device where a queue is and enable it (4.1.5.1.3)."""
        with self._use():
            if not self._read_status() & STATUS.FEATURES_OK:
                raise ConfigurationError("a queue is started before features were accepted")
            if index in self._wires:
                raise ConfigurationError(f"queue {index} is started already")
            if base is not None:
                raise ConfigurationError("over PCI a queue begins anew: there is no word for a base")
            if (most := self.max_queue_size(index)) < size:
                raise ConfigurationError(f"queue {index} cannot have {size} entries; at most {most}")
            self._set("queue_select", index)
            if self._get("queue_enable"):
                raise ConfigurationError(f"queue {index} is in use already")
            notification = self._notification(index)
            self._set("queue_size", size)
            for name, value in (
                ("queue_desc", descriptors),
                ("queue_driver", available),
                ("queue_device", used),
            ):
                self._set_address(name, value)
            wire = self._make_wire(notification)
            self._wires[index], self._sizes[index] = wire, most
            try:
                slot = self._slot(index)
                self._interrupts.connect(slot, wire.call_fd)
                if self._interrupts.vectors:
                    self._map("queue_msix_vector", self._interrupts.queue_vector(slot))
                self._set("queue_enable", 1)
                if self._get("queue_enable") != 1:
                    raise TransportError(f"{self.address}: the device does not enable queue {index}")
            except BaseException:
                self._release(index)
                raise
            return wire

    def stop_queue(self, index: int) -> int:
        """Raise :exc:`~virtio.ConfigurationError`: PCI has no way to stop a queue and go on later."""
        with self._use():
            if index not in self._wires:
                raise ConfigurationError(f"queue {index} is not started")
            raise ConfigurationError(
                "over PCI a queue cannot be stopped to go on later; reset_queue begins it anew"
            )

    def reset_queue(self, index: int) -> None:
        """Reset one queue (2.6.1)."""
        with self._use():
            if not self._accepted & F.RING_RESET:
                raise ConfigurationError("VIRTIO_F_RING_RESET was not negotiated")
            self._set("queue_select", index)
            self._set("queue_reset", 1)
            # Both: 0 in queue_reset alone is what a queue shows before it has begun to be reset.
            self._await(
                lambda: not self._get("queue_reset") and not self._get("queue_enable"), "reset the queue"
            )
            if index in self._wires:
                self._release(index)

    def _notification(self, index: int) -> Notification:
        """Where, and with what, the selected queue is notified (4.1.5.2)."""
        place, value = self.function.notify, index
        width = 4 if self._accepted & F.NOTIFICATION_DATA else 2
        if self._accepted & F.NOTIF_CONFIG_DATA:
            value = self._get("queue_notif_config_data")
        offset = self._get("queue_notify_off") * self.function.multiplier
        if offset + width > place.length:
            raise ProtocolError(
                f"queue {index} is notified at {offset:#x} of {place.length:#x} bytes", "4.1.4.4.1"
            )
        return Notification(place.bar, place.offset + offset, width, value, index)

    def _make_wire(self, notification: Notification) -> PciQueueWire:
        region, offset, width, value, _ = notification
        assert value is not None
        fd = self._bus.kick_fd(notification)

        def kick(data: int) -> None:
            # In the upper half of the data is what is available; in the lower, what means the queue.
            word = value if width == 2 else data & 0xFFFF_0000 | value
            with contextlib.suppress(TransportError):  # harmless on a device that is gone
                self._bus.write(region, offset, word.to_bytes(width, "little"))

        return PciQueueWire(fd, kick)

    def _map(self, name: str, vector: int) -> None:
        """Map an event to a vector, and see whether that succeeded (4.1.5.1.2.2)."""
        self._set(name, vector)
        if (found := self._get(name)) != vector:
            raise TransportError(f"{self.address}: {name} is {found:#x}, not vector {vector}")

    def _release(self, index: int) -> None:
        wire = self._wires.pop(index)
        with contextlib.suppress(TransportError):
            self._interrupts.connect(self._slot(index), None)
        wire.close()

    def _slot(self, index: int) -> int:
        """Which of the interrupts for queues is this one's: administration virtqueues share the last."""
        return min(index, self.max_queues or 0)

    # --- news and the end

    def _look_around(self) -> None:
        """The configuration or the status may have changed."""
        status = self._get("device_status")
        self._configuration_changed(0 if status == GONE else status)

    def _let_go(self) -> None:
        self._interrupts.close()
        self._bus.close()

    # --- registers

    def _has(self, name: str) -> bool:
        offset, size = _FIELDS[name]
        return offset + size <= self.function.common.length

    def _get(self, name: str) -> int:
        offset, size = _FIELDS[name]
        return int.from_bytes(self._bus.read(*_at(self.function.common, offset), size), "little")

    def _set(self, name: str, value: int) -> None:
        offset, size = _FIELDS[name]
        self._bus.write(*_at(self.function.common, offset), value.to_bytes(size, "little"))

    def _set_address(self, name: str, value: int) -> None:
        offset, _ = _FIELDS[name]
        for half in (0, 4):  # two words: 4.1.3.1
            word = value >> 8 * half & WORD
            self._bus.write(*_at(self.function.common, offset + half), word.to_bytes(4, "little"))


def _at(place: Structure, offset: int) -> tuple[int, int]:
    return place.bar, place.offset + offset
