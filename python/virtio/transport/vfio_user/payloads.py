"""What vfio-user messages carry. Numbers are in the byte order of the machine."""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Self

from virtio.errors import TransportError
from virtio.transport.vfio_user.messages import CAP_SPARSE_MMAP, IO_FD_IOEVENTFD


class PayloadError(TransportError):
    """A payload that is not what its message carries."""


class Record:
    """A structure of integers; subclasses are frozen data classes with a ``FORM``."""

    FORM: ClassVar[struct.Struct]
    _values: ClassVar[Callable[[Any], tuple[int, ...]]]

    def __init_subclass__(cls) -> None:
        """Find the fields."""
        cls._values = attrgetter(*(name for name in cls.__annotations__ if name != "FORM"))

    def pack(self) -> bytes:
        """Return its bytes."""
        return self.FORM.pack(*type(self)._values(self))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Take it from the beginning of ``data``."""
        if len(data) < cls.FORM.size:
            raise PayloadError(f"{len(data)} bytes where {cls.FORM.size} are the least")
        return cls(*cls.FORM.unpack_from(data))


@dataclass(frozen=True)
class DmaMap(Record):
    """Memory that the device may reach."""

    FORM: ClassVar = struct.Struct("=IIQQQ")
    argsz: int
    flags: int
    offset: int
    address: int
    size: int


@dataclass(frozen=True)
class DmaUnmap(Record):
    """Memory that it may not reach any more."""

    FORM: ClassVar = struct.Struct("=IIQQ")
    argsz: int
    flags: int
    address: int
    size: int


@dataclass(frozen=True)
class DeviceInfo(Record):
    """What the device is."""

    FORM: ClassVar = struct.Struct("=IIII")
    argsz: int
    flags: int = 0
    regions: int = 0
    irqs: int = 0


@dataclass(frozen=True)
class RegionInfo(Record):
    """A region; capabilities may follow."""

    FORM: ClassVar = struct.Struct("=IIIIQQ")
    argsz: int
    flags: int
    index: int
    cap_offset: int = 0
    size: int = 0
    offset: int = 0


@dataclass(frozen=True)
class IrqInfo(Record):
    """A kind of interrupts, and how many there are of it."""

    FORM: ClassVar = struct.Struct("=IIII")
    argsz: int
    flags: int
    index: int
    count: int


@dataclass(frozen=True)
class RegionIoFds(Record):
    """The descriptors that stand for writes to a region; as many sub-regions follow as it counts."""

    FORM: ClassVar = struct.Struct("=IIII")
    argsz: int
    flags: int
    index: int
    count: int


@dataclass(frozen=True)
class IoEventFd(Record):
    """A sub-region, and the eventfd that stands for writes to it."""

    FORM: ClassVar = struct.Struct("=QQIIIIQ")
    offset: int
    size: int
    fd_index: int
    type: int = IO_FD_IOEVENTFD
    flags: int = 0
    padding: int = 0
    datamatch: int = 0


@dataclass(frozen=True)
class IrqSetting(Record):
    """What to do with interrupts; booleans may follow."""

    FORM: ClassVar = struct.Struct("=IIIII")
    argsz: int
    flags: int
    index: int
    start: int
    count: int


@dataclass(frozen=True)
class RegionAccess(Record):
    """A part of a region; data may follow."""

    FORM: ClassVar = struct.Struct("=QII")
    offset: int
    region: int
    count: int


@dataclass(frozen=True)
class DmaAccess(Record):
    """A part of the client's memory; data may follow."""

    FORM: ClassVar = struct.Struct("=QQ")
    address: int
    count: int


@dataclass(frozen=True)
class DeviceFeature(Record):
    """What is asked of a feature; its data follow."""

    FORM: ClassVar = struct.Struct("=II")
    argsz: int
    flags: int


@dataclass(frozen=True)
class DeviceState(Record):
    """A state of migration."""

    FORM: ClassVar = struct.Struct("=II")
    state: int
    data_fd: int = 0


@dataclass(frozen=True)
class LoggingStart(Record):
    """What to log; the ranges follow."""

    FORM: ClassVar = struct.Struct("=QII")
    page_size: int
    ranges: int
    reserved: int = 0


@dataclass(frozen=True)
class LoggingReport(Record):
    """What to report; in the answer the bitmap follows."""

    FORM: ClassVar = struct.Struct("=QQQ")
    address: int
    length: int
    page_size: int


@dataclass(frozen=True)
class MigrationData(Record):
    """How much of a device's state; in one direction it follows."""

    FORM: ClassVar = struct.Struct("=II")
    argsz: int
    size: int


_WRITE = struct.Struct("=QII8s")
_COUNT = struct.Struct("=Q")
_CAPABILITY = struct.Struct("=HHIII")
_PAIR = struct.Struct("=QQ")


def pack_writes(writes: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Make the payload of REGION_WRITE_MULTI of (offset, region, data)."""
    return _COUNT.pack(len(writes)) + b"".join(
        _WRITE.pack(offset, region, len(data), data) for offset, region, data in writes
    )


def unpack_writes(payload: bytes) -> list[tuple[int, int, bytes]]:
    """Take it apart; all of it is checked before anything is returned."""
    (count,) = _COUNT.unpack_from(payload)
    if len(payload) != _COUNT.size + count * _WRITE.size:
        raise PayloadError(f"{count} writes in {len(payload)} bytes")
    found = []
    for offset, region, size, data in _WRITE.iter_unpack(payload[_COUNT.size :]):
        if not 0 < size <= len(data):
            raise PayloadError(f"a write of {size} bytes")
        found.append((offset, region, data[:size]))
    return found


def pack_count(count: int) -> bytes:
    """Make the answer to REGION_WRITE_MULTI."""
    return _COUNT.pack(count)


def pack_sparse(areas: Sequence[tuple[int, int]]) -> bytes:
    """Make the capability that says which areas (offset, size) of a region may be mapped."""
    head = _CAPABILITY.pack(CAP_SPARSE_MMAP, 1, 0, len(areas), 0)
    return head + b"".join(_PAIR.pack(*area) for area in areas)


def unpack_sparse(payload: bytes, at: int) -> list[tuple[int, int]] | None:
    """Find it among the capabilities that begin ``at``; None: there is none."""
    seen = set()
    while at:
        if at in seen or at + 8 > len(payload):
            raise PayloadError("the list of capabilities leads nowhere")
        seen.add(at)
        number, _, following = struct.unpack_from("=HHI", payload, at)
        if number == CAP_SPARSE_MMAP:
            if at + _CAPABILITY.size > len(payload):
                raise PayloadError("a capability is cut off")
            count = _CAPABILITY.unpack_from(payload, at)[3]
            end = at + _CAPABILITY.size + count * _PAIR.size
            if end > len(payload):
                raise PayloadError("a capability is cut off")
            return list(_PAIR.iter_unpack(payload[at + _CAPABILITY.size : end]))
        at = following
    return None


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """Make a list of (address, length)."""
    return b"".join(_PAIR.pack(*item) for item in ranges)


def unpack_ranges(payload: bytes, count: int) -> list[tuple[int, int]]:
    """Take apart a list that fills ``payload``."""
    if len(payload) != count * _PAIR.size:
        raise PayloadError(f"{count} ranges in {len(payload)} bytes")
    return list(_PAIR.iter_unpack(payload))
