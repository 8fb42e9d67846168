"""The driver's side of ``mem:`` between two processes, see :mod:`.mem_wire`."""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from typing import Any

from virtio.blocks import Closing
from virtio.errors import ConfigurationError, DeviceError, Error, RefusedError, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.spec.core import STATUS, F
from virtio.transport import mem_wire as wire
from virtio.transport.news import ConfigCallback, FailureCallback, NewsDesk
from virtio.transport.notifier import Notifier
from virtio.transport.unix.ancillary import receive, send
from virtio.transport.unix.connector import open_connection, unanswered
from virtio.transport.unix.framing import close_all

_log = logging.getLogger("virtio.transport.mem")


class RemoteMemEnd(Closing):
    """A device in another process: a :class:`~virtio.driver.wire.DriverEnd`."""

    def __init__(self, place: str, memory: SharedMemory, timeout: float) -> None:
        """Connect to the device at ``place``; ``memory`` belongs to this end from here."""
        self.address = f"mem:{place}"
        self.timeout = timeout
        self.memory = memory
        self._turn = threading.RLock()
        self._state = threading.Condition()
        self._answer: dict[str, Any] | None = None
        self._asking = False
        self._number = 0
        self._failure: Error | None = None
        self._carries_data = False
        self._notifiers: dict[int, Notifier] = {}
        self._desk = NewsDesk(self.address)
        self._framer = wire.framer()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._socket = open_connection(place, "mem", timeout)
        except BaseException:
            os.close(self._wake)
            raise
        self._thread = threading.Thread(target=self._run, name=f"mem {place}", daemon=True)
        self._thread.start()
        try:
            self._introduce()
            for region in memory.regions:
                self._share(region)
            memory.on_growth(self._share)
        except BaseException:
            self._hang_up(TransportError("the connection is closed"))
            raise

    def _introduce(self) -> None:
        found = self._ask("hello", timeout=float(self.timeout))
        try:
            self.device_id = _number(found["device_id"])
            self.device_features = _number(found["features"])
            self.config_size = _number(found["config_size"])
            self._sizes = [_number(size) for size in found["queues"]]
            self.admin_queues = range(*(_number(edge) for edge in found["admin_queues"]))
        except (LookupError, TypeError, ValueError) as error:
            raise self._lost(TransportError(f"the device says about itself: {found!r:.80}")) from error

    # --- features and status

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts."""
        if unexpected := features & ~self.device_features:
            raise ConfigurationError(f"features {unexpected:#x} are not offered")
        self._ask("accept", features=features)
        self._carries_data = bool(features & F.NOTIFICATION_DATA)

    @property
    def status(self) -> int:
        """The device status field."""
        return self._ask_number("status")

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 resets. What the device refuses shows when it is read."""
        if status == 0:
            self.reset()
        else:
            self._ask("set_status", status=status)

    def reset(self) -> None:
        """Reset the device."""
        with self._turn:
            self._ask("reset")
            for index in list(self._notifiers):
                self._notifiers.pop(index).close()
            self._carries_data = False
            self._desk.forget()

    # --- configuration space

    @property
    def config_generation(self) -> int:
        """The device's own number."""
        return self._ask_number("generation")

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space."""
        self._within(offset, size)
        found = self._ask("read_config", offset=offset, size=size)
        with contextlib.suppress(TypeError, ValueError):
            data = bytes.fromhex(found)
            if len(data) == size:
                return data
        raise self._lost(TransportError(f"{size} bytes of configuration space are not what came"))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        self._within(offset, len(data))
        self._ask("write_config", offset=offset, data=bytes(data).hex())

    def _within(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > min(self.config_size, wire.MAX_CONFIG):
            self._check()
            raise RefusedError(f"configuration space has {self.config_size} bytes")

    # --- queues

    @property
    def max_queues(self) -> int:
        """How many queues the device has."""
        return len(self._sizes)

    def max_queue_size(self, index: int) -> int:
        """Most entries of a queue; 0: there is no such queue."""
        return self._sizes[index] if 0 <= index < len(self._sizes) else 0

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> Notifier:
        """Tell the device where a queue is and enable it."""
        with self._turn:
            self._check()
            if index in self._notifiers:
                raise ConfigurationError(f"queue {index} is started already")
            # No eventfd carries data.
            kick = (lambda data: self._kick(index, data)) if self._carries_data else None
            notifier = self._notifiers[index] = Notifier(kick)
            try:
                self._ask(
                    "start_queue",
                    (notifier.device_kick_fd, notifier.call_fd),
                    index=index,
                    size=size,
                    descriptors=descriptors,
                    available=available,
                    used=used,
                    base=-1 if base is None else base,
                )
            except BaseException:
                self._notifiers.pop(index).close()
                raise
            return notifier

    def stop_queue(self, index: int) -> int:
        """Stop a queue and return where to continue."""
        with self._turn:
            self._started(index)
            base = self._ask_number("stop_queue", index=index)
            self._notifiers.pop(index).close()
            return base

    def reset_queue(self, index: int) -> None:
        """Reset one queue."""
        with self._turn:
            self._started(index)
            self._ask("reset_queue", index=index)
            self._notifiers.pop(index).close()

    def _started(self, index: int) -> None:
        self._check()
        if index not in self._notifiers:
            raise ConfigurationError(f"queue {index} is not started")

    def _kick(self, index: int, data: int) -> None:
        with contextlib.suppress(TransportError):  # harmless on a device that is gone
            self._ask("kick", index=index, data=data)

    def _share(self, region: SharedRegion) -> None:
        self._ask(
            "share",
            (region.fd,),
            address=region.guest_address,
            size=region.size,
            user=region.user_address,
        )

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

    # --- asking

    def _ask_number(self, name: str, **given: int) -> int:
        found = self._ask(name, (), **given)
        try:
            return _number(found)
        except TypeError:
            raise self._lost(TransportError(f"the answer to {name} is {found!r:.80}")) from None

    def _ask(self, name: str, fds: tuple[int, ...] = (), **given: Any) -> Any:
        with self._turn:
            deadline = time.monotonic() + self.timeout
            with self._state:
                self._check()
                self._answer, self._asking = None, True
                self._number += 1
            self._send(wire.encode({"do": name, "as": self._number, **given}), fds, deadline)
            with self._state:
                self._state.wait_for(
                    lambda: self._answer is not None or self._failure is not None,
                    deadline - time.monotonic(),
                )
                answer, self._answer, self._asking = self._answer, None, False
                if answer is None:
                    self._check()
            if answer is None:
                raise self._lost(unanswered(name, self.timeout, first=name == "hello"))
        if "is" in answer:
            return answer["is"]
        kind = wire.ERRORS.get(str(answer.get("error")), RefusedError)
        raise kind(str(answer.get("text")))

    def _send(self, data: bytes, fds: tuple[int, ...], deadline: float) -> None:
        left = memoryview(data)
        while left:
            try:
                left, fds = left[send(self._socket, left, fds) :], ()
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    text = f"the device does not read within {self.timeout:g} s"
                    raise self._lost(TransportError(text)) from None
            except OSError as error:
                raise self._lost(TransportError(f"the connection broke: {error.strerror}")) from error

    def _check(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args) from self._failure

    def _lost(self, error: Error) -> Error:
        """Give up, for the first reason that there is; return it."""
        with self._state:
            first = self._failure is None
            found = self._failure = self._failure or error
            self._state.notify_all()
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        if first:
            _log.info("%s: the device is lost: %s", self.address, error)
            self._fail(found)
        return found

    # --- the thread that reads

    def _run(self) -> None:
        poll = select.poll()
        for fd in (self._socket.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        while self._failure is None:
            poll.poll()
            try:
                received = receive(self._socket, self._framer.wanted)
                if received is None:
                    continue
                if not received.data:
                    raise TransportError("the device hung up")
                for frame in self._framer.receive(received.data, received.fds):
                    close_all(frame.fds)
                    self._take(wire.decode(frame.data))
                if self._framer.failure is not None:
                    raise TransportError(self._framer.failure)
            except OSError as error:
                self._lost(TransportError(f"the connection broke: {error.strerror}"))
            except Error as error:
                self._lost(error)

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "config":
            self._desk.config_changed()
        elif message.get("event") == "broken":
            text = f"the device needs a reset: {message.get('text')}"
            self._fail(DeviceError(text, STATUS.DEVICE_NEEDS_RESET))
        else:
            with self._state:
                if not self._asking or self._answer is not None or message.get("to") != self._number:
                    raise TransportError("an answer to what was not asked")
                self._answer = message
                self._state.notify_all()

    # --- the end

    def close(self) -> None:
        """Stop all queues, let go of the device, and unmap the memory."""
        self._desk.close()
        self._hang_up(TransportError("the connection is closed"))
        with self._turn:
            for notifier in self._notifiers.values():
                notifier.close()
            self._notifiers.clear()
        self.memory.on_growth(None)
        self.memory.close()

    def _hang_up(self, reason: Error) -> None:
        with self._state:
            if self._socket.fileno() < 0:
                return
        self._lost(reason)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._turn, self._state:
            self._failure = reason
            if self._socket.fileno() >= 0:
                self._await_end()
                self._socket.close()
                self._framer.close()
                os.close(self._wake)
                self._wake = -1

    def _await_end(self) -> None:
        """Let the device finish what it has, as it does before it hangs up: its memory may go then."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            deadline = time.monotonic() + self.timeout
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                received = receive(self._socket, wire.MAX_MESSAGE)
                if received is not None and not received.data:
                    return
                if received is not None:
                    close_all(received.fds)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 128:
        raise TypeError(f"{value!r:.80} is no number")
    return value
