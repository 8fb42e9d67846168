"""What vhost-user messages carry: one :class:`Form` per payload, bytes to values and back.

All numbers are in the byte order of the machine, as the protocol demands; nothing is aligned by the compiler.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from virtio.errors import TransportError

MAX_REGIONS = 8
"""Regions in one SET_MEM_TABLE, and therefore descriptors with one message."""

MAX_PAYLOAD = 4096
"""No payload that the protocol defines comes near; whoever announces more cannot be followed."""


class PayloadError(TransportError):
    """A payload that is not what its message carries."""


class VringState(NamedTuple):
    """A queue and a number that belongs to it: a size, a base, on or off."""

    ring: int
    num: int


class VringAddress(NamedTuple):
    """Where the parts of a queue are, in the front end's addresses."""

    ring: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int


class MemoryRegion(NamedTuple):
    """A piece of guest memory; its descriptor travels beside the message."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


class ConfigAccess(NamedTuple):
    """A part of the configuration space; ``flags`` 1: written by a migration, not by the driver."""

    offset: int
    size: int
    flags: int
    data: bytes


class LogArea(NamedTuple):
    """Where the dirty log is in its descriptor."""

    size: int
    offset: int


class Iotlb(NamedTuple):
    """A change of the device's address translations; ``type``: 1 miss, 2 update, 3 invalidate, 4 failure."""

    iova: int
    size: int
    user_address: int
    permission: int
    type: int


class VringArea(NamedTuple):
    """A host notifier's page; ``queue`` holds flags above bit 8."""

    queue: int
    size: int
    offset: int


class Inflight(NamedTuple):
    """The shared area that tracks requests under way."""

    mmap_size: int
    mmap_offset: int
    queues: int
    queue_size: int


class StateTransfer(NamedTuple):
    """``direction``: 0 save, 1 load; ``phase``: 0 stopped."""

    direction: int
    phase: int


@dataclass(frozen=True, slots=True)
class Form:
    """How a payload looks. ``decode`` raises :exc:`PayloadError`."""

    name: str
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


def _exactly(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) != layout.size:
        raise PayloadError(f"payload of {len(data)} bytes instead of {layout.size}")
    return layout.unpack(data)


def _tuple(name: str, layout: str, kind: Callable[..., Any]) -> Form:
    compiled = struct.Struct(layout)
    return Form(name, lambda data: kind(*_exactly(compiled, data)), lambda value: compiled.pack(*value))


def _number(data: bytes) -> int:
    return int(_exactly(_U64, data)[0])


def _nothing(data: bytes) -> None:
    if data:
        raise PayloadError(f"payload of {len(data)} bytes where there is none")


_U64 = struct.Struct("=Q")
_HEAD = struct.Struct("=II")
_REGION = struct.Struct("=QQQQ")
_CONFIG = struct.Struct("=III")


def _decode_table(data: bytes) -> tuple[MemoryRegion, ...]:
    """Read as many regions as are announced.

    UML up to 6.1 always sends room for two regions, so there may be more bytes than regions
    (see :mod:`.quirks`).
    """
    if len(data) < _HEAD.size:
        raise PayloadError(f"memory table of {len(data)} bytes")
    count, _ = _HEAD.unpack_from(data)
    if count > MAX_REGIONS:
        raise PayloadError(f"memory table of {count} regions; there are at most {MAX_REGIONS}")
    if len(data) < _HEAD.size + count * _REGION.size:
        raise PayloadError(f"memory table of {len(data)} bytes for {count} regions")
    end = _HEAD.size + count * _REGION.size
    return tuple(MemoryRegion(*fields) for fields in _REGION.iter_unpack(data[_HEAD.size : end]))


def _encode_table(regions: tuple[MemoryRegion, ...]) -> bytes:
    return _HEAD.pack(len(regions), 0) + b"".join(_REGION.pack(*region) for region in regions)


def _decode_region(data: bytes) -> MemoryRegion:
    if len(data) != _U64.size + _REGION.size:
        raise PayloadError(f"memory region of {len(data)} bytes instead of {_U64.size + _REGION.size}")
    return MemoryRegion(*_REGION.unpack_from(data, _U64.size))


def _decode_config(data: bytes) -> ConfigAccess | None:
    """Read an access; a reply without any payload says that the request failed."""
    if not data:
        return None
    if len(data) < _CONFIG.size:
        raise PayloadError(f"configuration access of {len(data)} bytes")
    offset, size, flags = _CONFIG.unpack_from(data)
    if size != len(data) - _CONFIG.size:
        raise PayloadError(f"configuration access to {size} bytes that carries {len(data) - _CONFIG.size}")
    return ConfigAccess(offset, size, flags, data[_CONFIG.size :])


def _encode_config(access: ConfigAccess | None) -> bytes:
    return b"" if access is None else _CONFIG.pack(access.offset, access.size, access.flags) + access.data


def _answer_of_log(data: bytes) -> None:
    """Read nothing: DPDK sends none, libvhost-user eight bytes without a meaning."""
    if len(data) not in (0, _U64.size):
        raise PayloadError(f"payload of {len(data)} bytes where there is none")


EMPTY = Form("nothing", _nothing, lambda _: b"")
U64 = Form("u64", _number, _U64.pack)
VRING_STATE = _tuple("vring state", "=II", VringState)
VRING_ADDRESS = _tuple("vring address", "=IIQQQQ", VringAddress)
MEMORY_TABLE = Form("memory regions", _decode_table, _encode_table)
MEMORY_REGION = Form("memory region", _decode_region, lambda region: _U64.pack(0) + _REGION.pack(*region))
CONFIG = Form("configuration access", _decode_config, _encode_config)
LOG_ANSWER = Form("nothing", _answer_of_log, lambda _: b"")
LOG = _tuple("log", "=QQ", LogArea)
IOTLB = _tuple("IOTLB", "=QQQBB6x", Iotlb)
VRING_AREA = _tuple("vring area", "=QQQ", VringArea)
INFLIGHT = _tuple("inflight", "=QQHH4x", Inflight)
STATE_TRANSFER = _tuple("device state transfer", "=II", StateTransfer)
BYTES = Form("bytes", bytes, bytes)
