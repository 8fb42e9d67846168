"""``virtio bench block``: our block device beside qemu-storage-daemon's, under the same driver."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.cli.tables import console, show


def block(
    seconds: Annotated[float, typer.Option(help="Length of each load.", min=0.01)] = 1.0,
    turns: Annotated[int, typer.Option(help="Turns of each back end; medians count.", min=1)] = 3,
    precedence: Annotated[
        bool, typer.Option("--precedence", help="Run before all other work (for the privileged).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure block devices: requests a second, and processor time for each, of driver and back end."""
    from virtio.bench.block import Comparison, Rate, measure_block, measure_calls

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        found = measure_block(
            seconds=seconds,
            turns=turns,
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        calls = measure_calls(seconds=seconds, precedence=precedence)
    if as_json:
        print(json.dumps({"comparisons": [asdict(row) for row in found], "calls": calls}, indent=2))
        return

    def cells(rate: Rate | None) -> tuple[str, str, str]:
        if rate is None:
            return "", "", ""
        return (
            f"{rate.per_second / 1e3:.0f} k",
            f"{rate.driver_nanoseconds:.0f}",
            f"{rate.server_nanoseconds:.0f}",
        )

    def row(item: Comparison) -> tuple[str, ...]:
        ratio = "" if item.ratio is None else f"{item.ratio:.2f}"
        work = item.work
        return (item.medium, work.name, str(work.depth), *cells(item.peer), *cells(item.ours), ratio)

    out = console()
    columns = (
        "medium",
        "work",
        ">depth",
        ">qemu/s",
        ">driver ns",
        ">qemu ns",
        ">ours/s",
        ">driver ns",
        ">ours ns",
        ">ratio",
    )
    show(out, columns, [row(item) for item in found])
    out.print("\nns: processor time for each request, of the driver and of the back end. Both sides poll.")
    show(
        out,
        ("driver in Python", ">ns/request"),
        [(name, f"{nanoseconds:.0f}") for name, nanoseconds in calls.items()],
        "What Python costs the driver, on our null device",
    )
