"""Where a driver gets memory for its buffers."""

from virtio.errors import ConfigurationError


class Allocator:
    """Hands out pieces of an address range: forward from the last one, around what is still in use."""

    def __init__(self, start: int, end: int) -> None:
        """Manage addresses from ``start`` up to and without ``end``."""
        self._start = start
        self._end = end
        self._cursor = start
        self._used: dict[int, int] = {}

    def take(self, size: int, alignment: int = 16) -> int:
        """Return the address of ``size`` unused bytes, or raise :exc:`~virtio.ConfigurationError`."""
        for begin in (self._cursor, self._start):
            place = self._search(begin, size, alignment)
            if place is not None:
                self._used[place] = place + max(size, 1)
                self._cursor = place + max(size, 1)
                return place
        raise ConfigurationError(f"no {size} bytes left for buffers")

    def free(self, address: int) -> None:
        """Take a piece back."""
        del self._used[address]

    def _search(self, begin: int, size: int, alignment: int) -> int | None:
        place = -(-begin // alignment) * alignment
        for start, end in sorted(self._used.items()):
            if end <= place:
                continue
            if start >= place + max(size, 1):
                break
            place = -(-end // alignment) * alignment
        return place if place + size <= self._end else None
