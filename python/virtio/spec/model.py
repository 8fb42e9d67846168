"""The form in which the standard is written down: features, fields, queues, codes.

Everything here is a frozen dataclass, so that a module of :mod:`virtio.spec` reads as a
table. How structures become bytes is in :mod:`virtio.spec.layout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from virtio.errors import ConfigurationError
from virtio.spec.layout import (
    RW,
    Array,
    Bits,
    Field,
    R,
    Record,
    Scalar,
    Struct,
    Type,
    Union,
    W,
    be16,
    be32,
    be64,
    le16,
    le32,
    le64,
    names,
    rest,
    sle32,
    sle64,
    u8,
)
from virtio.spec.versions import LEGACY, V1_0, V1_1, V1_2, V1_3, V1_4, Version

__all__ = [
    "LEGACY",
    "RW",
    "V1_0",
    "V1_1",
    "V1_2",
    "V1_3",
    "V1_4",
    "Array",
    "Bits",
    "Code",
    "Codes",
    "DeviceType",
    "Feature",
    "Features",
    "Field",
    "Queue",
    "QueueSlot",
    "R",
    "Record",
    "Repeat",
    "Scalar",
    "SharedMemory",
    "Struct",
    "Type",
    "Union",
    "Version",
    "W",
    "be16",
    "be32",
    "be64",
    "le16",
    "le32",
    "le64",
    "rest",
    "sle32",
    "sle64",
    "u8",
]


@dataclass(frozen=True)
class Feature:
    """One feature bit.

    ``requires`` lists what must be negotiated with it: a name is a must, a tuple of names means any
    of them. ``legacy`` marks bits that only the legacy interface knows.
    """

    bit: int
    name: str
    since: Version
    section: str
    doc: str
    requires: tuple[str | tuple[str, ...], ...] = ()
    legacy: bool = False

    @property
    def mask(self) -> int:
        """The bit as a feature word."""
        return 1 << self.bit

    @property
    def needs(self) -> tuple[tuple[str, ...], ...]:
        """``requires`` in one form: of each inner tuple at least one must be there."""
        return tuple(names(item) for item in self.requires)


class Features:
    """A table of feature bits; ``F.MAC`` is the mask of the feature whose name ends so."""

    def __init__(self, prefix: str, *rows: Feature) -> None:
        """Take the rows of the table; every name must start with ``prefix``."""
        self.prefix = prefix
        self._rows = {row.name: row for row in rows}
        self._bits = {row.bit: row for row in rows}
        if len(self._bits) != len(rows) or len(self._rows) != len(rows):
            raise ValueError(f"{prefix}: a bit or a name is there twice")
        for row in rows:
            if not row.name.startswith(prefix):
                raise ValueError(f"{row.name} does not start with {prefix}")
            self.__dict__[_attribute(row.name, prefix)] = row.mask

    def __getattr__(self, name: str) -> int:
        """The mask of a feature (found in ``__dict__``; here end only names that do not exist)."""
        raise AttributeError(f"there is no feature {self.prefix}{name}")

    def __iter__(self) -> Iterator[Feature]:
        """All features, in the order of the table."""
        return iter(self._rows.values())

    def __len__(self) -> int:
        """How many features the table has."""
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        """Whether the table has a feature of this full name."""
        return name in self._rows

    def get(self, key: str | int) -> Feature | None:
        """The feature with this bit number, full name or short name."""
        if isinstance(key, int):
            return self._bits.get(key)
        return self._rows.get(key) or self._rows.get(self.prefix + key)

    def __getitem__(self, key: str | int) -> Feature:
        """Like :meth:`get`, but an unknown key is a ``KeyError``."""
        feature = self.get(key)
        if feature is None:
            raise KeyError(key)
        return feature

    @property
    def mask(self) -> int:
        """All bits of the table."""
        return sum(row.mask for row in self._rows.values())


@dataclass(frozen=True)
class Code:
    """One named number: a command, a status, a flag."""

    value: int
    name: str
    doc: str = ""
    since: Version | None = None
    legacy: bool = False


class Codes:
    """A group of named numbers; ``T.IN`` is the value of the code whose name ends so.

    ``flags`` marks groups whose values are bits to be combined.
    """

    def __init__(
        self, title: str, prefix: str, section: str, *rows: Code, since: Version = V1_0, flags: bool = False
    ) -> None:
        """Take the rows; ``since`` is the version of all rows that do not have their own."""
        self.title = title
        self.prefix = prefix
        self.section = section
        self.flags = flags
        self.since = since
        self._rows = {row.name: row for row in rows}
        if len(self._rows) != len(rows):
            raise ValueError(f"{title}: a name is there twice")
        for row in rows:
            if not row.name.startswith(prefix):
                raise ValueError(f"{row.name} does not start with {prefix}")
            self.__dict__[_attribute(row.name, prefix)] = row.value

    def __getattr__(self, name: str) -> int:
        """The value of a code (found in ``__dict__``; here end only names that do not exist)."""
        raise AttributeError(f"there is no {self.title} {self.prefix}{name}")

    def __iter__(self) -> Iterator[Code]:
        """All codes, in the order of the table."""
        return iter(self._rows.values())

    def __len__(self) -> int:
        """How many codes the group has."""
        return len(self._rows)

    def __getitem__(self, name: str) -> Code:
        """The code of this full or short name."""
        return self._rows.get(name) or self._rows[self.prefix + name]

    def name(self, value: int) -> str | None:
        """The name of a value; of two names for one value, the one that is not legacy."""
        found = [row for row in self._rows.values() if row.value == value]
        return min(found, key=lambda row: row.legacy).name if found else None

    def since_of(self, code: Code) -> Version:
        """The version that brought this code."""
        return code.since or self.since


@dataclass(frozen=True)
class Repeat:
    """How often a queue is there: as often as config field ``count`` says, less ``less``.

    Without any of the features ``when`` it is there ``otherwise`` times. Instances are numbered
    from ``first``.
    """

    count: str
    when: str | tuple[str, ...] = ()
    otherwise: int = 1
    less: int = 0
    first: int = 1


@dataclass(frozen=True)
class Queue:
    """One virtqueue, or one of a repeated group.

    ``index`` is its fixed number; ``None`` means the next free one, in the order of the table (after
    repeated queues the number depends on their count). Neighbours with the same ``repeat`` alternate:
    receiveq1, transmitq1, receiveq2, … ``method`` is the name that handlers in Python use.
    """

    index: int | None
    name: str
    method: str
    section: str
    doc: str
    when: str | tuple[str, ...] = ()
    repeat: Repeat | None = None
    label: str = "{name}{number}"
    since: Version = V1_0


@dataclass(frozen=True)
class QueueSlot:
    """A queue of a device whose features and config are known: its number and its full name."""

    index: int
    name: str
    queue: Queue
    number: int = 0


@dataclass(frozen=True)
class SharedMemory:
    """A shared memory region of a device (2.10): its id, and what the driver finds there.

    Without ``when`` it depends on the device alone whether the region is there.
    """

    id: int
    name: str
    section: str
    doc: str
    when: str | tuple[str, ...] = ()
    since: Version = V1_2


@dataclass(frozen=True)
class DeviceType:
    """What the standard says about one type of device.

    ``mandatory`` lists the features without which device and driver do not get along, in the form
    of :attr:`Feature.requires`: a name is a must, a tuple of names means any of them.
    """

    id: int
    name: str
    title: str
    section: str
    since: Version
    features: Features
    queues: tuple[Queue, ...]
    config: Struct | None = None
    structs: tuple[Struct, ...] = ()
    codes: tuple[Codes, ...] = ()
    doc: str = ""
    shared_memory: tuple[SharedMemory, ...] = ()
    mandatory: tuple[str | tuple[str, ...], ...] = ()

    def lacking(self, features: int) -> tuple[tuple[str, ...], ...]:
        """What of ``mandatory`` is not in ``features``: of each tuple at least one must be."""
        return tuple(wanted for wanted in map(names, self.mandatory) if not self.has(features, wanted))

    def struct(self, name: str) -> Struct:
        """The structure of this name (``virtio_blk_req``)."""
        if self.config is not None and self.config.name == name:
            return self.config
        for candidate in self.structs:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def has(self, features: int, when: str | tuple[str, ...]) -> bool:
        """Whether ``features`` contain any of the named ones (none named: yes)."""
        from virtio.spec import core

        wanted = names(when)
        if not wanted:
            return True
        return any(features & (self.features.get(name) or core.F[name]).mask for name in wanted)

    def slots(self, features: int, config: Mapping[str, int] | None = None) -> tuple[QueueSlot, ...]:
        """All queues of a device with these features and these config values, by number."""
        values = config or {}
        slots: list[QueueSlot] = []
        following = 0
        position = 0
        while position < len(self.queues):
            queue = self.queues[position]
            group = [queue]
            if queue.repeat is not None:
                for other in self.queues[position + 1 :]:
                    if other.repeat != queue.repeat:
                        break
                    group.append(other)
            position += len(group)
            if queue.repeat is None and not self.has(features, queue.when):
                continue
            if queue.index is not None:
                following = queue.index
            if queue.repeat is None:
                slots.append(QueueSlot(following, queue.name, queue))
                following += 1
                continue
            for number in range(self._count(queue.repeat, features, values)):
                for member in group:
                    shown = number + queue.repeat.first
                    name = member.label.format(name=member.name, number=shown)
                    slots.append(QueueSlot(following, name, member, shown))
                    following += 1
        return tuple(sorted(slots, key=lambda slot: slot.index))

    def _count(self, repeat: Repeat, features: int, config: Mapping[str, int]) -> int:
        if not self.has(features, repeat.when):
            return repeat.otherwise
        if repeat.count not in config:
            raise ConfigurationError(f"{self.name}: the number of queues needs config field {repeat.count}")
        return max(config[repeat.count] - repeat.less, 0)


def _attribute(name: str, prefix: str) -> str:
    short = name.removeprefix(prefix)
    # Names such as VIRTIO_NET_HASH_TYPE_… never start with a digit, but VIRTIO_…_2D do end so.
    return short if short.isidentifier() else f"_{short}"
