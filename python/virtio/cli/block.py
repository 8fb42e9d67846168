"""``virtio block``: a disk from the command line."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from virtio.cli.connected import connected
from virtio.cli.sizes import parse_size
from virtio.errors import ConfigurationError, DeviceError

if TYPE_CHECKING:
    from virtio.driver.block import BlockDriver

app = typer.Typer(
    help="Read, write and copy a disk that a block device offers.", no_args_is_help=True, add_completion=False
)

PIECE = 1 << 20
AHEAD = 4
"""Pieces that are under way at once."""
SECTOR = 512

Advance = Callable[[int], object]

Offset = Annotated[str, typer.Option(metavar="BYTES", help="Where to begin on the disk; also 4K, 1M, 2G.")]
Size = Annotated[str, typer.Option(metavar="BYTES", help="How much; all by default.")]


@dataclass(frozen=True)
class _Options:
    address: str
    timeout: float


@app.callback()
def block(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="For example vhost-user:/run/disk.sock.")],
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Give up when an answer takes longer.")
    ] = 60.0,
) -> None:
    """Read, write and copy a disk that a block device offers."""
    context.obj = _Options(address, timeout)


@app.command()
def info(context: typer.Context) -> None:
    """Show what the disk is."""
    with _disk(context) as (disk, timeout):
        facts: dict[str, Any] = {
            "capacity": f"{disk.capacity} bytes, {disk.sectors} sectors",
            "block size": f"{disk.block_size} bytes",
            "read-only": "yes" if disk.read_only else "no",
            "cache": "write-back" if disk.writeback else "write-through",
            "queues": f"{len(disk.queues)} of {disk.queues[0].size} entries",
            "features": ", ".join(name.removeprefix("VIRTIO_") for name in disk.feature_names),
        }
        with contextlib.suppress(DeviceError):
            facts["serial"] = disk.get_id(timeout=timeout) or "none"
    for name, value in facts.items():
        print(f"{name + ':':12}{value}")


@app.command()
def read(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    offset: Offset = "0",
    size: Size = "",
) -> None:
    """Read the disk, or a part of it, into a file."""
    with _disk(context) as (disk, timeout), _output(file) as out:
        start, count = _range(disk, offset, size)
        with _progress("reading", count) as advance:
            for piece in _pieces(disk, start, count, timeout):
                out.write(piece)
                advance(len(piece))


@app.command()
def write(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What; - is standard input.")],
    offset: Offset = "0",
) -> None:
    """Write a file onto the disk, and flush it."""
    with _disk(context) as (disk, timeout), _input(file) as source:
        start, most = _range(disk, offset, "")
        total = None if str(file) == "-" else file.stat().st_size
        if total is not None and total > most:
            raise ConfigurationError(f"{file} has {total} bytes, the disk {most} from there on")
        with _progress("writing", total) as advance:
            _write(disk, start, most, source, timeout, advance)
            disk.flush(timeout=timeout)


@app.command()
def copy(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="ADDRESS", help="The disk to copy to.")],
) -> None:
    """Copy the disk onto another one, and flush that."""
    if target == context.obj.address:
        raise ConfigurationError(f"{target} cannot be copied onto itself")
    with _disk(context) as (disk, timeout), connected(target, "block") as other:
        if other.capacity < disk.capacity:
            raise ConfigurationError(f"{target} has {other.capacity} bytes, less than {disk.capacity}")
        with _progress("copying", disk.capacity) as advance:
            sector = 0
            for piece in _pieces(disk, 0, disk.capacity, timeout):
                other.write(sector, piece, timeout=timeout)
                sector += len(piece) // SECTOR
                advance(len(piece))
            other.flush(timeout=timeout)


@app.command()
def discard(
    context: typer.Context,
    offset: Offset = "0",
    size: Size = "",
    zero: Annotated[bool, typer.Option("--zero", help="It must read as zeros afterwards.")] = False,
) -> None:
    """Give back the space of the disk, or of a part of it. The contents are lost."""
    with _disk(context) as (disk, timeout):
        start, count = _range(disk, offset, size)
        step = 64 * PIECE
        with _progress("discarding", count) as advance:
            for at in range(start, start + count, step):
                sectors = min(step, start + count - at) // SECTOR
                if zero:
                    disk.write_zeroes(at // SECTOR, sectors, unmap=True, timeout=timeout)
                else:
                    disk.discard(at // SECTOR, sectors, timeout=timeout)
                advance(sectors * SECTOR)


@contextlib.contextmanager
def _disk(context: typer.Context) -> Iterator[tuple["BlockDriver", float]]:
    options: _Options = context.obj
    with connected(options.address, "block") as disk:
        yield disk, options.timeout


def _range(disk: "BlockDriver", offset: str, size: str) -> tuple[int, int]:
    start = parse_size(offset)
    count = parse_size(size) if size else max(disk.capacity - start, 0)
    if start % SECTOR or count % SECTOR:
        raise ConfigurationError(f"offset and size are multiples of {SECTOR} bytes")
    if start + count > disk.capacity:
        raise ConfigurationError(f"{start} + {count} bytes of a disk of {disk.capacity}")
    return start, count


def _pieces(disk: "BlockDriver", start: int, count: int, timeout: float) -> Iterator[memoryview]:
    """Read ahead, and yield in order; a piece is valid until the next one is asked for."""
    free = deque(disk.allocate(PIECE) for _ in range(AHEAD))
    under_way: deque[tuple[Any, Any]] = deque()
    at, end = start, start + count
    while at < end or under_way:
        while free and at < end:
            buffer = free.popleft()
            size = min(PIECE, end - at)
            under_way.append((disk.submit_read(at // SECTOR, memoryview(buffer)[:size]), buffer))
            at += size
        request, buffer = under_way.popleft()
        yield request.wait(timeout)
        free.append(buffer)


def _write(
    disk: "BlockDriver", start: int, most: int, source: IO[bytes], timeout: float, advance: Advance
) -> None:
    free = deque(disk.allocate(PIECE) for _ in range(AHEAD))
    under_way: deque[tuple[Any, Any, int]] = deque()
    at = start
    while True:
        if not free:
            request, buffer, size = under_way.popleft()
            request.wait(timeout)
            advance(size)
            free.append(buffer)
        view = memoryview(free[0])
        size = _fill(source, view)
        if size == 0:
            break
        whole = -(-size // SECTOR) * SECTOR
        if at + whole > start + most:
            raise ConfigurationError(f"the input is longer than the {most} bytes of the disk from there on")
        if whole > size:  # the rest of the last sector stays as it is
            view[size:whole] = disk.read((at + whole) // SECTOR - 1, 1, timeout=timeout)[size - whole :]
        buffer = free.popleft()
        under_way.append((disk.submit_write(at // SECTOR, view[:whole]), buffer, size))
        at += whole
        if whole > size:
            break
    for request, _, size in under_way:
        request.wait(timeout)
        advance(size)


def _fill(source: IO[bytes], view: memoryview) -> int:
    size = 0
    while size < len(view):
        piece = source.read(len(view) - size)
        if not piece:
            break
        view[size : size + len(piece)] = piece
        size += len(piece)
    return size


def _output(file: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    return contextlib.nullcontext(sys.stdout.buffer) if str(file) == "-" else file.open("wb")


def _input(file: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    return contextlib.nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb")


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    out = Console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.advance(task, size)
