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


def fence() -> None:
    """Order earlier stores before later loads: a locked operation is what Python has for it."""
    with _FENCE:
        pass


@dataclass(frozen=True, slots=True)
class Touch:
    """One access to shared memory."""

    end: str
    """``"driver"`` or ``"device"``."""
    part: str
    """What lies there: ``"descriptor"``, ``"available"``, ``"used"``, ``"table"``, ``"event"``."""
    address: int
    size: int
    write: bool


class SharedMemory:
    """Guest memory as one end of a ring sees it, by address.

    ``memory`` is any writable buffer, ``start`` the address of its first byte. ``observer``, if given, is
    told of each access.
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

    def __len__(self) -> int:
        """Size in bytes."""
        return len(self.bytes)

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._halves, self._words, self.bytes):
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

    def load32(self, address: int, part: str = "") -> int:
        """Read a little-endian 32-bit field in one access; ``address`` is a multiple of 4."""
        value: int = self._words[self._offset(address, 4, part, False) // 4]
        return _swapped(value, 4) if _BIG_ENDIAN else value

    def store32(self, address: int, value: int, part: str = "") -> None:
        """Write a little-endian 32-bit field in one access; ``address`` is a multiple of 4."""
        offset = self._offset(address, 4, part, True)
        self._words[offset // 4] = _swapped(value, 4) if _BIG_ENDIAN else value

    def view(self, address: int, size: int, part: str = "", *, write: bool = False) -> memoryview:
        """Return the bytes at ``address``; :exc:`~virtio.ProtocolError` if they are not all in memory."""
        offset = self._offset(address, size, part, write)
        return self.bytes[offset : offset + size]


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")
