"""What an IOMMU costs: the same load with and without translation, and with translations that go.

Driver and device are in this process, joined by ``mem:``, each on a processor of its own, polling; the device
is a null disk. Who answers its questions, and who takes pages away, are threads of Python that come before
both. The ways take turns, and what counts is the ratio within a turn.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import virtio
from virtio._native import BlockTarget
from virtio.bench.block import settled
from virtio.bench.processors import Placement, placements
from virtio.spec import core

PAGE = 4096
_POLLING = 50
_NAME = "mem:bench-iotlb"
_PRIORITY = 60
"""Of the threads that answer and disturb; above that of the driver and the device."""


@dataclass(frozen=True)
class Way:
    """How the device sees the memory."""

    name: str
    iommu: bool
    pause: float | None = None
    """Seconds after which one of the pages in use is unmapped and mapped again."""


WAYS = (
    Way("no IOMMU", False),
    Way("IOMMU, all hits", True),
    Way("a page goes every 10 ms", True, 0.01),
    Way("a page goes every 1 ms", True, 0.001),
)


@dataclass(frozen=True)
class Cost:
    """What came of one way, medians over the turns."""

    way: str
    depth: int
    per_second: float
    ratio: float
    """Requests a second, to those without an IOMMU in the same turn."""
    misses: float
    """Translations asked for, for each request."""


Progress = Callable[[int, int], object]


def measure_iotlb(
    *,
    seconds: float = 0.2,
    turns: int = 9,
    depths: Sequence[int] = (1, 32, 128),
    precedence: bool = False,
    progress: Progress | None = None,
) -> list[Cost]:
    """Measure 4 KiB random reads from a null disk, each way, at each depth.

    ``seconds``: of each load. ``precedence``: run before other work on the machine (for the privileged).
    """
    place = next((p for p in placements() if p.name == "separate cores"), None)
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    done, total = 0, turns * len(WAYS)
    for turn in range(turns):
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            for depth, rate in _measure(way, seconds, depths, place, precedence):
                rates.setdefault((way.name, depth), []).append(rate)
            done += 1
            if progress is not None:
                progress(done, total)
    found = []
    for depth in depths:
        plain = [rate for rate, _ in rates[WAYS[0].name, depth]]
        for way in WAYS:
            ours = rates[way.name, depth]
            found.append(
                Cost(
                    way.name,
                    depth,
                    median(rate for rate, _ in ours),
                    median(a / b for (a, _), b in zip(ours, plain, strict=True)),
                    median(misses for _, misses in ours),
                )
            )
    return found


def _measure(
    way: Way, seconds: float, depths: Sequence[int], place: Placement | None, precedence: bool
) -> Iterator[tuple[int, tuple[float, float]]]:
    device = virtio.BlockDevice(BlockTarget.null(64 << 20, zeroes=False), polling=_POLLING)
    device.offered_features |= core.F.ACCESS_PLATFORM
    granule = None if way.pause is None else PAGE
    domain = virtio.IommuDomain(unmapped="wait", granule=granule) if way.iommu else None
    with contextlib.ExitStack() as stack:
        stack.callback(device.close)
        stack.enter_context(virtio.start(device, _NAME))
        disk = stack.enter_context(
            virtio.connect(_NAME, "block", queues=1, polling=_POLLING, iommu=domain or False)
        )
        for depth in depths:
            buffer = disk.allocate(depth * PAGE)
            disk.load("read", buffer, depth=depth, size=PAGE, sequential=False, seconds=seconds / 5)
            with _disturbed(domain, way.pause), _placed(place, precedence):
                before = 0 if domain is None else domain.misses
                result = disk.load("read", buffer, depth=depth, size=PAGE, sequential=False, seconds=seconds)
                misses = 0 if domain is None else domain.misses - before
            yield depth, (result.requests * 1e9 / result.nanoseconds, misses / max(result.requests, 1))


@contextlib.contextmanager
def _placed(place: Placement | None, precedence: bool) -> Iterator[None]:
    """Put the driver, which is this thread, and the device's worker where they belong, within a block."""
    names = {thread.native_id for thread in threading.enumerate()}
    tasks = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    workers = [task for task in tasks if task not in names and _name(task).startswith("BlockDevice")]
    others = [task for task in tasks if task in names and task != threading.get_native_id()]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(settled(None if place is None else place.device, precedence, worker))
        for other in others:
            stack.enter_context(settled(None, precedence, other, _PRIORITY))
        stack.enter_context(settled(None if place is None else place.driver, precedence))
        yield


def _name(task: int) -> str:
    try:
        return Path(f"/proc/self/task/{task}/comm").read_text()
    except OSError:
        return ""  # It has ended.


@contextlib.contextmanager
def _disturbed(domain: virtio.IommuDomain | None, pause: float | None) -> Iterator[None]:
    """Take a page away now and then, of those that the device uses."""
    if domain is None or pause is None:
        yield
        return
    done = threading.Event()
    whole = domain.mappings[0]

    def disturb() -> None:
        page = 0
        while not done.wait(pause):
            start = whole.iova + page % 16 * PAGE
            domain.unmap(start, PAGE)
            domain.map(start, PAGE, whole.user_address + start - whole.iova)
            page += 1

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
