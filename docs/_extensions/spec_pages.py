"""Writes what is below ``docs/standard`` each time the documentation is built.

That is a page for each device type, from :mod:`virtio.spec`, a table of the habits of front ends, and one of
the rules of the rings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ring_rules

from virtio.spec import core, device_types
from virtio.spec.model import Codes, DeviceType, Feature, Features, Queue, Struct, Type, Union
from virtio.transport.vhost_user.quirks import QUIRKS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "standard"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    pages = {f"{device.name}.md": device_page(device) for device in device_types()}
    pages["core.md"] = core_page()
    pages["index.md"] = index_page(device_types())
    pages["front-ends.inc"] = _table(
        ("seen in", "what it does", "what we do"),
        [(quirk.seen_in, quirk.habit, quirk.answer) for quirk in QUIRKS],
    )
    pages["ring-rules.inc"] = ring_rules.table()
    for left_over in set(folder.iterdir()) - {folder / name for name in pages}:
        left_over.unlink()
    for name, text in pages.items():
        path = folder / name
        # An unchanged page keeps its time, so that Sphinx does not read it again.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def index_page(devices: Sequence[DeviceType]) -> str:
    """The list of all pages."""
    rows = [
        (f"[{device.name}]({device.name}.md)", str(device.id), str(device.since), device.section, device.doc)
        for device in devices
    ]
    return _page(
        "The standard as tables",
        "All of VIRTIO 1.4 that is numbers and layouts, as `virtio.spec` has it. *Since* is the version of"
        " the standard that brought a thing, *section* is the one of VIRTIO 1.4 that defines it. The same is"
        " on the command line: `virtio spec net --since 1.2`.",
        _table(("device type", "id", "since", "section", "what it is for"), rows),
        _toctree(["core", *(device.name for device in devices)]),
    )


def core_page() -> str:
    """What all device types share."""
    ids = [
        (str(row.id), f"[{row.name}]({row.name}.md)" if row.chapter else row.name, row.title, str(row.since))
        for row in core.DEVICE_IDS
    ]
    return _page(
        "What all devices share",
        "Device ids, status bits, reserved features and the layouts of the rings: `virtio.spec.core`.",
        _section("Device ids", _table(("id", "name", "title", "since"), ids)),
        _section("Features", _features(core.F)),
        *_structs(core.STRUCTS),
        *_codes(core.CODES),
    )


def device_page(device: DeviceType) -> str:
    """One device type."""
    parts = [
        f"Device id {device.id}, section {device.section}, since VIRTIO {device.since}: {device.doc}."
        f" In Python this is `virtio.spec.{device.name}`.",
        _section("Queues", _queues(device.queues)),
    ]
    if len(device.features):
        parts.append(_section("Features", _features(device.features)))
    for group in device.mandatory:
        wanted = " or ".join(f"`{name}`" for name in ((group,) if isinstance(group, str) else group))
        parts.append(f"Must be negotiated: {wanted}.")
    if device.config is not None:
        parts.append(_section("Configuration space", _struct(device.config, "driver")))
    if device.shared_memory:
        rows = [
            (str(region.id), region.name, _names(region.when), region.section, region.doc)
            for region in device.shared_memory
        ]
        parts.append(
            _section("Shared memory", _table(("id", "name", "if", "section", "what is there"), rows))
        )
    return _page(device.title, *parts, *_structs(device.structs), *_codes(device.codes))


def _queues(queues: Iterable[Queue]) -> str:
    rows = []
    for queue in queues:
        index = "next" if queue.index is None else str(queue.index)
        times = ""
        if queue.repeat is not None:
            less = f" less {queue.repeat.less}" if queue.repeat.less else ""
            times = f"`{queue.repeat.count}`{less}"
        name = f"`on_{queue.method}`"
        rows.append(
            (index, queue.name, times, name, _names(queue.when), str(queue.since), queue.section, queue.doc)
        )
    head = ("index", "name", "how often", "handler", "if", "since", "section", "what for")
    # Columns that no queue of this device needs are left out.
    return _table(head, rows, drop_empty=True)


def _features(features: Features) -> str:
    def requires(feature: Feature) -> str:
        return ", ".join(" or ".join(f"`{name}`" for name in group) for group in feature.needs)

    rows = [
        (
            str(feature.bit),
            f"`{feature.name}`",
            str(feature.since),
            feature.section,
            requires(feature),
            feature.doc,
        )
        for feature in features
    ]
    return _table(("bit", "name", "since", "section", "requires", "meaning"), rows, drop_empty=True)


def _structs(structs: Iterable[Struct]) -> Iterator[str]:
    sections = [_section(f"`{struct.name}`", _struct(struct, "device"), level=3) for struct in structs]
    if sections:
        yield _section("Structures", "*Access* is the device's: R is device-readable, W device-writable.")
        yield from sections


def _struct(struct: Struct, who: str) -> str:
    rows = []
    for field in struct.fields:
        offset = struct.offsets[field.name]
        rows.append(
            (
                "" if offset is None else str(offset),
                f"`{field.name}`",
                _type(field.type),
                field.access,
                _names(field.when),
                str(struct.since_of(field)),
                field.doc,
            )
        )
    least = "at least " if struct.size is None else ""
    size = f"{least}{struct.minimum} {'byte' if struct.minimum == 1 else 'bytes'}"
    lead = [struct.doc] if struct.doc else []
    lead += [size, f"section {struct.section}"]
    first = f"{'; '.join(lead)}."
    access = "driver's access" if who == "driver" else "access"
    head = ("offset", "field", "type", access, "if", "since", "meaning")
    return first[0].upper() + first[1:] + "\n\n" + _table(head, rows, drop_empty=True)


def _type(kind: Type) -> str:
    if isinstance(kind, Union):
        return "union of " + ", ".join(f"`{member.name}` ({_type(member.type)})" for member in kind.fields)
    return f"`{kind.name}`"


def _codes(groups: Iterable[Codes]) -> Iterator[str]:
    groups = list(groups)
    if groups:
        yield _section("Values", "Named numbers, by what they are used for.")
    for group in groups:
        width = max((code.value for code in group), default=0)
        rows = [
            (
                _number(code.value, hexadecimal=width > 255 or group.flags),
                f"`{code.name}`",
                str(group.since_of(code)),
                code.doc,
            )
            for code in group
        ]
        title = group.title[0].upper() + group.title[1:]
        table = _table(("value", "name", "since", "meaning"), rows)
        yield _section(title, f"Section {group.section}.\n\n{table}", level=3)


def _number(value: int, *, hexadecimal: bool) -> str:
    return f"`{value:#x}`" if hexadecimal else str(value)


def _names(when: str | tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in ((when,) if isinstance(when, str) else when))


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _section(title: str, text: str, level: int = 2) -> str:
    return f"{'#' * level} {title}\n\n{text}"


def _toctree(names: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, drop_empty: bool = False) -> str:
    if drop_empty:
        kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
        head = [head[column] for column in kept]
        rows = [[row[column] for column in kept] for row in rows]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
