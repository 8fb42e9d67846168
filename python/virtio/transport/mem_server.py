"""The device's side of ``mem:`` between two processes, see :mod:`.mem_wire`."""

import contextlib
import logging
import selectors
import socket
from collections.abc import Callable, Iterator
from typing import Any

from virtio._native import Memory
from virtio.errors import ConfigurationError, Error, ProtocolError, RefusedError, TransportError
from virtio.spec.core import STATUS, F
from virtio.transport import mem_wire as wire
from virtio.transport.interface import DeviceEnd, QueueEnd
from virtio.transport.unix.ancillary import Outbox, receive
from virtio.transport.unix.framing import Frame, close_all
from virtio.transport.unix.listener import open_listener
from virtio.transport.unix.mailbox import Mailbox
from virtio.transport.unix.server import SocketServer

_log = logging.getLogger("virtio.transport.mem")

CARRIED_FEATURES = ((1 << 128) - 1) & ~(F.ACCESS_PLATFORM | F.SR_IOV | F.NOTIF_CONFIG_DATA)
"""All but those that need an IOMMU or a PCI function."""

_LONGEST = 60.0


class RemoteDriver:
    """A driver in another process, from its connection to its end."""

    def __init__(self, device: DeviceEnd, driver: socket.socket, name: str) -> None:
        """Take over the socket and attach the device."""
        self._name = name
        self._device = device
        self._memory = Memory()
        self._timeout = 5.0
        self._end: str | None = None
        self._framer = wire.framer()
        self._socket = driver
        self._socket.setblocking(False)
        self._outbox = Outbox(driver, wire.MAX_MESSAGE * 4)
        self._mailbox: Mailbox[str] = Mailbox()
        self._selector = selectors.DefaultSelector()
        try:
            device.attach(self._memory, self)
        except BaseException:
            self._mailbox.close()
            self._selector.close()
            raise

    # --- the device speaks, from any thread

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""
        self._mailbox.post("")

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device cannot go on until it is reset."""
        self._mailbox.post(str(fault))

    # --- the connection

    def run(self, stop: int, waiting: socket.socket | None) -> str:
        """Serve until the driver goes, or ``stop`` becomes readable; return why it ended."""
        del waiting  # its turn comes
        self._watch(stop, lambda _: self._finish("the server stops"))
        self._watch(self._mailbox.fd, lambda _: self._read_mail())
        self._watch(self._socket, self._on_socket)
        while self._end is None:
            for key, events in self._selector.select():
                if self._end is None:
                    key.data(events)
        return self._end

    def close(self) -> None:
        """Let go of the device, finishing what it has begun, and close everything."""
        try:
            self._device.detach()
        finally:
            self._memory.clear(self._timeout)
            self._framer.close()
            self._mailbox.close()
            self._selector.close()
            self._socket.close()

    def _watch(self, target: socket.socket | int, call: Callable[[int], object]) -> None:
        self._selector.register(target, selectors.EVENT_READ, call)

    def _finish(self, reason: str) -> None:
        self._end = self._end or reason

    def _read_mail(self) -> None:
        for text in self._mailbox.take():
            self._send({"event": "broken", "text": text} if text else {"event": "config"})

    def _on_socket(self, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._outbox.flush()
                self._adjust()
            received = receive(self._socket, self._framer.wanted) if events & selectors.EVENT_READ else None
        except OSError as error:
            self._finish(error.strerror or str(error))
            return
        if received is None:
            return
        if not received.data:
            self._finish("it hung up")
            return
        for frame in self._framer.receive(received.data, received.fds, lost=received.lost):
            try:
                self._take(frame)
            finally:
                close_all(frame.fds)
        if self._framer.failure is not None:
            self._finish(self._framer.failure)

    def _take(self, frame: Frame) -> None:
        try:
            message = wire.decode(frame.data)
        except TransportError as error:
            self._finish(str(error))
            return
        number = message.pop("as", None)
        try:
            name, given = wire.arguments(message)
            if len(frame.fds) != wire.DESCRIPTORS.get(name, 0) or frame.problem is not None:
                raise RefusedError(f"{name} with {len(frame.fds)} descriptors")
            if name in wire.DESCRIPTORS:
                given["fds"] = frame.fds
            answer = {"is": getattr(self, f"_do_{name}")(**given)}
        except Error as error:
            answer = wire.failure(error)
        except (ValueError, OverflowError) as error:
            answer = wire.failure(RefusedError(str(error)))
        except Exception as error:
            _log.exception("%s: a request failed in the device", self._name)
            answer = wire.failure(RefusedError(f"the device failed: {error}"))
        self._send({"to": number if isinstance(number, int) else None, **answer})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._outbox.send(wire.encode(message))
        except OSError as error:
            self._finish(error.strerror or str(error))
            return
        if self._outbox.overfull:
            self._finish("it does not read its answers")
        self._adjust()

    def _adjust(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox.pending else 0)
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events, self._on_socket)

    # --- what is asked for

    def _do_hello(self, timeout: float) -> dict[str, Any]:
        self._timeout = min(max(timeout, 0.01), _LONGEST)
        device = self._device
        admin = device.admin_queues
        return {
            "device_id": device.device_id,
            "features": device.offered_features & CARRIED_FEATURES,
            "config_size": device.config_size,
            "queues": [queue.max_size for queue in device.queues],
            "admin_queues": [admin.start, admin.stop],
        }

    def _do_accept(self, features: int) -> None:
        with self._told():
            self._device.negotiate(features)

    def _do_status(self) -> int:
        return self._device.status

    def _do_set_status(self, status: int) -> None:
        if not 0 < status <= 0xFF:
            raise ConfigurationError(f"status {status:#x}")
        with self._told():
            self._device.set_status(status)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the device refuses shows in the status."""
        try:
            yield
        except ProtocolError as error:
            _log.info("%s: the device refuses: %s", self._name, error)

    def _do_reset(self) -> None:
        self._device.set_status(0)
        for queue in self._device.queues:
            queue.set_kick(None)
            queue.set_call(None)

    def _do_generation(self) -> int:
        return self._device.config_generation

    def _do_read_config(self, offset: int, size: int) -> str:
        self._within(offset, size)
        return self._device.read_config(offset, size).hex()

    def _do_write_config(self, offset: int, data: str) -> None:
        found = bytes.fromhex(data)
        self._within(offset, len(found))
        try:
            self._device.write_config(offset, found)
        except ProtocolError as error:
            raise RefusedError(f"the device does not take it: {error}") from error

    def _within(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > min(self._device.config_size, wire.MAX_CONFIG):
            raise RefusedError(f"configuration space has {self._device.config_size} bytes")

    def _do_share(self, address: int, size: int, user: int, fds: list[int]) -> None:
        self._memory.add(address, size, fds[0], user_address=user)

    def _do_start_queue(
        self, index: int, size: int, descriptors: int, available: int, used: int, base: int, fds: list[int]
    ) -> None:
        queue = self._queue(index)
        if not self._device.status & STATUS.FEATURES_OK:
            raise ConfigurationError("a queue is started before features were accepted")
        carries = self._device.negotiated_features & F.NOTIFICATION_DATA
        try:
            queue.reset()
            queue.configure(
                size=size,
                descriptors=descriptors,
                available=available,
                used=used,
                space="guest",
                base=base if base >= 0 else None,
            )
            queue.set_kick(None if carries else fds[0])
            queue.set_call(fds[1])
            queue.start()
        except BaseException:
            self._release(index)
            raise

    def _do_stop_queue(self, index: int) -> int:
        base = self._queue(index).stop(self._timeout)
        self._release(index)
        return base

    def _do_reset_queue(self, index: int) -> None:
        if not self._device.negotiated_features & F.RING_RESET:
            raise ConfigurationError("VIRTIO_F_RING_RESET was not negotiated")
        self._queue(index).reset()
        self._release(index)

    def _do_kick(self, index: int, data: int) -> None:
        self._queue(index).notify(data & 0xFFFF_FFFF)

    def _queue(self, index: int) -> QueueEnd:
        if not 0 <= index < len(self._device.queues):
            raise ConfigurationError(f"there is no queue {index}; there are {len(self._device.queues)}")
        return self._device.queues[index]

    def _release(self, index: int) -> None:
        queue = self._queue(index)
        queue.stop(self._timeout)
        queue.set_kick(None)
        queue.set_call(None)


def start(device: DeviceEnd, place: str) -> SocketServer:
    """Serve ``device`` to drivers in other processes, at a path or ``@NAME``."""
    return SocketServer(
        device,
        open_listener(place, "mem"),
        lambda driver, name: RemoteDriver(device, driver, name),
        scheme="mem",
        client="driver",
    )
