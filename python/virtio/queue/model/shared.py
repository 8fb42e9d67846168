"""Memory that both ends look at, one access at a time, and a record of who touched what.

A field that the other end polls must be read and written by one access: a Python store such as
:func:`struct.pack_into` clears its destination first, and a peer on another processor sees that.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

_BIG_ENDIAN: Final = sys.byteorder == "big"
_FENCE: Final = threading.Lock()

ACQUIRE: Final = "acquire"
RELEASE: Final = "release"
FENCE: Final = "fence"
ORDERINGS: Final = (ACQUIRE, RELEASE, FENCE)
"""A :attr:`Touch.part` of these is no access, but orders others. It has no address."""


@dataclass(frozen=True, slots=True)
class Touch:
    """One access to shared memory, or an ordering between two."""

    end: str
    """``"driver"`` or ``"device"``."""
    part: str
    """What lies there: ``"descriptor"``, ``"table"``, ``"available"`` or ``"used"`` (entries of those rings),
    ``"index"``, ``"event"`` (what asks for notifications, flags or index), or one of :data:`ORDERINGS`."""
    address: int
    size: int
    write: bool


class SharedMemory:
    """Guest memory as one end of a ring sees it, by address.

    ``memory`` is any writable buffer, ``start`` the address of its first byte. ``observer``, if given, is
    told of each access to a ring, before it happens. What lies in buffers is not observed.
    """

    def __init__(
        self,
        memory: Buffer,
        start: int = 0,
        *,
        end: str = "",
        observer: Callable[[Touch], object] | None = None,
    ) -> None:
        """Look at ``memory``; nothing is changed."""
        if start % 8:
            raise ConfigurationError(f"guest memory starts at {start:#x}, which is no multiple of 8")
        self.start = start
        self.end = end
        self.observer = observer
        self.bytes = memoryview(memory).cast("B")
        even = len(self.bytes) // 8 * 8
        self._halves = self.bytes[:even].cast("H")
        self._words = self.bytes[:even].cast("I")
        self._doubles = self.bytes[:even].cast("Q")

    def __len__(self) -> int:
        """Size in bytes."""
        return len(self.bytes)

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._halves, self._words, self._doubles, self.bytes):
            view.release()

    def _offset(self, address: int, size: int, part: str, write: bool) -> int:
        offset = address - self.start
        if offset < 0 or offset + size > len(self.bytes):
            raise ProtocolError(f"{size} bytes at {address:#x} are not guest memory", "2.7.5")
        if self.observer is not None and part:
            self.observer(Touch(self.end, part, address, size, write))
        return offset

    def load16(self, address: int, part: str = "") -> int:
        """Read a little-endian 16-bit field in one access; ``address`` is even."""
        value: int = self._halves[self._offset(address, 2, part, False) // 2]
        return _swapped(value, 2) if _BIG_ENDIAN else value

    def store16(self, address: int, value: int, part: str = "") -> None:
        """Write a little-endian 16-bit field in one access; ``address`` is even."""
        value &= 0xFFFF
        offset = self._offset(address, 2, part, True)
        self._halves[offset // 2] = _swapped(value, 2) if _BIG_ENDIAN else value

    def store32(self, address: int, value: int, part: str = "") -> None:
        """Write a little-endian 32-bit field in one access; ``address`` is a multiple of 4."""
        offset = self._offset(address, 4, part, True)
        self._words[offset // 4] = _swapped(value, 4) if _BIG_ENDIAN else value

    def load64(self, address: int, part: str = "") -> int:
        """Read a little-endian 64-bit field in one access; ``address`` is a multiple of 8."""
        value: int = self._doubles[self._offset(address, 8, part, False) // 8]
        return _swapped(value, 8) if _BIG_ENDIAN else value

    def store64(self, address: int, value: int, part: str = "") -> None:
        """Write a little-endian 64-bit field in one access; ``address`` is a multiple of 8."""
        offset = self._offset(address, 8, part, True)
        self._doubles[offset // 8] = _swapped(value, 8) if _BIG_ENDIAN else value

    def load(self, address: int, size: int, part: str = "") -> bytes:
        """Copy bytes that the other end has promised not to change meanwhile."""
        offset = self._offset(address, size, part, False)
        return bytes(self.bytes[offset : offset + size])

    def store(self, address: int, data: bytes, part: str = "") -> None:
        """Write bytes that the other end does not look at yet."""
        offset = self._offset(address, len(data), part, True)
        self.bytes[offset : offset + len(data)] = data

    def view(self, address: int, size: int) -> memoryview:
        """Return the bytes of a buffer; :exc:`~virtio.ProtocolError` if they are not all in memory."""
        offset = self._offset(address, size, "", False)
        return self.bytes[offset : offset + size]

    def acquire(self) -> None:
        """Order earlier loads before all later accesses: what an index or a flag promises is there."""
        self._order(ACQUIRE)

    def release(self) -> None:
        """Order all earlier accesses before later stores: an index or a flag promises what is there."""
        self._order(RELEASE)

    def fence(self) -> None:
        """Order all earlier accesses before all later ones: of two ends that each store and then load what
        the other stores, at least one sees the other's store."""
        self._order(FENCE)

    def _order(self, kind: str) -> None:
        # Python has one means for all three, and it is the strongest: a locked operation.
        if self.observer is not None:
            self.observer(Touch(self.end, kind, 0, 0, False))
        with _FENCE:
            pass


def shared(
    memory: Buffer | SharedMemory, start: int, end: str, observer: Callable[[Touch], object] | None
) -> SharedMemory:
    """Return ``memory`` as one end sees it, unless that is what it is already."""
    if isinstance(memory, SharedMemory):
        return memory
    return SharedMemory(memory, start, end=end, observer=observer)


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")
