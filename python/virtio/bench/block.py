"""Block drivers on qemu-storage-daemon and on our own block device, side by side in one run.

All serve the same medium, each from a process of its own on one processor, with the same polling; the driver
polls, and runs on another processor. It is our native one, and fio's with libblkio, so that the comparison
does not rest on ours. Back ends take turns, and what counts is the ratio of a turn.
"""

import array
import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import virtio
from virtio._native import SharedBuffer
from virtio.bench import fio, programs
from virtio.bench.block_servers import OURS, Medium, RunningServer, peers, running
from virtio.bench.processors import placements
from virtio.driver.block import BlockDriver
from virtio.errors import ConfigurationError

DRIVER_POLLING = 10_000
FIO = "fio with libblkio"
MEDIA = ("null", "cached file")
MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """What the driver asks for."""

    name: str
    depth: int
    size: int = 4096
    sequential: bool = False
    mask: str = ""


WORK = (
    Work("4 KiB random reads", 1),
    Work("4 KiB random reads", 32),
    Work("4 KiB random reads", 128),
    Work("128 KiB sequential reads", 8, 128 << 10, sequential=True),
)


@dataclass(frozen=True)
class Rate:
    """What one back end did with it."""

    per_second: float
    driver_nanoseconds: float
    """Processor time of the driver for each request."""
    server_nanoseconds: float
    """… and of the back end."""


@dataclass(frozen=True)
class Comparison:
    """One driver, medium and work, medians over the turns."""

    driver: str
    medium: str
    work: Work
    ours: Rate
    peers: dict[str, Rate]
    """Each qemu-storage-daemon that is there."""
    ratios: dict[str, float]
    """Requests a second, ours to the peer's, as the median of the turns."""


Progress = Callable[[int, int], object]


def measure_block(
    *,
    seconds: float = 1.0,
    turns: int = 3,
    size: int = 256 * MIB,
    media: Sequence[str] = MEDIA,
    drivers: Sequence[str] = (),
    work: Sequence[Work] = WORK,
    precedence: bool = False,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Measure all back ends (ours alone if no other is installed) under all drivers.

    ``seconds``: of each load. ``drivers``: only these. ``size``: of the disk. ``precedence``: run before
    other work on the machine (for the privileged).
    """
    servers = [*peers(), OURS]
    if unknown := set(media) - set(MEDIA):
        raise ConfigurationError(f"there is no medium {unknown.pop()}; there is {', '.join(MEDIA)}")
    ways = {name: way for name, way in _drivers(size).items() if name in drivers or not drivers}
    if missing := set(drivers) - set(ways):
        raise ConfigurationError(f"there is no {missing.pop()} here; there is {', '.join(_drivers(size))}")
    place = next((p for p in placements() if p.name == "separate cores"), None)
    rates: dict[tuple[str, str, Work, str], list[Rate]] = {}
    done, total = 0, turns * len(media) * len(servers) * len(work) * len(ways)
    with settled(None if place is None else place.driver, precedence), scratch_folder() as folder:
        for turn in range(turns):
            for name in media:
                medium = _medium(name, size, folder)
                for server in servers if turn % 2 == 0 else servers[::-1]:
                    where = None if place is None else place.device
                    with running(server, medium, folder, processor=where, precedence=precedence) as other:
                        for (driver, measure), item in itertools.product(ways.items(), work):
                            found = rates.setdefault((driver, name, item, server), [])
                            found.append(measure(other, item, seconds))
                            done += 1
                            if progress is not None:
                                progress(done, total)
    return [
        _compare(driver, name, item, {server: rates[driver, name, item, server] for server in servers})
        for driver, name, item in itertools.product(ways, media, work)
    ]


def _compare(driver: str, medium: str, work: Work, rates: dict[str, list[Rate]]) -> Comparison:
    ours = rates.pop(OURS)
    return Comparison(
        driver,
        medium,
        work,
        _middle(ours),
        {peer: _middle(theirs) for peer, theirs in rates.items()},
        {
            peer: median(a.per_second / b.per_second for a, b in zip(ours, theirs, strict=True))
            for peer, theirs in rates.items()
        },
    )


def _drivers(size: int) -> dict[str, Callable[[RunningServer, Work, float], Rate]]:
    found: dict[str, Callable[[RunningServer, Work, float], Rate]] = {OURS: measure}
    if (program := programs.fio()) is not None:

        def by_fio(server: RunningServer, work: Work, seconds: float) -> Rate:
            before = server.processor_time()
            result = fio.load(
                program,
                str(server.socket),
                depth=work.depth,
                size=work.size,
                sequential=work.sequential,
                seconds=seconds,
                disk=size,
            )
            spent = server.processor_time() - before
            return Rate(
                result.requests * 1e9 / result.nanoseconds,
                result.processor_nanoseconds / result.requests,
                spent / result.requests,
            )

        found[FIO] = by_fio
    return found


def _middle(rates: Sequence[Rate]) -> Rate:
    return Rate(
        median(rate.per_second for rate in rates),
        median(rate.driver_nanoseconds for rate in rates),
        median(rate.server_nanoseconds for rate in rates),
    )


def measure(server: RunningServer, work: Work, seconds: float) -> Rate:
    """Have our driver make load on a server."""
    with virtio.connect(server.address, "block", queues=1, polling=DRIVER_POLLING, mask=work.mask) as disk:
        assert isinstance(disk, BlockDriver)
        buffer = disk.allocate(work.depth * work.size)
        load(disk, buffer, work, seconds / 5)
        before = server.processor_time()
        result = load(disk, buffer, work, seconds)
        spent = server.processor_time() - before
    return Rate(result[0] * 1e9 / result[1], result[2] / max(result[0], 1), spent / max(result[0], 1))


def load(disk: BlockDriver, buffer: SharedBuffer, work: Work, seconds: float) -> tuple[int, int, int]:
    """Make load for so long; return requests, nanoseconds, and nanoseconds on the processor."""
    result = disk.load(
        "read",
        buffer,
        depth=work.depth,
        size=work.size,
        sequential=work.sequential,
        seconds=seconds,
    )
    if result.failed:
        raise ConfigurationError(f"{result.failed} of {result.requests} requests failed")
    return result.requests, result.nanoseconds, result.cpu_nanoseconds


def measure_calls(*, seconds: float = 1.0, precedence: bool = False) -> dict[str, float]:
    """Nanoseconds on the wall for each request to our null device, by the way in which Python makes it.

    The first row is the native load with one request at a time: what of a call is not Python's.
    """
    place = next((p for p in placements() if p.name == "separate cores"), None)
    driver, device = (None, None) if place is None else place.processors
    medium = Medium("null", 64 * MIB, None)
    with (
        settled(driver, precedence),
        scratch_folder() as folder,
        running(OURS, medium, folder, processor=device, precedence=precedence) as server,
        virtio.connect(server.address, "block", queues=1, polling=DRIVER_POLLING) as disk,
    ):
        buffer = disk.allocate(256 * 4096)
        first = memoryview(buffer)[:4096]
        sectors = array.array("Q", range(0, 2048, 8))

        def tokens() -> None:
            requests = [disk.submit_read(0, first) for _ in range(32)]
            for request in requests:
                request.wait()

        async def tasks() -> None:
            await asyncio.gather(*(disk.areadinto(0, first) for _ in range(32)))

        async def loop() -> float:
            end, count, start = time.perf_counter() + seconds / 5, 0, time.perf_counter_ns()
            while time.perf_counter() < end:
                await tasks()
                count += 32
            return (time.perf_counter_ns() - start) / count

        requests, nanoseconds, _ = load(disk, buffer, Work("", 1), seconds / 5)
        return {
            "native, one after another": nanoseconds / requests,
            "read(), one after another": _time(lambda: disk.read(0, 8), seconds / 5),
            "readinto() shared memory": _time(lambda: disk.readinto(0, first), seconds / 5),
            "submit_read(), 32 tokens": _time(tokens, seconds / 5) / 32,
            "areadinto(), 32 tasks": asyncio.run(loop()),
            "read_batch() of 256": _time(lambda: disk.read_batch(sectors, buffer), seconds / 5) / 256,
        }


def _time(call: Callable[[], object], seconds: float) -> float:
    end = time.perf_counter() + seconds
    count, start = 0, time.perf_counter_ns()
    while time.perf_counter() < end:
        for _ in range(16):
            call()
        count += 16
    return (time.perf_counter_ns() - start) / count


def _medium(name: str, size: int, folder: Path) -> Medium:
    if name == "null":
        return Medium("null", size, None)
    path = folder / "disk"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
    return Medium("file", size, path)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="virtio-bench-", dir=memory) as folder:
        yield Path(folder)


@contextlib.contextmanager
def settled(processor: int | None, precedence: bool, thread: int = 0, priority: int = 50) -> Iterator[None]:
    """Run a thread (0: this one) on one processor, and before others, within a block."""
    allowed = os.sched_getaffinity(thread)
    if processor is not None:
        os.sched_setaffinity(thread, {processor})
    if precedence:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    try:
        yield
    finally:
        os.sched_setaffinity(thread, allowed)
        if precedence:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
