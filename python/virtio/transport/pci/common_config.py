"""The common configuration structure (4.1.4.3): fields by offset, each with its one proper width."""

from collections.abc import Callable
from typing import NamedTuple

from virtio.spec import pci
from virtio.spec.core import F
from virtio.transport.pci.interrupts import NO_VECTOR
from virtio.transport.registers import WORD, DeviceRegisters, QueueSetup

LAYOUT = "4.1.4.3"
DRIVER_RULES = "4.1.4.3.2"
WIDTH_RULES = "4.1.3.1"


class Register(NamedTuple):
    """How a field is read and written."""

    name: str
    size: int
    read: Callable[[], int]
    write: Callable[[int], object] | None = None
    """None: the driver may not."""
    feature: int = 0
    """The field exists only if this was negotiated."""


class CommonConfig:
    """The structure, in front of what all register transports share."""

    size = pci.COMMON_CFG.size or 0

    def __init__(
        self,
        registers: DeviceRegisters,
        *,
        vectors: int,
        notification_value: Callable[[int], int],
        route: Callable[[int], Callable[[], object] | int | None],
        rewire: Callable[[int], object],
        withdraw: Callable[[], object],
    ) -> None:
        """Show ``registers``.

        ``notification_value`` gives what a queue is notified with under VIRTIO_F_NOTIF_CONFIG_DATA, ``route``
        where notifications for a vector go; ``rewire`` is called with a queue whose vector has changed,
        ``withdraw`` when a reset takes interrupts back.
        """
        self._registers = registers
        self._vectors = vectors
        self._notification_value = notification_value
        self._route = route
        self._rewire = rewire
        self._withdraw = withdraw
        self._generation = 0
        self._last_read = registers.device.config_generation
        self._fields = self._lay_out()
        self.clear()

    def clear(self) -> None:
        """Go back to the beginning."""
        self.device_feature_select = 0
        self.driver_feature_select = 0
        self.queue_select = 0
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * len(self._registers.queues)

    # --- accesses

    def read(self, offset: int, size: int) -> bytes:
        """Read a field."""
        register = self._find(offset, size, "read")
        value = register.read() if register is not None else 0
        return value.to_bytes(size, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Write a field."""
        register = self._find(offset, len(data), "written")
        if register is None:
            return
        if register.write is None:
            self._registers.ignore(f"{register.name}, which is read-only, is written", DRIVER_RULES)
        else:
            register.write(int.from_bytes(data, "little"))

    def _find(self, offset: int, size: int, what: str) -> Register | None:
        register = self._fields.get(offset)
        if register is None or register.size != size:
            self._registers.ignore(
                f"{size} bytes at {offset} of the common configuration are {what}", WIDTH_RULES
            )
        elif register.feature & ~self._registers.negotiated:
            self._registers.ignore(f"{register.name} is {what}, whose feature was not negotiated", LAYOUT)
        else:
            return register
        return None

    # --- fields

    def _lay_out(self) -> dict[int, Register]:
        shared = self._registers
        fields: dict[int, Register] = {}

        def add(
            name: str, read: Callable[[], int], write: Callable[[int], object] | None = None, feature: int = 0
        ) -> None:
            size = pci.COMMON_CFG.field(name).type.size or 0
            fields[pci.COMMON_CFG.offset(name)] = Register(name, size, read, write, feature)

        def add_address(name: str, attribute: str) -> None:
            for half in (0, 1):
                read, write = self._address(attribute, 32 * half)
                fields[pci.COMMON_CFG.offset(name) + 4 * half] = Register(name, 4, read, write)

        def select(name: str) -> None:
            add(name, lambda: getattr(self, name), lambda value: setattr(self, name, value))

        select("device_feature_select")
        add("device_feature", lambda: shared.device_features(self.device_feature_select))
        select("driver_feature_select")
        add(
            "driver_feature",
            lambda: shared.driver_features(self.driver_feature_select),
            lambda value: shared.accept(self.driver_feature_select, value),
        )
        add("config_msix_vector", lambda: self.config_vector, self._write_config_vector)
        admin = shared.device.admin_queues
        add("num_queues", lambda: len(shared.queues) - len(admin))
        add("device_status", lambda: shared.status, self._write_status)
        add("config_generation", lambda: self._generation)
        select("queue_select")
        add("queue_size", self._read_size, self._write_size)
        add("queue_msix_vector", self._read_queue_vector, self._write_queue_vector)
        add("queue_enable", lambda: self._of_queue(lambda queue: int(queue.ready)), self._write_enable)
        add("queue_notify_off", lambda: self.queue_select if self._selected else 0)
        add_address("queue_desc", "descriptors")
        add_address("queue_driver", "driver")
        add_address("queue_device", "device")
        add(
            "queue_notif_config_data",
            lambda: self._notification_value(self.queue_select) if self._selected else 0,
            feature=F.NOTIF_CONFIG_DATA,
        )
        # A queue is reset at once, so that it is never seen under way.
        add("queue_reset", lambda: 0, self._write_reset, F.RING_RESET)
        add("admin_queue_index", lambda: admin.start, feature=F.ADMIN_VQ)
        add("admin_queue_num", lambda: len(admin), feature=F.ADMIN_VQ)
        return fields

    @property
    def _selected(self) -> bool:
        return self.queue_select < len(self._registers.queues)

    def _of_queue(self, read: Callable[[QueueSetup], int]) -> int:
        return read(self._registers.queues[self.queue_select]) if self._selected else 0

    def _address(self, attribute: str, shift: int) -> tuple[Callable[[], int], Callable[[int], None]]:
        def write(value: int) -> None:
            if (setup := self._registers.setup(self.queue_select, DRIVER_RULES)) is not None:
                kept = getattr(setup, attribute) & ~(WORD << shift)
                setattr(setup, attribute, kept | value << shift)

        return lambda: self._of_queue(lambda queue: int(getattr(queue, attribute)) >> shift & WORD), write

    def _write_status(self, value: int) -> None:
        self._registers.set_status(value)
        if value == 0:
            self.clear()
            self._withdraw()

    # --- vectors (4.1.5.1.2)

    def _vector(self, value: int) -> int:
        """What is mapped: the vector if there is such a one, else none, by which the driver learns of it."""
        if value != NO_VECTOR and value >= self._vectors:
            self._registers.ignore(f"vector {value} is mapped; there are {self._vectors}", "4.1.5.1.2.2")
            return NO_VECTOR
        return value

    def _write_config_vector(self, value: int) -> None:
        self.config_vector = self._vector(value)

    def _read_queue_vector(self) -> int:
        return self.queue_vectors[self.queue_select] if self._selected else NO_VECTOR

    def _write_queue_vector(self, value: int) -> None:
        if self._selected:
            self.queue_vectors[self.queue_select] = self._vector(value)
            self._rewire(self.queue_select)
        else:
            self._registers.ignore(
                f"queue {self.queue_select}, which is not there, gets a vector", DRIVER_RULES
            )

    # --- queues

    def _read_size(self) -> int:
        return self._of_queue(lambda queue: queue.size) or self._largest()

    def _largest(self) -> int:
        """What the selected queue can have. For a split ring that is a power of two (4.1.4.3.1)."""
        most = self._registers.max_queue_size(self.queue_select)
        if most == 0 or self._registers.negotiated & F.RING_PACKED:
            return most
        return 1 << most.bit_length() - 1

    def _write_size(self, value: int) -> None:
        packed = self._registers.negotiated & F.RING_PACKED
        if value == 0 or (not packed and value & (value - 1)):
            self._registers.ignore(f"a queue of {value} entries", DRIVER_RULES)
        elif (setup := self._registers.setup(self.queue_select, DRIVER_RULES)) is not None:
            if value > self._registers.max_queue_size(self.queue_select):
                self._registers.ignore(f"a queue is to have {value} entries, more than were offered", LAYOUT)
            else:
                setup.size = value

    def _write_enable(self, value: int) -> None:
        index = self.queue_select
        if value != 1:
            self._registers.ignore(f"{value} is written to queue_enable", DRIVER_RULES)
            return
        if self._selected:
            setup = self._registers.queues[index]
            if setup.ready:
                self._registers.ignore(f"queue {index} is enabled twice", DRIVER_RULES)
                return
            setup.size = setup.size or self._largest()
        vector = self.queue_vectors[index] if self._selected else NO_VECTOR
        self._registers.enable(index, DRIVER_RULES, self._route(vector))

    def _write_reset(self, value: int) -> None:
        if value != 1:
            self._registers.ignore(f"{value} is written to queue_reset", DRIVER_RULES)
            return
        self._registers.reset_queue(self.queue_select, DRIVER_RULES)
        if self._selected:
            self.queue_vectors[self.queue_select] = NO_VECTOR

    # --- generation (4.1.4.3.1)

    def config_was_read(self) -> None:
        """The driver has read device-specific configuration: if that has changed, so does the generation.

        Counting such reads and not the changes keeps eight bits from wrapping around between two of them.
        """
        current = self._registers.device.config_generation
        if current != self._last_read:
            self._generation = (self._generation + 1) & 0xFF
        self._last_read = current
