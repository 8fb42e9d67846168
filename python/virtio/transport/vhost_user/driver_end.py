"""A device behind a vhost-user socket, as its driver sees it."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from virtio.blocks import Closing
from virtio.errors import ConfigurationError, DeviceError, Error, RefusedError, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.spec.core import STATUS, F
from virtio.transport.address import parse
from virtio.transport.news import ConfigCallback, FailureCallback, NewsDesk
from virtio.transport.notifier import Notifier
from virtio.transport.unix.connector import open_connection
from virtio.transport.vhost_user import recovery, relocation
from virtio.transport.vhost_user.client import Client
from virtio.transport.vhost_user.exchange import (
    Called,
    ConfigNews,
    Missed,
    News,
    QueueBroke,
    Script,
    T,
    UnrecoverableError,
    ViolationError,
)
from virtio.transport.vhost_user.frontend import MAX_QUEUE_SIZE, MAX_QUEUES, FrontEnd, Ring
from virtio.transport.vhost_user.iommu import FrontEndIommu
from virtio.transport.vhost_user.messages import ProtocolFeature
from virtio.transport.vhost_user.payloads import Iotlb
from virtio.transport.vhost_user.place import parse_place

_log = logging.getLogger("virtio.transport.vhost_user")


class VhostUserDriverEnd(Closing):
    """The front end: a :class:`~virtio.driver.wire.DriverEnd`."""

    device_id = None

    def __init__(
        self,
        place: str,
        *,
        timeout: float,
        memory: SharedMemory,
        in_band: bool = False,
        reconnect: float = 0.0,
    ) -> None:
        """Connect to the back end at ``place`` and agree with it; ``memory`` belongs to this end.

        If the back end goes away, come back to it, or its successor, for ``reconnect`` seconds.
        """
        self.address = f"vhost-user:{place}"
        self.timeout = timeout
        self.memory = memory
        self.config_generation = 0
        self._place = place
        self._in_band = in_band
        self._reconnect = reconnect
        self._iommu: FrontEndIommu | None = None
        if memory.domain is not None:
            self._iommu = FrontEndIommu(memory.domain, self.address, self._tell)
        self._front = self._new_front()
        self._notifiers: dict[int, Notifier] = {}
        self._desk = NewsDesk(self.address)
        self._client: Client | None = None
        self._generation = 0
        self._recovery: threading.Thread | None = None
        self._lock = threading.Lock()
        self._gate = threading.RLock()  # while the device moves, calls wait
        self._leaving = threading.Event()
        memory.on_growth(self._share)
        try:
            self._client = self._open(self._front)
        except BaseException:
            self.close()
            raise
        if self._client.failure is not None:
            self._lost(self._generation, self._client.failure)

    def _new_front(self) -> FrontEnd:
        iommu = self._iommu is not None
        return FrontEnd(in_band=self._in_band, inflight=self._reconnect > 0, iommu=iommu)

    def _tell(self, entry: Iotlb) -> None:
        self._call(lambda front: front.translate(entry))

    def _open(self, front: FrontEnd, place: str | None = None) -> Client:
        """Connect, and agree on what comes before the driver."""
        generation = self._generation = self._generation + 1
        client = Client(
            open_connection(place or self._place, "vhost-user", self.timeout),
            name=self.address,
            timeout=self.timeout,
            on_news=lambda news: self._take(news, client),
            on_lost=lambda error: self._lost(generation, error),
        )
        try:
            self._agree(client, front)
        except BaseException:
            client.close()
            raise
        return client

    def _agree(self, client: Client, front: FrontEnd) -> None:
        client.call(front.negotiate())
        if self._iommu is not None:
            self._iommu.check(front.offered)
        if front.has(ProtocolFeature.REPLY_ACK):
            client.acknowledge()
        client.call(front.ask_limits())
        if front.has(ProtocolFeature.BACKEND_REQ):
            theirs = client.open_channel(front.channel())
            try:
                client.call(front.open_channel(theirs))
            finally:
                os.close(theirs)

    @property
    def away(self) -> bool:
        """Whether the back end is gone and being waited for."""
        return self._recovery is not None

    # --- features and status

    @property
    def device_features(self) -> int:
        """What the device offers, without what this transport cannot carry."""
        return self._front.device_features

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        self._call(lambda front: front.accept(features))
        if self._iommu is not None:
            self._call(lambda front: front.share(self.memory.regions))
            self._iommu.attach()

    @property
    def status(self) -> int:
        """The device status field; emulated for a back end without the protocol feature STATUS."""
        return self._call(lambda front: front.status())

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets."""
        if status == 0:
            self.reset()
        else:
            self._call(lambda front: front.set_status(status))

    def reset(self) -> None:
        """Stop all queues and reset the device."""
        self._call(lambda front: front.reset())
        if self._iommu is not None:
            self._iommu.detach()
        for index in list(self._notifiers):
            self._release(index)
        self._forget_inflight()
        self._desk.forget()

    # --- configuration space

    @property
    def config_size(self) -> int | None:
        """0 without the protocol feature CONFIG; else the protocol does not tell."""
        return None if self._front.has(ProtocolFeature.CONFIG) else 0

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space."""
        return self._call(lambda front: front.read_config(offset, size))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        self._call(lambda front: front.write_config(offset, bytes(data)))

    # --- queues

    @property
    def max_queues(self) -> int | None:
        """How many queues there are; None without the protocol feature MQ."""
        return self._front.queues

    @property
    def admin_queues(self) -> range:
        """None: this transport does not carry them."""
        return range(0)

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue."""
        return MAX_QUEUE_SIZE if 0 <= index < (self._front.queues or MAX_QUEUES) else 0

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> Notifier:
        """Tell the device where a queue is and enable it."""
        front = self._front
        self._connected()
        if index in self._notifiers:
            raise ConfigurationError(f"queue {index} is started already")
        notifier = Notifier((lambda _: self._kick(index, notifier)) if front.in_band else None)
        ring = Ring(
            size=size,
            descriptors=descriptors,
            available=available,
            used=used,
            base=front.fresh_base() if base is None else base,
            kick=notifier.device_kick_fd,
            call=notifier.call_fd,
            error=notifier.error_fd,
        )
        self._notifiers[index] = notifier
        try:
            self._call(lambda front: front.start(index, ring, self.memory.regions))
            self._connected().watch_error(notifier.error_fd, index)
        except BaseException:
            self._release(index)
            raise
        return notifier

    def stop_queue(self, index: int) -> int:
        """Stop a queue and return where to continue."""
        base = self._call(lambda front: front.stop(index))
        self._release(index)
        return base

    def reset_queue(self, index: int) -> None:
        """Reset one queue: to the back end it is stopped, and described anew when it is started."""
        if not (self._front.accepted or 0) & F.RING_RESET:
            raise ConfigurationError("VIRTIO_F_RING_RESET was not negotiated")
        self.stop_queue(index)

    def _kick(self, index: int, notifier: Notifier) -> None:
        if not notifier.closed:
            self._call(lambda front: front.kick(index))

    def _release(self, index: int) -> None:
        notifier = self._notifiers.pop(index)
        if self._client is not None:
            self._client.forget_error(notifier.error_fd)
        notifier.close()

    # --- moving

    def move(self, address: str, *, state: bool = True) -> None:
        """Go over to the back end at another address, which takes the device's place.

        The device's state goes along, unless ``state`` is False; rings go on where they were. What fails
        leaves the device where it was, if that is still there.
        """
        scheme, rest = parse(address)
        place, in_band = parse_place(rest)
        if scheme != "vhost-user" or in_band != self._in_band or place == self._place:
            raise ConfigurationError(f"the device cannot move from {self.address} to {address}")
        with self._gate:
            self._move(place, state=state)

    def _move(self, place: str, *, state: bool) -> None:
        client, lost, generation = self._connected(), self._front, self._generation
        if lost.logging or lost.broken:
            raise ConfigurationError("a device that has a dirty log, or needs a reset, cannot move")
        bases = client.call(lost.suspend())
        new: Client | None = None
        try:
            data = relocation.save(client, lost, self.timeout) if state else None
            front = self._new_front()
            new = self._open(front, place)
            if data is not None:
                relocation.load(new, front, data, self.timeout)
            new.call(front.resume(lost, self.memory.regions, bases))
        except BaseException:
            self._generation = generation
            if new is not None:
                new.close()
            with contextlib.suppress(TransportError):  # then the connection is lost, which is told
                client.call(lost.restart(bases))
            self._ring_all()
            raise
        with self._lock:
            self._front, self._client, self._place = front, new, place
            self.address = f"vhost-user:{place}"
        for index, notifier in list(self._notifiers.items()):
            client.forget_error(notifier.error_fd)
            new.watch_error(notifier.error_fd, index)
        client.close()
        self._ring_all()
        if new.failure is not None:
            self._lost(self._generation, new.failure)

    def _ring_all(self) -> None:
        """Let both ends of every ring look at it: kicks and calls are no state."""
        if self._iommu is not None and self._front.accepted is not None:
            self._iommu.attach()  # The back end may be a new one.
        for notifier in list(self._notifiers.values()):
            notifier.kick()
            notifier.call()

    # --- dirty log

    def log_to(self, fd: int, size: int, notify: int | None = None) -> None:
        """Have each page of 4096 bytes that the device writes noted as a bit in ``size`` bytes of ``fd``.

        It takes the place of an earlier log, and when this returns the earlier one is not written any more.
        ``notify``: an eventfd to signal when there is something new in this log and all later ones.
        :exc:`~virtio.errors.RefusedError` if the back end has no dirty log.
        """
        self._call(lambda front: front.log_to(fd, size, notify))

    def stop_logging(self) -> None:
        """Have nothing noted any more."""
        self._call(lambda front: front.stop_logging())

    # --- news

    def on_config_change(self, callback: ConfigCallback | None) -> None:
        """Call this after a configuration change notification."""
        self._desk.on_config_change(callback)

    def on_failure(self, callback: FailureCallback | None) -> None:
        """Call this once, when the device is lost or needs a reset."""
        self._desk.on_failure(callback)

    def _take(self, news: News, client: Client) -> None:
        """Take what the back end tells, on the connection's thread."""
        match news:
            case ConfigNews():
                self.config_generation += 1
                self._desk.config_changed()
            case Called(queue):
                if (notifier := self._notifiers.get(queue)) is not None:
                    notifier.call()
            case Missed() if self._iommu is not None:
                self._iommu.missed(news, client)
            case QueueBroke(queue):
                self._front.broken = True
                reason = f"the device gave up on queue {queue}; it needs a reset"
                self._failed(DeviceError(reason, STATUS.DEVICE_NEEDS_RESET))

    def _lost(self, generation: int, error: Error) -> None:
        """Take note that a connection is lost, from any thread."""
        with self._lock:
            opening = self._client is None or self._recovery is not None
            if opening or generation != self._generation or self._leaving.is_set():
                return  # who opens it finds out
            if self._reconnect and not isinstance(error, ViolationError):
                name = f"recovery of {self.address}"
                offered = recovery.offered(self._front, self.memory)
                thread = threading.Thread(target=self._recover, args=(error, offered), name=name, daemon=True)
                thread.start()
                self._recovery = thread
                return
        self._failed(error)

    def _recover(self, error: Error, offered: Mapping[int, int]) -> None:
        """Come back to the back end, and let the driver know as little of it as possible."""
        lost, deadline = self._front, time.monotonic() + self._reconnect
        old = self._client
        if old is not None:
            old.close()
        for delay in recovery.delays():
            if self._leaving.wait(delay):
                break
            try:
                if self._come_back(lost, offered):
                    return
            except (ViolationError, UnrecoverableError, ConfigurationError) as reason:
                error = reason
                break
            except Error as reason:
                error = reason
            if time.monotonic() > deadline:
                break
        with self._lock:
            self._recovery = None
        self._failed(error)

    def _come_back(self, lost: FrontEnd, offered: Mapping[int, int]) -> bool:
        front = self._new_front()
        client = self._open(front)
        try:
            # Not before the new back end has answered: until then the old one may be finishing its requests.
            bases = recovery.bases(lost, self.memory, offered)
            client.call(front.resume(lost, self.memory.regions, bases))
        except BaseException:
            client.close()
            raise
        with self._lock:
            if self._leaving.is_set():
                client.close()
                return True
            self._front, self._client, self._recovery = front, client, None
        _log.info("%s: the back end is back", self.address)
        if client.failure is not None:
            self._lost(self._generation, client.failure)
            return True
        for index, notifier in list(self._notifiers.items()):
            client.watch_error(notifier.error_fd, index)
        self._ring_all()
        self.config_generation += 1
        self._desk.config_changed()
        return True

    def _failed(self, error: Error) -> None:
        self._desk.failed(error)
        for notifier in list(self._notifiers.values()):
            notifier.call()  # Whoever waits for the device looks up.

    # --- the end

    def close(self) -> None:
        """Stop all queues, reset, disconnect, and unmap the memory."""
        with self._lock:
            if self._leaving.is_set():
                return
            self._leaving.set()
            thread = self._recovery
        self._desk.close()
        if thread is not None:
            thread.join()
        with self._gate:
            client = self._client
            if thread is None and client is not None and client.failure is None and self._front.rings:
                # Should it fail: that the connection ends resets the device too.
                with contextlib.suppress(Error):
                    client.call(self._front.reset())
        if self._client is not None:
            self._client.close()
        if self._iommu is not None:
            self._iommu.close()
        for index in list(self._notifiers):
            self._release(index)
        self._forget_inflight()
        self.memory.on_growth(None)
        self.memory.close()

    def _share(self, region: SharedRegion) -> None:
        """Share a region that was added; before the first queue they are shared all at once."""
        if self._front.sharing:
            self._call(lambda front: front.share([*self.memory.regions, region]))

    def _forget_inflight(self) -> None:
        """After a reset nothing is in flight, and the next memory is a new one."""
        inflight, self._front.inflight = self._front.inflight, None
        if inflight is not None:
            os.close(inflight[1])

    def _call(self, script: Callable[[FrontEnd], Script[T]]) -> T:
        """Carry out a procedure; again, if the back end went away meanwhile and came back."""
        with self._gate:
            while True:
                client = self._connected()
                try:
                    return client.call(script(self._front))
                except RefusedError:
                    raise
                except TransportError:
                    if client.failure is None or not self._reconnect:
                        raise

    def _connected(self) -> Client:
        """Return the connection; wait for it, if it is being made anew."""
        with self._lock:
            client, generation = self._client, self._generation
        if client is not None and client.failure is not None:
            self._lost(generation, client.failure)  # should its own thread not have come to it yet
        thread = self._recovery
        if thread is not None and thread is not threading.current_thread():
            thread.join(self.timeout)
            if thread.is_alive():
                raise TransportError(f"the back end is away, and has not come back in {self.timeout:g} s")
        if self._leaving.is_set() or self._client is None:
            raise TransportError("the connection is closed")
        self._client.check()
        return self._client
