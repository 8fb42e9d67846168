"""Guest memory in a memfd with the model's driver in it, and a native queue on the same ring."""

import mmap
import os
import select
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from virtio.errors import ProtocolError
from virtio.memory import Memory
from virtio.queue import Handler, Queue
from virtio.queue.model import SplitDriver, Used
from virtio.queue.model.ring import EVENT_IDX, INDIRECT_DESC

START = 0x1_0000_0000
"""Guest memory begins above 4 GiB, so that truncated addresses show."""
USER = 0x7F00_0000_0000
FEATURES = INDIRECT_DESC | EVENT_IDX
PATIENCE = 10.0


class Guest:
    """A guest with one split queue and the device's native end of it."""

    def __init__(
        self,
        handler: Handler,
        *,
        size: int = 16,
        features: int = FEATURES,
        memory: int = 1 << 20,
        start: bool = True,
        base: int = 0,
    ) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, memory)
        self.map = mmap.mmap(self.fd, memory)
        self.memory = Memory()
        self.memory.add(START, memory, self.fd, user_address=USER)
        self.driver = SplitDriver(self.map, START, size, features, start=START)
        self.faults: list[ProtocolError] = []
        self.fault = threading.Event()
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.error = os.eventfd(0, os.EFD_NONBLOCK)
        self.queue = Queue(self.memory, 0, handler, on_fault=self._on_fault, name="test")
        self.queue.configure(size=size, features=features, base=base, **self.driver.addresses)
        self.queue.set_kick(self.kick)
        self.queue.set_call(self.call)
        self.queue.set_error(self.error)
        if start:
            self.queue.start()

    def _on_fault(self, fault: ProtocolError) -> None:
        self.faults.append(fault)
        self.fault.set()

    def publish(self) -> bool:
        """Show the device what was added, and kick if it wants to be kicked."""
        self.driver.publish()
        wanted = self.driver.needs_kick()
        if wanted:
            os.eventfd_write(self.kick, 1)
        return wanted

    def collect(self, count: int, timeout: float = PATIENCE) -> list[Used]:
        """Wait by interrupts, never by polling, until so many buffers have been used."""
        used: list[Used] = []
        end = time.monotonic() + timeout
        while True:
            used += self.driver.poll_used()
            if len(used) >= count:
                return used
            if self.driver.enable_interrupts():
                continue
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.call], [], [], left)[0]:
                raise AssertionError(f"{len(used)} of {count} buffers used; {self.queue} {self.faults}")
            os.eventfd_read(self.call)

    def ask(self, readable: list[bytes | int], writable: list[int]) -> tuple[bytes, int]:
        """Send one buffer through; return its device-writable part and the used length."""
        head = self.driver.add(readable, writable)
        self.publish()
        (used,) = self.collect(1)
        assert used.head == head
        return self.driver.data(head), used.written

    def close(self) -> None:
        self.queue.stop()
        for fd in (self.fd, self.kick, self.call, self.error):
            os.close(fd)
        self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait for something that nothing announces."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)
