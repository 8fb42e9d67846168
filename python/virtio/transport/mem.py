"""``mem:NAME``: both ends in one process, without a socket. The reference among the transports.

``mem:PATH`` (with a ``/`` in it) and ``mem:@NAME`` join two processes in the same way, see :mod:`.mem_wire`.

A device is started under a name, a driver connects to the name. Everything that is a register elsewhere is a
call here, made on the driver's thread; only notifications and data take their usual way, by eventfds and
through shared memory that either end maps for itself.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from virtio._native import Memory
from virtio.blocks import Closing
from virtio.errors import (
    ConfigurationError,
    DeviceError,
    Error,
    FeatureNegotiationError,
    ProtocolError,
    RefusedError,
    TransportError,
)
from virtio.memory.iommu import IommuDomain, Mapping, domain_of
from virtio.memory.shared import DEFAULT_SIZE, SharedMemory, SharedRegion
from virtio.spec.core import STATUS, F
from virtio.transport.answering import Answering, Question
from virtio.transport.in_process import InProcessServer, find
from virtio.transport.interface import DeviceEnd, Server
from virtio.transport.news import ConfigCallback, FailureCallback, NewsDesk
from virtio.transport.notifier import Notifier

if TYPE_CHECKING:
    from virtio.transport.mem_client import RemoteMemEnd

_log = logging.getLogger("virtio.transport.mem")

CARRIED_FEATURES = ((1 << 128) - 1) & ~(F.SR_IOV | F.NOTIF_CONFIG_DATA)
"""All but those that need a PCI function."""


class MemDriverEnd(Closing):
    """The driver's end: a :class:`~virtio.driver.wire.DriverEnd`."""

    def __init__(self, server: InProcessServer, memory: SharedMemory, timeout: float) -> None:
        """Connect to a device; ``memory`` belongs to this end from here."""
        self.address = server.address
        self.timeout = timeout
        self.memory = memory
        self._server = server
        self._device = server.device
        self._seen = Memory()  # the memory, as the device maps it
        self._lock = threading.RLock()
        self._notifiers: dict[int, Notifier] = {}
        self._desk = NewsDesk(self.address)
        self._failure: Error | None = None
        self._answering: Answering | None = None
        if memory.domain is not None:
            self._answering = Answering(memory.domain, self.address)
        server.take(self)
        try:
            self._check_offer()
            for region in memory.regions:
                self._share(region)
            memory.on_growth(self._share)
            self._device.attach(self._seen, self)
        except BaseException:
            server.leave(self)
            self._seen.clear()
            raise

    # --- the device speaks, from any thread

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""
        self._desk.config_changed()

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device cannot go on until it is reset."""
        error = DeviceError(f"the device needs a reset: {fault}", STATUS.DEVICE_NEEDS_RESET)
        error.__cause__ = fault
        self._fail(error)

    # --- features and status

    @property
    def device_id(self) -> int:
        """The number of the device's type."""
        return self._device.device_id

    @property
    def device_features(self) -> int:
        """What the device offers, without what this transport cannot carry."""
        features = self._device.offered_features & CARRIED_FEATURES
        return features if self._answering is not None else features & ~F.ACCESS_PLATFORM

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        if unexpected := features & ~self.device_features:
            raise ConfigurationError(f"features {unexpected:#x} are not offered")
        if self._answering is not None and not features & F.ACCESS_PLATFORM:
            raise ConfigurationError("VIRTIO_F_ACCESS_PLATFORM must be accepted: there is an IOMMU")
        with self._use() as device:
            self._say(lambda: device.negotiate(features))
        if self._answering is not None:
            self._seen.translate(True, self.timeout)
            self._seen.on_miss(self._ask)
            self._answering.domain.attach(self)

    @property
    def status(self) -> int:
        """The device status field."""
        with self._use() as device:
            return device.status

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets. What the device refuses shows when it is read."""
        if status == 0:
            self.reset()
            return
        with self._use() as device:
            self._say(lambda: device.set_status(status))

    def reset(self) -> None:
        """Reset the device."""
        with self._use() as device:
            device.set_status(0)
            for index in list(self._notifiers):
                self._release(index)
            self._desk.forget()
        if self._answering is not None:
            self._answering.domain.detach(self)

    def _say(self, call: Callable[[], object]) -> None:
        try:
            call()
        except ProtocolError as error:
            _log.info("%s: the device refuses: %s", self.address, error)

    # --- the device's translations, if there is an IOMMU

    def update(self, mapping: Mapping) -> None:
        """Tell the device where I/O virtual addresses lead."""
        self._seen.update_translation(
            mapping.iova, mapping.size, mapping.user_address, mapping.access, self.timeout
        )

    def invalidate(self, iova: int, size: int) -> None:
        """Have the device forget them."""
        self._seen.invalidate_translation(iova, size, self.timeout)

    def _ask(self) -> None:
        """Take what the device asks, on a queue's thread."""
        if self._answering is None:
            return
        for iova, access, failed in self._seen.take_misses():
            if failed:
                self._answering.domain.failed(iova, access)
                continue

            def settle(done: bool, iova: int = iova, access: int = access) -> None:
                if not done:
                    self._seen.refuse_translation(iova, access)

            self._answering.ask(Question(iova, access, settle))

    def _check_offer(self) -> None:
        if self._answering is not None and not self._device.offered_features & F.ACCESS_PLATFORM:
            raise FeatureNegotiationError(
                "the device does not offer VIRTIO_F_ACCESS_PLATFORM, so there can be no IOMMU",
                "6.1",
                missing=F.ACCESS_PLATFORM,
            )

    # --- configuration space

    @property
    def config_size(self) -> int:
        """Bytes of configuration space."""
        return self._device.config_size

    @property
    def config_generation(self) -> int:
        """The device's own number."""
        return self._device.config_generation

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space."""
        with self._use() as device:
            if offset < 0 or size < 0 or offset + size > device.config_size:
                raise RefusedError(f"configuration space has {device.config_size} bytes")
            return device.read_config(offset, size)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        with self._use() as device:
            if offset < 0 or offset + len(data) > device.config_size:
                raise RefusedError(f"configuration space has {device.config_size} bytes")
            try:
                device.write_config(offset, bytes(data))
            except ProtocolError as error:
                raise RefusedError(f"the device does not take it: {error}") from error

    # --- queues

    @property
    def max_queues(self) -> int:
        """How many queues the device has."""
        return len(self._device.queues)

    @property
    def admin_queues(self) -> range:
        """Which of them are administration virtqueues."""
        return self._device.admin_queues

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue; 0: there is no such queue."""
        return self._device.queues[index].max_size if 0 <= index < self.max_queues else 0

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> Notifier:
        """Tell the device where a queue is and enable it."""
        with self._use() as device:
            if not 0 <= index < self.max_queues:
                raise ConfigurationError(f"there is no queue {index}; there are {self.max_queues}")
            if index in self._notifiers:
                raise ConfigurationError(f"queue {index} is started already")
            if not device.status & STATUS.FEATURES_OK:
                raise ConfigurationError("a queue is started before features were accepted")
            queue = device.queues[index]
            # No eventfd carries data.
            carries = device.negotiated_features & F.NOTIFICATION_DATA
            notifier = self._notifiers[index] = Notifier(queue.notify if carries else None)
            try:
                queue.reset()
                queue.configure(
                    size=size,
                    descriptors=descriptors,
                    available=available,
                    used=used,
                    space="guest",
                    base=base,
                )
                queue.set_kick(None if carries else notifier.device_kick_fd)
                queue.set_call(notifier.call_fd)
                queue.start()
            except BaseException:
                self._release(index)
                raise
            return notifier

    def stop_queue(self, index: int) -> int:
        """Stop a queue and return where to continue."""
        with self._use() as device:
            if index not in self._notifiers:
                raise ConfigurationError(f"queue {index} is not started")
            base = device.queues[index].stop(self.timeout)
            self._release(index)
            return base

    def reset_queue(self, index: int) -> None:
        """Reset one queue."""
        with self._use() as device:
            if not device.negotiated_features & F.RING_RESET:
                raise ConfigurationError("VIRTIO_F_RING_RESET was not negotiated")
            self.stop_queue(index)
            device.queues[index].reset()

    def _release(self, index: int) -> None:
        self._notifiers.pop(index).close()
        with contextlib.suppress(ConfigurationError):  # The device may be detached.
            queue = self._device.queues[index]
            queue.stop(self.timeout)
            queue.set_kick(None)
            queue.set_call(None)

    # --- news

    def on_config_change(self, callback: ConfigCallback | None) -> None:
        """Call this after a configuration change notification."""
        self._desk.on_config_change(callback)

    def on_failure(self, callback: FailureCallback | None) -> None:
        """Call this once, when the device is lost or needs a reset."""
        self._desk.on_failure(callback)

    def _fail(self, error: Error) -> None:
        self._desk.failed(error)
        for notifier in list(self._notifiers.values()):
            notifier.call()  # Whoever waits for the device looks up.

    # --- the end

    def lose(self, error: Error) -> None:
        """The device goes away."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
            try:
                self._device.detach()
                self._seen.on_miss(None)
                self._seen.clear(self.timeout)
            finally:
                self._server.leave(self)
        self._fail(error)

    def close(self) -> None:
        """Stop all queues, let go of the device, and unmap the memory."""
        self._desk.close()
        with self._lock:
            self.lose(TransportError("the connection is closed"))
            self._failure = TransportError("the connection is closed")
            for notifier in self._notifiers.values():
                notifier.close()
            self._notifiers.clear()
        if self._answering is not None:
            self._answering.domain.detach(self)
            self._answering.close()
        self.memory.on_growth(None)
        self.memory.close()

    def _share(self, region: SharedRegion) -> None:
        self._seen.add(region.guest_address, region.size, region.fd, user_address=region.user_address)

    @contextlib.contextmanager
    def _use(self) -> Iterator[DeviceEnd]:
        """One call at a time, and none to a device that is gone."""
        with self._lock:
            if self._failure is not None:
                raise type(self._failure)(*self._failure.args) from self._failure
            yield self._device


def start(device: DeviceEnd, name: str) -> Server:
    """Make ``device`` known as ``mem:NAME`` in this process, or at ``mem:PATH`` in all."""
    if _is_place(name):
        from virtio.transport import mem_server

        return mem_server.start(device, name)
    return InProcessServer(device, "mem", name)


def _is_place(name: str) -> bool:
    return "/" in name or name.startswith("@")


def open_driver_end(
    name: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
    iommu: bool | IommuDomain = False,
) -> "MemDriverEnd | RemoteMemEnd":
    """Connect to the device that is known as ``mem:NAME`` in this process, or at ``mem:PATH``.

    ``iommu``: a domain through which the device sees the memory; True: one that maps all of it. Between two
    processes there is none.
    """
    if not timeout > 0:
        raise ConfigurationError(f"a timeout of {timeout:g} seconds")
    place = _is_place(name)
    if place and iommu:
        raise ConfigurationError(f"mem:{name} leads to another process, which has no IOMMU")
    server = None if place else find("mem", name)
    memory = SharedMemory(memory_size, huge_pages=huge_pages, domain=domain_of(iommu))
    try:
        if server is None:
            from virtio.transport.mem_client import RemoteMemEnd

            return RemoteMemEnd(name, memory, timeout)
        return MemDriverEnd(server, memory, timeout)
    except BaseException:
        memory.close()
        raise
