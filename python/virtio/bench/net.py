"""Our network device beside DPDK's own vhost back end, in one run: 64-byte packets, one core for each end.

The driver is DPDK's virtio-user in ``dpdk-testpmd``, on one processor, polling. On another runs either DPDK's
``net_vhost`` in a second testpmd, or our device with its sink or source. They take turns, and what counts is
the ratio of a turn.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from virtio.bench.processors import placements
from virtio.errors import ConfigurationError, TransportError

PROGRAM = "dpdk-testpmd"
RING = 256
Direction = Literal["driver to device", "device to driver"]
End = Literal["dpdk", "pyvirtio"]


@dataclass(frozen=True)
class Layout:
    """How the rings are laid out, as virtio-user's properties say it."""

    name: str
    packed: bool = False
    in_order: bool = False
    mergeable: bool = False


MERGEABLE = ", mergeable"
LAYOUTS = tuple(
    Layout(f"{ring}{MERGEABLE if mergeable else ''}", packed, in_order, mergeable)
    for ring, packed, in_order in (
        ("split", False, False),
        ("split in order", False, True),
        ("packed", True, False),
        ("packed in order", True, True),
    )
    for mergeable in (False, True)
)


@dataclass(frozen=True)
class Throughput:
    """One layout and direction, medians over the turns, in packets a second."""

    layout: str
    direction: Direction
    peer: float
    ours: float
    ratio: float


def measure_net(
    *,
    seconds: int = 3,
    turns: int = 3,
    layouts: Sequence[Layout] = LAYOUTS,
    precedence: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[Throughput]:
    """Measure both back ends under the same driver.

    ``seconds``: of each measurement. ``precedence``: run before other work (for the privileged).
    """
    if shutil.which(PROGRAM) is None:
        raise ConfigurationError(f"there is no {PROGRAM}: apt-get install --no-install-recommends dpdk-dev")
    place = next((p for p in placements() if p.name == "separate cores"), None)
    if place is None:
        raise ConfigurationError("this needs two processors on cores of their own")
    directions: tuple[Direction, ...] = ("driver to device", "device to driver")
    ends: list[End] = ["dpdk", "pyvirtio"]
    found = []
    done, total = 0, len(layouts) * len(directions) * turns * len(ends)
    for layout in layouts:
        for direction in directions:
            rates: dict[End, list[float]] = {"dpdk": [], "pyvirtio": []}
            for turn in range(turns):
                for end in ends if turn % 2 == 0 else ends[::-1]:
                    rates[end].append(_measure(end, layout, direction, place.processors, seconds, precedence))
                    done += 1
                    if progress is not None:
                        progress(done, total)
            ratio = median(a / b for a, b in zip(rates["pyvirtio"], rates["dpdk"], strict=True))
            found.append(
                Throughput(layout.name, direction, median(rates["dpdk"]), median(rates["pyvirtio"]), ratio)
            )
    return found


@dataclass(frozen=True)
class MergeableCost:
    """What part of the packets a second mergeable buffers cost: the driver has to read each header."""

    layout: str
    direction: Direction
    peer: float
    ours: float


def mergeable_costs(rows: Sequence[Throughput]) -> list[MergeableCost]:
    """The cost of mergeable buffers with each layout that was measured with and without them."""
    merged = {(row.layout, row.direction): row for row in rows}
    found = []
    for row in rows:
        other = merged.get((f"{row.layout}{MERGEABLE}", row.direction))
        if other is not None:
            peer, ours = 1 - other.peer / row.peer, 1 - other.ours / row.ours
            found.append(MergeableCost(row.layout, row.direction, peer, ours))
    return found


def measure_swap(
    *, seconds: int = 3, turns: int = 3, precedence: bool = False
) -> dict[Literal["frame", "batch"], float]:
    """Frames a second that a handler in Python sends back with their addresses swapped, end to end.

    With a call for each frame, and for all that came together; the device's threads have one processor.
    """
    place = next((p for p in placements() if p.name == "separate cores"), None)
    if place is None:
        raise ConfigurationError("this needs two processors on cores of their own")
    driver, device = place.processors
    layout = Layout("packed", packed=True)
    rates: dict[Literal["frame", "batch"], list[float]] = {"frame": [], "batch": []}
    for _ in range(turns):
        for way, found in rates.items():
            with tempfile.TemporaryDirectory(prefix="virtio-bench-") as folder:
                socket = Path(folder) / "net.sock"
                command = [sys.executable, "-m", "virtio.bench.net_swap", str(socket), way]
                with _served(command, socket, device) as pid:
                    preferred = pid if precedence else None
                    found.append(_drive(layout, "both", socket, driver, seconds, preferred))
    return {way: median(found) for way, found in rates.items()}


def _measure(
    end: End,
    layout: Layout,
    direction: Direction,
    processors: tuple[int, int],
    seconds: int,
    precedence: bool,
) -> float:
    driver, device = processors
    with tempfile.TemporaryDirectory(prefix="virtio-bench-") as folder:
        socket = Path(folder) / "net.sock"
        with _device(end, layout, direction, socket, device) as pid:
            return _drive(layout, direction, socket, driver, seconds, pid if precedence else None)


@contextlib.contextmanager
def _process(command: Sequence[str], processor: int, output: int) -> Iterator["subprocess.Popen[str]"]:
    def settle() -> None:
        os.sched_setaffinity(0, {processor})

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=settle,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _testpmd(prefix: str, processor: int, virtual: str, mode: str) -> list[str]:
    # Both lcores, the one that prints and the one that forwards, on one processor.
    eal = ["--lcores", f"0@{processor},1@{processor}", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]
    eal += ["--no-shconf", f"--file-prefix={prefix}", "--vdev", virtual]
    own = ["--nb-cores=1", f"--forward-mode={mode}", "--stats-period=1", "--total-num-mbufs=16384"]
    own += ["--burst=32", f"--txd={RING}", f"--rxd={RING}", "--no-flush-rx"]
    return ["stdbuf", "-oL", PROGRAM, *eal, "--", *own]


@contextlib.contextmanager
def _device(end: End, layout: Layout, direction: Direction, socket: Path, processor: int) -> Iterator[int]:
    if end == "dpdk":
        mode = "rxonly" if direction == "driver to device" else "txonly"
        command = _testpmd("bench-device", processor, f"net_vhost0,iface={socket},queues=1", mode)
    else:
        network = "sink" if direction == "driver to device" else "source"
        mask = ",".join(
            name
            for name, there in (("RING_PACKED", layout.packed), ("MRG_RXBUF", layout.mergeable))
            if not there
        )
        command = [sys.executable, "-m", "virtio", "serve", "net", network, "--socket", str(socket)]
        command += ["--poll", "1000000", "--mask", mask]
        command += ["--in-order"] if layout.in_order else []
    with _served(command, socket, processor) as pid:
        yield pid


@contextlib.contextmanager
def _served(command: Sequence[str], socket: Path, processor: int) -> Iterator[int]:
    with _process(command, processor, subprocess.DEVNULL) as process:
        until = time.monotonic() + 15
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise TransportError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield process.pid


def _drive(
    layout: Layout,
    direction: Direction | Literal["both"],
    socket: Path,
    processor: int,
    seconds: int,
    preferred: int | None,
) -> float:
    properties = (
        f"net_virtio_user0,path={socket},queues=1,queue_size={RING},packed_vq={int(layout.packed)},"
        f"in_order={int(layout.in_order)},mrg_rxbuf={int(layout.mergeable)}"
    )
    # "flowgen" sends all the time, and receives what comes back.
    modes = {"driver to device": "txonly", "device to driver": "rxonly", "both": "flowgen"}
    mode, label = modes[direction], "Tx-pps" if direction == "driver to device" else "Rx-pps"
    rates: list[int] = []
    with _process(
        _testpmd("bench-driver", processor, properties, mode), processor, subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(rf"{label}:\s+(\d+)", line):
                if not rates and preferred is not None:
                    _prefer(process.pid)
                    _prefer(preferred)
                rates.append(int(match[1]))
                # The first period is not a whole one.
                if len(rates) > seconds + 2:
                    break
    if len(rates) <= seconds + 1:
        raise TransportError("testpmd ended early")
    return float(median(rates[2:]))


def _prefer(process: int) -> None:
    """Let a process run before other work, which a priority among equals does not do between sessions.

    Round robin in real time: its threads that set up and count take turns with those that poll.
    """
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(50))
