"""Our block device over vhost-user and over vfio-user, under our driver: what the way to it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from virtio.bench.block import MIB, WORK, Rate, Work, measure, scratch_folder, settled
from virtio.bench.block_servers import OURS, OVER_VFIO_USER, Medium, running
from virtio.bench.processors import placements


@dataclass(frozen=True)
class Ways:
    """One kind of work, medians over the turns."""

    work: Work
    vhost_user: Rate
    vfio_user: Rate
    ratio: float
    """Requests a second, vfio-user's to vhost-user's, as the median of the turns."""


def measure_transports(
    *,
    seconds: float = 1.0,
    turns: int = 3,
    size: int = 256 * MIB,
    precedence: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[Ways]:
    """Measure the null device, both ends polling; arguments as for ``measure_block``."""
    place = next((p for p in placements() if p.name == "separate cores"), None)
    driver, device = (None, None) if place is None else place.processors
    medium = Medium("null", size, None)
    rates: dict[tuple[Work, str], list[Rate]] = {}
    done, total = 0, turns * 2 * len(WORK)
    with settled(driver, precedence), scratch_folder() as folder:
        for turn in range(turns):
            names = (OURS, OVER_VFIO_USER)
            for name in names if turn % 2 == 0 else names[::-1]:
                with running(name, medium, folder, processor=device, precedence=precedence) as server:
                    for work in WORK:
                        rates.setdefault((work, name), []).append(measure(server, work, seconds))
                        done += 1
                        if progress is not None:
                            progress(done, total)
    return [_compare(work, rates[work, OURS], rates[work, OVER_VFIO_USER]) for work in WORK]


def _compare(work: Work, vhost: list[Rate], vfio: list[Rate]) -> Ways:
    ratio = median(b.per_second / a.per_second for a, b in zip(vhost, vfio, strict=True))
    return Ways(work, _middle(vhost), _middle(vfio), ratio)


def _middle(rates: list[Rate]) -> Rate:
    return sorted(rates, key=lambda rate: rate.per_second)[len(rates) // 2]
