"""What the tests of the standard's tables share: everything that can be quoted from them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from virtio.spec import CHAPTERS
from virtio.spec.layout import Array, Field, Struct, Type, Union
from virtio.spec.model import Codes, Feature

PARTS = ("core", "pci", "mmio", "ccw", "admin")
MODULES = (*CHAPTERS, *PARTS)
SECTIONS = frozenset((Path(__file__).parent / "sections-1.4.txt").read_text().split())


def module(name: str) -> ModuleType:
    return import_module(f"virtio.spec.{name}")


def features(name: str) -> tuple[Feature, ...]:
    found = module(name)
    return tuple(found.DEVICE.features if hasattr(found, "DEVICE") else getattr(found, "F", ()))


def codes(name: str) -> tuple[Codes, ...]:
    found = module(name)
    return tuple(found.DEVICE.codes if hasattr(found, "DEVICE") else found.CODES)


def structs(name: str) -> tuple[Struct, ...]:
    """The structures of a module, the configuration first."""
    found = module(name)
    if not hasattr(found, "DEVICE"):
        return tuple(found.STRUCTS)
    config = found.DEVICE.config
    return (*((config,) if config is not None else ()), *found.DEVICE.structs)


def every_struct(name: str) -> Iterator[Struct]:
    """The structures of a module, and those inside them."""
    for struct in structs(name):
        yield from _inside(struct)


def _inside(kind: Type) -> Iterator[Struct]:
    fields: tuple[Field, ...] = ()
    if isinstance(kind, Struct):
        yield kind
        fields = kind.fields
    elif isinstance(kind, Union):
        fields = kind.fields
    elif isinstance(kind, Array):
        yield from _inside(kind.element)
    for field in fields:
        yield from _inside(field.type)
