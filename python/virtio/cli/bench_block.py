"""``virtio bench block``: our block device beside qemu-storage-daemon's, under the same driver."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from virtio.cli.tables import console, show

if TYPE_CHECKING:
    from virtio.bench.block import Comparison


def block(
    seconds: Annotated[float, typer.Option(help="Length of each load.", min=0.01)] = 1.0,
    turns: Annotated[int, typer.Option(help="Turns of each back end; medians count.", min=1)] = 3,
    medium: Annotated[
        list[str] | None, typer.Option(help="Only this medium: null, cached file; may be repeated.")
    ] = None,
    driver: Annotated[
        list[str] | None, typer.Option(help="Only this driver: pyvirtio, fio with libblkio; may be repeated.")
    ] = None,
    precedence: Annotated[
        bool, typer.Option("--precedence", help="Run before all other work (for the privileged).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure block devices: requests a second, and processor time for each, of driver and back end."""
    from virtio.bench.block import FIO, MEDIA, measure_block, measure_calls
    from virtio.bench.transports import measure_transports

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        found = measure_block(
            seconds=seconds,
            turns=turns,
            media=medium or MEDIA,
            drivers=driver or (),
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        ways = measure_transports(seconds=seconds, turns=turns, precedence=precedence)
        calls = measure_calls(seconds=seconds, precedence=precedence)
    if as_json:
        report = {"comparisons": [asdict(row) for row in found], "transports": [asdict(row) for row in ways]}
        print(json.dumps({**report, "calls": calls}, indent=2))
        return

    out = console()
    for name in dict.fromkeys(item.driver for item in found):
        _print(out, name, [item for item in found if item.driver == name])
    if not driver and not any(item.driver == FIO for item in found):
        out.print("There is no fio with libblkio here, to be the driver beside ours: make fio")
    show(
        out,
        ("work", ">depth", ">vhost-user, k/s", ">vfio-user, k/s", ">ratio"),
        [
            (
                row.work.name,
                str(row.work.depth),
                f"{row.vhost_user.per_second / 1e3:.0f}",
                f"{row.vfio_user.per_second / 1e3:.0f}",
                f"{row.ratio:.2f}",
            )
            for row in ways
        ],
        "Our null device under our driver, by transport",
    )
    out.print("\nns: processor time of the back end for each request. Both sides poll.")
    show(
        out,
        ("driver in Python", ">ns/request"),
        [(name, f"{nanoseconds:.0f}") for name, nanoseconds in calls.items()],
        "What Python costs the driver, on our null device",
    )


def _print(out: Console, driver: str, found: "list[Comparison]") -> None:
    peers = list(found[0].peers)
    short = [peer.replace("-storage-daemon", "") for peer in peers]
    columns = ["medium", "work", ">depth"]
    for name in (*short, "ours"):
        columns += [f">{name}, k/s", ">ns"]
    columns += [f">ratio to {name}" for name in short]
    rows = []
    for item in found:
        row = [item.medium, item.work.name, str(item.work.depth)]
        for rate in (*item.peers.values(), item.ours):
            row += [f"{rate.per_second / 1e3:.0f}", f"{rate.server_nanoseconds:.0f}"]
        rows.append((*row, *(f"{item.ratios[peer]:.2f}" for peer in peers)))
    show(out, columns, rows, f"Driver: {driver}")
    if not peers:
        out.print(
            "There is no qemu-storage-daemon here to compare with: apt-get install qemu-utils, or make peers"
        )
