"""Structures of the standard as bytes: scalars, arrays, nested structures, variable parts.

Offsets and sizes are computed; the standard pads explicitly, so nothing is padded here. A type is
indexed to make an array of it: ``u8[6]`` has six elements, ``le32["count"]`` as many as the field (or the
argument) ``count`` says, ``u8[rest]`` all that is left.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final, Literal

from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec.versions import V1_0, Version

Buffer = bytes | bytearray | memoryview


class _Rest(Enum):
    REST = "all that is left"


rest: Final = _Rest.REST
Count = int | str | Literal[_Rest.REST]

Access = Literal["R", "W", "RW"]
R: Final[Access] = "R"
W: Final[Access] = "W"
RW: Final[Access] = "RW"


def names(when: str | tuple[str, ...]) -> tuple[str, ...]:
    """One name, several or none, as a tuple."""
    return (when,) if isinstance(when, str) else when


class Record(SimpleNamespace):
    """The values of a structure, by attribute."""

    def __getitem__(self, name: str) -> Any:
        """A value by the name of its field."""
        return self.__dict__[name]


class Type:
    """Something with a place in memory."""

    name: str

    @property
    def size(self) -> int | None:
        """Bytes; ``None`` if that varies."""
        raise NotImplementedError

    def pack(self, value: Any) -> bytes:
        """The bytes of a value."""
        raise NotImplementedError

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[Any, int]:
        """A value from the start of ``data``, and how many bytes it took."""
        raise NotImplementedError

    @property
    def zero(self) -> Any:
        """The value that is packed when none is given."""
        raise NotImplementedError

    def __getitem__(self, count: Count) -> Array:
        """An array of this type."""
        return Array(self, count)


@dataclass(frozen=True)
class Scalar(Type):
    """An integer of a stated width and byte order."""

    name: str
    width: int
    order: Literal["little", "big"] = "little"
    signed: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.width

    @property
    def zero(self) -> int:
        """0."""
        return 0

    def pack(self, value: Any) -> bytes:
        """The bytes of an integer."""
        try:
            return int(value).to_bytes(self.width, self.order, signed=self.signed)
        except OverflowError:
            raise ConfigurationError(f"{value} does not fit into {self.name}") from None

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[int, int]:
        """An integer from the start of ``data``."""
        if len(data) < self.width:
            raise ShortError(self.width, len(data))
        return int.from_bytes(data[: self.width], self.order, signed=self.signed), self.width

    @property
    def code(self) -> str:
        """The letter that :mod:`struct` has for it."""
        letter = {1: "b", 2: "h", 4: "i", 8: "q"}[self.width]
        return letter if self.signed else letter.upper()


u8 = Scalar("u8", 1)
le16 = Scalar("le16", 2)
le32 = Scalar("le32", 4)
le64 = Scalar("le64", 8)
be16 = Scalar("be16", 2, "big")
be32 = Scalar("be32", 4, "big")
be64 = Scalar("be64", 8, "big")
# The standard writes no sign into these names; a few fields are nevertheless signed by their text.
sle32 = Scalar("le32 (signed)", 4, signed=True)
sle64 = Scalar("le64 (signed)", 8, signed=True)


class ShortError(Exception):
    """There are fewer bytes than a type needs (turned into a ``ProtocolError`` by :class:`Struct`)."""

    def __init__(self, needed: int, present: int) -> None:
        """Remember both figures."""
        super().__init__(f"{needed} bytes needed, {present} there")


@dataclass(frozen=True)
class Array(Type):
    """Elements one after another. An array of ``u8`` is ``bytes`` in Python, any other a tuple."""

    element: Type
    count: Count

    @property
    def name(self) -> str:  # type: ignore[override]
        """As C would write it."""
        inside = "" if self.count is rest else str(self.count)
        return f"{self.element.name}[{inside}]"

    @property
    def size(self) -> int | None:
        """Bytes, if the count is a number."""
        each = self.element.size
        return each * self.count if isinstance(self.count, int) and each is not None else None

    @property
    def zero(self) -> Any:
        """No elements (a fixed count is filled up with zeros)."""
        return b"" if self.element is u8 else ()

    def pack(self, value: Any) -> bytes:
        """The bytes of all elements; up to a fixed count the rest is zero."""
        data = bytes(value) if self.element is u8 else b"".join(map(self.element.pack, value))
        if self.size is not None:
            if len(data) > self.size:
                raise ConfigurationError(f"{len(data)} bytes do not fit into {self.name}")
            data = data.ljust(self.size, b"\0")
        return data

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[Any, int]:
        """As many elements as the count says."""
        count = counts[self.count] if isinstance(self.count, str) else self.count
        if self.element is u8:
            used = len(data) if count is rest else int(count)
            if used > len(data):
                raise ShortError(used, len(data))
            return bytes(data[:used]), used
        found: list[Any] = []
        used = 0
        while (used < len(data)) if count is rest else (len(found) < int(count)):
            value, step = self.element.take(data[used:], counts)
            if step == 0:
                break
            found.append(value)
            used += step
        return tuple(found), used


@dataclass(frozen=True)
class Bits(Type):
    """Bit fields inside an integer, the least significant first."""

    base: Scalar
    parts: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """As C would write it."""
        return f"{self.base.name}:" + ",".join(f"{name}:{width}" for name, width in self.parts)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.base.width

    @property
    def zero(self) -> Mapping[str, int]:
        """No bit set."""
        return {}

    def pack(self, value: Any) -> bytes:
        """The bytes of a mapping, a :class:`Record` or the whole integer."""
        if isinstance(value, int):
            return self.base.pack(value)
        given = _mapping(value)
        unknown = set(given) - {name for name, _ in self.parts}
        if unknown:
            raise ConfigurationError(f"{self.name} has no {', '.join(sorted(unknown))}")
        whole = shift = 0
        for name, width in self.parts:
            part = given.get(name, 0)
            if not 0 <= part < 1 << width:
                raise ConfigurationError(f"{part} does not fit into {name}, {width} bits")
            whole |= part << shift
            shift += width
        return self.base.pack(whole)

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[Record, int]:
        """A record of the parts."""
        whole, used = self.base.take(data, counts)
        record = Record()
        for name, width in self.parts:
            setattr(record, name, whole & ((1 << width) - 1))
            whole >>= width
        return record, used


@dataclass(frozen=True)
class Field:
    """One field of a structure.

    ``access`` in a device configuration layout or register block is the driver's: ``R`` or ``RW``. In a
    request it is the device's: ``R`` for the device-readable part, ``W`` for the device-writable one.
    ``when`` names the features of which any makes the field exist or be valid. ``since`` is given where
    it is later than that of the structure.
    """

    name: str
    type: Type
    doc: str = ""
    when: str | tuple[str, ...] = ()
    access: Access = R
    since: Version | None = None
    section: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """``when`` as a tuple."""
        return names(self.when)


@dataclass(frozen=True)
class Struct(Type):
    """Fields one after another. In each direction at most one may take all that is left."""

    name: str
    section: str
    fields: tuple[Field, ...]
    since: Version = V1_0
    doc: str = ""

    @cached_property
    def _size(self) -> int | None:
        sizes = [field.type.size for field in self.fields]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def size(self) -> int | None:
        """Bytes; ``None`` if there is a variable part."""
        return self._size

    @cached_property
    def minimum(self) -> int:
        """Bytes with all variable parts empty."""
        return sum(_least(field.type) for field in self.fields)

    @cached_property
    def offsets(self) -> dict[str, int | None]:
        """Where each field starts; ``None`` after a variable part."""
        where: int | None = 0
        found: dict[str, int | None] = {}
        for field in self.fields:
            found[field.name] = where
            size = field.type.size
            where = None if where is None or size is None else where + size
        return found

    def offset(self, name: str) -> int:
        """Where a field starts; an error if that varies."""
        where = self.offsets[name]
        if where is None:
            raise ConfigurationError(f"{self.name}.{name} has no fixed offset")
        return where

    def field(self, name: str) -> Field:
        """The field of this name."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def since_of(self, field: Field) -> Version:
        """The version that brought this field."""
        return field.since or self.since

    def section_of(self, field: Field) -> str:
        """The section that defines this field."""
        return field.section or self.section

    def only(self, features: Collection[str]) -> Struct:
        """This structure without the fields whose features are not among ``features`` (names)."""
        kept = tuple(f for f in self.fields if not f.features or any(n in features for n in f.features))
        return replace(self, fields=kept)

    def until(self, features: Collection[str]) -> Struct:
        """This structure up to the last field that exists with ``features`` (names); those before it stay."""
        last = 0
        for number, field in enumerate(self.fields, 1):
            if not field.features or any(name in features for name in field.features):
                last = number
        return replace(self, fields=self.fields[:last])

    def part(self, access: Access) -> Struct:
        """Only the device-readable (``R``) or the device-writable (``W``) part of a request."""
        return replace(self, fields=tuple(field for field in self.fields if field.access == access))

    @property
    def zero(self) -> Mapping[str, Any]:
        """Every field zero."""
        return {}

    @cached_property
    def _codec(self) -> struct.Struct | None:
        """One call for the whole structure, where its fields are plain and of one byte order."""
        orders: set[str] = set()
        letters = []
        for field in self.fields:
            kind = field.type
            if isinstance(kind, Scalar):
                if kind.width > 1:
                    orders.add(kind.order)
                letters.append(kind.code)
            elif isinstance(kind, Array) and kind.element is u8 and isinstance(kind.count, int):
                letters.append(f"{kind.count}s")
            else:
                return None
        if len(orders) > 1:
            return None
        return struct.Struct((">" if orders == {"big"} else "<") + "".join(letters))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def pack(self, value: Any = None, /, **values: Any) -> bytes:
        """The bytes of a mapping, a :class:`Record` or keywords; what is not given is zero.

        A field that counts the elements of another one is filled in if it is not given.
        """
        given = {**(_mapping(value) if value is not None else {}), **values}
        unknown = set(given) - set(self._names)
        if unknown:
            raise ConfigurationError(f"{self.name} has no {', '.join(sorted(unknown))}")
        for field in self.fields:
            kind = field.type
            if isinstance(kind, Array) and isinstance(kind.count, str) and kind.count in self._names:
                given.setdefault(kind.count, len(given.get(field.name, ())))
        return b"".join(field.type.pack(given.get(field.name, field.type.zero)) for field in self.fields)

    def unpack(self, data: Buffer, counts: Mapping[str, int] | None = None) -> Record:
        """The values at the start of ``data``; too few bytes are a ``ProtocolError``."""
        try:
            if self._codec is not None:
                return Record(**dict(zip(self._names, self._codec.unpack_from(data), strict=True)))
            return self.take(memoryview(data).cast("B"), counts or {})[0]
        except struct.error:
            raise self._short(f"{self.size} bytes needed, {len(data)} there") from None
        except ShortError as short:
            raise self._short(str(short)) from None

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[Record, int]:
        """A record from the start of ``data``, and how many bytes it took."""
        record = Record()
        known = dict(counts)
        used = 0
        for index, field in enumerate(self.fields):
            end = len(data)
            if isinstance(field.type, Array | Union) and _greedy(field.type):
                end -= sum(_bytes(later.type, known) for later in self.fields[index + 1 :])
                if end < used:
                    raise ShortError(len(data) + used - end, len(data))
            value, step = field.type.take(data[used:end], known)
            setattr(record, field.name, value)
            if isinstance(value, int):
                known.setdefault(field.name, value)
            used += step
        return record, used

    def _short(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self.name}: {what}", self.section)


@dataclass(frozen=True)
class Union(Type):
    """One of several fields in the same place.

    Packed from a mapping with one member, or from bytes; unpacked to bytes, which :meth:`view` reads.
    """

    name: str
    fields: tuple[Field, ...]

    @property
    def size(self) -> int | None:
        """Bytes of the largest member; ``None`` if one of them varies."""
        sizes = [field.type.size for field in self.fields]
        return None if None in sizes else max(size for size in sizes if size is not None)

    @property
    def zero(self) -> bytes:
        """No member chosen."""
        return b""

    def pack(self, value: Any) -> bytes:
        """The bytes of one member, filled with zeros to the size of the union."""
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
        else:
            ((name, inner),) = _mapping(value).items()
            data = self.member(name).type.pack(inner)
        if self.size is not None and len(data) > self.size:
            raise ConfigurationError(f"{len(data)} bytes do not fit into union {self.name}")
        return data.ljust(self.size or 0, b"\0")

    def take(self, data: memoryview, counts: Mapping[str, int]) -> tuple[bytes, int]:
        """The raw bytes."""
        used = len(data) if self.size is None else self.size
        if used > len(data):
            raise ShortError(used, len(data))
        return bytes(data[:used]), used

    def member(self, name: str) -> Field:
        """The member of this name."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ConfigurationError(f"union {self.name} has no {name}")

    def view(self, data: Buffer, name: str, counts: Mapping[str, int] | None = None) -> Any:
        """The raw bytes of the union read as one of its members."""
        return self.member(name).type.take(memoryview(data).cast("B"), counts or {})[0]


def _mapping(value: Any) -> Mapping[str, Any]:
    return vars(value) if isinstance(value, Record) else value


def _greedy(kind: Array | Union) -> bool:
    return kind.size is None and (isinstance(kind, Union) or kind.count is rest)


def _least(kind: Type) -> int:
    if kind.size is not None:
        return kind.size
    return kind.minimum if isinstance(kind, Struct) else 0


def _bytes(kind: Type, counts: Mapping[str, int]) -> int:
    """What a field that follows a variable part takes."""
    if isinstance(kind, Array) and isinstance(kind.count, str) and kind.count in counts:
        return counts[kind.count] * _least(kind.element)
    return _least(kind)
