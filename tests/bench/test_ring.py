"""Measuring both ends of a ring on two processors."""

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from virtio.bench.ring import LAYOUTS, Run, measure, plan
from virtio.cli import app

two_processors = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
SMALL = ["--runs", "1", "--scale", "0.01", "--batch", "1", "--batch", "16"]


@two_processors
@pytest.mark.parametrize("wait", ["poll", "check", "notify"])
def test_every_layout_runs_under_every_way_to_wait(wait: str) -> None:
    points = plan(waits=[wait], outstanding=[1, 256], batches=[1, 64], scale=0.02)  # type: ignore[list-item]
    assert {point.layout for point in points} == set(LAYOUTS)
    for result in measure(points, runs=1, patience=1):
        assert result.nanoseconds > 0
        assert result.distance > 0
        assert (result.notifications > 0) == (wait == "notify")


@dataclass
class Recorded:
    """Runs that took place elsewhere."""

    processors: tuple[int, int]
    recorded: Iterator[Run]
    asked: int = field(default=0)

    def run(self) -> Run:
        self.asked += 1
        return next(self.recorded)


def test_only_runs_between_two_near_probes_count() -> None:
    near = Recorded(
        (0, 1), iter([Run(10, 100, 110), Run(90, 100, 400), Run(12, 104, 100), Run(80, 500, 500)])
    )
    far = Recorded((2, 3), iter([Run(50, 300, 300)] * 4))
    result, other = measure([near, far], runs=4, patience=1)
    assert [run.nanoseconds for run in result.kept] == [10, 12]
    assert (result.nanoseconds, result.fastest, result.runs) == (11, 10, 4)
    # What is near on some processors says nothing of others.
    assert len(other.kept) == 4


def test_points_without_enough_runs_that_count_are_run_again() -> None:
    steady = Recorded((0, 1), iter([Run(10, 100, 100)] * 2))
    moody = Recorded((0, 1), iter([Run(90, 400, 100)] * 3 + [Run(11, 100, 100)]))
    result, other = measure([steady, moody], runs=2, patience=3)
    assert (result.runs, other.runs) == (2, 4)
    assert other.nanoseconds == 11


@two_processors
def test_json_names_the_machine_and_every_figure() -> None:
    result = CliRunner().invoke(app, ["bench", "ring", "--json", "--wait", "poll", *SMALL])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["machine"]["processors"] == len(os.sched_getaffinity(0))
    apart = [row for row in said["measurements"] if row["placement"] == "separate cores"]
    # Batch 16 needs 16 outstanding.
    assert sorted({(row["outstanding"], row["batch"]) for row in apart}) == [
        (1, 1), (16, 1), (16, 16), (256, 1), (256, 16),
    ]  # fmt: skip
    assert len(apart) == 5 * len(LAYOUTS)


@two_processors
def test_csv_has_a_line_for_every_figure() -> None:
    arguments = ["--csv", "--wait", "notify", "--layout", "packed", "--outstanding", "16", *SMALL]
    result = CliRunner().invoke(app, ["bench", "ring", *arguments])
    assert result.exit_code == 0, result.output
    rows = [row for row in csv.DictReader(io.StringIO(result.stdout)) if row["placement"] == "separate cores"]
    assert [(row["layout"], row["batch"]) for row in rows] == [("packed", "1"), ("packed", "16")]
    assert all(float(row["nanoseconds"]) > 0 for row in rows)


def test_an_unknown_layout_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "ring", "--layout", "triangular"])
    assert result.exit_code != 0
