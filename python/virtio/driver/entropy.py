"""The driver of an entropy device (VIRTIO 1.4, 5.4)."""

import threading
import time
from types import ModuleType
from typing import ClassVar

from virtio import spec
from virtio._native import SharedBuffer
from virtio.driver.base import Driver
from virtio.driver.queue import DriverQueue
from virtio.errors import DeviceError

CHUNK = 4096
"""Bytes asked for at once."""


class EntropyDriver(Driver):
    """Random bytes from the device."""

    spec: ClassVar[ModuleType] = spec.entropy

    def set_up(self) -> None:
        """Add the only queue."""
        self._queue = self.add_queue(0)
        self._buffer = self.allocate(CHUNK)
        self._pending: int | None = None
        self._reading = threading.Lock()

    def queue_reset(self, queue: DriverQueue, native: object) -> None:
        """What was asked for does not come any more."""
        self._pending = None

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """Return ``size`` random bytes. One call after another: they share a buffer.

        Raises ``TimeoutError`` after ``timeout`` seconds. What the device fills in later is not lost: the
        next call gets it.
        """
        if size < 0:
            raise ValueError("size must not be negative")
        deadline = None if timeout is None else time.monotonic() + timeout
        found = bytearray()
        with self._reading:
            while len(found) < size:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                found += self._chunk(self._buffer, min(size - len(found), CHUNK), left)
        return bytes(found[:size])

    def _chunk(self, buffer: SharedBuffer, size: int, timeout: float | None) -> bytes:
        self._check_open()
        native = self._queue.native
        if self._pending is None:
            self._pending = native.submit([], [(buffer.address, size)])
            assert self._pending is not None, "nothing else is in this queue"
        written, _ = native.wait(self._pending, timeout)
        self._pending = None
        if written == 0:
            # 5.4.6.2: the device must place at least one byte.
            raise DeviceError("the device gave back a buffer without random bytes (VIRTIO 1.4, 5.4.6.2)", 0)
        return bytes(memoryview(buffer)[:written])
