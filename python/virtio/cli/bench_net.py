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
    """Measure network devices: packets of 64 bytes a second, each way, with each layout.

    Then a device in Python that sends frames back, and notifications put off against latency.
    """
    from virtio.bench.net import measure_net, measure_swap, mergeable_costs
    from virtio.bench.net_coalescing import measure_coalescing

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        found = measure_net(
            seconds=seconds,
            turns=turns,
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    costs = mergeable_costs(found)
    swapped = measure_swap(seconds=seconds, turns=turns, precedence=precedence)
    coalesced = measure_coalescing()
    if as_json:
        figures = {
            "throughput": [asdict(row) for row in found],
            "cost of mergeable buffers": [asdict(row) for row in costs],
            "swap in Python": swapped,
            "coalescing": [asdict(row) for row in coalesced],
        }
        print(json.dumps(figures, indent=2))
        return
    out = console()
    show(
        out,
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
    show(
        out,
        ("cost of mergeable buffers", "direction", ">DPDK vhost", ">ours"),
        [(row.layout, row.direction, f"{row.peer:+.0%}", f"{row.ours:+.0%}") for row in costs],
    )
    show(
        out,
        ("addresses swapped in Python, and back", ">M frames/s"),
        [(f"one call per {way}", f"{rate / 1e6:.2f}") for way, rate in swapped.items()],
    )
    show(
        out,
        ("max_packets", "max_usecs", ">interrupts per packet", ">latency, median, µs", ">99 %, µs"),
        [
            (
                str(row.max_packets),
                str(row.max_usecs),
                f"{row.interrupts:.3f}",
                f"{row.median:.0f}",
                f"{row.worst:.0f}",
            )
            for row in coalesced
        ],
    )
