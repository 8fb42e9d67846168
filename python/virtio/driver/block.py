"""The driver of a block device (VIRTIO 1.4, 5.2).

Places are sectors of 512 bytes. Any thread may call. If the device has several queues, each thread has one of
its own, as far as they go round. Waiting for the device does not hold the GIL.
"""

import array
import os
import threading
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from typing_extensions import Buffer

from virtio import spec
from virtio._native import BlockRequests, LoadResult, SharedBuffer
from virtio.driver.base import POLLING, QUEUE_SIZE, Driver
from virtio.driver.block_requests import Request, check
from virtio.driver.queue import DriverQueue, kick_of
from virtio.driver.wire import DriverEnd, QueueWire
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import block as layout

if TYPE_CHECKING:
    from virtio.driver.block_async import Watcher
    from virtio.driver.block_file import DiskFile

SECTOR = layout.SECTOR_SIZE
CHUNK = 128 << 10
"""Bytes of each piece of a queue's bounce buffer, through which data goes that is not in shared memory."""
CHUNKS = 16
TABLE = 64
"""Descriptors of each indirect table."""

_T = layout.T
_NO_LIMIT = (1 << 32) - 1


class Lifetime(NamedTuple):
    """How worn the storage is; each 0 if the device does not know."""

    pre_eol_info: int
    """1: less than 80 % of the reserved blocks are in use, 2: 80 %, 3: 90 %."""
    typ_a: int
    """Wear of SLC cells in steps of 10 %."""
    typ_b: int
    """Wear of MLC cells in steps of 10 %."""


class BlockDriver(Driver):
    """A disk."""

    spec: ClassVar[ModuleType] = spec.block
    understood: ClassVar[int] = (
        layout.F.SIZE_MAX
        | layout.F.SEG_MAX
        | layout.F.GEOMETRY
        | layout.F.RO
        | layout.F.BLK_SIZE
        | layout.F.FLUSH
        | layout.F.TOPOLOGY
        | layout.F.CONFIG_WCE
        | layout.F.MQ
        | layout.F.DISCARD
        | layout.F.WRITE_ZEROES
        | layout.F.LIFETIME
        | layout.F.SECURE_ERASE
    )

    def __init__(
        self,
        end: DriverEnd,
        *,
        queues: int | None = None,
        mask: int | str = 0,
        queue_size: int = QUEUE_SIZE,
        polling: int = POLLING,
    ) -> None:
        """Initialise the device. ``queues``: how many to use, by default one for each processor at most.

        The rest as for every :class:`Driver`.
        """
        if queues is not None and queues < 1:
            raise ConfigurationError(f"{queues} queues")
        self._wanted_queues = queues
        super().__init__(end, mask=mask, queue_size=queue_size, polling=polling)

    # --- setting up

    def set_up(self) -> None:
        """Read the limits and add the queues."""
        values = self._values = self.config.values()
        if self.features & layout.F.MQ and not values["num_queues"]:
            raise ProtocolError("a block device with VIRTIO_BLK_F_MQ and no queue", "5.2.4")
        count = values.get("num_queues", 1)
        if self.end.max_queues is not None:
            count = min(count, self.end.max_queues)
        count = min(count, self._wanted_queues or os.cpu_count() or 1)
        # qemu-storage-daemon offers the feature and states no limit.
        if 0 < values.get("size_max", 0) < SECTOR:
            raise ProtocolError(f"segments of at most {values['size_max']} bytes", "5.2.4")
        self._capacity = int(values["capacity"])
        self._requests: list[BlockRequests] = []
        self._next = 0
        self._limbo: list[tuple[BlockRequests, object]] = []
        self._limbo_lock = threading.Lock()
        self._own = threading.local()
        self._watchers: list[Watcher] = []
        for index in range(count):
            _, native = self._add(
                index,
                self._make,
                tables=TABLE,
                more=lambda size: BlockRequests.area_size(size, CHUNK, CHUNKS),
            )
            self._requests.append(native)

    def _make(self, queue: DriverQueue, wire: QueueWire) -> BlockRequests:
        return BlockRequests(
            self.end.memory.native,
            queue.native_ring,
            kick=kick_of(wire),
            call=wire.call_fd,
            area=(queue.own_address, CHUNK, CHUNKS),
            tables=queue.tables,
            polling=self._polling,
            segment=self._values.get("size_max") or _NO_LIMIT,
            segments=self._values.get("seg_max") or 1,
        )

    def config_changed(self) -> None:
        """The disk may have a new size."""
        self._capacity = int(self.config.capacity)

    def queue_reset(self, queue: DriverQueue, native: Any) -> None:
        """Go on with the new queue; what was given up is given back."""
        old, self._requests[queue.index] = self._requests[queue.index], native
        for watcher in self._watchers:
            if watcher.requests is old:
                watcher.close()
        with self._limbo_lock:
            self._limbo = [entry for entry in self._limbo if entry[0] is not old]

    def stopping(self) -> None:
        """End what event loops wait for."""
        for watcher in self._watchers:
            watcher.close()

    # --- what it is

    @property
    def capacity(self) -> int:
        """Size in bytes."""
        return self._capacity * SECTOR

    @property
    def sectors(self) -> int:
        """Size in sectors of 512 bytes."""
        return self._capacity

    @property
    def block_size(self) -> int:
        """The size of blocks that suits the device best, in bytes."""
        return int(self._values.get("blk_size", SECTOR)) or SECTOR

    @property
    def read_only(self) -> bool:
        """Whether the device refuses to be written."""
        return bool(self.features & layout.F.RO)

    @property
    def writeback(self) -> bool:
        """Whether written data is safe only after :meth:`flush`; settable where the device allows it."""
        if self.features & layout.F.CONFIG_WCE:
            return bool(self.config.writeback)
        return bool(self.features & layout.F.FLUSH)

    @writeback.setter
    def writeback(self, on: bool) -> None:
        self._need(layout.F.CONFIG_WCE, "let the driver choose its cache mode")
        self.config.writeback = int(on)

    @property
    def longest(self) -> int:
        """Bytes of one request, at most. Blocking calls divide what is longer."""
        return self._requests[0].longest

    # --- blocking calls

    def read(self, sector: int, count: int, *, timeout: float | None = None) -> bytes:
        """Read ``count`` sectors.

        Raises ``TimeoutError`` after ``timeout`` seconds, as all that follow; the queue stays usable.
        """
        self._within(sector, count)
        data, status, before = self._pick().take(_T.IN, sector, count * SECTOR, timeout)
        check(_T.IN, sector + before // SECTOR, status)
        return data

    def readinto(self, sector: int, buffer: Buffer, *, timeout: float | None = None) -> int:
        """Fill ``buffer`` and return its length; without a copy if it is shared (:meth:`allocate`)."""
        requests = self._pick()
        self._within(sector, _sectors(buffer))
        try:
            status, before = requests.fill(_T.IN, sector, buffer, timeout)
        except BaseException:
            self.keep(requests, buffer)
            raise
        check(_T.IN, sector + before // SECTOR, status)
        return memoryview(buffer).nbytes

    def write(self, sector: int, data: Buffer, *, timeout: float | None = None) -> None:
        """Write ``data``, whole sectors; without a copy if it lies in shared memory."""
        requests = self._pick()
        self._writable()
        self._within(sector, _sectors(data))
        try:
            status, before = requests.give(_T.OUT, sector, data, timeout)
        except BaseException:
            self.keep(requests, data)
            raise
        check(_T.OUT, sector + before // SECTOR, status)

    def flush(self, *, timeout: float | None = None) -> None:
        """Make safe what was written. Does nothing for a device without a cache of its own (5.2.5.1)."""
        if self.features & layout.F.FLUSH:
            self._simple(_T.FLUSH, b"", timeout)

    def discard(self, sector: int, count: int, *, timeout: float | None = None) -> None:
        """Tell the device that the contents of these sectors are not needed any more."""
        self._need(layout.F.DISCARD, "discard")
        self._ranges(_T.DISCARD, sector, count, "max_discard_sectors", 0, timeout)

    def write_zeroes(
        self, sector: int, count: int, *, unmap: bool = False, timeout: float | None = None
    ) -> None:
        """Fill sectors with zeros; ``unmap``: the device may give back their space."""
        self._need(layout.F.WRITE_ZEROES, "write zeroes")
        flags = layout.SEGMENT_F.UNMAP if unmap else 0
        self._ranges(_T.WRITE_ZEROES, sector, count, "max_write_zeroes_sectors", flags, timeout)

    def secure_erase(self, sector: int, count: int, *, timeout: float | None = None) -> None:
        """Erase sectors for good, wherever the device may have copies of them."""
        self._need(layout.F.SECURE_ERASE, "erase securely")
        self._ranges(_T.SECURE_ERASE, sector, count, "max_secure_erase_sectors", 0, timeout)

    def get_id(self, *, timeout: float | None = None) -> str:
        """Return the device's name for itself, at most 20 characters."""
        data, status, _ = self._pick().take(_T.GET_ID, 0, layout.ID_LENGTH, timeout)
        check(_T.GET_ID, 0, status)
        return data.split(b"\0", 1)[0].decode("ascii", "replace")

    def lifetime(self, *, timeout: float | None = None) -> Lifetime:
        """Return how worn the storage is."""
        self._need(layout.F.LIFETIME, "tell its lifetime")
        size = layout.LIFETIME.size
        assert size is not None
        data, status, _ = self._pick().take(_T.GET_LIFETIME, 0, size, timeout)
        check(_T.GET_LIFETIME, 0, status)
        found = layout.LIFETIME.unpack(data)
        return Lifetime(found.pre_eol_info, found.device_lifetime_est_typ_a, found.device_lifetime_est_typ_b)

    # --- many at once

    def read_batch(
        self,
        sectors: Iterable[int],
        buffer: Buffer,
        *,
        depth: int | None = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """Read from many places into equal parts of ``buffer``, which is in shared memory (:meth:`allocate`).

        ``sectors``: where, one for each part; an array of 64-bit integers is taken as it is. As many requests
        are out at once as the queue holds, ``depth`` at most. Returns None if all went well, else the status
        of each: a device may fail some of them.
        """
        return self._batch(_T.IN, sectors, buffer, depth, timeout)

    def write_batch(
        self, sectors: Iterable[int], data: Buffer, *, depth: int | None = None, timeout: float | None = None
    ) -> bytes | None:
        """Write equal parts of ``data`` to many places; as :meth:`read_batch`."""
        self._writable()
        return self._batch(_T.OUT, sectors, data, depth, timeout)

    def load(
        self,
        mix: Literal["read", "write", "verify"],
        buffer: Buffer,
        *,
        depth: int = 32,
        size: int = 4096,
        requests: int = 1 << 62,
        seconds: float = float("inf"),
        sectors: int | None = None,
        sequential: bool = False,
        seed: int = 1,
        timeout: float | None = 30.0,
    ) -> LoadResult:
        """Make load natively, from this thread: ``depth`` requests of ``size`` bytes are out at once.

        ``verify`` reads and writes, and compares each read with what was last written there; it and ``write``
        destroy what is on the disk. The load ends after so many requests or seconds. ``sectors``: how much of
        the disk to use. ``buffer`` is shared memory for all requests that are out. Raises ``TimeoutError``
        when the device has answered none of them for ``timeout`` seconds, at the latest after twice that;
        ``None`` waits for as long as it takes.
        """
        if mix != "read":
            self._writable()
        requests_queue = self._pick()
        with self._keeping(requests_queue, buffer):
            return requests_queue.load(
                mix,
                buffer,
                sectors=self._capacity if sectors is None else sectors,
                depth=depth,
                requests=requests,
                seconds=seconds,
                size=size,
                sequential=sequential,
                seed=seed,
                timeout=timeout,
            )

    def submit_read(self, sector: int, into: int | Buffer, *, timeout: float | None = None) -> Request:
        """Begin to read into a buffer in shared memory, or so many sectors into one of the driver's.

        Returns at once, unless the queue is full: then when there is room. The result of the request is the
        bytes that were read, as a memoryview of the buffer.
        """
        requests = self._pick()
        buffer = self.allocate(into * SECTOR) if isinstance(into, int) else into
        return self._submit(requests, _T.IN, sector, buffer, timeout)

    def submit_write(self, sector: int, data: Buffer, *, timeout: float | None = None) -> Request:
        """Begin to write; ``data`` that is not in shared memory is copied there first."""
        self._writable()
        requests = self._pick()
        return self._submit(requests, _T.OUT, sector, self._share(requests, data), timeout)

    def submit_flush(self, *, timeout: float | None = None) -> Request:
        """Begin to flush."""
        requests = self._pick()
        self._need(layout.F.FLUSH, "flush")
        token = requests.submit(_T.FLUSH, 0, 0, 0, timeout=timeout)
        assert token is not None, "without an event loop it waits"
        return Request(self, requests, token, _T.FLUSH, 0, None)

    # --- asyncio

    async def aread(self, sector: int, count: int) -> bytes:
        """Read ``count`` sectors. Cancelling it leaves the queue usable, as for all that follow."""
        buffer = self.allocate(self._within(sector, count) * SECTOR)
        await self._watcher().transfer(_T.IN, sector, buffer)
        return bytes(memoryview(buffer))

    async def areadinto(self, sector: int, buffer: Buffer) -> int:
        """Fill a buffer in shared memory; return its length."""
        self._within(sector, _sectors(buffer))
        return await self._watcher().transfer(_T.IN, sector, buffer)

    async def awrite(self, sector: int, data: Buffer) -> int:
        """Write ``data``; it is copied first if it is not in shared memory. Return its length."""
        self._writable()
        self._within(sector, _sectors(data))
        watcher = self._watcher()
        return await watcher.transfer(_T.OUT, sector, self._share(watcher.requests, data))

    async def aflush(self) -> None:
        """Make safe what was written."""
        if self.features & layout.F.FLUSH:
            await self._watcher().transfer(_T.FLUSH, 0, None)

    # --- as a file

    def open(self, mode: str = "r+b") -> "DiskFile":
        """Return the disk as a raw file with a position in bytes; ``mode`` is ``rb`` or ``r+b``."""
        from virtio.driver.block_file import DiskFile

        return DiskFile(self, mode)

    # --- inside

    def _pick(self) -> BlockRequests:
        """The queue of this thread."""
        if self._closed or self._failure is not None:
            self._check_open()
        requests = self._requests
        if len(requests) == 1:
            return requests[0]
        number: int | None = getattr(self._own, "number", None)
        if number is None:
            self._next += 1
            number = self._own.number = self._next % len(requests)
        return requests[number]

    def _within(self, sector: int, count: int) -> int:
        # A device answers IOERR to what is past its end; here it is told what was wrong.
        if sector < 0 or count < 0 or sector + count > self._capacity:
            self.config_changed()
            if sector < 0 or count < 0 or sector + count > self._capacity:
                raise ConfigurationError(
                    f"sectors {sector} to {sector + count} of a disk of {self._capacity} sectors"
                )
        return count

    def _writable(self) -> None:
        if self.features & layout.F.RO:
            raise ConfigurationError("the disk is read-only (VIRTIO_BLK_F_RO)")

    def _need(self, feature: int, what: str) -> None:
        if not self.features & feature:
            raise ConfigurationError(f"this disk does not {what}: it offers no {self._feature_name(feature)}")

    def _feature_name(self, feature: int) -> str:
        return layout.F[feature.bit_length() - 1].name

    def _simple(self, kind: int, data: bytes, timeout: float | None) -> None:
        status, _ = self._pick().give(kind, 0, data, timeout)
        check(kind, 0, status)

    def _ranges(
        self, kind: int, sector: int, count: int, limit: str, flags: int, timeout: float | None
    ) -> None:
        self._writable()
        self._within(sector, count)
        most = int(self._values[limit])
        if most == 0:
            raise ProtocolError(f"{limit} is 0", "5.2.4")
        while count > 0:
            piece = min(count, most)
            data = layout.SEGMENT.pack(sector=sector, num_sectors=piece, flags=flags)
            status, _ = self._pick().give(kind, 0, data, timeout)
            check(kind, sector, status)
            sector, count = sector + piece, count - piece

    def _batch(
        self, kind: int, sectors: Iterable[int], buffer: Buffer, depth: int | None, timeout: float | None
    ) -> bytes | None:
        requests = self._pick()
        with self._keeping(requests, buffer):
            return requests.run(kind, _words(sectors), buffer, depth=depth, timeout=timeout)

    def _submit(
        self, requests: BlockRequests, kind: int, sector: int, buffer: Buffer, timeout: float | None
    ) -> Request:
        size = memoryview(buffer).nbytes
        self._within(sector, _whole(size))
        address = requests.shared(buffer)
        if address is None:
            raise ConfigurationError("reading needs a buffer in shared memory: allocate() gives one")
        token = requests.submit(kind, sector, address, size, timeout=timeout)
        assert token is not None, "without an event loop it waits"
        return Request(self, requests, token, kind, sector, buffer)

    def _share(self, requests: BlockRequests, data: Buffer) -> Buffer:
        if requests.shared(data) is not None:
            return data
        view = memoryview(data).cast("B")
        copy: SharedBuffer = self.allocate(view.nbytes)
        memoryview(copy)[:] = view
        return copy

    def _watcher(self) -> "Watcher":
        from virtio.driver.block_async import Watcher

        requests = self._pick()
        for watcher in self._watchers:
            if watcher.serves(requests):
                return watcher
        watcher = Watcher(self, requests)
        self._watchers.append(watcher)
        return watcher

    def _keeping(self, requests: BlockRequests, buffer: object) -> "_Keeping":
        return _Keeping(self, requests, buffer)

    def keep(self, requests: BlockRequests, buffer: object) -> None:
        """Hold on to a buffer that the device may still use, until it has answered everything given up."""
        with self._limbo_lock:
            self._limbo.append((requests, buffer))
        self.reclaim()

    def reclaim(self) -> int:
        """Let go of the buffers of requests that were given up and have been answered since.

        Returns how many buffers are still held.
        """
        with self._limbo_lock:
            out = {id(requests): requests.queue.returned()[1] for requests, _ in self._limbo}
            self._limbo = [entry for entry in self._limbo if out[id(entry[0])]]
            return len(self._limbo)


class _Keeping:
    """If a call does not wait for the device's answer, its buffer must outlive it."""

    __slots__ = ("_buffer", "_driver", "_requests")

    def __init__(self, driver: BlockDriver, requests: BlockRequests, buffer: object) -> None:
        self._driver, self._requests, self._buffer = driver, requests, buffer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._driver.keep(self._requests, self._buffer)


def _whole(size: int) -> int:
    sectors, rest = divmod(size, SECTOR)
    if rest:
        raise ConfigurationError(f"{size} bytes are not whole sectors of {SECTOR}")
    return sectors


def _sectors(buffer: Buffer) -> int:
    return _whole(memoryview(buffer).nbytes)


def _words(sectors: Iterable[int]) -> Any:
    """Sector numbers as native 64-bit words; an array of them is taken as it is."""
    try:
        view = memoryview(sectors)  # type: ignore[arg-type]
    except TypeError:
        return array.array("Q", sectors if isinstance(sectors, Sequence) else list(sectors))
    if view.itemsize != 8 or view.format not in ("Q", "L", "q", "l", "@Q", "@L", "<Q", "<q", "@q", "@l"):
        return array.array("Q", view.tolist())
    return sectors
