"""What moves with a device from one process to another, as bytes (see :meth:`virtio.Device.save_state`).

::

    magic      8   "pyvirtio"
    version    2   1
    type       2   the number of the device type
    check      4   CRC-32 of all that follows
    status     4   the device status field
    generation 4   of the configuration
    features  16   those that were negotiated
    config     4 + n   configuration space, as the driver last saw it
    own        4 + n   what the device type adds

Numbers are little-endian. Rings are not in it: where each goes on is known to the transport.
"""

import struct
import zlib
from typing import NamedTuple

from virtio.errors import StateError

MAGIC = b"pyvirtio"
VERSION = 1

_HEAD = struct.Struct("<8sHHI")
_FIXED = struct.Struct("<II16s")
_LENGTH = struct.Struct("<I")


class SavedState(NamedTuple):
    """A device's state, taken apart."""

    device_id: int
    status: int
    generation: int
    features: int
    config: bytes
    own: bytes

    def pack(self) -> bytes:
        """Return the bytes."""
        body = _FIXED.pack(self.status, self.generation, self.features.to_bytes(16, "little"))
        for part in (self.config, self.own):
            body += _LENGTH.pack(len(part)) + part
        return _HEAD.pack(MAGIC, VERSION, self.device_id, zlib.crc32(body)) + body


def unpack(data: bytes) -> SavedState:
    """Take bytes apart; :exc:`~virtio.errors.StateError` if they are no state that we know."""
    if len(data) < _HEAD.size + _FIXED.size:
        raise StateError(f"{len(data)} bytes are no device state")
    magic, version, device_id, check = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise StateError("these bytes are no device state of ours")
    if version != VERSION:
        raise StateError(f"a device state of version {version}; we know version {VERSION}")
    if zlib.crc32(memoryview(data)[_HEAD.size :]) != check:
        raise StateError("the device state was damaged on its way")
    status, generation, features = _FIXED.unpack_from(data, _HEAD.size)
    config, at = _part(data, _HEAD.size + _FIXED.size)
    own, at = _part(data, at)
    if at != len(data):
        raise StateError(f"{len(data) - at} bytes behind the device state")
    return SavedState(device_id, status, generation, int.from_bytes(features, "little"), config, own)


def _part(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + _LENGTH.size
    if len(data) < start:
        raise StateError("the device state is cut off")
    end = start + int(_LENGTH.unpack_from(data, at)[0])
    if len(data) < end:
        raise StateError("the device state is cut off")
    return bytes(data[start:end]), end
