"""``virtio spec``: the standard as tables."""

import json
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError
from virtio.spec import core, device_type, export

# What is not a device type but has structures and codes of its own, by the name of its module.
PARTS = {
    "core": ("What all devices share", "2"),
    "pci": ("Virtio over PCI bus", "4.1"),
    "mmio": ("Virtio over MMIO", "4.2"),
    "ccw": ("Virtio over channel I/O", "4.3"),
    "admin": ("Device groups and administration commands", "2.12"),
}

app = typer.Typer(add_completion=False)


@app.command()
def spec(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[DEVICE]", help=f"Device type by name or id, or {', '.join(PARTS)}."),
    ] = None,
    item: Annotated[
        str | None, typer.Argument(metavar="[ITEM]", help="A structure or a group of codes, in full.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only what this version or a later one brought.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the device types, or the features, configuration, queues and structures of one."""
    found: Any = _ids() if what is None else _part(what)
    if since is not None:
        found = export.since(found, export.version(since))
    if item is not None:
        found = _item(found, item)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    out = console()
    if what is None:
        _list(out, found)
    elif item is not None:
        _detail(out, found)
    else:
        _overview(out, found)


def _ids() -> list[dict[str, Any]]:
    return [
        {
            "id": row.id,
            "name": row.name,
            "title": row.title,
            "since": str(row.since) if row.assigned else "",
            "section": row.chapter,
            "assigned": row.assigned,
        }
        for row in core.DEVICE_IDS
    ]


def _part(what: str) -> dict[str, Any]:
    if what not in PARTS:
        return export.device(device_type(what))
    module = import_module(f"virtio.spec.{what}")
    title, section = PARTS[what]
    return {
        "name": what,
        "title": title,
        "section": section,
        "features": [export.feature(row) for row in getattr(module, "F", ())],
        "config": None,
        "queues": [],
        "structs": [export.structure(row) for row in module.STRUCTS],
        "codes": [export.codes(row) for row in module.CODES],
    }


def _item(found: Any, item: str) -> dict[str, Any]:
    if isinstance(found, dict):
        groups = [found["config"], *found["structs"], *found["codes"]]
        for row in filter(None, groups):
            if item in (
                row.get("name"),
                row.get("title"),
                *(value["name"] for value in row.get("values", ())),
            ):
                chosen: dict[str, Any] = row
                return chosen
    raise ConfigurationError(f"there is no structure and no code {item} there")


def _list(out: Console, rows: list[dict[str, Any]]) -> None:
    show(
        out,
        (">id", "name", "since", "section", "device type"),
        [
            (str(r["id"]), r["name"] or "-", r["since"] if r["assigned"] else "", r["section"], r["title"])
            for r in rows
        ],
    )
    if out.is_terminal:
        out.print(Text("\nA name without a section is reserved. virtio spec NAME shows one.", style="dim"))


def _overview(out: Console, found: dict[str, Any]) -> None:
    number = f"device id {found['id']}, " if "id" in found else ""
    title = Text(f"{found['title']} ({number}section {found['section']})", style="bold")
    out.print(title, soft_wrap=True)
    if found.get("doc"):
        out.print(Text(found["doc"][0].upper() + found["doc"][1:] + "."), soft_wrap=True)
    show(
        out,
        (">bit", "name", "since", "section", "meaning"),
        [(str(r["bit"]), r["name"], r["since"], r["section"], _feature_doc(r)) for r in found["features"]],
        "Features",
    )
    for group in found.get("mandatory", ()):
        out.print(Text(f"Must be negotiated: {' or '.join(map(_short, group))}"), soft_wrap=True)
    if found["config"]:
        _fields(out, found["config"], "Configuration")
    show(
        out,
        ("queue", "name", "handler", "since", "meaning"),
        [
            (
                _number(r),
                r["name"] + ("…" if r["repeated"] else ""),
                f"on_{r['method']}",
                r["since"],
                _queue_doc(r),
            )
            for r in found["queues"]
        ],
        "Queues",
    )
    show(
        out,
        (">id", "shared memory", "since", "section", "meaning"),
        [
            (str(r["id"]), r["name"], r["since"], r["section"], _with_features(r["doc"], r["when"]))
            for r in found.get("shared_memory", ())
        ],
        "Shared memory",
    )
    show(
        out,
        ("name", ">bytes", "since", "section", "meaning"),
        [(r["name"], _size(r["size"]), r["since"], r["section"], r["doc"]) for r in found["structs"]],
        "Structures",
    )
    show(
        out,
        ("codes", "section", "names"),
        [(r["title"], r["section"], _names(r["values"])) for r in found["codes"]],
        "Codes",
    )


def _detail(out: Console, found: dict[str, Any]) -> None:
    if "fields" in found:
        size = "of varying size" if found["size"] is None else f"{found['size']} bytes"
        _fields(out, found, f"{found['name']} ({size}, {found['section']})")
        return
    show(
        out,
        (">value", "name", "since", "meaning"),
        [
            (f"{r['value']:#x}" if found["flags"] else str(r["value"]), r["name"], r["since"], r["doc"])
            for r in found["values"]
        ],
        f"{found['title']} ({found['section']})",
    )


def _fields(out: Console, struct: dict[str, Any], title: str) -> None:
    # A narrow terminal needs its width for the meaning.
    narrow = out.width < 100
    rows = []
    for row in struct["fields"]:
        doc = _with_features(row["doc"], row["when"])
        start = "varies" if row["offset"] is None else str(row["offset"])
        if narrow:
            doc = f"(RW) {doc}" if row["access"] == "RW" else doc
            rows.append((start, "", _kind(row), row["name"], "", row["since"], doc))
        else:
            cells = (start, _size(row["size"]), _kind(row), row["name"], row["access"], row["since"], doc)
            rows.append(cells)
    show(out, (">at", ">bytes", "type", "name", "access", "since", "meaning"), rows, title)


def _kind(row: dict[str, Any]) -> str:
    kind: str = row["type"]
    return "struct" if kind.isidentifier() and "_" in kind else kind


def _feature_doc(row: dict[str, Any]) -> str:
    needs = [" or ".join(map(_short, group)) for group in row["requires"]]
    doc: str = row["doc"]
    return doc + (f" (requires {', '.join(needs)})" if needs else "")


def _queue_name(row: dict[str, Any]) -> str:
    return f"{row['name']}…" if row["repeated"] else str(row["name"])


def _queue_doc(row: dict[str, Any]) -> str:
    repeated = f"; as many as {row['repeated']} says" if row["repeated"] else ""
    return _with_features(row["doc"] + repeated, row["when"])


def _with_features(doc: str, when: list[str]) -> str:
    if not when:
        return doc
    return f"{doc} [{' or '.join(map(_short, when))}]".strip()


def _short(name: str) -> str:
    return name.partition("_F_")[2] or name


def _number(row: dict[str, Any]) -> str:
    return "next" if row["index"] is None else str(row["index"])


def _size(size: int | None) -> str:
    return "varies" if size is None else str(size)


def _names(values: list[dict[str, Any]]) -> str:
    shown = [row["name"] for row in values[:3]]
    return ", ".join(shown) + (f", … ({len(values)})" if len(values) > 3 else "")
