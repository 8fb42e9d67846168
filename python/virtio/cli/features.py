"""``virtio features``: what a feature word means, and the word for some names."""

import json
from typing import Annotated, Any

import typer
from rich.text import Text

from virtio.cli.tables import console, show
from virtio.device.features import unmet
from virtio.errors import ConfigurationError
from virtio.spec import core, device_type, export
from virtio.spec.model import DeviceType, Feature

app = typer.Typer(add_completion=False)


@app.command()
def features(
    device: Annotated[str, typer.Argument(help="Device type, by name or id.")],
    words: Annotated[
        list[str],
        typer.Argument(help="A feature word (0x130afffa7, 4), or names to make one of (MAC VERSION_1)."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode a feature word bit by bit, or make one out of names."""
    kind = device_type(device)
    parts = [part for word in words for part in word.replace("|", ",").split(",") if part.strip()]
    if not parts:
        raise ConfigurationError("there is neither a feature word nor a name")
    number = _number(parts[0]) if len(parts) == 1 else None
    word = number if number is not None else encode(kind, parts)
    if as_json:
        print(json.dumps(_plain(kind, word), indent=2))
    elif number is None:
        print(f"{word:#x}")
    else:
        _print(kind, word)


def decode(kind: DeviceType, word: int) -> list[tuple[int, Feature | None]]:
    """Every bit that is set, and the feature that it stands for.

    Bits 41 and 42 had legacy meanings for network devices; they hold only without ``VIRTIO_F_VERSION_1``.
    """
    found: list[tuple[int, Feature | None]] = []
    for bit in range(word.bit_length()):
        if not word >> bit & 1:
            continue
        own = kind.features.get(bit)
        shared = core.F.get(bit)
        if own is not None and shared is not None and own.legacy and word & core.F.VERSION_1:
            own = None
        found.append((bit, own or shared))
    return found


def encode(kind: DeviceType, parts: list[str]) -> int:
    """The feature word of features given by full or short name, or by numbers to be combined."""
    word = 0
    for part in parts:
        name = part.strip().upper()
        row = kind.features.get(name) or core.F.get(name)
        number = _number(part)
        if row is None and number is None:
            raise ConfigurationError(f"{kind.name} has no feature {part.strip()}")
        word |= row.mask if row is not None else number or 0
    return word


def _number(text: str) -> int | None:
    try:
        number = int(text.strip(), 0)
    except ValueError:
        return None
    if not 0 <= number < 1 << core.FEATURE_BITS:
        raise ConfigurationError(f"{text.strip()} is no feature word: it has {core.FEATURE_BITS} bits")
    return number


def _unknown(bit: int) -> str:
    if bit in core.DEVICE_FEATURE_BITS:
        return "for the device type to define; not in VIRTIO 1.4"
    if bit in core.QUEUE_FEATURE_BITS:
        return "for queues and negotiation; not in VIRTIO 1.4"
    return "reserved"


def _missing(kind: DeviceType, word: int) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.name, wanted) for row, wanted, _ in unmet(kind, word)]


def _plain(kind: DeviceType, word: int) -> dict[str, Any]:
    return {
        "device": kind.name,
        "word": f"{word:#x}",
        "features": [export.feature(row) for _, row in decode(kind, word) if row is not None],
        "unknown": [bit for bit, row in decode(kind, word) if row is None],
        "missing": [{"feature": name, "requires": list(wanted)} for name, wanted in _missing(kind, word)],
    }


def _print(kind: DeviceType, word: int) -> None:
    out = console()
    rows = decode(kind, word)
    show(
        out,
        (">bit", "name", "since", "section", "meaning"),
        [
            (str(bit), row.name, str(row.since), row.section, row.doc)
            if row is not None
            else (str(bit), "(unknown)", "", "", _unknown(bit))
            for bit, row in rows
        ],
    )
    if not rows:
        out.print("no features")
    for name, wanted in _missing(kind, word):
        out.print(Text(f"{name} also requires {' or '.join(wanted)}", style="yellow"), soft_wrap=True)
