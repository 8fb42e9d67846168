"""Tables on the terminal, and as plain lines where the output is piped."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe has no width: give every row its line, so that grep finds it whole.
PIPE_WIDTH = 1000


def console() -> Console:
    """Where tables go: standard output, as wide as its terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def show(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table. A column whose name starts with ``>`` is set right; empty columns are left out.

    The last column is prose and takes the width that is left; the others keep theirs.
    """
    cells = [list(row) for row in rows]
    used = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    if not used:
        return
    if title:
        out.print(Text(f"\n{title}", style="bold"))
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for index in used:
        name = columns[index].lstrip(">")
        prose = index == len(columns) - 1
        justify = "right" if columns[index].startswith(">") else "left"
        grid.add_column(
            name,
            justify="right" if justify == "right" else "left",
            overflow="fold",
            no_wrap=not prose and out.width >= 60,
            ratio=1 if prose and out.width < PIPE_WIDTH else None,
        )
    for row in cells:
        grid.add_row(*(Text(row[index]) for index in used))
    if out.width < PIPE_WIDTH:
        out.print(grid)
        return
    with out.capture() as captured:
        out.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
