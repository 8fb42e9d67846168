"""The measurement of translation runs, and its ways differ in what they say."""

import json
import subprocess
import sys

from virtio.bench.iotlb import WAYS, measure_iotlb


def test_each_way_is_measured() -> None:
    seen: list[tuple[int, int]] = []
    found = measure_iotlb(
        seconds=0.05, turns=1, depths=(4,), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (len(WAYS), len(WAYS))
    assert [cost.way for cost in found] == [way.name for way in WAYS]
    assert all(cost.per_second > 0 for cost in found)
    assert found[0].ratio == 1
    assert found[0].misses == 0
    assert found[-1].misses > 0


def test_json() -> None:
    line = [sys.executable, "-m", "virtio", "bench", "iotlb", "--json", "--seconds", "0.01", "--turns", "1"]
    rows = json.loads(subprocess.run(line, capture_output=True, check=True, timeout=100).stdout)
    assert [(row["way"], row["depth"]) for row in rows][:2] == [(WAYS[0].name, 1), (WAYS[1].name, 1)]
    assert all(row["per_second"] > 0 for row in rows)
