"""The examples with networks, and the one with a card."""

import os
import re
import subprocess
import sys
from pathlib import Path

from examples.mirror import Mirror

import virtio

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_mirror() -> None:
    with virtio.start(Mirror(), "mem:mirror"), virtio.connect("mem:mirror", "net") as card:
        frames = [bytes(range(12)) + os.urandom(48 + size) for size in range(100)]
        for frame in frames:
            card.send(frame)
        for frame in frames:
            assert card.receive(timeout=10).data == frame[6:12] + frame[:6] + frame[12:]


def test_a_lossy_network() -> None:
    counts, order = run("lossy_network.py").splitlines()
    found = re.fullmatch(r"(\d+) of 1000 frames came, (\d+) of them twice", counts)
    assert found
    assert 900 < int(found[1]) < 1000
    assert 0 < int(found[2]) < 50
    assert order == "out of order"


def test_flow_filters() -> None:
    assert run("flow_filters.py").splitlines() == [
        "port 5000: queue 3",
        "port 53: dropped",
        "port 80: queue 1",
    ]


def test_a_card() -> None:
    *function, traffic = run("card.py").splitlines()
    assert function[0].startswith("00:00.0 ")
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", traffic)}
    assert counts["notifications"] == counts["interrupts"] == 10
    assert counts["reads"] >= 20
