"""A driver in the same process: the model's rings in a memfd, and a device attached to it."""

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from virtio._native import Memory
from virtio.device.base import LIVE, Device
from virtio.errors import ProtocolError
from virtio.queue.model import SplitDriver, Used
from virtio.queue.model.packed import PackedDriver
from virtio.spec import block, core

GUEST = 0x1_0000_0000
"""Guest memory begins above 4 GiB, so that truncated addresses show."""
TIMEOUT = 10.0


class Events:
    """What the device told its transport."""

    def __init__(self) -> None:
        self.config_changes = 0
        self.faults: list[ProtocolError] = []
        self.happened = threading.Event()

    def config_changed(self) -> None:
        self.config_changes += 1
        self.happened.set()

    def needs_reset(self, fault: ProtocolError) -> None:
        self.faults.append(fault)
        self.happened.set()


class Rig:
    """Attaches a device and drives it. All features that are offered are accepted, but for those given."""

    without = 0
    """Features that no driver accepts: the layout fixture's."""

    def __init__(
        self,
        device: Device,
        *,
        features: int | None = None,
        without: int = 0,
        queue_size: int = 64,
        room: int = 1 << 20,
        live: bool = True,
    ) -> None:
        self.device = device
        self.events = Events()
        self.memory = Memory()
        each = room + (1 << 16)
        size = each * len(device.queues)
        self._fd = os.memfd_create("guest")
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self.memory.add(GUEST, size, self._fd)
        self.features = (device.offered_features if features is None else features) & ~(
            without | self.without
        )
        self._used = threading.Event()
        packed = self.features & core.F.RING_PACKED
        self.drivers: list[SplitDriver | PackedDriver] = [
            (PackedDriver if packed else SplitDriver)(
                self._map,
                GUEST + index * each,
                queue_size,
                self.features,
                start=GUEST,
                end=GUEST + (index + 1) * each,
            )
            for index in range(len(device.queues))
        ]
        device.attach(self.memory, self.events)
        if live:
            self.go_live()

    def go_live(self) -> None:
        """Do what a driver does at initialization (3.1.1)."""
        self.device.set_status(core.STATUS.ACKNOWLEDGE)
        self.device.set_status(core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER)
        self.device.negotiate(self.features)
        self.device.set_status(LIVE & ~core.STATUS.DRIVER_OK)
        assert self.device.status & core.STATUS.FEATURES_OK
        self.enable_queues()
        self.device.set_status(LIVE)

    def enable_queues(self) -> None:
        for queue, driver in zip(self.device.queues, self.drivers, strict=True):
            queue.configure(size=driver.size, **driver.addresses)
            queue.set_call(self._used.set)
            queue.start()

    def add(self, queue: int, readable: Sequence[bytes | int] = (), writable: Sequence[int] = ()) -> int:
        """Make one buffer available, and say so."""
        driver = self.drivers[queue]
        head = driver.add(readable, writable)
        driver.publish()
        self.device.queues[queue].notify()
        return head

    def used(self, queue: int, count: int = 1) -> list[Used]:
        """Wait until ``count`` buffers have come back."""
        found: list[Used] = []
        until = time.monotonic() + TIMEOUT
        driver = self.drivers[queue]
        while len(found) < count:
            self._used.clear()
            found += driver.poll_used()
            if len(found) >= count:
                break
            if driver.enable_interrupts():
                continue
            if not self._used.wait(max(0, until - time.monotonic())):
                raise TimeoutError(f"{len(found)} of {count} buffers used; faults: {self.events.faults}")
        return found

    def none_used(self, queue: int, seconds: float = 0.1) -> bool:
        """Whether nothing comes back for a while."""
        time.sleep(seconds)
        return not self.drivers[queue].poll_used()

    def ask(self, queue: int, readable: Sequence[bytes | int] = (), writable: Sequence[int] = ()) -> bytes:
        """Make one buffer available, wait for it, and return what was written."""
        head = self.add(queue, readable, writable)
        (used,) = self.used(queue)
        assert used.head == head
        return self.drivers[queue].data(head)[: used.written]

    def close(self) -> None:
        self.device.detach()
        for driver in self.drivers:
            driver.close()
        self.memory.clear()
        with contextlib.suppress(BufferError):
            self._map.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


OK, IOERR, UNSUPP = block.S.OK, block.S.IOERR, block.S.UNSUPP


class Disk(Rig):
    """A rig that speaks to a block device."""

    def request(
        self,
        kind: int,
        sector: int = 0,
        data: Sequence[bytes] = (),
        into: Sequence[int] = (),
        *,
        queue: int = 0,
        header: Sequence[int] = (16,),
    ) -> tuple[int, bytes]:
        """Send one request and return its status and what was read."""
        head = self.submit(kind, sector, data, into, queue=queue, header=header)
        (used,) = self.used(queue)
        assert used.head == head
        return self.result(head, used, queue=queue)

    def submit(
        self,
        kind: int,
        sector: int = 0,
        data: Sequence[bytes] = (),
        into: Sequence[int] = (),
        *,
        queue: int = 0,
        header: Sequence[int] = (16,),
    ) -> int:
        """Send one request."""
        packed = block.HEADER.pack(type=kind, sector=sector)
        pieces = []
        for size in header:
            pieces.append(packed[:size])
            packed = packed[size:]
        return self.add(queue, [*pieces, *data], [*into, 1])

    def result(self, head: int, used: Used, *, queue: int = 0) -> tuple[int, bytes]:
        """Take apart what came back."""
        written = self.drivers[queue].data(head)
        assert used.written == len(written) or written[-1] != OK
        return written[-1], written[:-1]

    def read(self, sector: int, size: int = 512) -> tuple[int, bytes]:
        return self.request(block.T.IN, sector, into=[size])

    def write(self, sector: int, data: bytes) -> int:
        return self.request(block.T.OUT, sector, data=[data])[0]

    def flush(self) -> int:
        return self.request(block.T.FLUSH)[0]

    def segments(self, kind: int, *ranges: tuple[int, int, int]) -> int:
        """Send a discard, write-zeroes or secure-erase request: sector, sectors, flags of each segment."""
        packed = b"".join(
            sector.to_bytes(8, "little") + sectors.to_bytes(4, "little") + flags.to_bytes(4, "little")
            for sector, sectors, flags in ranges
        )
        return self.request(kind, 0, data=[packed])[0]
