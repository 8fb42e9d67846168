"""``virtio bench``: what things cost on this machine."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.bench import Machine, Measurement, measure_queue, this_machine
from virtio.cli.bench_block import block
from virtio.cli.bench_iotlb import iotlb
from virtio.cli.bench_net import net
from virtio.cli.bench_ring import ring
from virtio.cli.tables import console, show

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _bench() -> None:
    """Measure what things cost on this machine."""


@app.command()
def queue(
    scale: Annotated[float, typer.Option(help="Multiplies the number of chains.", min=0.0001)] = 1.0,
    runs: Annotated[int, typer.Option(help="Runs of each measurement; the median counts.", min=1)] = 5,
    polling: Annotated[
        int, typer.Option(metavar="MICROSECONDS", help="How long a worker polls before it sleeps.", min=0)
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the split queue: nanoseconds per chain, natively and with handlers in Python."""
    machine = this_machine()
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        results = measure_queue(
            scale=scale,
            runs=runs,
            polling=polling,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        figures = [{**asdict(result), "per_second": result.per_second} for result in results]
        print(json.dumps({"machine": asdict(machine), "measurements": figures}, indent=2))
        return
    _print(console(), machine, results)


app.command()(ring)
app.command()(block)
app.command()(iotlb)
app.command()(net)


def _print(out: Console, machine: Machine, results: list[Measurement]) -> None:
    rows = [
        (
            result.name,
            str(result.batch),
            str(result.depth),
            f"{result.nanoseconds:.1f}",
            f"{result.fastest:.1f}",
            _count(result.per_second),
            f"{result.taken:.1f}",
            f"{result.kicks:.3f}",
        )
        for result in results
    ]
    columns = (
        "split queue",
        ">batch",
        ">outstanding",
        ">ns/chain",
        ">fastest",
        ">chains/s",
        ">taken",
        ">kicks",
    )
    show(out, columns, rows)
    out.print(
        f"\n{machine.processor}, {machine.processors} processors, kernel {machine.kernel}, "
        f"Python {machine.python}, load {machine.load:.1f}"
    )
    if machine.busy:
        out.print("The machine is busy with other things: figures between two threads mean little.")


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"
