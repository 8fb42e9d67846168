"""``virtio bench net``: our network device beside DPDK's, under the same driver."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.cli.tables import console, show


def net(
    seconds: Annotated[int, typer.Option(help="Length of each measurement.", min=1)] = 3,
    turns: Annotated[int, typer.Option(help="Turns of each back end; medians count.", min=1)] = 3,
    precedence: Annotated[
        bool, typer.Option("--precedence", help="Run before all other work (for the privileged).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure network devices: packets of 64 bytes a second, each way, with each layout."""
    from virtio.bench.net import measure_net

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        found = measure_net(
            seconds=seconds,
            turns=turns,
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    show(
        console(),
        ("layout", "direction", ">DPDK vhost, M/s", ">ours, M/s", ">ratio"),
        [
            (
                row.layout,
                row.direction,
                f"{row.peer / 1e6:.1f}",
                f"{row.ours / 1e6:.1f}",
                f"{row.ratio:.2f}",
            )
            for row in found
        ],
    )
