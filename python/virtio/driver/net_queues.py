"""The receive and transmit queues of a network device's driver: frames in buffers (VIRTIO 1.4, 5.1.9)."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from virtio._native import SharedBuffer
from virtio.driver.queue import DriverQueue
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import net as layout
from virtio.spec.net import F

LONGEST = 65589
"""Bytes of the largest packet (5.1.9.3)."""
_BUFFER = 2048
_SEND_BUFFERS = 16
_LARGE = F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6

Allocate = Callable[[int], SharedBuffer]


@dataclass(frozen=True)
class Frame:
    """A frame from the device, with the fields of its ``struct virtio_net_hdr``."""

    data: bytes
    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    hash_value: int = 0
    hash_report: int = 0


class Header:
    """The header that comes before each frame, with the features negotiated."""

    def __init__(self, features: int) -> None:
        """Find its layout."""
        self.hashed = bool(features & F.HASH_REPORT)
        self.mergeable = bool(features & F.MRG_RXBUF)
        self.large = bool(features & _LARGE)
        self.layout = layout.HDR.until(("VIRTIO_NET_F_HASH_REPORT",) if self.hashed else ())
        self.size = 20 if self.hashed else 12


class ReceiveQueue:
    """Buffers for frames from the device."""

    def __init__(self, queue: DriverQueue, header: Header, allocate: Allocate) -> None:
        """Allocate buffers, which the device gets with :meth:`offer_all`."""
        self.queue = queue
        self._header = header
        size = _BUFFER
        if header.large and not header.mergeable:
            size = LONGEST + header.size
        count = min(queue.size, 256 if size == _BUFFER else 32)
        self._buffers = [allocate(size) for _ in range(count)]
        self._offered: deque[tuple[int, int]] = deque()
        self.lock = threading.Lock()

    def offer_all(self) -> None:
        """Give the device all buffers of a ring that is new; frames in those that were out are lost."""
        self._offered.clear()
        for number in range(min(len(self._buffers), self.queue.size)):
            self._offer(number)

    def next(self, timeout: float | None) -> Frame:
        """Return the next frame; the caller has the :attr:`lock`."""
        native = self.queue.native
        token, _ = self._offered[0]
        # The device may use buffers in any order, but a link has one: it fills them as they were offered.
        written, _ = native.wait(token, timeout)
        if written < self._header.size:
            raise ProtocolError(f"a received frame of {written} bytes, header included", "5.1.9.3.2")
        first = self._taken(written)
        fields = self._header.layout.unpack(first[: self._header.size])
        pieces = [first[self._header.size :]]
        if self._header.mergeable:
            if not 1 <= fields["num_buffers"] <= len(self._buffers):
                raise ProtocolError(f"a frame in {fields['num_buffers']} buffers", "5.1.9.3.2")
            for _ in range(fields["num_buffers"] - 1):
                # 5.1.9.4.1: all are used together.
                written, _ = native.wait(self._offered[0][0], 1.0)
                pieces.append(self._taken(written))
        hashed = self._header.hashed
        return Frame(
            b"".join(pieces),
            fields["flags"],
            fields["gso_type"],
            fields["hdr_len"],
            fields["gso_size"],
            fields["csum_start"],
            fields["csum_offset"],
            fields["hash_value"] if hashed else 0,
            fields["hash_report"] if hashed else 0,
        )

    def _taken(self, written: int) -> bytes:
        _, number = self._offered.popleft()
        data = bytes(memoryview(self._buffers[number])[:written])
        self._offer(number)
        return data

    def _offer(self, number: int) -> None:
        buffer = self._buffers[number]
        token = self.queue.native.submit([], [(buffer.address, len(memoryview(buffer)))])
        if token is not None:
            self._offered.append((token, number))


class TransmitQueue:
    """Buffers for frames to the device."""

    def __init__(self, queue: DriverQueue, header: Header, allocate: Allocate) -> None:
        """Allocate them."""
        self.queue = queue
        self._header = header
        count = min(_SEND_BUFFERS, queue.size)
        self._buffers = [allocate(LONGEST + 23 + header.size) for _ in range(count)]
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Begin with a ring that is new; what was in another is given up."""
        self._sent: deque[tuple[int, int]] = deque()
        self._idle = list(range(min(len(self._buffers), self.queue.size)))

    def send(
        self, fields: dict[str, int], data: bytes | bytearray | memoryview, timeout: float | None
    ) -> None:
        """Send a frame, when there is room."""
        if len(data) > LONGEST + 23:
            raise ConfigurationError(f"a frame of {len(data)} bytes")
        header = self._header.layout.pack(**fields)
        with self._lock:
            self._reclaim(timeout)
            number = self._idle.pop()
            buffer = self._buffers[number]
            view = memoryview(buffer)
            view[: len(header)] = header
            view[len(header) : len(header) + len(data)] = data
            token = self.queue.native.submit([(buffer.address, len(header) + len(data))], [])
            assert token is not None, "there are fewer buffers than descriptors"
            self._sent.append((token, number))

    def flush(self, timeout: float | None) -> None:
        """Wait until the device has taken all."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._sent:
                token, number = self._sent[0]
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self.queue.native.wait(token, left)
                self._sent.popleft()
                self._idle.append(number)

    def _reclaim(self, timeout: float | None) -> None:
        native = self.queue.native
        while self._sent and (not self._idle or native.poll(self._sent[0][0]) is not None):
            token, number = self._sent[0]
            if not self._idle:
                native.wait(token, timeout)
            self._sent.popleft()
            self._idle.append(number)
