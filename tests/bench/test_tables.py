"""Measuring when indirect tables pay."""

import json
import os

import pytest
from typer.testing import CliRunner

from virtio.bench.ring import SIZE
from virtio.bench.tables import LENGTHS, OUTSTANDING, measure_tables
from virtio.cli import app

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


def test_every_length_runs_both_ways() -> None:
    rows = measure_tables(scale=0.02, runs=1, layouts=["split", "packed", "packed in-order"])
    assert len(rows) == 3 * len(OUTSTANDING) * len(LENGTHS)
    for row in rows:
        assert row.direct > 0
        assert row.table > 0
        assert row.fit == min(row.outstanding, SIZE // row.descriptors)


def test_the_command_prints_what_was_measured() -> None:
    arguments = ["bench", "ring", "--tables", "--layout", "split", "--runs", "1", "--scale", "0.01"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["tables"]
    assert {row["descriptors"] for row in rows} == set(LENGTHS)
    assert "in a table" in CliRunner().invoke(app, arguments).output
    assert CliRunner().invoke(app, [*arguments, "--csv"]).exit_code != 0
