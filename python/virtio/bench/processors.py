"""Which processors share a core: two threads of a benchmark are placed on purpose."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Placement:
    """Where the two ends run."""

    name: Literal["separate cores", "sibling threads"]
    driver: int
    """Processor of the driver's end."""
    device: int
    """Processor of the device's end."""

    @property
    def processors(self) -> tuple[int, int]:
        """Both, as the native functions take them."""
        return self.driver, self.device


def placements(allowed: Collection[int] | None = None, topology: Path = _TOPOLOGY) -> list[Placement]:
    """Find two processors on separate cores (of one package, if it can be) and two that share a core.

    ``allowed``: the processors to choose from, by default all that this process may use. What the machine
    does not have is left out.
    """
    usable = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    siblings = {cpu: _list(topology / f"cpu{cpu}/topology/thread_siblings_list", cpu) for cpu in usable}
    package = {cpu: _list(topology / f"cpu{cpu}/topology/physical_package_id", 0) for cpu in usable}
    pairs = list(combinations(usable, 2))
    # The first processor has the most of other people's work, so the last come first.
    shared = [pair for pair in reversed(pairs) if pair[1] in siblings[pair[0]]]
    apart = [pair for pair in reversed(pairs) if pair[1] not in siblings[pair[0]]]
    apart.sort(key=lambda pair: package[pair[0]] != package[pair[1]])
    found = []
    if apart:
        found.append(Placement("separate cores", apart[0][1], apart[0][0]))
    if shared:
        found.append(Placement("sibling threads", shared[0][1], shared[0][0]))
    return found


def _list(path: Path, default: int) -> frozenset[int]:
    """Read a list of numbers as sysfs writes it: ``0-3,8``."""
    try:
        text = path.read_text().strip()
    except OSError:
        return frozenset({default})
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
