"""``virtio bench iotlb``: what an IOMMU between driver and device costs."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.cli.tables import console, show


def iotlb(
    seconds: Annotated[float, typer.Option(help="Length of each load.", min=0.01)] = 0.2,
    turns: Annotated[int, typer.Option(help="Turns of each way; medians count.", min=1)] = 9,
    precedence: Annotated[
        bool, typer.Option("--precedence", help="Run before all other work (for the privileged).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what translating addresses costs: all hits, and with pages that go and are asked for anew."""
    from virtio.bench.iotlb import measure_iotlb

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        found = measure_iotlb(
            seconds=seconds,
            turns=turns,
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    rows = [
        (
            row.way,
            str(row.depth),
            f"{row.per_second / 1e3:.0f} k",
            f"{row.ratio:.3f}",
            f"{row.misses * 1e6:.0f}",
        )
        for row in found
    ]
    show(console(), ("way", ">depth", ">requests/s", ">ratio", ">misses per million"), rows)
