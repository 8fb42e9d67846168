"""The tables of the standard as plain dictionaries, for JSON and for documentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from virtio.errors import ConfigurationError
from virtio.spec.layout import Field, Struct, names
from virtio.spec.model import Code, Codes, DeviceType, Feature, Queue, SharedMemory
from virtio.spec.versions import VERSIONS, Version


def version(text: str) -> Version:
    """The version of the standard called ``1.2`` or ``legacy``."""
    for known in VERSIONS:
        if str(known) == text:
            return known
    raise ConfigurationError(f"there is no version {text} of the standard; there are {_listed(VERSIONS)}")


def _listed(versions: Iterable[Version]) -> str:
    return ", ".join(map(str, versions))


def feature(row: Feature) -> dict[str, Any]:
    """A feature bit."""
    return {
        "bit": row.bit,
        "name": row.name,
        "since": str(row.since),
        "section": row.section,
        "doc": row.doc,
        "requires": [list(group) for group in row.needs],
        "legacy": row.legacy,
    }


def field(row: Field, struct: Struct) -> dict[str, Any]:
    """A field with the offset that its structure gives it."""
    return {
        "name": row.name,
        "type": row.type.name or "union",
        "offset": struct.offsets[row.name],
        "size": row.type.size,
        "access": row.access,
        "since": str(struct.since_of(row)),
        "section": struct.section_of(row),
        "when": list(row.features),
        "doc": row.doc,
    }


def structure(row: Struct) -> dict[str, Any]:
    """A structure with its fields."""
    return {
        "name": row.name,
        "size": row.size,
        "since": str(row.since),
        "section": row.section,
        "doc": row.doc,
        "fields": [field(part, row) for part in row.fields],
    }


def queue(row: Queue) -> dict[str, Any]:
    """A virtqueue, or one of a repeated group."""
    return {
        "index": row.index,
        "name": row.name,
        "method": row.method,
        "repeated": row.repeat.count if row.repeat else None,
        "since": str(row.since),
        "section": row.section,
        "when": list(names(row.when)),
        "doc": row.doc,
    }


def code(row: Code, group: Codes) -> dict[str, Any]:
    """A named number."""
    return {
        "value": row.value,
        "name": row.name,
        "since": str(group.since_of(row)),
        "doc": row.doc,
        "legacy": row.legacy,
    }


def codes(group: Codes) -> dict[str, Any]:
    """A group of named numbers."""
    return {
        "title": group.title,
        "section": group.section,
        "flags": group.flags,
        "values": [code(row, group) for row in group],
    }


def region(row: SharedMemory) -> dict[str, Any]:
    """A shared memory region."""
    return {
        "id": row.id,
        "name": row.name,
        "since": str(row.since),
        "section": row.section,
        "when": list(names(row.when)),
        "doc": row.doc,
    }


def device(row: DeviceType) -> dict[str, Any]:
    """All that is known about a device type."""
    return {
        "id": row.id,
        "name": row.name,
        "title": row.title,
        "since": str(row.since),
        "section": row.section,
        "doc": row.doc,
        "features": [feature(part) for part in row.features],
        "config": structure(row.config) if row.config else None,
        "queues": [queue(part) for part in row.queues],
        "structs": [structure(part) for part in row.structs],
        "codes": [codes(part) for part in row.codes],
        "shared_memory": [region(part) for part in row.shared_memory],
        "mandatory": [list(names(group)) for group in row.mandatory],
    }


def since(found: Any, oldest: Version) -> Any:
    """What of an exported dictionary ``oldest`` or a later version brought; empty parts are dropped."""
    if isinstance(found, list):
        kept = (since(item, oldest) for item in found)
        return [item for item in kept if item is not None]
    if not isinstance(found, dict):
        return found
    inner = next((key for key in ("fields", "values") if key in found), None)
    if inner is None:
        if "features" in found:
            parts = ("features", "config", "queues", "structs", "codes", "shared_memory")
            return {key: since(value, oldest) if key in parts else value for key, value in found.items()}
        return found if found["since"] and version(found["since"]) >= oldest else None
    rows = since(found[inner], oldest)
    return {**found, inner: rows} if rows else None
