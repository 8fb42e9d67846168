"""What a request costs between two processors: both ends of a ring on two native threads.

The work is that of the kernel's ``tools/virtio/ringtest``: single buffers, nothing done with their contents.
What a cache line takes between two processors changes without warning on virtual machines, so it is measured
before and after each run, and a run counts only when both say what the nearest of all said. Runs of all
points are taken in turn, so that a change of the machine's mood meets all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Generic, Literal, Protocol, TypeVar

from virtio._native import measure_pair
from virtio.bench.processors import Placement, placements
from virtio.errors import ConfigurationError
from virtio.spec import core

SIZE: Final = 256
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUTSTANDING: Final = (1, 16, SIZE)

LAYOUTS: Final = {
    "split": 0,
    "packed": core.F.RING_PACKED,
    "split in-order": core.F.IN_ORDER,
    "packed in-order": core.F.RING_PACKED | core.F.IN_ORDER,
}
"""Names of the layouts, and the features that say them."""

NEAR: Final = 1.25
"""A run counts when neither probe is longer than the nearest of all by more than this factor."""

Wait = Literal["poll", "check", "notify"]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Run:
    """One run of a point."""

    nanoseconds: float
    """Time per request."""
    before: float
    """A cache line's round trip before the run, in nanoseconds."""
    after: float
    """The same after it."""
    notifications: float = 0.0
    """Kicks and calls per request."""

    @property
    def distance(self) -> float:
        """The worse of both probes."""
        return max(self.before, self.after)


class Point(Protocol):
    """Something that can be run: one of ours, or a peer's program."""

    @property
    def processors(self) -> tuple[int, int]:
        """Where it runs: points on the same processors are compared."""

    def run(self) -> Run:
        """Run it once."""


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Ring:
    """Both ends of a ring, and how they are used."""

    layout: str
    """One of :data:`LAYOUTS`."""
    batch: int
    """Requests made available, and taken, at most at once."""
    outstanding: int
    """Requests that are out at most."""
    wait: Wait
    """How either end waits for the other."""
    placement: Placement
    """Where the two ends run."""
    requests: int
    """Requests in each run."""
    precedence: bool = False
    """Keep other threads off these processors during a run."""
    descriptors: int = 1
    """Buffers of a request."""
    indirect: bool = False
    """They are in a table."""

    @property
    def processors(self) -> tuple[int, int]:
        """Where it runs."""
        return self.placement.processors

    def run(self) -> Run:
        """Run it once."""
        features = LAYOUTS[self.layout] | (core.F.EVENT_IDX if self.wait == "notify" else 0)
        if self.indirect:
            features |= core.F.INDIRECT_DESC
        time, before, after, kicks, calls = measure_pair(
            requests=self.requests,
            batch=self.batch,
            outstanding=self.outstanding,
            size=SIZE,
            descriptors=self.descriptors,
            indirect=self.indirect,
            features=features,
            wait=self.wait,
            processors=self.processors,
            precedence=self.precedence,
        )
        return Run(time / self.requests, before, after, (kicks + calls) / self.requests)


@dataclass(frozen=True)
class Result(Generic[P]):
    """What the runs of a point say."""

    point: P
    kept: Sequence[Run]
    """The runs that count."""
    runs: int
    """Runs in all."""

    @property
    def nanoseconds(self) -> float:
        """Time per request: median of the runs that count."""
        return median(run.nanoseconds for run in self.kept)

    @property
    def fastest(self) -> float:
        """Time per request in the fastest of them."""
        return min(run.nanoseconds for run in self.kept)

    @property
    def distance(self) -> float:
        """A cache line's round trip meanwhile, in nanoseconds: median."""
        return median(run.distance for run in self.kept)

    @property
    def notifications(self) -> float:
        """Kicks and calls per request: median."""
        return median(run.notifications for run in self.kept)


@dataclass
class _Taken:
    runs: list[Run] = field(default_factory=list)


def plan(
    *,
    layouts: Iterable[str] = tuple(LAYOUTS),
    outstanding: Iterable[int] = OUTSTANDING,
    batches: Iterable[int] = BATCHES,
    waits: Iterable[Wait] = ("poll", "notify"),
    places: Iterable[Placement] | None = None,
    scale: float = 1.0,
    precedence: bool = False,
) -> list[Ring]:
    """List what to measure; ``scale`` multiplies the number of requests."""
    places = placements() if places is None else list(places)
    if not places:
        raise ConfigurationError(
            "measuring both ends of a ring needs two processors, and this process may use one only"
        )

    def points() -> Iterator[Ring]:
        for place in places:
            for wait in waits:
                for limit in outstanding:
                    for layout in layouts:
                        for batch in batches:
                            if batch <= limit:
                                requests = max(round(scale * _requests(wait, limit, batch)), 256)
                                yield Ring(layout, batch, limit, wait, place, requests, precedence)

    return list(points())


def _requests(wait: Wait, outstanding: int, batch: int) -> int:
    """Requests that take some milliseconds: shorter runs are mostly start, longer ones are disturbed more."""
    if wait == "notify":
        return 2000 if outstanding == 1 else 500 * min(batch, 64) + 5000
    return 20_000 if outstanding == 1 else 100_000


def measure(
    points: Sequence[P], *, runs: int = 7, patience: int = 3, progress: Progress | None = None
) -> list[Result[P]]:
    """Run all points in turn, ``runs`` times.

    Those of which too few runs count are run again, up to ``patience`` times as often in all. A point none of
    whose runs count is judged by all of them.
    """
    taken = [_Taken() for _ in points]
    done, total = 0, runs * len(points)
    for turn in range(runs * patience):
        if turn < runs:
            again = list(range(len(points)))
        else:
            kept = _kept(points, taken)
            again = [number for number, good in enumerate(kept) if len(good) * 2 < runs]
            total += len(again)
        for number in again:
            taken[number].runs.append(points[number].run())
            done += 1
            if progress is not None:
                progress(done, total)
    return [
        Result(point, good or own.runs, len(own.runs))
        for point, own, good in zip(points, taken, _kept(points, taken), strict=True)
    ]


def _kept(points: Sequence[P], taken: Sequence[_Taken]) -> list[list[Run]]:
    """For each point the runs that count."""
    nearest: dict[tuple[int, int], float] = {}
    for point, own in zip(points, taken, strict=True):
        low = min((min(run.before, run.after) for run in own.runs), default=float("inf"))
        nearest[point.processors] = min(low, nearest.get(point.processors, low))
    return [
        [run for run in own.runs if run.distance <= NEAR * nearest[point.processors]]
        for point, own in zip(points, taken, strict=True)
    ]
