"""What every device is: status, features, configuration space, queues (VIRTIO 1.4, 2 and 3).

A device does no I/O of its own here and knows no transport. A transport calls it (``attach``, ``negotiate``,
``set_status``, ``read_config``, …); it answers, and speaks up through :class:`TransportEvents`. All calls of
a transport come from one thread at a time; handlers run on the queues' worker threads.

An author derives a class, names the device type and answers its queues::

    class Entropy(virtio.Device):
        spec = virtio.spec.entropy

        def on_requests(self, chain):
            chain.write(os.urandom(len(chain.writable)))
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from virtio._native import Batch, CallHandler, Chain, Handler, Memory
from virtio.device import features as feature_sets
from virtio.device import handlers
from virtio.device.admin import Administrator
from virtio.device.config import ConfigSpace
from virtio.device.state import SavedState, unpack
from virtio.device.status import State, StatusMachine
from virtio.errors import ConfigurationError, Error, FeatureNegotiationError, ProtocolError, StateError
from virtio.queue.device import MAX_SIZE, DeviceQueue
from virtio.spec import core
from virtio.spec.core import STATUS
from virtio.spec.model import DeviceType, Field

LIVE = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK
"""The status of a device that runs. For a transport that is not told the status: write it at the start."""

_log = logging.getLogger("virtio.device")


class TransportEvents(Protocol):
    """What a device tells its transport. Called from any thread."""

    def config_changed(self) -> None:
        """Send a configuration change notification."""

    def needs_reset(self, fault: ProtocolError) -> None:
        """Let the driver see DEVICE_NEEDS_RESET; ``fault`` is the reason."""


class Device:
    """The device's end. See the module's text for how to derive from it.

    Class attributes that authors set: ``spec``, a module of :mod:`virtio.spec` or its ``DEVICE``;
    ``features``, the device-type features to offer. Hooks that they may override: :meth:`negotiated`,
    :meth:`config_written`, :meth:`driver_reset`, :meth:`request_failed`, :meth:`handler`, :meth:`close`, and
    for devices that have something to remember :meth:`saved`, :meth:`check_saved` and :meth:`restored`.
    """

    spec: ModuleType | DeviceType
    features: int = 0
    """Feature bits of the device type that are offered; ``offered_features`` has those for the queues too."""
    other_handlers: tuple[str, ...] = ()
    """Methods named ``on_…`` that answer no queue by themselves."""
    movable: frozenset[str] = frozenset()
    """Configuration fields that drivers expect to change: where they differ, a state can be loaded still."""

    def __init__(
        self,
        *,
        name: str = "",
        features: int | None = None,
        mask: int | str = 0,
        config: Mapping[str, Any] | None = None,
        queue_size: int = MAX_SIZE,
        workers: int = 1,
        administration: Administrator | None = None,
    ) -> None:
        """Set up the device.

        ``features`` replaces the class attribute. ``mask`` takes features away, by bits or by names
        (``"EVENT_IDX,MQ"``), and with them those that need them. ``config`` gives values to configuration
        fields. With several ``workers`` as many threads call the handler of a queue at once, each with
        other chains. ``administration`` carries out administration commands, for which the device offers
        VIRTIO_F_ADMIN_VQ. Raises :exc:`~virtio.ConfigurationError` if the features cannot be offered together
        or a queue has no handler.
        """
        self.type = _device_type(self)
        self.name = name or type(self).__name__
        self._lock = threading.Lock()
        self._machine = StatusMachine()
        self._memory: Memory | None = None
        self._events: TransportEvents | None = None
        self._notify_later = False
        self._refused: FeatureNegotiationError | None = None
        self._loaded: SavedState | None = None
        self.negotiated_features = 0
        self.config = ConfigSpace(self.type.config, self._config_changed)
        self.config.update(config)
        if features is not None:
            self.features = features
        if isinstance(mask, str):
            mask = feature_sets.parse(self.type, mask)
        self.administration = administration
        offered = feature_sets.DEFAULT | self.features
        if administration is not None:
            offered |= core.F.ADMIN_VQ
        elif offered & core.F.ADMIN_VQ:
            raise ConfigurationError("ADMIN_VQ is offered by giving the device its administration")
        feature_sets.check_offer(self.type, offered)
        self.offered_features = feature_sets.without(self.type, offered, mask & ~core.F.VERSION_1)
        slots = self.type.slots(self.offered_features, _integers(self.config))
        self._methods = {slot.index: slot.queue.method for slot in slots}
        queues = [DeviceQueue(slot.index, slot.name, queue_size, workers) for slot in slots]
        self.admin_queues = range(len(queues), len(queues) + bool(self.offered_features & core.F.ADMIN_VQ))
        """Which of the queues are administration virtqueues (2.13): the last ones."""
        # One worker: commands on a queue are processed in their order.
        queues += (DeviceQueue(index, "adminq", queue_size, 1) for index in self.admin_queues)
        self.queues: Sequence[DeviceQueue] = tuple(queues)
        handlers.check_names(self)
        if type(self).handler is Device.handler:
            for method in sorted(set(self._methods.values())):
                handlers.find(self, method)

    def __getattr__(self, name: str) -> Any:
        """Explain the commonest mistake; reached only for attributes that do not exist."""
        if (
            name in ("_machine", "_lock", "queues", "offered_features", "config")
            and "_machine" not in self.__dict__
        ):
            raise ConfigurationError(f"{type(self).__name__}.__init__ does not call super().__init__()")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        """Show what the device is and in which state."""
        return f"<{type(self).__name__} {self.type.name}, {self._machine.state.name}>"

    # --- hooks for authors

    def handler(self, queue_index: int) -> Handler:
        """Return what answers a queue: by default a method, ``on_…`` or ``on_…_batch``.

        Override it to give a native handler to some or all queues.
        """
        return handlers.find(self, self._methods[queue_index])

    def negotiated(self, features: int) -> None:
        """The driver has chosen its features: FEATURES_OK is about to be set. Raise to refuse them."""

    def config_written(self, fields: Sequence[str]) -> None:
        """The driver has written to these configuration fields."""

    def may_write(self, field: Field) -> bool:
        """Whether the driver may write this configuration field now.

        By default: what the standard lets it write, if a feature that the field belongs to is offered.
        """
        return "W" in field.access and self.type.has(self.offered_features, field.when)

    def driver_reset(self) -> None:
        """The driver has reset the device, or gone away. Queues stand still: forget what it had asked for."""

    def request_failed(self, request: Chain | Batch, error: BaseException) -> None:
        """A handler raised ``error``, which is logged already: write the device type's failure status.

        By default nothing is written: the driver gets its buffer back empty.
        """

    def saved(self) -> bytes:
        """Return what the device has to remember when it moves, beside its configuration."""
        return b""

    def check_saved(self, own: bytes, config: Mapping[str, Any]) -> None:
        """Raise :exc:`~virtio.StateError` if what :meth:`saved` returned elsewhere cannot be taken.

        ``config``: the fields of :attr:`movable` that have other values there than here.
        """
        if own:
            raise StateError(f"a {self.type.name} device has nothing to remember, but {len(own)} bytes came")

    def restored(self, own: bytes) -> None:
        """Take what :meth:`saved` returned elsewhere; fields that the driver wrote are set already."""

    # --- state

    @property
    def device_id(self) -> int:
        """The number of the device type (5)."""
        return self.type.id

    @property
    def status(self) -> int:
        """The device status field, as the driver reads it."""
        return self._machine.value

    @property
    def state(self) -> State:
        """Where the device stands between reset and running."""
        return self._machine.state

    @property
    def needs_reset(self) -> bool:
        """Whether the device has given up on its driver until a reset."""
        return self._machine.needs_reset

    @property
    def attached(self) -> bool:
        """Whether a driver's side is there."""
        return self._memory is not None

    # --- the transport's side: arrival and departure

    def attach(self, memory: Memory, events: TransportEvents) -> None:
        """A driver's side arrives, with its memory. The device is as after a reset."""
        if self._memory is not None:
            raise ConfigurationError(
                f"{self.name} is attached already; one device serves one driver at a time"
            )
        self._restart()
        for queue in self.queues:
            handler = self._handler_of_queue(queue.index)
            queue.attach(memory, handler, self._fault, f"{self.name}:{queue.name}")
        self._memory, self._events = memory, events

    def detach(self) -> None:
        """The driver's side went away: stop the queues, reset, and forget its memory."""
        if self._memory is None:
            return
        self._events = None
        for queue in self.queues:
            try:
                queue.detach()
            except Error as error:
                _log.warning("%s: %s did not stop: %s", self.name, queue.name, error)
        self._memory = None
        self._restart()
        self.driver_reset()

    def close(self) -> None:
        """Detach, and release what the device stands on."""
        self.detach()

    # --- the transport's side: features and status

    def negotiate(self, features: int) -> None:
        """Take the features that the driver accepted, all of them at once.

        A set that cannot be raises :exc:`~virtio.FeatureNegotiationError`, and FEATURES_OK will be refused
        until a better one comes. After FEATURES_OK the choice stands (3.1.1): only the same set may be given.
        """
        if self._machine.state in (State.NEGOTIATED, State.RUNNING, State.SUSPENDED):
            if features != self.negotiated_features:
                raise ProtocolError("the driver changes its features after FEATURES_OK", "3.1.1")
            return
        try:
            feature_sets.check_accepted(self.type, self.offered_features, features)
        except FeatureNegotiationError as error:
            self._refused = error
            raise
        self._refused = None
        self.negotiated_features = features

    def set_status(self, status: int) -> None:
        """Take what the driver writes to the device status field; 0 resets.

        One write may set several bits: they take effect in the order of 3.1.1. What must not be written
        raises :exc:`~virtio.ProtocolError` and changes nothing; features that are refused raise
        :exc:`~virtio.FeatureNegotiationError` and leave FEATURES_OK and what follows clear. Transports that
        can say no only through the status itself log the error and let the driver read it.
        """
        if status == 0:
            self.reset()
            return
        suspend = bool(self.negotiated_features & core.F.SUSPEND)
        steps = self._machine.plan(status, suspend=suspend)
        if status & STATUS.FAILED:
            self._machine.failed = True
            _log.warning("%s: the driver has given up on the device", self.name)
        for state in steps:
            self._enter(state)

    def reset(self) -> None:
        """Stop everything and go back to the start; the driver's memory stays."""
        for queue in self.queues:
            try:
                queue.pause()
                queue.reset()
            except Error as error:
                _log.warning("%s: %s did not stop: %s", self.name, queue.name, error)
        self._restart()
        self.driver_reset()

    def fail(self, reason: str, clause: str = "2.1.2") -> None:
        """Give up on this driver: set DEVICE_NEEDS_RESET and tell it. From any thread."""
        self._fault(ProtocolError(reason, clause))

    def _handler_of_queue(self, index: int) -> Handler:
        if self.administration is not None and index in self.admin_queues:
            return CallHandler(self.administration.serve)
        return self.handler(index)

    # --- the transport's side: moving to another process

    def save_state(self) -> bytes:
        """Return what another device of the same kind needs to go on in the place of this one.

        All queues stand still meanwhile. Where each ring goes on is not in it: the transport knows.
        """
        self._check_still()
        return SavedState(
            self.device_id,
            self.status,
            self.config_generation,
            self.negotiated_features,
            self.config.image(),
            self.saved(),
        ).pack()

    def load_state(self, data: bytes) -> None:
        """Go on in the place of the device that returned ``data`` from :meth:`save_state`.

        What comes is not trusted: :exc:`~virtio.StateError` if it cannot be, and nothing has changed then.
        Before FEATURES_OK it is checked and kept, and taken with the features that it was saved with; a
        reset forgets it. After it, it is taken at once.
        """
        self._check_still()
        state = unpack(data)
        self._check_state(state)
        if not state.status & STATUS.FEATURES_OK:
            self._loaded = None  # saved without a driver: there is nothing to take over
        elif self._machine.state in (State.NEGOTIATED, State.RUNNING, State.SUSPENDED):
            if state.features != self.negotiated_features:
                raise StateError("the device state belongs to a driver with other features")
            self._restore(state)
        else:
            self._loaded = state

    def _check_still(self) -> None:
        if any(queue.running for queue in self.queues):
            raise ConfigurationError(f"{self.name}: the state of a device whose queues run")

    def _check_state(self, state: SavedState) -> None:
        if state.device_id != self.device_id:
            raise StateError(
                f"the state of a device of type {state.device_id}, and this is one of {self.device_id}"
            )
        if missing := state.features & ~self.offered_features:
            raise StateError(f"its driver uses {feature_sets.names(self.type, missing)}, not offered here")
        if len(state.config) != self.config.size:
            raise StateError(
                f"{len(state.config)} bytes of configuration, and here there are {self.config.size}"
            )
        different = self._differences(state)
        fixed = [name for name in different if name not in self.movable and not self.config.writable(name)]
        if fixed:
            raise StateError(f"its driver knows other values of {', '.join(fixed)} than there are here")
        self.check_saved(state.own, {name: different[name] for name in different if name in self.movable})

    def _differences(self, state: SavedState) -> dict[str, Any]:
        def exists(field: Field) -> bool:
            return self.type.has(state.features, field.when)

        return self.config.differences(state.config, exists=exists)

    def _restore(self, state: SavedState) -> None:
        different = self._differences(state)
        for name, value in different.items():
            if self.config.writable(name):
                self.config.store(name, value)
        self._notify_later = any(not self.config.writable(name) for name in different)
        self.config.continue_from(state.generation + self._notify_later)
        self.restored(state.own)
        with self._lock:
            self._machine.needs_reset = bool(state.status & STATUS.DEVICE_NEEDS_RESET)

    def _enter(self, state: State) -> None:
        if state is State.NEGOTIATED:
            self._check_features()
            if self._loaded is not None and self._loaded.features != self.negotiated_features:
                raise FeatureNegotiationError("other features than the state was saved with", "3.1.1")
            self.negotiated(self.negotiated_features)
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                self._restore(loaded)
        elif state is State.SUSPENDED:
            # Presented to the driver only when no buffer is under way any more (3.4.2).
            for queue in self.queues:
                queue.pause()
        # RUNNING first, queues then: their workers may ask for the state.
        self._machine.commit(state)
        if state is State.RUNNING:
            for queue in self.queues:
                queue.go_live(self.negotiated_features)
            if self._notify_later:
                self._notify_later = False
                self._config_changed()

    def _check_features(self) -> None:
        if self._refused is not None:
            raise self._refused
        # A driver that never wrote any features has accepted none.
        feature_sets.check_accepted(self.type, self.offered_features, self.negotiated_features)

    def _restart(self) -> None:
        with self._lock:
            self._machine.reset()
        self._refused = None
        self._loaded = None
        self._notify_later = False
        self.negotiated_features = 0
        if self.administration is not None:
            self.administration.reset()

    def _fault(self, fault: ProtocolError) -> None:
        """A queue found that the driver broke the standard. Its worker has stopped; the others go on."""
        with self._lock:
            first = not self._machine.needs_reset
            self._machine.needs_reset = True
        _log.error("%s: needs a reset: %s", self.name, fault)
        events = self._events
        if first and events is not None:
            events.needs_reset(fault)
            if self._machine.state is State.RUNNING:
                events.config_changed()  # a must after DRIVER_OK (2.1.2)

    # --- the transport's side: configuration space

    @property
    def config_size(self) -> int:
        """Bytes in the configuration space."""
        return self.config.size

    @property
    def config_generation(self) -> int:
        """Changes whenever the device changed its configuration (2.5)."""
        return self.config.generation

    def read_config(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes; zeros beyond the end. Allowed at any time (2.5.2)."""
        return self.config.read(offset, size)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take what the driver writes; :exc:`~virtio.ProtocolError` where it may not write."""
        if self._machine.state is State.SUSPENDED:
            _log.info("%s: ignored a configuration write while suspended", self.name)
            return
        if data:
            self.config_written(self.config.write(offset, bytes(data), writable=self.may_write))

    def _config_changed(self) -> None:
        events = self._events
        if self._machine.state is State.SUSPENDED:
            self._notify_later = True
        elif events is not None and self._machine.state in (State.NEGOTIATED, State.RUNNING):
            events.config_changed()


def _device_type(device: Device) -> DeviceType:
    spec = getattr(type(device), "spec", None)
    found = getattr(spec, "DEVICE", spec)
    if not isinstance(found, DeviceType):
        raise ConfigurationError(
            f"{type(device).__name__} does not say what it is: set spec = virtio.spec.entropy, say"
        )
    return found


def _integers(config: ConfigSpace) -> dict[str, int]:
    return {name: value for name in config if isinstance(value := config[name], int)}
