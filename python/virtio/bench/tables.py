"""When indirect tables pay: requests of several buffers, in the ring and in tables, on two native threads.

A table costs the device a look at another line, the ring's own descriptors run out. So each length is
measured with few requests out, and with as many as a busy driver has, of which fewer fit into the ring
without tables.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from virtio.bench.processors import placements
from virtio.bench.ring import SIZE, Progress, Ring, measure
from virtio.errors import ConfigurationError

LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
OUTSTANDING: Final = (16, 128)
BATCH: Final = 4


@dataclass(frozen=True)
class Row:
    """Requests of one length."""

    layout: str
    outstanding: int
    """Requests that the driver would have out."""
    descriptors: int
    """Buffers of each."""
    fit: int
    """How many fit into the ring without tables, at most ``outstanding``."""
    direct: float
    """Nanoseconds per request without tables."""
    table: float
    """Nanoseconds per request in a table each."""
    distance: float
    """A cache line there and back, in nanoseconds."""

    @property
    def ratio(self) -> float:
        """Below 1: a table pays."""
        return self.table / self.direct


def measure_tables(
    *,
    layouts: Iterable[str] = ("split", "packed"),
    outstanding: Sequence[int] = OUTSTANDING,
    lengths: Sequence[int] = LENGTHS,
    scale: float = 1.0,
    runs: int = 7,
    precedence: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Measure each length both ways, in turns."""
    places = placements()
    if not places:
        raise ConfigurationError("measuring both ends of a ring needs two processors")
    requests = max(round(scale * 50_000), 256)
    shapes = [(layout, limit, length) for layout in layouts for limit in outstanding for length in lengths]
    points = []
    for layout, limit, length in shapes:
        fit = min(limit, SIZE // length)
        for out, indirect in ((fit, False), (limit, True)):
            points.append(
                Ring(layout, min(BATCH, out), out, "poll", places[0], requests, precedence, length, indirect)
            )
    results = iter(measure(points, runs=runs, progress=progress))
    rows = []
    for (layout, limit, length), direct, table in zip(shapes, results, results, strict=True):
        distance = max(direct.distance, table.distance)
        fit = direct.point.outstanding
        rows.append(Row(layout, limit, length, fit, direct.nanoseconds, table.nanoseconds, distance))
    return rows
