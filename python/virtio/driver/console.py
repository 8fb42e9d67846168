"""The driver of a console device (VIRTIO 1.4, 5.3): port 0."""

import threading
import time
from collections import deque
from types import ModuleType
from typing import ClassVar

from virtio import spec
from virtio.driver.base import Driver
from virtio.driver.queue import DriverQueue
from virtio.errors import ConfigurationError
from virtio.spec import console as layout

CHUNK = 4096
RECEIVE_BUFFERS = 16
SEND_BUFFERS = 16


class ConsoleDriver(Driver):
    """Characters to and from the device's port 0."""

    spec: ClassVar[ModuleType] = spec.console
    # Several ports need the control queues, which this driver does not have.
    understood: ClassVar[int] = layout.F.SIZE | layout.F.EMERG_WRITE

    def set_up(self) -> None:
        """Add the two queues of port 0."""
        self._receive = self.add_queue(0)
        self._transmit = self.add_queue(1)
        count = min(RECEIVE_BUFFERS, self._receive.size)
        self._inward = [self.allocate(CHUNK) for _ in range(count)]
        self._outward = [self.allocate(CHUNK) for _ in range(min(SEND_BUFFERS, self._transmit.size))]
        self._waiting: deque[tuple[int, int]] = deque()
        self._kept = b""
        self._sent: dict[int, int] = {}
        self._idle = list(range(len(self._outward)))
        self._receiving = threading.Lock()
        self._sending = threading.Lock()

    def started(self) -> None:
        """Give the device buffers for what it has to say."""
        for number in range(len(self._inward)):
            self._offer(number)

    def queue_reset(self, queue: DriverQueue, native: object) -> None:
        """Offer the buffers anew; characters in those that were out are lost."""
        if queue is self._receive:
            self._waiting.clear()
            for number in range(min(len(self._inward), queue.size)):
                self._offer(number)
        else:
            self._sent.clear()
            self._idle = list(range(min(len(self._outward), queue.size)))

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows; None: the device does not tell."""
        if not self.features & layout.F.SIZE:
            return None
        values = self.config.values()
        return values["cols"], values["rows"]

    def receive(self, size: int = CHUNK, timeout: float | None = None) -> bytes:
        """Return what has come, at least one byte and at most ``size``.

        Raises ``TimeoutError`` if nothing came for ``timeout`` seconds.
        """
        if size < 1:
            raise ValueError("size must be positive")
        with self._receiving:
            while not self._kept:
                self._check_open()
                token, number = self._waiting[0]
                # Buffers of one queue may come back in any order, but a stream has one: the device fills
                # them in the order in which they were offered.
                written, _ = self._receive.native.wait(token, timeout)
                self._waiting.popleft()
                self._kept = bytes(memoryview(self._inward[number])[:written])
                self._offer(number)
            data, self._kept = self._kept[:size], self._kept[size:]
        return data

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> None:
        """Hand ``data`` to the device; it is copied. Waits while the device has too much already.

        Raises ``TimeoutError`` after ``timeout`` seconds; then a part of it may have been sent.
        """
        rest = memoryview(data).cast("B")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._sending:
            while rest:
                number = self._free_buffer(deadline)
                piece, rest = rest[:CHUNK], rest[CHUNK:]
                memoryview(self._outward[number])[: len(piece)] = piece
                address = self._outward[number].address
                token = self._transmit.native.submit([(address, len(piece))], [])
                assert token is not None, "there are no more buffers than entries"
                self._sent[token] = number

    def drain(self, timeout: float | None = None) -> None:
        """Wait until the device has taken everything that was sent."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._sending:
            for token in list(self._sent):
                self._transmit.native.wait(token, _left(deadline))
                self._idle.append(self._sent.pop(token))

    def emergency_write(self, character: int) -> None:
        """Write one character without queues (5.3.5)."""
        if not self.features & layout.F.EMERG_WRITE:
            raise ConfigurationError("the device does not offer VIRTIO_CONSOLE_F_EMERG_WRITE")
        self.config.emerg_wr = character

    def _offer(self, number: int) -> None:
        token = self._receive.native.submit([], [(self._inward[number].address, CHUNK)])
        assert token is not None, "there are no more buffers than entries"
        self._waiting.append((token, number))

    def _free_buffer(self, deadline: float | None) -> int:
        self._check_open()
        native = self._transmit.native
        for token in list(self._sent):
            if native.poll(token) is None:
                break
            self._idle.append(self._sent.pop(token))
        if not self._idle:
            oldest = next(iter(self._sent))
            native.wait(oldest, _left(deadline))
            self._idle.append(self._sent.pop(oldest))
        return self._idle.pop()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
