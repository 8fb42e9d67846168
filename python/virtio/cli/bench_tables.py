"""``virtio bench ring --tables``: requests of several buffers, in the ring and in tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.progress import Progress

from virtio.bench import this_machine
from virtio.bench.ring import LAYOUTS
from virtio.bench.tables import measure_tables
from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError


def show_tables(
    layouts: Sequence[str], *, scale: float, runs: int, precedence: bool, as_json: bool, as_csv: bool
) -> None:
    """Measure and print."""
    if unknown := set(layouts) - set(LAYOUTS):
        raise ConfigurationError(f"no such layout: {', '.join(unknown)}")
    if as_csv:
        raise ConfigurationError("--tables prints a table or JSON")
    machine = this_machine()
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("measuring", total=None)
        rows = measure_tables(
            layouts=layouts,
            scale=scale,
            runs=runs,
            precedence=precedence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps({"machine": asdict(machine), "tables": [asdict(row) for row in rows]}, indent=2))
        return
    out = console()
    for page in dict.fromkeys((row.layout, row.outstanding) for row in rows):
        layout, outstanding = page
        cells = [
            (
                str(row.descriptors),
                str(row.fit),
                f"{row.direct:.1f}",
                f"{row.table:.1f}",
                f"{row.ratio:.2f}",
            )
            for row in rows
            if (row.layout, row.outstanding) == page
        ]
        columns = (">buffers", ">fit", ">in the ring", ">in a table", ">ratio")
        show(out, columns, cells, f"{layout}, {outstanding} outstanding, ns per request")
    distance = sorted(row.distance for row in rows)[len(rows) // 2]
    out.print(
        f"\na cache line there and back: {distance:.0f} ns; {machine.processor}, "
        f"{machine.processors} processors"
    )
