"""Coming back to a back end that went away: when nothing can be lost by it, and from where rings go on.

Rings are shared memory and survive a back end; what it knew of them does not. They can go on if it is known
which requests it had taken: because it wrote them down in in-flight memory, because requests complete in
order (VIRTIO_F_IN_ORDER), or because it had completed all that there were.
"""

import itertools
import os
import struct
from collections.abc import Iterator, Mapping

from virtio.memory.shared import SharedMemory
from virtio.spec.core import F
from virtio.transport.vhost_user.exchange import UnrecoverableError, ViolationError
from virtio.transport.vhost_user.frontend import FrontEnd
from virtio.transport.vhost_user.inflight import part_size
from virtio.transport.vhost_user.payloads import Inflight

FIRST_DELAY = 0.01
LONGEST_DELAY = 1.0

_INDEX = struct.Struct("<H")
_RING_INDEX = 2  # offset of idx in both rings of a split queue

# What begins a queue's part of the in-flight memory of packed rings.
_PACKED_REGION = struct.Struct("=QHHHHHHBB7x3x")


def delays() -> Iterator[float]:
    """Yield how long to wait before each attempt."""
    return (min(FIRST_DELAY * 2**number, LONGEST_DELAY) for number in itertools.count())


def offered(front: FrontEnd, memory: SharedMemory) -> dict[int, int]:
    """Return how far the driver had got in each split ring: what comes later, the lost back end never saw."""
    if (front.accepted or 0) & F.RING_PACKED:
        return {}
    return {index: _read_index(memory, ring.available) for index, ring in front.rings.items()}


def bases(front: FrontEnd, memory: SharedMemory, offered: Mapping[int, int]) -> dict[int, int]:
    """Return where each ring goes on; raise if requests could be lost, or done twice.

    ``offered`` is what :func:`offered` said when the back end was lost.
    """
    return {index: _base(front, memory, index, offered.get(index)) for index in front.rings}


def _base(front: FrontEnd, memory: SharedMemory, index: int, offered: int | None) -> int:
    ring, features = front.rings[index], front.accepted or 0
    if not ring.enabled:
        return ring.base
    if features & F.RING_PACKED:
        if front.inflight is None:
            raise UnrecoverableError("a packed ring cannot go on without in-flight tracking")
        return _packed_base(front.inflight, index, ring.base)
    used = _read_index(memory, ring.used)
    done = used in (offered, _read_index(memory, ring.available))
    if front.inflight is None and not features & F.IN_ORDER and not done:
        raise UnrecoverableError(f"requests were under way in queue {index}, and nobody knows which")
    return used


def _read_index(memory: SharedMemory, address: int) -> int:
    return int(_INDEX.unpack(memory.native.read(address + _RING_INDEX, 2))[0])


def _packed_base(inflight: tuple[Inflight, int], index: int, base: int) -> int:
    """Read from in-flight memory how far a packed ring was used. The back end knows the rest from there."""
    area, fd = inflight
    part = part_size(area.queue_size, packed=True)
    at = area.mmap_offset + index * part
    if (index + 1) * part > area.mmap_size:
        raise ViolationError(f"in-flight memory without a place for queue {index}")
    # Not mapped: the file is the back end's, too, and might become shorter.
    region = os.pread(fd, _PACKED_REGION.size, at)
    if len(region) < _PACKED_REGION.size:
        raise ViolationError("in-flight memory that has become shorter")
    _, version, _, _, _, _, used, _, wrap = _PACKED_REGION.unpack(region)
    if not version:
        return base  # it went before it had taken anything
    half: int = used & 0x7FFF | bool(wrap) << 15
    return half << 16 | half
