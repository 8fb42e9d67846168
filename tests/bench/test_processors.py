"""Where benchmarks put their threads."""

from pathlib import Path

import pytest

from virtio.bench.processors import Placement, placements


def topology(folder: Path, siblings: list[str], packages: list[int]) -> Path:
    """Write what sysfs would say: for each processor its siblings and its package."""
    for cpu, (line, package) in enumerate(zip(siblings, packages, strict=True)):
        own = folder / f"cpu{cpu}/topology"
        own.mkdir(parents=True)
        (own / "thread_siblings_list").write_text(f"{line}\n")
        (own / "physical_package_id").write_text(f"{package}\n")
    return folder


def test_siblings_and_separate_cores_are_told_apart(tmp_path: Path) -> None:
    tree = topology(tmp_path, ["0,2", "1,3", "0,2", "1,3"], [0, 0, 0, 0])
    apart, shared = placements(range(4), tree)
    assert apart == Placement("separate cores", 3, 2)
    assert shared == Placement("sibling threads", 3, 1)


def test_a_range_of_siblings_is_understood(tmp_path: Path) -> None:
    tree = topology(tmp_path, ["0-1", "0-1", "2-3", "2-3"], [0, 0, 0, 0])
    assert {place.name: set(place.processors) for place in placements(range(4), tree)} == {
        "separate cores": {1, 3},
        "sibling threads": {2, 3},
    }


def test_separate_cores_are_of_one_package_if_there_are_such(tmp_path: Path) -> None:
    tree = topology(tmp_path, ["0", "1", "2"], [0, 0, 1])
    assert placements(range(3), tree) == [Placement("separate cores", 1, 0)]


@pytest.mark.parametrize(("allowed", "found"), [([1], 0), ([0, 2], 1), ([0, 1], 1)])
def test_only_allowed_processors_are_used(tmp_path: Path, allowed: list[int], found: int) -> None:
    tree = topology(tmp_path, ["0,2", "1", "0,2"], [0, 0, 0])
    places = placements(allowed, tree)
    assert len(places) == found
    assert all(set(place.processors) <= set(allowed) for place in places)


def test_this_machine_has_no_processor_twice() -> None:
    assert all(place.driver != place.device for place in placements())
