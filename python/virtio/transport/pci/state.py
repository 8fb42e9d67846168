"""What moves with a function from one process to another, as bytes.

A head that tells version and checksum, then JSON: configuration space, what the driver wrote into the common
configuration, interrupts, where each queue goes on, and the state of the device behind. What comes is not
trusted: it is checked for its shape here, and everything that it says goes the way that a driver's writes go.
"""

import base64
import binascii
import json
import struct
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from virtio.errors import StateError

MAGIC = b"pyvirtPF"
VERSION = 1
_HEAD = struct.Struct("<8sII")

_U16, _U32, _U64, _U128 = ((1 << bits) - 1 for bits in (16, 32, 64, 128))


@dataclass
class QueueState:
    """A queue: what was written about it, and where it goes on."""

    size: int
    descriptors: int
    driver: int
    device: int
    vector: int
    ready: bool
    base: int

    def check(self) -> None:
        """Raise for what no register holds."""
        _check_integers(self, size=_U16, descriptors=_U64, driver=_U64, device=_U64, vector=_U16, base=_U32)
        if not isinstance(self.ready, bool):
            raise StateError("the state of the function: ready is no truth value")


@dataclass
class FunctionState:
    """A function."""

    device_id: int
    config: bytes
    status: int
    features: int
    device_feature_select: int
    driver_feature_select: int
    queue_select: int
    config_vector: int
    isr: int
    msix_table: bytes
    msix_written: list[int]
    msix_pending: list[int]
    device: bytes
    queues: list[QueueState] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return the bytes."""
        values = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in asdict(self).items()
        }
        body = json.dumps(values, separators=(",", ":")).encode()
        return _HEAD.pack(MAGIC, VERSION, zlib.crc32(body)) + body


def unpack(data: bytes) -> FunctionState:
    """Take bytes apart; :exc:`~virtio.errors.StateError` if they are no state that we know."""
    if len(data) < _HEAD.size:
        raise StateError(f"{len(data)} bytes are no state of a function")
    magic, version, check = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != MAGIC:
        raise StateError("these bytes are no state of a function of ours")
    if version != VERSION:
        raise StateError(f"a function's state of version {version}; we know version {VERSION}")
    if zlib.crc32(body) != check:
        raise StateError("the function's state was damaged on its way")
    try:
        return _parse(json.loads(body))
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise StateError(f"the function's state cannot be: {error}") from error


def _parse(values: Any) -> FunctionState:
    names = {each.name for each in fields(FunctionState)}
    if not isinstance(values, dict) or set(values) != names:
        raise StateError("the function's state lacks something, or has too much")
    for name in ("config", "msix_table", "device"):
        values[name] = base64.b64decode(values[name], validate=True)
    for name in ("msix_written", "msix_pending"):
        if not isinstance(values[name], list) or not all(_fits(value, _U16) for value in values[name]):
            raise StateError(f"the function's state: {name} is no list of vectors")
    values["queues"] = [QueueState(**queue) for queue in values["queues"]]
    state = FunctionState(**values)
    for queue in state.queues:
        queue.check()
    _check_integers(
        state,
        device_id=_U16,
        status=0xFF,
        features=_U128,
        device_feature_select=_U32,
        driver_feature_select=_U32,
        queue_select=_U16,
        config_vector=_U16,
        isr=0xFF,
    )
    return state


def _check_integers(state: object, **limits: int) -> None:
    for name, limit in limits.items():
        if not _fits(getattr(state, name), limit):
            raise StateError(f"the function's state: {name} is {getattr(state, name)!r}")


def _fits(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
