"""A device behind a vhost-user socket, as its driver sees it."""

import contextlib
import errno
import os
import socket
import time
from types import TracebackType
from typing import Self

from virtio.errors import ConfigurationError, DeviceError, Error, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.spec.core import STATUS
from virtio.transport.news import ConfigCallback, FailureCallback, NewsDesk
from virtio.transport.notifier import Notifier
from virtio.transport.vhost_user.client import Client
from virtio.transport.vhost_user.exchange import Called, ConfigNews, News, QueueBroke, Script, T
from virtio.transport.vhost_user.frontend import MAX_QUEUE_SIZE, MAX_QUEUES, FrontEnd, Ring
from virtio.transport.vhost_user.messages import ProtocolFeature

_RETRY_SECONDS = 0.02


class VhostUserDriverEnd:
    """The front end: a :class:`~virtio.driver.wire.DriverEnd`."""

    device_id = None

    def __init__(
        self,
        place: str,
        *,
        timeout: float,
        memory: SharedMemory,
        in_band: bool = False,
    ) -> None:
        """Connect to the back end at ``place`` and agree with it; ``memory`` belongs to this end."""
        self.address = f"vhost-user:{place}"
        self.timeout = timeout
        self.memory = memory
        self.config_generation = 0
        self._front = FrontEnd(in_band=in_band)
        self._notifiers: dict[int, Notifier] = {}
        self._desk = NewsDesk(self.address)
        self._client: Client | None = None
        self._closed = False
        memory.on_growth(self._share)
        try:
            self._connect(place)
        except BaseException:
            self.close()
            raise

    def _connect(self, place: str) -> None:
        client = self._client = Client(
            open_connection(place, self.timeout),
            name=self.address,
            timeout=self.timeout,
            on_news=self._take,
            on_lost=self._lost,
        )
        front = self._front
        client.call(front.negotiate())
        if front.has(ProtocolFeature.REPLY_ACK):
            client.acknowledge()
        client.call(front.ask_limits())
        if front.has(ProtocolFeature.BACKEND_REQ):
            theirs = client.open_channel(front.channel())
            try:
                client.call(front.open_channel(theirs))
            finally:
                os.close(theirs)

    # --- features and status

    @property
    def device_features(self) -> int:
        """What the device offers, without what this transport cannot carry."""
        return self._front.device_features

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        self._call(self._front.accept(features))

    @property
    def status(self) -> int:
        """The device status field; emulated for a back end without the protocol feature STATUS."""
        return self._call(self._front.status())

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets."""
        if status == 0:
            self.reset()
        else:
            self._call(self._front.set_status(status))

    def reset(self) -> None:
        """Stop all queues and reset the device."""
        self._call(self._front.reset())
        for index in list(self._notifiers):
            self._release(index)
        self._desk.forget()

    # --- configuration space

    @property
    def config_size(self) -> int | None:
        """0 without the protocol feature CONFIG; else the protocol does not tell."""
        return None if self._front.has(ProtocolFeature.CONFIG) else 0

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space."""
        return self._call(self._front.read_config(offset, size))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        self._call(self._front.write_config(offset, bytes(data)))

    # --- queues

    @property
    def max_queues(self) -> int | None:
        """How many queues there are; None without the protocol feature MQ."""
        return self._front.queues

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
        notifier = Notifier((lambda: self._kick(index, notifier)) if front.in_band else None)
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
            self._call(front.start(index, ring, self.memory.regions))
            self._connected().watch_error(notifier.error_fd, index)
        except BaseException:
            self._release(index)
            raise
        return notifier

    def stop_queue(self, index: int) -> int:
        """Stop a queue and return where to continue."""
        base = self._call(self._front.stop(index))
        self._release(index)
        return base

    def reset_queue(self, index: int) -> None:
        """Reset one queue: to the back end it is stopped, and described anew when it is started."""
        self.stop_queue(index)

    def _kick(self, index: int, notifier: Notifier) -> None:
        if not notifier.closed:
            self._call(self._front.kick(index))

    def _release(self, index: int) -> None:
        notifier = self._notifiers.pop(index)
        if self._client is not None:
            self._client.forget_error(notifier.error_fd)
        notifier.close()

    # --- news

    def on_config_change(self, callback: ConfigCallback | None) -> None:
        """Call this after a configuration change notification."""
        self._desk.on_config_change(callback)

    def on_failure(self, callback: FailureCallback | None) -> None:
        """Call this once, when the device is lost or needs a reset."""
        self._desk.on_failure(callback)

    def _take(self, news: News) -> None:
        """Take what the back end tells, on the connection's thread."""
        match news:
            case ConfigNews():
                self.config_generation += 1
                self._desk.config_changed()
            case Called(queue):
                if (notifier := self._notifiers.get(queue)) is not None:
                    notifier.call()
            case QueueBroke(queue):
                self._front.broken = True
                reason = f"the device gave up on queue {queue}; it needs a reset"
                self._failed(DeviceError(reason, STATUS.DEVICE_NEEDS_RESET))

    def _lost(self, error: Error) -> None:
        self._failed(error)

    def _failed(self, error: Error) -> None:
        self._desk.failed(error)
        for notifier in list(self._notifiers.values()):
            notifier.call()  # Whoever waits for the device looks up.

    # --- the end

    def close(self) -> None:
        """Stop all queues, reset, disconnect, and unmap the memory."""
        if self._closed:
            return
        self._desk.close()
        client = self._client
        if client is not None and client.failure is None and self._front.rings:
            # Should it fail: that the connection ends resets the device too.
            with contextlib.suppress(Error):
                self.reset()
        self._closed = True
        if client is not None:
            client.close()
        for index in list(self._notifiers):
            self._release(index)
        self.memory.on_growth(None)
        self.memory.close()

    def __enter__(self) -> Self:
        """Use it within a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _share(self, region: SharedRegion) -> None:
        """Share a region that was added; before the first queue they are shared all at once."""
        if self._front.sharing:
            self._call(self._front.share([*self.memory.regions, region]))

    def _call(self, script: Script[T]) -> T:
        return self._connected().call(script)

    def _connected(self) -> Client:
        if self._closed or self._client is None:
            raise TransportError("the connection is closed")
        self._client.check()
        return self._client


def open_connection(place: str, timeout: float) -> socket.socket:
    """Connect to ``PATH``, ``@NAME`` or ``fd=NUMBER``."""
    if place.startswith("fd="):
        return _adopt(place)
    if not place:
        raise ConfigurationError("the address has no path: write vhost-user:/run/disk.sock")
    name = "\0" + place[1:] if place.startswith("@") else place
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + timeout
    try:
        connection.setblocking(False)
        while True:
            code = connection.connect_ex(name)
            if code == 0:
                return connection
            if code != errno.EAGAIN or time.monotonic() > deadline:
                break
            time.sleep(_RETRY_SECONDS)  # Too many others are waiting to be accepted.
    except OSError as error:
        connection.close()
        raise ConfigurationError(f"{place}: {error}") from error
    except BaseException:
        connection.close()
        raise
    connection.close()
    raise TransportError(f"{place}: nobody answers there: {os.strerror(code)}")


def _adopt(place: str) -> socket.socket:
    number = place.removeprefix("fd=")
    if not number.isdecimal():
        raise ConfigurationError(f"{place}: not a descriptor number")
    try:
        adopted = socket.socket(fileno=int(number))
    except OSError as error:
        raise ConfigurationError(f"{place}: not an open socket") from error
    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        adopted.detach()
        raise ConfigurationError(f"{place}: not a Unix stream socket")
    os.set_inheritable(adopted.fileno(), False)
    return adopted
