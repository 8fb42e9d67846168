"""What every driver does: find out, agree, set up, clean up (VIRTIO 1.4, 3.1.1).

An author derives a class, names the device type and what is understood of it, and sets up the queues::

    class EntropyDriver(Driver):
        spec = virtio.spec.entropy

        def set_up(self):
            self._queue = self.add_queue(0)
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from virtio._native import DriverQueue as NativeQueue
from virtio._native import SharedBuffer
from virtio.blocks import Closing
from virtio.driver.admin import Administration
from virtio.driver.config import DriverConfig
from virtio.driver.features import UNDERSTOOD, choose
from virtio.driver.queue import DriverQueue, kick_of
from virtio.driver.wire import DriverEnd, MovableEnd, QueueWire
from virtio.errors import (
    ConfigurationError,
    DeviceError,
    Error,
    FeatureNegotiationError,
    ProtocolError,
    TransportError,
)
from virtio.spec import core, selection
from virtio.spec.core import STATUS
from virtio.spec.model import DeviceType

QUEUE_SIZE = 256
POLLING = 50
"""Microseconds for which a thread that waits polls the ring before it sleeps, at most."""

_LOOK_AGAIN = 0.001

_log = logging.getLogger("virtio.driver")


class Driver(Closing):
    """The driver's end of one device. A context manager: leaving it resets the device and disconnects.

    Class attributes that authors set: ``spec``, a module of :mod:`virtio.spec` or its ``DEVICE``, and
    ``understood``, the features of the device type that the driver can use. Hooks: :meth:`set_up`, where the
    queues are added; :meth:`started`, when the device may be used; :meth:`config_changed`;
    :meth:`queue_reset`; :meth:`stopping`.
    """

    spec: ClassVar[ModuleType | DeviceType]
    understood: ClassVar[int] = 0

    def __init__(
        self,
        end: DriverEnd,
        *,
        mask: int | str = 0,
        queue_size: int = QUEUE_SIZE,
        polling: int = POLLING,
    ) -> None:
        """Initialise the device, which leaves it ready to be used.

        ``mask``: features not to accept, by bits or by names (``"EVENT_IDX,MQ"``). ``queue_size``: entries of
        each queue, at most. ``polling``: microseconds for which a thread that waits for the device looks at
        the ring before it sleeps, at most; how long it really does depends on how often that pays.
        """
        self.end = end
        self.type = device_type(type(self).spec)
        if queue_size < 1:
            raise ConfigurationError(f"a queue of {queue_size} entries")
        _check_polling(polling)
        self._mask = selection.parse(self.type, mask) if isinstance(mask, str) else mask
        self._queue_size = queue_size
        self._polling = polling
        self._closing = threading.Lock()
        self._suspending = threading.Lock()
        self._suspended = False
        self._closed = False
        self._failure: Error | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._status = 0
        self.queues: list[DriverQueue] = []
        self.administration: Administration | None = None
        """Commands for the device as the owner of a group, if it has an administration virtqueue."""
        self.features = 0
        try:
            self._initialise()
        except BaseException:
            # 3.1.1: a step that cannot be taken is told, and the device is not used again without a reset.
            if self._status:
                with contextlib.suppress(Error):
                    self._set_status(STATUS.FAILED)
            self._let_go()
            raise

    # --- hooks for authors

    def set_up(self) -> None:
        """Read the configuration and add the queues; the device does not use them yet."""
        raise NotImplementedError

    def started(self) -> None:
        """The device is live: queues may be used."""

    def config_changed(self) -> None:
        """The device says that its configuration has changed. Called from any thread."""

    def queue_reset(self, queue: DriverQueue, native: Any) -> None:
        """A queue was reset, and starts anew: nothing is in it. ``native`` is what :meth:`_add` made."""

    def stopping(self) -> None:
        """The device is about to be reset: end what waits for it."""

    # --- initialisation, step by step as in 3.1.1

    def _initialise(self) -> None:
        end, kind = self.end, self.type
        if end.device_id is not None and end.device_id != kind.id:
            found = _title(end.device_id)
            raise ConfigurationError(f"{end.address} is a device of type {found}, not {kind.name}")
        end.reset()
        self._status = 0
        self._set_status(STATUS.ACKNOWLEDGE)
        self._set_status(STATUS.DRIVER)
        understood = UNDERSTOOD | self.understood | core.F.ADMIN_VQ
        features = choose(kind, end.device_features, understood, self._mask)
        end.accept(features)
        self._set_status(STATUS.FEATURES_OK)
        status = end.status
        if not status & STATUS.FEATURES_OK:
            raise FeatureNegotiationError(
                f"the device does not go along with {selection.names(kind, features)}", "3.1.1"
            )
        self._check(status)
        self.features = features
        self.config = DriverConfig(end, kind, features)
        end.on_failure(self._failed)
        end.on_config_change(self._config_changed)
        self.set_up()
        if features & core.F.ADMIN_VQ and end.admin_queues:
            self.administration = Administration(self, end.admin_queues[0])
        self._set_status(STATUS.DRIVER_OK)
        self._check(end.status)
        self.started()

    def _set_status(self, bit: int) -> None:
        # 2.1.1: bits are added, and none is taken away but by a reset.
        self._status |= bit
        self.end.set_status(self._status)

    def _check(self, status: int) -> None:
        if status & STATUS.DEVICE_NEEDS_RESET:
            raise ProtocolError("the device needs a reset while it is being set up", "2.1.2")

    def add_queue(self, index: int, *, tables: int = 0) -> DriverQueue:
        """Add a queue and tell the device of it; ``tables``: descriptors of each indirect table."""
        return self._add(index, _plain(self._polling), tables=tables)[0]

    def _add(
        self,
        index: int,
        make: Callable[[DriverQueue, QueueWire], Any],
        *,
        tables: int = 0,
        more: Callable[[int], int] | None = None,
    ) -> tuple[DriverQueue, Any]:
        queue = DriverQueue(
            self.end,
            index,
            self._name(index),
            features=self.features,
            size=self._queue_size,
            tables=tables,
            more=more,
        )

        def again(size: int) -> None:
            queue.take(size)
            self.queue_reset(queue, queue.start(make))

        queue.on_reset(again)
        self.queues.append(queue)
        return queue, queue.start(make)

    def _name(self, index: int) -> str:
        if index in self.end.admin_queues:
            return "adminq"
        for slot in self.type.slots(self.features, self.config.integers()):
            if slot.index == index:
                return slot.name
        raise ConfigurationError(f"with these features a {self.type.name} device has no queue {index}")

    # --- in use

    @property
    def feature_names(self) -> list[str]:
        """The features that device and driver agreed on."""
        return [feature.name for feature in selection.known(self.type, self.features)]

    @property
    def failure(self) -> Error | None:
        """Why the device cannot be used any more, if it cannot."""
        return self._failure

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def allocate(self, size: int, alignment: int = 4096) -> SharedBuffer:
        """Take ``size`` bytes of the memory that the device shares, as an object with the buffer protocol.

        ``memoryview`` and ``numpy.frombuffer`` take it. It goes back when nothing refers to it any more.
        """
        self._check_open()
        piece = self.end.memory.allocate(size, alignment)
        return SharedBuffer(self.end.memory.native, piece.address, size, piece.free)

    def on_config_change(self, callback: Callable[[], object]) -> None:
        """Call this, from any thread, when the configuration has changed."""
        self._callbacks.append(callback)

    def set_polling(self, microseconds: int) -> None:
        """For how long a thread that waits polls before it sleeps, at most."""
        _check_polling(microseconds)
        self._polling = microseconds
        for queue in self.queues:
            queue.native.set_polling(microseconds)

    def move(self, address: str, *, state: bool = True) -> None:
        """Let the device at another address take the place of this one, while requests are under way.

        It has to be a device of the same kind, on the same storage, that no driver uses. What this one knows
        of its driver goes along; with ``state`` False it does not, for devices that have nothing to remember.
        What fails leaves the device where it was.
        """
        self._check_open()
        if not isinstance(self.end, MovableEnd):
            raise ConfigurationError(f"a device cannot move from {self.end.address}: its transport cannot")
        self.end.move(address, state=state)

    # --- suspended (3.4)

    @property
    def suspended(self) -> bool:
        """Whether the device stands still until :meth:`resume`."""
        return self._suspended

    def suspend(self) -> None:
        """Let the device stand still: it finishes what it has, and then touches nothing.

        Requests may be made meanwhile; the device gets them when it is resumed. Needs VIRTIO_F_SUSPEND.
        """
        self._check_open()
        if not self.features & core.F.SUSPEND:
            raise ConfigurationError("the device cannot be suspended (VIRTIO_F_SUSPEND)")
        with self._suspending:
            if self._suspended:
                return
            self._hold(True)
            try:
                self._await_status(STATUS.SUSPEND, gone=STATUS.DRIVER_OK)
            except BaseException:
                self._hold(False)
                raise
            self._suspended = True

    def resume(self) -> None:
        """Let the device go on."""
        self._check_open()
        with self._suspending:
            if not self._suspended:
                return
            self._await_status(STATUS.DRIVER_OK, gone=STATUS.SUSPEND)
            self._suspended = False
            self._hold(False)

    def _hold(self, held: bool) -> None:
        # 3.4.1: neither buffers nor notifications nor changes of the configuration.
        self.config.hold(held)
        for queue in self.queues:
            queue.native.hold(held)

    def _await_status(self, bit: int, *, gone: int) -> None:
        """Set a bit of the status, and wait until the device shows it and has cleared another."""
        self.end.set_status(self._status | bit)
        deadline = time.monotonic() + self.end.timeout
        while (status := self.end.status) & (bit | gone) != bit:
            if status & STATUS.DEVICE_NEEDS_RESET:
                raise ProtocolError("the device fails to be suspended or resumed: it needs a reset", "3.4.2")
            if time.monotonic() > deadline:
                raise TransportError(f"the device shows status {status:#x} and does not change it")
            time.sleep(_LOOK_AGAIN)
        self._status = self._status & ~gone | bit

    def _config_changed(self) -> None:
        try:
            self.config_changed()
        except Error as error:
            _log.warning("%s: after a change of the configuration: %s", self.end.address, error)
        for callback in self._callbacks:
            callback()

    def _failed(self, error: Error) -> None:
        self._failure = error
        for queue in self.queues:
            if hasattr(queue, "native"):
                queue.native.fail(str(error), needs_reset=isinstance(error, DeviceError))

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("the driver is closed")
        if self._failure is not None:
            raise self._failure

    # --- the end

    def close(self) -> None:
        """Reset the device, take the memory back, and disconnect. Who still waits gets an error."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            self.stopping()
        finally:
            for queue in self.queues:
                queue.native.fail("the driver is closed")
            self._let_go()

    def _let_go(self) -> None:
        end = self.end
        try:
            end.on_config_change(None)
            end.on_failure(None)
            # 3.3.1: nothing may be taken from a device that could still use it.
            end.reset()
        except Error as error:
            _log.debug("%s: while letting go: %s", end.address, error)
        for queue in self.queues:
            queue.close()
        if self.administration is not None:
            self.administration.close()
        end.close()

    def __repr__(self) -> str:
        """Show what is driven, and where."""
        state = "closed" if self._closed else "failed" if self._failure else "live"
        return f"<{type(self).__name__} {self.end.address}, {state}>"


def device_type(spec: ModuleType | DeviceType) -> DeviceType:
    """The description of a device type, given by itself or by its module."""
    found = getattr(spec, "DEVICE", spec)
    if not isinstance(found, DeviceType):
        raise ConfigurationError(f"{spec!r} describes no device type")
    return found


def _check_polling(microseconds: int) -> None:
    if not 0 <= microseconds < 1 << 40:
        raise ConfigurationError(f"polling for {microseconds} microseconds")


def _plain(polling: int) -> Callable[[DriverQueue, QueueWire], NativeQueue]:
    def make(queue: DriverQueue, wire: QueueWire) -> NativeQueue:
        return NativeQueue(
            queue._end.memory.native,
            queue.native_ring,
            kick=kick_of(wire),
            call=wire.call_fd,
            tables=queue.tables,
            polling=polling,
        )

    return make


def _title(number: int) -> str:
    from virtio.spec.core import DEVICE_IDS

    return next((row.name or str(number) for row in DEVICE_IDS if row.id == number), str(number))
