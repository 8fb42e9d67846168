"""A small virtual machine: a vhost-user front end with the model's driver in it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.transport.frontend import FrontEnd, GuestMemory, readable

from virtio.queue.model import SplitDriver
from virtio.spec import core
from virtio.transport.vhost_user.messages import ProtocolFeature
from virtio.transport.vhost_user.payloads import VringState

PROTOCOL = (ProtocolFeature.REPLY_ACK, ProtocolFeature.CONFIG, ProtocolFeature.MQ)
FEATURES = (1 << 30) - 1 | core.F.VERSION_1


def wait_for(path: Path, seconds: float = 20.0) -> None:
    """Wait until somebody listens at a socket."""
    until = time.monotonic() + seconds
    while not path.is_socket():
        assert time.monotonic() < until, f"{path} does not appear"
        time.sleep(0.01)


class Machine:
    """Connects to a device, negotiates and enables its queues."""

    def __init__(self, path: Path, queues: int = 1, *, features: int = FEATURES, room: int = 1 << 19) -> None:
        self.end = FrontEnd.connect(path)
        self.features = self.end.negotiate(features, PROTOCOL)
        self.memory = GuestMemory((room + (1 << 16)) * queues)
        self.end.tell("SET_MEM_TABLE", [self.memory.region], [self.memory.fd])
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        self.drivers: list[SplitDriver] = []
        for index in range(queues):
            begin = index * (room + (1 << 16))
            driver = SplitDriver(
                self.memory.map, begin, 64, self.features & ~(1 << 30), end=begin + room + (1 << 16)
            )
            self.drivers.append(driver)
            self.end.ring(index, 64, driver.addresses, self.memory)
            self.end.tell("SET_VRING_CALL", index, [self.calls[index]])
            self.end.tell("SET_VRING_KICK", index, [self.kicks[index]])
            self.end.tell("SET_VRING_ENABLE", VringState(index, 1))
        self.end.barrier()

    def add(self, queue: int, readable: Sequence[bytes | int] = (), writable: Sequence[int] = ()) -> int:
        """Make a buffer available."""
        head = self.drivers[queue].add(readable, writable)
        self.drivers[queue].publish()
        os.eventfd_write(self.kicks[queue], 1)
        return head

    def ask(self, queue: int, readable: Sequence[bytes | int] = (), writable: Sequence[int] = ()) -> bytes:
        """Make a buffer available, wait for it, and return what was written."""
        head = self.add(queue, readable, writable)
        return self.used(queue, head)

    def used(self, queue: int, head: int) -> bytes:
        """Wait for one buffer to come back."""
        driver = self.drivers[queue]
        until = time.monotonic() + 10
        while True:
            for used in driver.poll_used():
                assert used.head == head
                return driver.data(head)[: used.written]
            if not driver.enable_interrupts():
                assert readable(self.calls[queue], until - time.monotonic()), "no answer from the device"
                os.eventfd_read(self.calls[queue])

    def close(self) -> None:
        self.end.close()
        for driver in self.drivers:
            driver.close()
        self.memory.close()
        for fd in (*self.kicks, *self.calls):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
