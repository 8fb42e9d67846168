"""Our rings beside those of the kernel's ``tools/virtio/ringtest``, in one run and in turns.

The kernel's programs come from Debian's linux-source package and are built in ``.cache``. One request is the
same there and here: a single buffer is made available, found, used and taken back; nothing is done with it,
and both ends poll. Theirs show each entry to the other end by itself. Ours do so with a batch: the table has
batches of one too, and of a quarter of what may be outstanding, which keeps four batches on their way.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from virtio._native import measure_distance
from virtio.bench import this_machine
from virtio.bench.processors import Placement, placements
from virtio.bench.ring import OUTSTANDING, SIZE, Result, Ring, Run, measure

CACHE = Path(__file__).parent.parent / ".cache/ringtest"
PACKAGE = "linux-source-6.1"
SOURCES = "tools/virtio/ringtest"
SHORT = 10_000
"""Entries in the run that shows what starting and ending the program takes."""
DURATION = 100_000_000
"""Nanoseconds that a run lasts: long beside what starting and ending the program takes now and then."""


@dataclass(frozen=True)
class Pairing:
    """A program of the kernel's and the layout of ours that is like it."""

    program: str
    layout: str
    many: float
    """What part of its time ours may take with 16 and more outstanding."""
    one: float | None
    """The same with one outstanding, where there is a target."""


PAIRINGS = (
    Pairing("ring", "packed", 0.6, 1.0),
    Pairing("virtio_ring_0_9", "split", 0.5, None),
    Pairing("virtio_ring_inorder", "split in-order", 0.5, None),
)


@dataclass(frozen=True)
class Peer:
    """One of the kernel's programs, and how it is run."""

    program: Path
    outstanding: int
    placement: Placement
    entries: int
    precedence: bool

    @property
    def processors(self) -> tuple[int, int]:
        """Where it runs."""
        return self.placement.processors

    def lasting(self, duration: float) -> Self:
        """Return the same with as many entries as take so long."""
        entry = min(self._time(self.entries) - self._time(SHORT) for _ in range(3)) / (self.entries - SHORT)
        return replace(self, entries=round(duration / max(entry, 5)) + SHORT)

    def run(self) -> Run:
        """Run it once, between two probes."""
        before = measure_distance(self.processors, precedence=self.precedence)
        start = self._time(SHORT)
        time = self._time(self.entries) - start
        after = measure_distance(self.processors, precedence=self.precedence)
        return Run(time / (self.entries - SHORT), before, after)

    def _time(self, entries: int) -> float:
        guest, host = self.processors
        command = [
            self.program, "--host-affinity", str(host), "--guest-affinity", str(guest),
            "--ring-size", str(SIZE), "--run-cycles", str(entries), "--outstanding", str(self.outstanding),
        ]  # fmt: skip
        # Not this call's timeout: with one, Python looks for the end at long intervals only.
        prefix = ["timeout", "60", *(["chrt", "--fifo", "50"] if self.precedence else [])]
        start = time.perf_counter_ns()
        subprocess.run([*prefix, *command], check=True)
        return float(time.perf_counter_ns() - start)


def build() -> Path:
    """Fetch and build the kernel's programs, unless they are there; return their folder."""
    folder = CACHE / SOURCES
    if not all((folder / pairing.program).exists() for pairing in PAIRINGS):
        CACHE.mkdir(parents=True, exist_ok=True)
        if not (folder / "main.c").exists():
            _fetch(CACHE)
        subprocess.run(["make", "-s", *(p.program for p in PAIRINGS)], cwd=folder, check=True)
    return folder


def _fetch(into: Path) -> None:
    print(f"fetching {SOURCES} from {PACKAGE}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=scratch, check=True)
        (package,) = Path(scratch).glob("*.deb")
        # The archive within the package is never on the disk as a whole.
        pipeline = (
            f"dpkg-deb --fsys-tarfile {package.name} | tar -xO --wildcards '*/{PACKAGE}.tar.xz' | "
            f"tar -xJ -C {scratch} --wildcards '{PACKAGE}/{SOURCES}/*'"
        )
        subprocess.run(["bash", "-o", "pipefail", "-c", pipeline], cwd=scratch, check=True)
        (into / SOURCES).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(f"{scratch}/{PACKAGE}/{SOURCES}", into / SOURCES)


def points(folder: Path, place: Placement, scale: float, precedence: bool) -> list[Peer | Ring]:
    """List what to run: of each comparison the peer's point, then ours."""
    found: list[Peer | Ring] = []
    for pairing in PAIRINGS:
        for limit in OUTSTANDING:
            peer = Peer(folder / pairing.program, limit, place, 50 * SHORT, precedence)
            found.append(peer.lasting(scale * DURATION))
            for batch in dict.fromkeys((1, max(limit // 4, 1))):
                requests = round(scale * (100_000 if limit == 1 else 500_000))
                found.append(Ring(pairing.layout, batch, limit, "poll", place, requests, precedence))
    return found


@dataclass(frozen=True)
class Row:
    """One comparison."""

    peer: str
    layout: str
    outstanding: int
    batch: int
    peer_ns: float
    ns: float
    ratio: float
    target: float | None
    """For the larger batch."""
    distance: float
    kept: str


def rows(results: Sequence[Result[Peer | Ring]]) -> list[Row]:
    """Compare each of our points with the peer's in front of it."""
    pairing = {pairing.program: pairing for pairing in PAIRINGS}
    found = []
    peer = results[0]
    for result in results:
        point = result.point
        if isinstance(point, Peer):
            peer, program = result, point.program.name
            continue
        own = pairing[program]
        target = own.one if point.outstanding == 1 else own.many
        found.append(
            Row(
                peer=program,
                layout=point.layout,
                outstanding=point.outstanding,
                batch=point.batch,
                peer_ns=round(peer.nanoseconds, 1),
                ns=round(result.nanoseconds, 1),
                ratio=round(result.nanoseconds / peer.nanoseconds, 2),
                target=target if point.batch == max(point.outstanding // 4, 1) else None,
                distance=round(result.distance),
                kept=f"{len(peer.kept)}/{peer.runs} {len(result.kept)}/{result.runs}",
            )
        )
    return found


def main() -> int:
    """Print the table of ratios; 1 if a target is missed and that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="runs of each; the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--precedence", action="store_true", help="keep other threads away (for root)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    options = parser.parse_args()
    places = [place for place in placements() if place.name == "separate cores"]
    if not places:
        print("ringtest: left out, two cores are needed", file=sys.stderr)
        return 0
    folder = build()
    if options.precedence:
        # This process has to notice at once when theirs ends.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(60))
    machine = this_machine()
    results = measure(points(folder, places[0], options.scale, options.precedence), runs=options.runs)
    table = rows(results)
    if options.json:
        figures = [asdict(row) for row in table]
        print(json.dumps({"machine": asdict(machine), "ratios": figures}, indent=2))
    else:
        print(f"{'ringtest':20}{'ns':>7}   {'ours':15}{'out':>4}{'batch':>6}{'ns':>8}{'ratio':>7}  to reach")
        for row in table:
            said = "" if row.target is None else f"{row.target:.1f}"
            said += "  MISSED" if row.target is not None and row.ratio > row.target else ""
            print(
                f"{row.peer:20}{row.peer_ns:7.1f}   {row.layout:15}{row.outstanding:4}{row.batch:6}"
                f"{row.ns:8.1f}{row.ratio:7.2f}  {said}".rstrip()
            )
        distance = sorted(row.distance for row in table)[len(table) // 2]
        print(
            f"ns per request, medians; a cache line there and back: {distance:.0f} ns; {machine.processor}, "
            f"{machine.processors} processors, kernel {machine.kernel}, load {machine.load:.1f}"
        )
    missed = any(row.target is not None and row.ratio > row.target for row in table)
    return int(options.strict and missed)


if __name__ == "__main__":
    sys.exit(main())
