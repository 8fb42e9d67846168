"""DMA logging: which pages the device has written to."""

import errno
import os

from virtio.transport.interface import GuestMemory
from virtio.transport.vfio_user.dma import DmaTable
from virtio.transport.vfio_user.messages import PAGE
from virtio.transport.vfio_user.payloads import LoggingReport, LoggingStart, pack_ranges, unpack_ranges
from virtio.transport.vfio_user.refusal import Refusal, invalid

_LARGEST_LOG = 1 << 34
"""Bytes of a log: for addresses of 49 bits. It takes up no more than what is written to it."""


class DirtyLog:
    """The pages that were written to since they were last reported."""

    def __init__(self, memory: GuestMemory, table: DmaTable) -> None:
        """Log nothing yet."""
        self._memory = memory
        self._table = table
        self._fd: int | None = None
        self._size = 0
        self._ranges: list[tuple[int, int]] = []
        self._unreported: dict[int, bytearray] = {}
        """Blocks of the log that were taken out of it: a byte for eight pages."""

    @property
    def on(self) -> bool:
        """Whether writes are logged."""
        return self._fd is not None

    def start(self, data: bytes, most: int) -> bytes:
        """Answer DMA_LOGGING_START."""
        asked = LoggingStart.unpack(data)
        if self.on:
            raise Refusal(errno.EBUSY, "writes are logged already")
        if not asked.page_size or asked.page_size & (asked.page_size - 1):
            raise invalid(f"pages of {asked.page_size} bytes")
        if asked.ranges > most:
            raise invalid(f"{asked.ranges} ranges")
        ranges = unpack_ranges(data[LoggingStart.FORM.size :], asked.ranges)
        if any(not length or start + length > 1 << 64 for start, length in ranges):
            raise invalid("a range is empty, or ends nowhere")
        self._ranges = ranges
        self.follow_memory(always=True)
        return LoggingStart(PAGE, asked.ranges).pack() + pack_ranges(ranges)

    def stop(self) -> None:
        """DMA_LOGGING_STOP. If nothing is logged: harmless."""
        if self._fd is not None:
            self._memory.set_dirty_log(None)
            os.close(self._fd)
        self._fd, self._size = None, 0
        self._unreported.clear()

    def follow_memory(self, *, always: bool = False) -> None:
        """See to it that the log is large enough for all memory that there is."""
        wanted = max(-(-self._table.end // (8 * PAGE)), 1)
        wanted = -(-wanted // PAGE) * PAGE
        if (self.on and wanted > self._size) or always:
            self._renew(wanted)

    def report(self, data: bytes, most: int) -> bytes:
        """Answer DMA_LOGGING_REPORT; what it reports is clean from then on."""
        asked = LoggingReport.unpack(data)
        if not self.on:
            raise invalid("writes are not logged")
        size = asked.page_size
        if size < 1 or size & (size - 1) or asked.address % size:
            raise invalid(f"pages of {size} bytes from {asked.address:#x} on")
        if not asked.length or asked.address + asked.length > 1 << 64:
            raise invalid(f"{asked.length:#x} bytes from {asked.address:#x} on")
        bits = -(-asked.length // size)
        if -(-bits // 64) * 8 > most:
            raise invalid(f"a bitmap of {bits} pages")
        self._renew(self._size)
        bitmap = bytearray(-(-bits // 64) * 8)
        for address in self._take(asked.address, asked.address + asked.length):
            first = max(address, asked.address) - asked.address
            last = min(address + PAGE, asked.address + asked.length) - 1 - asked.address
            for bit in range(first // size, last // size + 1):
                bitmap[bit // 8] |= 1 << bit % 8
        return LoggingReport(asked.address, asked.length, size).pack() + bytes(bitmap)

    def _renew(self, size: int) -> None:
        """Log into an empty file from now on, and take what the old one has."""
        if size > _LARGEST_LOG:
            raise Refusal(errno.ENOTSUP, f"a log of {size} bytes")
        old, old_size = self._fd, self._size
        fd = os.memfd_create("virtio-dirty-log", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self._memory.set_dirty_log(fd, size)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size = fd, size
        if old is not None:
            self._collect(old, old_size)
            os.close(old)

    def _collect(self, fd: int, size: int) -> None:
        """Note the dirty pages of a log that nobody writes to any more; it is full of holes."""
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // PAGE * PAGE
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            data = os.pread(fd, PAGE, at)
            if any(data):
                block = self._unreported.setdefault(at, bytearray(PAGE))
                for index, byte in enumerate(data):
                    block[index] |= byte
            at += PAGE

    def _take(self, start: int, end: int) -> list[int]:
        """Return the dirty pages of a range by address, and forget them."""
        pages = []
        for at in sorted(self._unreported):
            base = at * 8 * PAGE
            if base >= end or base + PAGE * 8 * PAGE <= start:
                continue
            block = self._unreported[at]
            for index, byte in enumerate(block):
                if byte:
                    for bit in range(8):
                        address = base + (index * 8 + bit) * PAGE
                        if byte >> bit & 1 and address + PAGE > start and address < end:
                            block[index] &= ~(1 << bit)
                            if self._monitored(address):
                                pages.append(address)
            if not any(block):
                del self._unreported[at]
        return pages

    def _monitored(self, address: int) -> bool:
        return not self._ranges or any(
            start < address + PAGE and address < start + length for start, length in self._ranges
        )
