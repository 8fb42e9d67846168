"""Tables on the terminal, and as plain lines where the output is piped."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# A pipe has no width: give every row its line, so that grep finds it whole.
PIPE_WIDTH = 1000
# Prose in a narrower column than this is hard to read.
MINIMUM_PROSE = 24


def console() -> Console:
    """Where tables go: standard output, as wide as its terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def show(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table. A column whose name starts with ``>`` is set right; empty columns are left out.

    The last column is prose: it takes the width that is left, and a line of its own if that is too little.
    """
    cells = [list(row) for row in rows]
    used = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    if not used:
        return
    if title:
        out.print(Text(f"\n{title}", style="bold"))
    names = [columns[index].lstrip(">") for index in used]
    right = [columns[index].startswith(">") for index in used]
    cells = [[row[index] for index in used] for row in cells]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    prose = used[-1] == len(columns) - 1 and len(used) > 1
    if prose and out.width - sum(width + 2 for width in widths[:-1]) < min(MINIMUM_PROSE, widths[-1]):
        _squeezed(out, names, right, widths, cells)
        return
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for at, name in enumerate(names):
        flexible = prose and at == len(names) - 1
        grid.add_column(name, justify="right" if right[at] else "left", overflow="fold", no_wrap=not flexible)
    for row in cells:
        grid.add_row(*map(Text, row))
    if out.width < PIPE_WIDTH:
        out.print(grid)
        return
    with out.capture() as captured:
        out.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _squeezed(
    out: Console, names: list[str], right: list[bool], widths: list[int], cells: list[list[str]]
) -> None:
    sides = [">" if pushed else "<" for pushed in right]

    def line(row: list[str]) -> Text:
        parts = [f"{cell:{side}{width}}" for cell, width, side in zip(row[:-1], widths, sides, strict=False)]
        return Text("  ".join(parts).rstrip())

    head = line(names)
    head.stylize("dim")
    out.print(head, overflow="fold")
    for row in cells:
        out.print(line(row), overflow="fold")
        if row[-1]:
            out.print(Padding(Text(row[-1], style="dim"), (0, 0, 0, 4)))
