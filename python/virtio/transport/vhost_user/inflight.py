"""In-flight memory of a connection on the device's side: which requests were taken and are not completed.

The back end makes the memory and the front end keeps it, so that it outlives the back end: a successor gets
it and takes those requests again. There is a part for each queue; native code writes and reads it (see
``virtio._native.Queue.set_inflight``), and decides what in it can be believed.
"""

import fcntl
import os

from virtio.errors import TransportError
from virtio.transport.vhost_user.payloads import Inflight

MAX_QUEUE_SIZE = 32768

_VERSION = 8  # offset in a part; 0 there says that nobody has used it yet
_ALIGNMENT = 64
_SPLIT, _PACKED = 16, 32  # bytes of the beginning of a part, and of each entry behind it


def part_size(queue_size: int, *, packed: bool) -> int:
    """Return the bytes of a queue's part. The protocol leaves the distance to us; all back ends do it so."""
    each = _PACKED if packed else _SPLIT
    return -(-(each + each * queue_size) // _ALIGNMENT) * _ALIGNMENT


class InflightMemory:
    """The in-flight memory of one connection."""

    def __init__(self) -> None:
        """Begin without any."""
        self._area: Inflight | None = None
        self._fd = -1
        self._made: list[int] = []
        self._used: dict[int, bool] = {}

    def make(self, wanted: Inflight, queues: int, *, packed: bool) -> tuple[Inflight, int]:
        """Make memory for the front end to keep; it is used when it comes back. The descriptor stays ours."""
        if not (0 < wanted.queues <= queues and 0 < wanted.queue_size <= MAX_QUEUE_SIZE):
            raise TransportError(f"in-flight memory for {wanted.queues} queues of {wanted.queue_size}")
        area = Inflight(
            wanted.queues * part_size(wanted.queue_size, packed=packed), 0, wanted.queues, wanted.queue_size
        )
        fd = os.memfd_create("inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._made.append(fd)
        os.ftruncate(fd, area.mmap_size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return area, fd

    def sent(self) -> None:
        """Let go of what was made: the front end has it."""
        while self._made:
            os.close(self._made.pop())

    def take(self, area: Inflight, fd: int, queues: int) -> None:
        """Use this memory for rings that start from now on."""
        if not (0 < area.queues <= queues and 0 < area.queue_size <= MAX_QUEUE_SIZE):
            raise TransportError(f"in-flight memory for {area.queues} queues of {area.queue_size}")
        if not 0 < area.mmap_size <= os.fstat(fd).st_size - area.mmap_offset:
            raise TransportError(f"in-flight memory of {area.mmap_size} bytes, which its file does not have")
        if area.mmap_size < area.queues * part_size(area.queue_size, packed=False):
            raise TransportError(
                f"in-flight memory of {area.mmap_size} bytes for {area.queues} queues of {area.queue_size}"
            )
        self._forget()
        self._area, self._fd = area, os.dup(fd)

    def part(self, index: int, size: int, *, packed: bool) -> tuple[int, int, int, int] | None:
        """Return descriptor, offset, size and entries of the part for a ring of ``size`` that starts."""
        area = self._area
        if area is None or index >= area.queues:
            return None
        if size > area.queue_size:
            raise TransportError(f"a ring of {size}; in-flight memory was made for {area.queue_size}")
        bytes_ = part_size(area.queue_size, packed=packed)
        if (index + 1) * bytes_ > area.mmap_size:
            raise TransportError(f"in-flight memory of {area.mmap_size} bytes has no place for ring {index}")
        self._used[index] = packed
        return self._fd, area.mmap_offset + index * bytes_, bytes_, area.queue_size

    def clear(self, index: int) -> None:
        """Have nothing in flight in a ring that started here."""
        packed, area = self._used.pop(index, None), self._area
        if packed is None or area is None:
            return
        at = area.mmap_offset + index * part_size(area.queue_size, packed=packed) + _VERSION
        try:
            os.pwrite(self._fd, bytes(2), at)
        except OSError:  # memory of huge pages cannot be written so: then there is none
            self._forget()

    def clear_used(self) -> None:
        """The same for all of them. What was not used here yet is what a predecessor left."""
        for index in list(self._used):
            self.clear(index)

    def reset(self) -> None:
        """The driver has reset the device: nothing is in flight, and the next driver gets other memory."""
        self.clear_used()
        self._forget()

    def close(self) -> None:
        """Let go of everything."""
        self.sent()
        self._forget()

    def _forget(self) -> None:
        if self._area is not None:
            os.close(self._fd)
        self._area, self._fd = None, -1
        self._used.clear()
