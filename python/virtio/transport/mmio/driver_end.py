"""A device behind MMIO registers, as its driver sees it (VIRTIO 1.4, 4.2.3)."""

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Protocol

from virtio.driver.wire import DriverMemory
from virtio.errors import ConfigurationError, Error, TransportError
from virtio.spec import mmio
from virtio.spec.core import STATUS, F
from virtio.transport.config_access import ConfigAccess
from virtio.transport.mmio.device_end import CARRIED_FEATURES
from virtio.transport.notifier import Notifier
from virtio.transport.register_end import RegisterDriverEnd
from virtio.transport.registers import FEATURE_WORDS, WORD

_log = logging.getLogger("virtio.transport.mmio")

REG = {row.name: row.offset for row in mmio.REGISTERS}


class MmioBus(Protocol):
    """What a driver reaches the registers, and the device its memory, by."""

    @property
    def address(self) -> str:
        """Which device, in the form that :func:`virtio.connect` takes."""

    @property
    def size(self) -> int:
        """Bytes that the registers and the configuration space behind them take up."""

    @property
    def memory(self) -> DriverMemory:
        """Memory that the device reaches; this end closes the bus, and the bus its memory."""

    @property
    def interrupt_fd(self) -> int:
        """Eventfd, not blocking, that is signalled when the interrupt line is raised."""

    def read(self, offset: int, size: int) -> int:
        """Load 1, 2 or 4 bytes. Raises :exc:`~virtio.TransportError` when the device is gone."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store 1, 2 or 4 bytes."""

    def on_loss(self, callback: Callable[[Error], object]) -> None:
        """Call this, from any thread, when the device is taken away."""

    def close(self) -> None:
        """Let go of the device and unmap the memory."""


class MmioDriverEnd(RegisterDriverEnd[Notifier]):
    """The driver's end: a :class:`~virtio.driver.wire.DriverEnd`.

    Registers know no base of a queue: :meth:`stop_queue` returns a number that means "where it stopped", and
    only the same queue can be started with it.
    """

    def __init__(self, bus: MmioBus, timeout: float = 5.0) -> None:
        """Look at the device on ``bus``, which belongs to this end from here (4.2.3.1.1)."""
        super().__init__(bus.address, timeout)
        self.memory = bus.memory
        self._bus = bus
        if (magic := self._get("MagicValue")) != mmio.MAGIC:
            raise TransportError(f"{self.address}: the magic value is {magic:#x}; there is no virtio device")
        if (version := self._get("Version")) != mmio.VERSION:
            raise TransportError(f"{self.address}: registers of version {version}; 2 is known")
        self.device_id = self._get("DeviceID")
        if self.device_id == 0:
            raise TransportError(f"{self.address}: a placeholder; there is no device behind it")
        self._config = ConfigAccess(self.device_id, bus.size - mmio.CONFIG_OFFSET)
        self._stopped: set[int] = set()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(
            target=self._serve_interrupts, name=f"interrupts of {self.address}", daemon=True
        )
        bus.on_loss(self._lose)
        self._thread.start()

    # --- features and status

    @property
    def device_features(self) -> int:
        """What the device offers, without what this transport cannot carry."""
        with self._use():
            features = 0
            for select_ in range(FEATURE_WORDS):
                self._set("DeviceFeaturesSel", select_)
                features |= self._get("DeviceFeatures") << 32 * select_
            return features & CARRIED_FEATURES

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        if unexpected := features & ~self.device_features:
            raise ConfigurationError(f"features {unexpected:#x} are not offered")
        with self._use():
            for select_ in range(FEATURE_WORDS):
                self._set("DriverFeaturesSel", select_)
                self._set("DriverFeatures", features >> 32 * select_ & WORD)
            self._accepted = features

    @property
    def status(self) -> int:
        """The device status field."""
        with self._use():
            return self._get("Status")

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets."""
        if status == 0:
            self.reset()
            return
        with self._use():
            self._set("Status", status)

    def reset(self) -> None:
        """Reset the device, and wait until it says so."""
        with self._use():
            self._reset()
            for index in list(self._wires):
                self._wires.pop(index).close()
            self._stopped.clear()
            self._accepted = 0
            self._desk.forget()

    def _reset(self) -> None:
        self._set("Status", 0)
        self._await(lambda: self._get("Status") == 0, "reset")

    # --- configuration space

    @property
    def config_size(self) -> None:
        """Registers do not tell."""
        return

    @property
    def config_generation(self) -> int:
        """The device's own number."""
        with self._use():
            return self._get("ConfigGeneration")

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space, each field by accesses of its width."""
        with self._use():
            return b"".join(
                self._bus.read(mmio.CONFIG_OFFSET + at, width).to_bytes(width, "little")
                for at, width in self._config.pieces(offset, size)
            )

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        with self._use():
            for at, width in list(self._config.pieces(offset, len(data), write=True)):
                value = int.from_bytes(data[at - offset : at - offset + width], "little")
                self._bus.write(mmio.CONFIG_OFFSET + at, width, value)

    # --- queues

    @property
    def max_queues(self) -> None:
        """Registers do not tell."""
        return

    @property
    def admin_queues(self) -> range:
        """None: this transport does not carry them."""
        return range(0)

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue; 0: there is no such queue."""
        with self._use():
            self._set("QueueSel", index)
            return self._get("QueueSizeMax")

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> Notifier:
        """Tell the device where a queue is and enable it (4.2.3.2)."""
        with self._use():
            if not self._get("Status") & STATUS.FEATURES_OK:
                raise ConfigurationError("a queue is started before features were accepted")
            if index in self._wires:
                raise ConfigurationError(f"queue {index} is started already")
            if (most := self.max_queue_size(index)) < size:
                raise ConfigurationError(f"queue {index} cannot have {size} entries; at most {most}")
            if base is not None and index not in self._stopped:
                raise ConfigurationError(f"queue {index} was not stopped: registers have no word for a base")
            self._set("QueueSel", index)
            if self._get("QueueReady"):
                raise ConfigurationError(f"queue {index} is in use already")
            if base is None:
                self._set("QueueSize", size)
                for name, value in (("Desc", descriptors), ("Driver", available), ("Device", used)):
                    self._set(f"Queue{name}Low", value & WORD)
                    self._set(f"Queue{name}High", value >> 32)
            notifier = self._wires[index] = Notifier(lambda data: self._kick(index, data))
            self._stopped.discard(index)
            self._set("QueueReady", 1)
            if not self._get("QueueReady"):
                self._wires.pop(index).close()
                raise TransportError(f"{self.address}: the device does not enable queue {index}")
            return notifier

    def stop_queue(self, index: int) -> int:
        """Stop a queue; the device keeps in mind where."""
        with self._use():
            if index not in self._wires:
                raise ConfigurationError(f"queue {index} is not started")
            self._set("QueueSel", index)
            self._set("QueueReady", 0)
            self._await(lambda: self._get("QueueReady") == 0, f"stop queue {index}")
            self._wires.pop(index).close()
            self._stopped.add(index)
            return 0

    def reset_queue(self, index: int) -> None:
        """Reset one queue."""
        with self._use():
            if not self._accepted & F.RING_RESET:
                raise ConfigurationError("VIRTIO_F_RING_RESET was not negotiated")
            self._set("QueueSel", index)
            self._set("QueueReset", 1)
            self._await(lambda: self._get("QueueReset") == 0, f"reset queue {index}")
            if (notifier := self._wires.pop(index, None)) is not None:
                notifier.close()
            self._stopped.discard(index)

    def _kick(self, index: int, data: int) -> None:
        with contextlib.suppress(TransportError):  # harmless on a device that is gone
            self._set("QueueNotify", data if self._accepted & F.NOTIFICATION_DATA else index)

    # --- interrupts, and the end

    def _serve_interrupts(self) -> None:
        poll = select.poll()
        poll.register(self._bus.interrupt_fd, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while self._closing not in (ready := [fd for fd, _ in poll.poll()]):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(ready[0])
            try:
                while bits := self._get("InterruptStatus"):
                    # Acknowledged first: what happens from here on raises the line again.
                    self._set("InterruptACK", bits & sum(code.value for code in mmio.INTERRUPT))
                    self._take(bits)
            except TransportError:
                return

    def _take(self, bits: int) -> None:
        if bits & mmio.INTERRUPT["USED_BUFFER"].value:
            self._call_all()
        if bits & mmio.INTERRUPT["CONFIGURATION_CHANGE"].value:
            self._configuration_changed(self._get("Status"))

    def _let_go(self) -> None:
        os.eventfd_write(self._closing, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        os.close(self._closing)
        self._bus.close()

    # --- registers

    def _get(self, name: str) -> int:
        return self._bus.read(REG[name], 4)

    def _set(self, name: str, value: int) -> None:
        self._bus.write(REG[name], 4, value)
