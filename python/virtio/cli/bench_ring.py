"""``virtio bench ring``: both ends of a ring on two processors."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.bench import Machine, this_machine
from virtio.bench.ring import BATCHES, LAYOUTS, OUTSTANDING, Result, Ring, Wait, measure, plan
from virtio.cli.bench_count import show_card_counts, show_counts
from virtio.cli.bench_tables import show_tables
from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError

_WAITS: dict[str, tuple[Wait, ...]] = {
    "poll": ("poll",),
    "notify": ("notify",),
    "both": ("poll", "notify"),
}
_SAID = {
    "poll": "polling",
    "check": "polling, looking whether to notify",
    "notify": "sleeping, notified by eventfd",
}
_FIELDS = (
    "placement", "driver", "device", "wait", "outstanding", "layout", "batch", "nanoseconds", "fastest",
    "distance", "notifications", "kept", "runs",
)  # fmt: skip


def ring(
    batch: Annotated[
        list[int] | None, typer.Option(help="Batch size, repeatable. Default: 1 to 256.", min=1, max=256)
    ] = None,
    outstanding: Annotated[
        list[int] | None,
        typer.Option(help="Requests that are out at most, repeatable. Default: 1, 16, 256.", min=1, max=256),
    ] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help=f"Layout, repeatable: {', '.join(LAYOUTS)}. Default: all.")
    ] = None,
    wait: Annotated[str, typer.Option(help="How the ends wait: poll, notify or both.")] = "both",
    scale: Annotated[float, typer.Option(help="Multiplies the number of requests.", min=0.0001)] = 1.0,
    runs: Annotated[int, typer.Option(help="Runs of each measurement; the median counts.", min=1)] = 7,
    precedence: Annotated[
        bool, typer.Option(help="Keep other threads away during the short runs. Needs privileges.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    card: Annotated[
        bool, typer.Option("--card", help="With --count: every transaction of a PCI function.")
    ] = False,
    counting: Annotated[
        bool,
        typer.Option("--count", help="Count cache lines and bus transactions instead of measuring time."),
    ] = False,
    tables: Annotated[
        bool,
        typer.Option("--tables", help="Requests of 1 to 16 buffers, in the ring and in indirect tables."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --count: draw the counts, as .svg or .png.")
    ] = None,
) -> None:
    """Measure both ends of a ring on two threads: nanoseconds per request against batch size."""
    if card and (not counting or plot is not None):
        raise ConfigurationError("--card is for --count, and is not drawn")
    if card:
        show_card_counts(layout or tuple(LAYOUTS), batch, as_json=as_json, as_csv=as_csv)
        return
    if tables:
        show_tables(
            layout or ("split", "packed"),
            scale=scale,
            runs=runs,
            precedence=precedence,
            as_json=as_json,
            as_csv=as_csv,
        )
        return
    if plot is not None and not counting:
        raise ConfigurationError("--plot draws what --count counts")
    if wait not in _WAITS:
        raise ConfigurationError(f"--wait is {', '.join(_WAITS)}, not {wait}")
    if unknown := set(layout or ()) - set(LAYOUTS):
        raise ConfigurationError(f"no such layout: {', '.join(unknown)}")
    if counting:
        show_counts(layout or tuple(LAYOUTS), batch, as_json=as_json, as_csv=as_csv, picture=plot)
        return
    machine = this_machine()
    points = plan(
        layouts=layout or tuple(LAYOUTS),
        outstanding=outstanding or OUTSTANDING,
        batches=batch or BATCHES,
        waits=_WAITS[wait],
        scale=scale,
        precedence=precedence,
    )
    with Progress(console=Console(stderr=True), transient=True, disable=as_json or as_csv) as bar:
        task = bar.add_task("measuring", total=None)
        results = measure(
            points, runs=runs, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        rows = [_row(result) for result in results]
        print(json.dumps({"machine": asdict(machine), "measurements": rows}, indent=2))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_row, results))
    else:
        _print(console(), machine, results)


def _row(result: Result[Ring]) -> dict[str, object]:
    point = result.point
    figures = (
        point.placement.name, point.placement.driver, point.placement.device, point.wait, point.outstanding,
        point.layout, point.batch, round(result.nanoseconds, 2), round(result.fastest, 2),
        round(result.distance, 1), round(result.notifications, 4), len(result.kept), result.runs,
    )  # fmt: skip
    return dict(zip(_FIELDS, figures, strict=True))


def _print(out: Console, machine: Machine, results: Sequence[Result[Ring]]) -> None:
    def page(result: Result[Ring]) -> tuple[str, Wait, int]:
        return result.point.placement.name, result.point.wait, result.point.outstanding

    for (place, wait, outstanding), group in groupby(results, page):
        _page(out, f"{place}, {_SAID[wait]}, {outstanding} outstanding: ns per request", list(group))
    distances = {result.point.placement.name: result.distance for result in results}
    said = "; ".join(f"a cache line there and back, {name}: {ns:.0f} ns" for name, ns in distances.items())
    out.print(f"\n{said}")
    doubtful = sum(len(result.kept) * 2 < result.runs for result in results)
    if doubtful:
        out.print(f"~ the processors drifted apart in more than half of the runs ({doubtful} figures)")
    out.print(
        f"{machine.processor}, {machine.processors} processors, kernel {machine.kernel}, "
        f"load {machine.load:.1f}"
    )


def _page(out: Console, title: str, results: Iterable[Result[Ring]]) -> None:
    figures = {(result.point.batch, result.point.layout): result for result in results}
    layouts = list(dict.fromkeys(layout for _, layout in figures))
    batches = list(dict.fromkeys(batch for batch, _ in figures))

    def cell(batch: int, layout: str) -> str:
        result = figures[batch, layout]
        return f"{result.nanoseconds:.1f}{'~' if len(result.kept) * 2 < result.runs else ''}"

    rows = [(str(batch), *(cell(batch, layout) for layout in layouts)) for batch in batches]
    show(out, (">batch", *(f">{layout}" for layout in layouts)), rows, title)
