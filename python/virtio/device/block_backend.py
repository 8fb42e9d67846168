"""What a block device may stand on, besides the native file and memory targets: Python objects.

Three kinds are taken as they are:

* a buffer (``bytearray``, ``mmap``, a NumPy array): its bytes are the disk;
* a file object with ``seek`` and ``read`` (``io.BytesIO``, ``fsspec``'s files): used under a lock, since it
  has one position;
* an object with ``read(offset, into)`` and, if it can be written, ``write(offset, data)``; optionally
  ``flush()``, ``discard(offset, size)``, ``write_zeroes(offset, size)``, ``close()``, and ``size`` in bytes.

Offsets and sizes are in bytes. What an object has no method for is made of what it has, or not offered.
"""

import io
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from virtio.errors import ConfigurationError, IOFailed

_CHUNK = 1 << 20


class Store(Protocol):
    """What :class:`~virtio.BlockDevice` needs of a backend; ``BlockTarget`` is one too."""

    capacity: int
    """Size in bytes."""

    @property
    def read_only(self) -> bool:
        """Whether it cannot be written."""

    @property
    def can_discard(self) -> bool:
        """Whether discards give back space."""

    def read(self, offset: int, into: Any) -> None:
        """Fill ``into``."""

    def write(self, offset: int, data: Any) -> None:
        """Write all of ``data``."""

    def flush(self) -> None:
        """Make what was written safe."""

    def discard(self, offset: int, size: int) -> None:
        """Give back the space of a range."""

    def write_zeroes(self, offset: int, size: int, *, unmap: bool = True) -> None:
        """Make a range read as zeros."""

    def close(self) -> None:
        """Let go of it."""


def adapt(image: Any, size: int | None) -> Store:
    """Make a store of a Python object; ``size`` if it does not know its own."""
    view = _view(image)
    if view is not None:
        return BufferStore(view, size)
    if hasattr(image, "seek") and hasattr(image, "read"):
        return FileStore(image, size)
    if hasattr(image, "read"):
        return ObjectStore(image, size)
    raise ConfigurationError(
        f"a disk cannot stand on a {type(image).__name__}: give a path, a file descriptor, a buffer, "
        "a file object, or an object with read(offset, into) and write(offset, data)"
    )


def _view(image: Any) -> memoryview | None:
    try:
        return memoryview(image).cast("B")
    except TypeError:
        return None


def zeros(offset: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """Cut a range into pieces with zeros to write there."""
    block = memoryview(bytes(min(size, _CHUNK)))
    while size > 0:
        piece = block[: min(size, _CHUNK)]
        yield offset, piece
        offset += len(piece)
        size -= len(piece)


class _PythonStore:
    """Common to the three kinds: what has no method of its own."""

    capacity: int
    read_only = False
    can_discard = False

    def read(self, offset: int, into: memoryview) -> None:
        raise NotImplementedError

    def write(self, offset: int, data: memoryview) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Nothing is buffered."""

    def discard(self, offset: int, size: int) -> None:
        """Contents of a discarded range are the device's choice (5.2.6.1): they stay."""

    def write_zeroes(self, offset: int, size: int, *, unmap: bool = True) -> None:
        """Write them."""
        for place, piece in zeros(offset, size):
            self.write(place, piece)

    def close(self) -> None:
        """The object belongs to whoever made it."""


class BufferStore(_PythonStore):
    """A disk in a buffer."""

    def __init__(self, view: memoryview, size: int | None) -> None:
        """Use the first ``size`` bytes of the buffer, or all."""
        if size is not None and size > len(view):
            raise ConfigurationError(f"size {size} is more than the {len(view)} bytes of the buffer")
        self._view = view
        self.capacity = len(view) if size is None else size
        self.read_only = view.readonly

    def read(self, offset: int, into: memoryview) -> None:
        """Copy out."""
        into[:] = self._view[offset : offset + len(into)]

    def write(self, offset: int, data: memoryview) -> None:
        """Copy in."""
        self._view[offset : offset + len(data)] = data


class FileStore(_PythonStore):
    """A disk in a file object."""

    def __init__(self, file: Any, size: int | None) -> None:
        """Use ``file`` from its start; its end is found by seeking if ``size`` is not given."""
        self._file = file
        self._lock = threading.Lock()
        self.capacity = int(file.seek(0, io.SEEK_END) or file.tell()) if size is None else size
        writable = getattr(file, "writable", None)
        self.read_only = not writable() if writable is not None else not hasattr(file, "write")

    def read(self, offset: int, into: memoryview) -> None:
        """Seek and read; what lies behind the file's end is zeros."""
        with self._lock:
            self._file.seek(offset)
            done = 0
            while done < len(into):
                data = self._file.read(len(into) - done)
                if not data:
                    break
                into[done : done + len(data)] = data
                done += len(data)
        into[done:] = bytes(len(into) - done)

    def write(self, offset: int, data: memoryview) -> None:
        """Seek and write."""
        with self._lock:
            self._file.seek(offset)
            while len(data):
                # Raw files may write less than they are given; None means that a raw file would block.
                count = self._file.write(data)
                if not count:
                    raise IOFailed("the file object takes no more data")
                data = data[count:]

    def flush(self) -> None:
        """Flush the object's own buffer: what that makes safe is the object's affair."""
        with self._lock:
            self._file.flush()


class ObjectStore(_PythonStore):
    """A disk in an object with positioned reads and writes."""

    def __init__(self, target: Any, size: int | None) -> None:
        """Use ``target``; ``size`` stands for its own attribute of that name."""
        found = getattr(target, "size", None) if size is None else size
        if not isinstance(found, int):
            raise ConfigurationError(
                f"say size=…: a {type(target).__name__} does not know how large a disk it is"
            )
        self._target = target
        self.capacity = found
        self.read_only = not hasattr(target, "write")
        self.can_discard = hasattr(target, "discard")
        for name in ("flush", "discard", "close"):
            if hasattr(target, name):
                setattr(self, name, getattr(target, name))
        if hasattr(target, "write_zeroes"):
            self.write_zeroes = self._write_zeroes  # type: ignore[method-assign]

    def read(self, offset: int, into: memoryview) -> None:
        """Pass on."""
        self._target.read(offset, into)

    def write(self, offset: int, data: memoryview) -> None:
        """Pass on."""
        self._target.write(offset, data)

    def _write_zeroes(self, offset: int, size: int, *, unmap: bool = True) -> None:
        self._target.write_zeroes(offset, size)
