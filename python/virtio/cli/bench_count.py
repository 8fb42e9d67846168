"""``virtio bench ring --count``: what a request costs in cache lines and bus transactions."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from virtio.bench.count import ALIGNMENTS, BATCHES, BURSTS, SIZE, Cost, count
from virtio.bench.count_card import READABLE, WRITABLE, count_card
from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError


def show_counts(
    layouts: Sequence[str],
    batches: Sequence[int] | None,
    *,
    as_json: bool,
    as_csv: bool,
    picture: Path | None,
) -> None:
    """Count, and print or draw the result."""
    _check(batches)
    costs = count(layouts, batches or BATCHES)
    if picture is not None:
        from virtio.bench.count_plot import plot

        plot([cost for cost in costs if cost.alignment == "entries"], picture)
    if as_json:
        print(json.dumps([_row(cost) for cost in costs], indent=2))
    elif as_csv:
        rows = [_row(cost) for cost in costs]
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print(costs)


def _check(batches: Sequence[int] | None) -> None:
    if uneven := [batch for batch in batches or () if SIZE % batch]:
        raise ConfigurationError(f"{SIZE} descriptors are not made of batches of {uneven[0]}: try 1, 2, 4, 8")


def show_card_counts(
    layouts: Sequence[str], batches: Sequence[int] | None, *, as_json: bool, as_csv: bool
) -> None:
    """Count what a card does, and print the result."""
    _check(batches)
    costs = count_card(layouts, batches or BATCHES)
    names = ("notifications", "reads", "writes", "interrupts", "total")
    rows: list[dict[str, str | int | float]] = [
        {
            "layout": cost.layout,
            "batch": cost.batch,
            **{name: round(getattr(cost, name), 4) for name in names},
        }
        for cost in costs
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        out = console()
        shown = [
            (str(row["layout"]), str(row["batch"]), *(f"{row[name]:.3f}" for name in names)) for row in rows
        ]
        columns = ["layout", ">batch", *(f">{name}" for name in names)]
        show(out, columns, shown, "transactions on the bus per request")
        out.print(
            f"\nA request has {READABLE} bytes to be read and {WRITABLE} to be written, in two descriptors. "
            "The driver notifies\nonce a batch and tells what is available (NOTIFICATION_DATA); the card "
            "interrupts once a batch. Reads and\nwrites are the card's, of 256 bytes at most."
        )


def _row(cost: Cost) -> dict[str, str | int | float]:
    bus: dict[str, float] = {}
    for burst in BURSTS:
        bus[f"reads_{burst}"] = round(cost.reads[burst], 4)
        bus[f"writes_{burst}"] = round(cost.writes[burst], 4)
    return {
        "layout": cost.layout,
        "alignment": cost.alignment,
        "batch": cost.batch,
        "fetched": round(cost.fetched, 4),
        "claimed": round(cost.claimed, 4),
        **bus,
    }


def _print(costs: Sequence[Cost]) -> None:
    out = console()
    columns = ["layout", ">batch", ">fetched", ">claimed", ">moved"]
    columns += [f">{name}/{burst} B" for burst in BURSTS for name in ("reads", "writes")]
    for alignment, meaning in ALIGNMENTS.items():
        # A packed ring has one alignment: it is in the first table only.
        first = alignment == next(iter(ALIGNMENTS))
        rows = [
            (
                cost.layout,
                str(cost.batch),
                *(f"{lines:.3f}" for lines in (cost.fetched, cost.claimed, cost.moved)),
                *(f"{each[burst]:.3f}" for burst in BURSTS for each in (cost.reads, cost.writes)),
            )
            for cost in costs
            if cost.alignment == alignment and (first or cost.layout.startswith("split"))
        ]
        show(out, columns, rows, f"per request; {meaning}")
    out.print(
        "\nfetched: lines that the other end had written to; claimed: lines taken from its cache to write to;"
        f"\nreads, writes: by a device behind a bus, {' or '.join(map(str, BURSTS))} bytes at most each. "
        f"Queue size {SIZE},\none descriptor a request, both ends polling and never in vain."
    )
