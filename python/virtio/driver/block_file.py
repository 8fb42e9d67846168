"""A disk as a file object."""

import io
import os
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from virtio.errors import ConfigurationError
from virtio.spec.block import SECTOR_SIZE

if TYPE_CHECKING:
    from virtio.driver.block import BlockDriver


class DiskFile(io.RawIOBase):
    """A disk as a raw file: positions and lengths in bytes, whatever the sectors are.

    What does not begin and end with a sector is read and written back with what surrounds it, which is not
    atomic: two writers to one sector may undo each other's work. ``io.BufferedRandom`` around it saves most
    of that. Closing it flushes the disk, and leaves the driver open.
    """

    def __init__(self, disk: "BlockDriver", mode: str = "r+b") -> None:
        """Begin at position 0."""
        super().__init__()
        if mode not in ("rb", "r+b", "rb+"):
            raise ConfigurationError(f"a disk is opened with rb or r+b, not {mode!r}")
        self._disk = disk
        self._position = 0
        self._writes = "+" in mode and not disk.read_only
        self.mode = mode
        self.name = disk.end.address

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return whether it may be written."""
        return self._writes

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position; also past the end, where there is nothing to read."""
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._disk.capacity}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """Read up to the end of the disk; return the number of bytes."""
        self._check()
        view = memoryview(buffer).cast("B")
        size = max(min(len(view), self._disk.capacity - self._position), 0)
        if size == 0:
            return 0
        first, skip = divmod(self._position, SECTOR_SIZE)
        if skip == 0 and size % SECTOR_SIZE == 0:
            self._disk.readinto(first, view[:size])
        else:
            count = -(-(skip + size) // SECTOR_SIZE)
            view[:size] = self._disk.read(first, count)[skip : skip + size]
        self._position += size
        return size

    def write(self, data: Buffer, /) -> int:
        """Write up to the end of the disk; return the number of bytes."""
        self._check()
        if not self._writes:
            raise io.UnsupportedOperation("not writable")
        view = memoryview(data).cast("B")
        size = max(min(len(view), self._disk.capacity - self._position), 0)
        if size == 0:
            if len(view):
                raise OSError(28, "the disk ends here")
            return 0
        first, skip = divmod(self._position, SECTOR_SIZE)
        if skip == 0 and size % SECTOR_SIZE == 0:
            self._disk.write(first, view[:size])
        else:
            count = -(-(skip + size) // SECTOR_SIZE)
            around = bytearray(count * SECTOR_SIZE)
            around[:SECTOR_SIZE] = self._disk.read(first, 1)
            if count > 1:
                around[-SECTOR_SIZE:] = self._disk.read(first + count - 1, 1)
            around[skip : skip + size] = view[:size]
            self._disk.write(first, around)
        self._position += size
        return size

    def flush(self) -> None:
        """Make safe what was written."""
        if not self.closed and self._writes and not self._disk.closed:
            self._disk.flush()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")
