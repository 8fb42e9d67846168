"""The counts of :mod:`virtio.bench.count` as a picture. Needs matplotlib: ``pip install pyvirtio[plot]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from virtio.bench.count import BURSTS, Cost
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from os import PathLike

_COLOURS = {
    "split": "#c0392b",
    "split in-order": "#e08e0b",
    "packed": "#1f6fb2",
    "packed in-order": "#1a936f",
}


def plot(costs: Sequence[Cost], path: str | PathLike[str]) -> None:
    """Draw cache lines and bus transactions per request against batch size; the format is the file's ending.

    Raises :exc:`~virtio.ConfigurationError` where matplotlib is missing or does not know the format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError("plots need matplotlib: pip install 'pyvirtio[plot]'") from None

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    lines, bus = figure.subplots(1, 2)
    batches = sorted({cost.batch for cost in costs})
    for layout in dict.fromkeys(cost.layout for cost in costs):
        row = [next(c for c in costs if c.layout == layout and c.batch == batch) for batch in batches]
        colour = _COLOURS.get(layout)
        # The layouts that cost the same lie on each other: the later is drawn thinner, so both are seen.
        style = {"linestyle": "--", "linewidth": 1.4} if "in-order" in layout else {"linewidth": 2.6}
        fetched = [cost.fetched for cost in row]
        lines.plot(batches, fetched, color=colour, marker="o", markersize=4, label=layout, **style)
        small = BURSTS[0]
        total = [cost.reads[small] + cost.writes[small] for cost in row]
        bus.plot(batches, total, color=colour, marker="o", markersize=4, label=layout, **style)
    lines.set_title("Cache lines between the two ends")
    lines.set_ylabel("lines fetched from the other end per request")
    bus.set_title("Transactions of a device behind a bus")
    bus.set_ylabel(f"reads and writes per request, up to {BURSTS[0]} bytes each")
    for axes in (lines, bus):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("requests per batch")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
