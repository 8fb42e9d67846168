"""The comparison of block devices measures what it says; its figures are for make bench."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from virtio.bench.block import WORK, Work, measure_block, measure_calls
from virtio.bench.block_servers import OURS, Medium, command, peers, running
from virtio.bench.programs import fio
from virtio.errors import ConfigurationError, TransportError


def test_each_medium_and_work_is_measured() -> None:
    seen: list[tuple[int, int]] = []
    work = (Work("random", 4), Work("sequential", 2, 65536, sequential=True))
    found = measure_block(
        seconds=0.02,
        turns=1,
        size=8 << 20,
        work=work,
        progress=lambda done, total: seen.append((done, total)),
    )
    drivers = ["pyvirtio"] + (["fio with libblkio"] if fio() else [])
    assert [(row.driver, row.medium, row.work.name) for row in found] == [
        (driver, medium, item.name)
        for driver in drivers
        for medium in ("null", "cached file")
        for item in work
    ]
    assert seen[-1][0] == seen[-1][1]
    for row in found:
        assert list(row.peers) == list(row.ratios) == peers()
        for rate in (row.ours, *row.peers.values()):
            assert rate.per_second > 0
            assert rate.driver_nanoseconds > 0
    assert {item.depth for item in WORK} >= {1, 32, 128}


def test_what_python_costs() -> None:
    calls = measure_calls(seconds=0.05)
    assert all(nanoseconds > 0 for nanoseconds in calls.values())
    assert set(calls) >= {"read_batch() of 256", "read(), one after another"}


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    medium = Medium("file", 4096, tmp_path / "missing")
    with pytest.raises(TransportError, match="pyvirtio did not start: virtio: there is no"):
        running(OURS, medium, tmp_path).__enter__()
    assert "--poll" in command(OURS, medium, tmp_path / "socket")


def test_json() -> None:
    line = [sys.executable, "-m", "virtio", "bench", "block", "--json", "--seconds", "0.02", "--turns", "1"]
    line += ["--driver", "pyvirtio", "--medium", "null"]
    report = json.loads(subprocess.run(line, capture_output=True, check=True, timeout=100).stdout)
    assert report["comparisons"][0]["ours"]["per_second"] > 0
    assert report["calls"]
    assert [row["work"]["depth"] for row in report["transports"]] == [item.depth for item in WORK]


def test_drivers_that_are_not_here() -> None:
    with pytest.raises(ConfigurationError, match="there is no nobody here; there is pyvirtio"):
        measure_block(drivers=["nobody"])
