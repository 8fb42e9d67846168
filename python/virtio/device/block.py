"""The block device (VIRTIO 1.4, 5.2), all but zones.

With a path, a descriptor or just a size, requests are answered natively. With a Python object as the image,
or in a subclass that overrides one of the request methods, they come to Python in batches::

    class Flaky(virtio.BlockDevice):
        def read(self, sector, into):
            raise virtio.IOFailed if sector == 2048 else super().read(sector, into)

``super()`` reaches the image, natively. The request methods return :class:`~virtio.IOCompleted` (the class),
or raise; see there why the line above is right.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from virtio._native import BlockHandler, BlockRequest, BlockTarget, Handler
from virtio.device.admin import Administrator
from virtio.device.base import Device
from virtio.device.block_backend import Store, adapt, zeros
from virtio.device.features import extra
from virtio.errors import ConfigurationError, IOCompleted, IOFailed, StateError, UnsupportedRequest
from virtio.spec import block
from virtio.spec.block import ID_LENGTH, SECTOR_SIZE, F
from virtio.spec.model import Field

Cache = Literal["writeback", "writethrough", "unsafe"]
Outcome = Any
"""What a request method returns: ``IOCompleted`` or nothing. (``Any``, so that it may also be raised.)"""

REQUESTS = ("read", "write", "flush", "discard", "write_zeroes", "secure_erase", "answer")
"""The methods whose override brings requests to Python."""

DEFAULT_SEG_MAX = 126
"""A request with its header and status then fits the smallest usual queue, of 128."""

_log = logging.getLogger("virtio.device.block")


class BlockDevice(Device):
    """A disk. Sizes are in bytes, sectors of 512 bytes as in the standard."""

    spec = block
    movable = frozenset({"capacity"})

    def __init__(
        self,
        image: Any = None,
        *,
        size: int | None = None,
        read_only: bool = False,
        direct: bool = False,
        cache: Cache = "writeback",
        serial: str = "",
        queues: int = 1,
        block_size: int = SECTOR_SIZE,
        physical_block_size: int = 0,
        alignment_offset: int = 0,
        min_io_size: int = 0,
        opt_io_size: int = 0,
        geometry: tuple[int, int, int] | None = None,
        seg_max: int = DEFAULT_SEG_MAX,
        size_max: int = 0,
        discard: bool | None = None,
        write_zeroes: bool = True,
        secure_erase: bool = False,
        max_sectors: int | None = None,
        max_segments: int | None = None,
        lifetime: tuple[int, int, int] | None = None,
        polling: int = 0,
        name: str = "",
        features: int | str = 0,
        mask: int | str = 0,
        administration: Administrator | None = None,
    ) -> None:
        """Serve ``image``.

        That is a path, a file descriptor, a native target, a Python object
        (:mod:`virtio.device.block_backend`), or None, which is memory of ``size`` bytes. Else ``size`` shows
        only the beginning of a larger image.

        ``cache``: ``writeback`` is safe after a flush, ``writethrough`` after each write, ``unsafe`` never;
        the driver may switch between the first two. ``physical_block_size``, ``min_io_size``,
        ``opt_io_size`` (bytes) and ``alignment_offset`` (logical blocks) are the topology; ``geometry`` is
        cylinders, heads, sectors. ``seg_max`` and ``size_max`` bound the segments of a request (0: no bound
        is stated). ``discard`` None: if the image can give back space. ``max_sectors`` and ``max_segments``
        bound discard, write-zeroes and secure-erase requests. ``lifetime``: pre_eol_info and both wear
        estimates of 5.2.6. ``polling``: microseconds for which a queue looks for requests before it sleeps.
        ``administration`` carries out commands for the group that the device owns.
        ``features`` are offered too: those that belong to no device type (``"IN_ORDER,RING_RESET"``).
        """
        self._check(cache, serial, queues, block_size, physical_block_size)
        self._path: Path | int | None = None
        self._image: Store = self._open(image, size, read_only, direct, cache)
        capacity = self._image.capacity if size is None else size
        self._check_capacity(capacity)
        self._read_only = read_only or self._image.read_only
        self._writeback = cache != "writethrough"
        self.target = self._make_target(capacity)
        self._handler = BlockHandler(self.target)
        can_discard = self._image.can_discard or self._overrides("discard")

        offered = F.FLUSH | F.CONFIG_WCE | F.BLK_SIZE
        offered |= F.SEG_MAX if seg_max else 0
        offered |= F.SIZE_MAX if size_max else 0
        offered |= F.GEOMETRY if geometry else 0
        offered |= F.TOPOLOGY if physical_block_size or alignment_offset or min_io_size or opt_io_size else 0
        offered |= F.MQ if queues > 1 else 0
        offered |= F.LIFETIME if lifetime else 0
        if self._read_only:
            offered |= F.RO
        else:
            offered |= F.DISCARD if (can_discard if discard is None else discard) else 0
            offered |= F.WRITE_ZEROES if write_zeroes else 0
            offered |= F.SECURE_ERASE if secure_erase else 0

        alignment = max(block_size, physical_block_size) // SECTOR_SIZE
        config: dict[str, Any] = {
            "capacity": capacity // SECTOR_SIZE,
            "seg_max": seg_max,
            "size_max": size_max,
            "blk_size": block_size,
            "writeback": int(self._writeback),
            "num_queues": queues if queues > 1 else 0,
        }
        if geometry:
            config["geometry"] = dict(zip(("cylinders", "heads", "sectors"), geometry, strict=True))
        if offered & F.TOPOLOGY:
            config["topology"] = {
                "physical_block_exp": (max(block_size, physical_block_size) // block_size).bit_length() - 1,
                "alignment_offset": alignment_offset,
                "min_io_size": min_io_size // block_size,
                "opt_io_size": opt_io_size // block_size,
            }
        for kind, bit in (
            ("discard", F.DISCARD),
            ("write_zeroes", F.WRITE_ZEROES),
            ("secure_erase", F.SECURE_ERASE),
        ):
            if offered & bit:
                for limit, value in (("sectors", max_sectors), ("seg", max_segments)):
                    if value is not None:
                        setattr(self.target, f"max_{kind}_{limit}", value)
                    config[f"max_{kind}_{limit}"] = getattr(self.target, f"max_{kind}_{limit}")
        if offered & F.DISCARD:
            config["discard_sector_alignment"] = alignment
        if offered & F.SECURE_ERASE:
            config["secure_erase_sector_alignment"] = alignment
        if offered & F.WRITE_ZEROES:
            config["write_zeroes_may_unmap"] = int(can_discard)

        super().__init__(
            name=name,
            features=offered | extra(block.DEVICE, features),
            mask=mask,
            administration=administration,
            config=config,
        )
        if not self.offered_features & F.FLUSH:  # a must for CONFIG_WCE (5.2.5.2)
            self.offered_features &= ~F.CONFIG_WCE
        if polling:
            for queue in self.queues:
                queue.set_polling("adaptive", microseconds=polling)
        target = self.target
        target.serial, target.block_size = serial, block_size
        target.seg_max, target.size_max = seg_max, size_max
        target.writeback = self._writeback
        if lifetime:
            target.lifetime = lifetime

    # --- requests, for subclasses to override

    def read(self, sector: int, into: memoryview) -> Outcome:
        """Fill ``into``, one contiguous writable view of a multiple of 512 bytes, from ``sector`` on."""
        self._image.read(sector * SECTOR_SIZE, into)
        return IOCompleted

    def write(self, sector: int, data: memoryview) -> Outcome:
        """Write ``data`` from ``sector`` on."""
        self._image.write(sector * SECTOR_SIZE, data)
        return IOCompleted

    def flush(self) -> Outcome:
        """Make all completed writes safe. While the cache is write-through, called after each write."""
        self._image.flush()
        return IOCompleted

    def discard(self, sector: int, sectors: int) -> Outcome:
        """Forget the contents of a range; give back its space if that can be done."""
        self._image.discard(sector * SECTOR_SIZE, sectors * SECTOR_SIZE)
        return IOCompleted

    def write_zeroes(self, sector: int, sectors: int, unmap: bool) -> Outcome:
        """Make a range read as zeros; its space may be given back if ``unmap``."""
        self._image.write_zeroes(sector * SECTOR_SIZE, sectors * SECTOR_SIZE, unmap=unmap)
        return IOCompleted

    def secure_erase(self, sector: int, sectors: int) -> Outcome:
        """Overwrite a range in place, and flush: as secure as the storage below keeps no old copies."""
        for offset, piece in zeros(sector * SECTOR_SIZE, sectors * SECTOR_SIZE):
            self._image.write(offset, piece)
        self._image.flush()
        return IOCompleted

    def answer(self, requests: Sequence[BlockRequest]) -> None:
        """Answer a batch, by default by calling the methods above one by one.

        An override calls ``request.complete()`` for each, then or later, from any thread.
        """
        for request in requests:
            request.complete(self._answer(request))

    # --- for the program that serves the disk

    @property
    def capacity(self) -> int:
        """Size in bytes. Setting it is :meth:`resize`."""
        return int(self.config.capacity) * SECTOR_SIZE

    @capacity.setter
    def capacity(self, size: int) -> None:
        self.resize(size)

    @property
    def read_only(self) -> bool:
        """Whether the driver is told that it cannot write."""
        return self._read_only

    @property
    def writeback(self) -> bool:
        """Whether a write may be safe only after a flush: what the driver chose, or found."""
        return self.target.writeback

    def resize(self, size: int | None = None) -> None:
        """Change the capacity while the device runs; the driver gets a configuration change notification.

        A regular file that is too short is extended, never cut. Without ``size`` the image's present size is
        taken, for images that something else has grown.
        """
        if size is None:
            size = self._image_size()
        self._check_capacity(size)
        growing = size > self.capacity
        if growing:  # first the image, then what may be asked for, then what the driver knows
            self._extend(size)
            self.target.capacity = size
        self.config.capacity = size // SECTOR_SIZE
        if not growing:
            self.target.capacity = size

    def close(self) -> None:
        """Detach, flush, and let go of the image."""
        super().close()
        try:
            if not self._read_only:
                self._image.flush()
        finally:
            self.target.close()
            if self._image is not self.target:
                self._image.close()

    # --- the device

    def handler(self, queue_index: int) -> Handler:
        """All queues share one target."""
        return self._handler

    def may_write(self, field: Field) -> bool:
        """The driver may switch the cache once it has negotiated that it can."""
        return super().may_write(field) and bool(self.negotiated_features & F.CONFIG_WCE)

    def negotiated(self, features: int) -> None:
        """Without any means to flush, each write has to be safe by itself (5.2.6.2)."""
        self._set_writeback(self._writeback and bool(features & F.FLUSH))

    def config_written(self, fields: Sequence[str]) -> None:
        """Only ``writeback`` can be written; whatever is not 0 is 1."""
        self._set_writeback(bool(self.config.writeback))

    def driver_reset(self) -> None:
        """Return to the cache mode that the device was made with."""
        self._set_writeback(self._writeback)

    def check_saved(self, own: bytes, config: Mapping[str, Any]) -> None:
        """Take the place of a disk that was smaller, but not of one that was larger."""
        super().check_saved(own, config)
        if config.get("capacity", 0) > self.config.capacity:
            raise StateError(
                f"its driver knows a disk of {config['capacity']} sectors; here are {self.config.capacity}"
            )

    def restored(self, own: bytes) -> None:
        """The driver may have chosen the cache mode."""
        if self.negotiated_features & F.CONFIG_WCE:
            self._set_writeback(bool(self.config.writeback))

    def _set_writeback(self, writeback: bool) -> None:
        self.target.writeback = writeback
        self.config.store("writeback", int(writeback))

    # --- Python requests

    def _answer(self, request: BlockRequest) -> Literal["io", "unsupported"] | None:
        try:
            self._dispatch(request)
        except IOCompleted:
            return None
        except UnsupportedRequest:
            return "unsupported"
        except IOFailed as error:
            _log.info("%s: %s at byte %d fails: %s", self.name, request.kind, request.offset, error)
            return "io"
        except Exception:
            _log.exception("%s: %s at byte %d fails", self.name, request.kind, request.offset)
            return "io"
        return None

    def _dispatch(self, request: BlockRequest) -> None:
        kind = request.kind
        sector, sectors = request.offset // SECTOR_SIZE, request.size // SECTOR_SIZE
        if kind == "read":
            self.read(sector, request.data)
        elif kind == "write":
            self.write(sector, request.data)
        elif kind == "flush":
            self.flush()
        elif kind == "discard":
            self.discard(sector, sectors)
        elif kind == "write_zeroes":
            self.write_zeroes(sector, sectors, request.unmap)
        else:
            self.secure_erase(sector, sectors)

    def _overrides(self, *methods: str) -> bool:
        return any(getattr(type(self), name) is not getattr(BlockDevice, name) for name in methods)

    # --- images

    def _open(self, image: Any, size: int | None, read_only: bool, direct: bool, cache: Cache) -> Store:
        if image is None:
            if size is None:
                raise ConfigurationError("a block device needs an image, or a size for a disk in memory")
            return _empty_disk(size) if read_only else BlockTarget.memory(size)
        if isinstance(image, str | os.PathLike | int):
            self._path = image if isinstance(image, int) else Path(os.fspath(image))
            store = BlockTarget.file(image, read_only=read_only, direct=direct, cache=cache)
            if size is not None and size > store.capacity:
                raise ConfigurationError(f"size {size} is more than the {store.capacity} bytes of {image}")
            return store
        if isinstance(image, BlockTarget):
            return image
        if direct:
            raise ConfigurationError("direct I/O is for files, not for Python objects")
        return adapt(image, size)

    def _make_target(self, capacity: int) -> BlockTarget:
        if not isinstance(self._image, BlockTarget) or self._overrides(*REQUESTS):
            return BlockTarget.python(self.answer, capacity, read_only=self._read_only)
        self._image.capacity = capacity
        return self._image

    def _image_size(self) -> int:
        if self._path is None:
            return self._image.capacity
        fd = os.open(self._path, os.O_RDONLY) if isinstance(self._path, Path) else os.dup(self._path)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return os.fstat(fd).st_size // SECTOR_SIZE * SECTOR_SIZE
            return os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)

    def _extend(self, size: int) -> None:
        if self._path is None:
            if isinstance(self._image, BlockTarget) or size > self._image.capacity:
                raise ConfigurationError("a disk in memory or in a Python object keeps its size")
            return
        if size <= self._image_size():
            return
        regular = stat.S_ISREG(os.stat(self._path).st_mode)  # noqa: PTH116 (or a descriptor)
        if self._read_only or not regular:
            raise ConfigurationError(f"{self._path} is shorter than {size} bytes and cannot be extended")
        os.truncate(self._path, size)

    @staticmethod
    def _check(cache: str, serial: str, queues: int, block_size: int, physical: int) -> None:
        if cache not in get_args(Cache):
            raise ConfigurationError(f"cache is one of {', '.join(get_args(Cache))}, not {cache!r}")
        if not serial.isascii() or len(serial) > ID_LENGTH:
            raise ConfigurationError(f"a serial number is at most {ID_LENGTH} ASCII characters")
        if not 1 <= queues <= 1024:
            raise ConfigurationError(f"a block device has 1 to 1024 queues, not {queues}")
        for value in filter(None, (block_size, physical)):
            if value < SECTOR_SIZE or value & (value - 1):
                raise ConfigurationError(f"a block size is a power of two from {SECTOR_SIZE} up, not {value}")

    @staticmethod
    def _check_capacity(size: int) -> None:
        if size < 0 or size % SECTOR_SIZE:
            raise ConfigurationError(f"the size of a disk is a multiple of {SECTOR_SIZE} bytes, not {size}")


def _empty_disk(size: int) -> BlockTarget:
    """Zeros that cannot be written: a sparse file in memory."""
    fd = os.memfd_create("virtio-disk")
    try:
        os.ftruncate(fd, size)
        return BlockTarget.file(fd, read_only=True)
    finally:
        os.close(fd)
