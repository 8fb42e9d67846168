"""What the register transports have in common, whatever their registers look like (VIRTIO 1.4, 4).

A driver that pokes registers does things one at a time and in any order: it selects 32 feature bits, writes
half an address, enables a queue twice. Here is what that means for a device; where each register lies is the
transport's own. No I/O and no threads: calls come from whoever carries the accesses, one at a time.

What a driver must not do is ignored, counted under the broken clause and logged: a register has no other way
to say no.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from virtio.errors import Error, FeatureNegotiationError, ProtocolError
from virtio.spec.core import STATUS, F
from virtio.transport.interface import DeviceEnd, GuestMemory, TransportEvents

_log = logging.getLogger("virtio.transport.registers")

WORD = 0xFFFF_FFFF
FEATURE_WORDS = 4
"""Features are read and written 32 at a time, 128 altogether."""

MOST_ENTRIES = 32768


@dataclass
class QueueSetup:
    """What a driver has written about one queue."""

    size: int = 0
    descriptors: int = 0
    """Descriptor area: the descriptor table, or the packed ring."""
    driver: int = 0
    """Driver area: the available ring, or the packed ring's driver event suppression."""
    device: int = 0
    """Device area: the used ring, or the packed ring's device event suppression."""
    ready: bool = False
    changed: bool = True
    """Whether anything was written since the queue last ran: a queue that did not change goes on."""

    def problem(self, max_size: int, packed: bool) -> tuple[str, str] | None:
        """Say why a queue cannot run like this, and which clause says so."""
        section = "2.8.10.1" if packed else "2.7"
        if not 0 < self.size <= min(max_size, MOST_ENTRIES):
            return f"a queue of {self.size} entries; at most {max_size} are there", section
        if not packed and self.size & (self.size - 1):
            return f"a split queue of {self.size} entries is no power of 2", section
        for name, address, alignment in (
            ("descriptor", self.descriptors, 16),
            ("driver", self.driver, 4 if packed else 2),
            ("device", self.device, 4),
        ):
            if address % alignment:
                return f"the {name} area at {address:#x} is not aligned to {alignment}", section
        return None


class DeviceRegisters:
    """A device behind registers: features by words, the status, queues that are set up piece by piece."""

    def __init__(
        self, device: DeviceEnd, carried: int, max_size: int = MOST_ENTRIES, *, added: int = 0
    ) -> None:
        """Stand in front of ``device``; ``carried`` are the features that the transport has a way for.

        ``added`` are those that it offers by itself: a device that does not offer them is not told of them.
        """
        self.device = device
        self._added = added & ~device.offered_features
        self._open = True
        self.max_size = max_size
        self.ignored: Counter[str] = Counter()
        """Accesses that a driver must not make, by clause."""
        self._carried = carried
        self._forget()

    def _forget(self) -> None:
        self._accepted = [0] * FEATURE_WORDS
        self._beyond = False
        count = len(self.device.queues)
        if not self._carried & F.ADMIN_VQ:
            count -= len(self.device.admin_queues)
        self.queues = [QueueSetup() for _ in range(count)]

    def forget(self) -> None:
        """Forget everything that was written: the device was reset by other registers in front of it."""
        self._forget()

    def attach(self, memory: GuestMemory, events: TransportEvents) -> None:
        """A driver's side arrives."""
        self._forget()
        self.device.attach(memory, events)

    def detach(self) -> None:
        """It is gone."""
        self.device.detach()
        self._forget()

    def ignore(self, what: str, clause: str) -> None:
        """Note what the driver must not do. The first of a kind is logged as a warning, the rest quietly."""
        self.refuse(ProtocolError(what, clause))

    def refuse(self, error: Error) -> None:
        """The same, for what the device found."""
        clause = error.clause if isinstance(error, ProtocolError) else "2"
        self.ignored[clause] += 1
        level = logging.WARNING if self.ignored[clause] == 1 else logging.DEBUG
        # The text: a log that keeps its records must not keep frames of a driver's memory with them.
        _log.log(level, "%s: ignored: %s", self.device.name, str(error))

    # --- features

    @property
    def offered(self) -> int:
        """What the driver is shown."""
        return (self.device.offered_features | self._added) & self._carried

    @property
    def negotiated(self) -> int:
        """What device and driver agreed on, with what the transport added; 0 before FEATURES_OK."""
        return self._written() if self.device.status & STATUS.FEATURES_OK else 0

    def device_features(self, select: int) -> int:
        """Return 32 of the features that are offered; beyond the last word: none."""
        return self.offered >> 32 * select & WORD if select < FEATURE_WORDS else 0

    def driver_features(self, select: int) -> int:
        """Return 32 of the features that the driver wrote."""
        return self._accepted[select] if select < FEATURE_WORDS else 0

    def accept(self, select: int, bits: int) -> None:
        """The driver writes 32 of the features that it accepts; they count when it sets FEATURES_OK."""
        if self.device.status & STATUS.FEATURES_OK:
            self.ignore("features are written after FEATURES_OK", "3.1.1")
        elif select < FEATURE_WORDS:
            self._accepted[select] = bits & WORD
        elif bits:
            self._beyond = True  # features that nobody offered: FEATURES_OK will be refused

    # --- status

    @property
    def status(self) -> int:
        """The device status field."""
        return self.device.status

    def set_status(self, value: int) -> None:
        """The driver writes the device status field. What is refused shows when it is read."""
        if value == 0:
            self.reset()
            return
        try:
            if value & STATUS.FEATURES_OK and not self.device.status & STATUS.FEATURES_OK:
                self._negotiate()
            self.device.set_status(value & 0xFF)
        except FeatureNegotiationError as error:
            _log.info("%s: FEATURES_OK stays clear: %s", self.device.name, error)
        except Error as error:
            self.refuse(error)

    def _negotiate(self) -> None:
        features = self._written()
        if self._beyond:
            raise FeatureNegotiationError("the driver accepted feature bits beyond 127", "2.2.1")
        if unexpected := features & ~self.offered:
            raise FeatureNegotiationError(
                f"the driver accepted features {unexpected:#x}, never offered", "2.2.1", unexpected=unexpected
            )
        self.device.negotiate(features & ~self._added)

    def _written(self) -> int:
        return sum(word << 32 * select for select, word in enumerate(self._accepted))

    def reset(self) -> None:
        """Reset the device and forget everything that was written."""
        self.device.set_status(0)
        self._forget()

    # --- configuration space

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space: zeros behind its end."""
        return self.device.read_config(offset, size)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space, where the driver may."""
        try:
            self.device.write_config(offset, data)
        except Error as error:
            self.refuse(error)

    # --- queues

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue; 0: there is no such queue."""
        if index < len(self.queues):
            return min(self.device.queues[index].max_size, self.max_size)
        return 0

    def setup(self, index: int, clause: str) -> QueueSetup | None:
        """Return what is to be written to, if there is such a queue and it may be changed now."""
        if index >= len(self.queues):
            self.ignore(f"there is no queue {index}; there are {len(self.queues)}", clause)
            return None
        queue = self.queues[index]
        if queue.ready:
            self.ignore(f"queue {index} is changed while it is enabled", clause)
            return None
        queue.changed = True
        return queue

    def enable(
        self, index: int, clause: str, call: Callable[[], object] | int | None, *, base: int | None = None
    ) -> bool:
        """The driver enables a queue, whose used buffer notifications go to ``call``. Twice: harmless.

        ``base`` is where a queue goes on that ran elsewhere before.
        """
        if index >= len(self.queues):
            self.ignore(f"there is no queue {index}; there are {len(self.queues)}", clause)
            return False
        setup, queue = self.queues[index], self.device.queues[index]
        if setup.ready:
            return True
        if not self._may_enable():
            self.ignore(f"queue {index} is enabled before FEATURES_OK", "3.1.1")
            return False
        packed = bool(self.device.negotiated_features & F.RING_PACKED)
        problem = setup.problem(self.max_queue_size(index), packed)
        if problem is not None:
            self.ignore(f"queue {index} is not enabled: {problem[0]}", problem[1])
            return False
        try:
            if setup.changed:
                queue.reset()
                queue.configure(
                    size=setup.size,
                    descriptors=setup.descriptors,
                    available=setup.driver,
                    used=setup.device,
                    space="guest",
                    base=base,
                )
                setup.changed = False
            queue.set_call(call)
            if self._open:
                queue.start()
        except Error as error:
            setup.changed = True
            self.refuse(error)
            return False
        setup.ready = True
        return True

    def _may_enable(self) -> bool:
        return bool(self.device.status & STATUS.FEATURES_OK)

    def disable(self, index: int) -> None:
        """The device does not touch the queue any more. What was begun is finished."""
        if index < len(self.queues) and self.queues[index].ready:
            self.queues[index].ready = False
            self._quietly(self.device.queues[index].stop)

    def reset_queue(self, index: int, clause: str) -> None:
        """The driver resets one queue (2.6.1): it is as after a reset of the device."""
        if not self.negotiated & F.RING_RESET:
            self.ignore(f"queue {index} is reset without VIRTIO_F_RING_RESET", clause)
        elif index >= len(self.queues):
            self.ignore(f"there is no queue {index}; there are {len(self.queues)}", clause)
        else:
            self.queues[index] = QueueSetup()
            self._quietly(self.device.queues[index].reset)

    def set_gate(self, open: bool) -> None:  # noqa: A002
        """Let queues run, or make all pause, since memory is out of reach. They go on where they were."""
        if open == self._open:
            return
        self._open = open
        for setup, queue in zip(self.queues, self.device.queues, strict=True):
            if setup.ready:
                self._quietly(queue.start if open else queue.stop)

    def notify(self, index: int, data: int | None, clause: str) -> None:
        """An available buffer notification, with what VIRTIO_F_NOTIFICATION_DATA tells, if negotiated."""
        if index >= len(self.queues) or not self.queues[index].ready:
            self.ignore(f"queue {index} is notified, and not enabled", clause)
        else:
            self.device.queues[index].notify(data)

    def _quietly(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Error as error:
            _log.warning("%s: %s", self.device.name, error)
