"""A queue whose ring is out of the device's reach: its buffers are copied to a queue nearby, and back.

The device's end of the far ring is the model of the rings, over whatever reaches that memory; on the near one
works the device as always. So a device is served whose driver's memory can be reached by messages only.
"""

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from virtio._native import RingDriver
from virtio.errors import Error, ProtocolError
from virtio.memory.shared import Piece, SharedMemory
from virtio.queue.model.buffers import ModelChain
from virtio.queue.model.packed import PackedDevice
from virtio.queue.model.packed_ring import PackedLayout
from virtio.queue.model.ring import SplitLayout
from virtio.queue.model.shared import SharedMemory as Access
from virtio.queue.model.split import SplitDevice
from virtio.spec.core import F

_log = logging.getLogger("virtio.queue")

MOST_BYTES = 64 << 20
"""Bytes that are under way at once; a driver may announce any number."""

_RETRY_MILLISECONDS = 20
_LOOK_MILLISECONDS = 1
_FULL = (1 << 63) - 1


class AwayError(Error):
    """This memory is not there now. It may come back."""


class FarMemory(Protocol):
    """Memory that is far away. Any call may raise an :exc:`~virtio.Error`, which ends the relay."""

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out; :exc:`AwayError` if they are not all there."""

    def write(self, address: int, data: bytes) -> None:
        """Copy bytes in; the same."""

    def cancel(self) -> None:
        """Have a call that waits, and all to come, raise an error."""


@dataclass
class Rings:
    """Where the far ring is, and what was negotiated."""

    size: int
    descriptors: int
    available: int
    used: int
    features: int
    base: int


class Relay:
    """The thread between two rings."""

    def __init__(
        self,
        far: FarMemory,
        rings: Rings,
        near: SharedMemory,
        *,
        name: str,
        call: Callable[[], object],
        on_fault: Callable[[ProtocolError], object],
    ) -> None:
        """Make the near ring; nothing runs before :meth:`start`.

        ``call`` notifies the driver. ``on_fault`` is told when it broke a rule: then the relay has ended.
        """
        self._far = far
        self._rings = rings
        self._near = near
        self._name = name
        self._call = call
        self._on_fault = on_fault
        self._access = _FarAccess(far)
        self._device: SplitDevice | PackedDevice | None = None
        self._packed = bool(rings.features & F.RING_PACKED)
        self._out: dict[int, _Copy] = {}
        self._done: list[_Copy] = []
        self._waiting: ModelChain | None = None
        self._bytes = 0
        self._stopping = False
        self.broken = False
        layout_class = PackedLayout if self._packed else SplitLayout
        span = layout_class.at(0, rings.size).end
        self._memory = near.allocate(span, 4096)
        self.near_rings = layout_class.at(self._memory.address, rings.size).addresses
        self._driver = RingDriver(near.native, size=rings.size, features=rings.features, **self.near_rings)
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self.near_kick = os.eventfd(0, flags)
        self.near_call = os.eventfd(0, flags)
        self.wake = os.eventfd(0, flags)
        """Signalled when the driver has notified the queue."""
        self.kick: int | None = None
        """Signalled by the driver itself, if it can; before the start."""
        self.kicks = True
        """Whether the driver notifies the queue at all; else the ring is looked at now and then."""
        self._thread = threading.Thread(target=self._run, name=f"relay of {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it relays."""
        return self._thread.is_alive()

    def stop(self) -> int:
        """End; what was not answered by then is not. Returns where a successor continues."""
        self._stopping = True
        self._far.cancel()
        os.eventfd_write(self.wake, 1)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        return self._rings.base if self._device is None else self._device.base

    def close(self) -> None:
        """Give back the memory, when neither the thread nor the near device uses it any more."""
        for copy in [*self._out.values(), *self._done]:
            copy.piece.free()
        self._out.clear()
        self._done.clear()
        self._memory.free()
        del self._driver  # it keeps the ring mapped
        for fd in (self.near_kick, self.near_call, self.wake):
            os.close(fd)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    if not self._step():
                        self._sleep(None if self.kicks else _LOOK_MILLISECONDS)
                except AwayError:
                    self._sleep(_RETRY_MILLISECONDS)
        except ProtocolError as fault:
            self.broken = True
            self._on_fault(fault)
        except Error as error:
            if not self._stopping:
                _log.info("%s: the relay ends: %s", self._name, error)
        except Exception:
            _log.exception("%s: the relay fails", self._name)

    def _step(self) -> bool:
        """Do what there is to do; False: nothing is."""
        device = self._device
        if device is None:
            device = self._device = self._open()
            device.disarm()
        taken = self._take(device)
        self._reap()
        if self._give_back(device) or taken:
            return True
        if self._waiting is None and device.arm():
            device.disarm()
            return True
        return self._driver.arm()

    def _open(self) -> SplitDevice | PackedDevice:
        rings = self._rings
        places = (rings.size, rings.descriptors, rings.available, rings.used)
        if self._packed:
            return PackedDevice(self._access, PackedLayout(*places), rings.features, base=rings.base)
        return SplitDevice(self._access, SplitLayout(*places), rings.features, base=rings.base)

    def _take(self, device: SplitDevice | PackedDevice) -> int:
        taken = 0
        while not self._stopping:
            chain = self._waiting or device.pop()
            if chain is None:
                break
            # Until it has been handed on, it waits: its memory may be away, or there is no room.
            self._waiting = chain
            if not self._hand_on(chain):
                break
            self._waiting = None
            taken += 1
        if taken and self._driver.publish():
            os.eventfd_write(self.near_kick, 1)
        return taken

    def _hand_on(self, chain: ModelChain) -> bool:
        """Copy a chain's device-readable part, and make the copy available nearby."""
        table = 16 * (len(chain.readable) + len(chain.writable))
        size = table + sum(length for _, length in chain.readable) + chain.room
        if size > MOST_BYTES:
            raise ProtocolError(f"a buffer of {size} bytes is longer than can be relayed", "2.7.4")
        if self._bytes + size > MOST_BYTES or not self._driver.free:
            return False
        indirect = bool(self._rings.features & F.INDIRECT_DESC)
        if not indirect and self._driver.free < len(chain.readable) + len(chain.writable):
            return False
        piece = self._near.allocate(size + 16, 16)
        try:
            at = piece.address + table
            elements: list[list[tuple[int, int]]] = [[], []]
            for place, part in enumerate((chain.readable, chain.writable)):
                for address, length in part:
                    if not place:
                        offset = at - piece.address
                        piece.view[offset : offset + length] = self._access.buffer(address, length)
                    elements[place].append((at, length))
                    at += length
            readable, writable = elements
            head = self._driver.add(readable, writable, piece.address if indirect else None)
        except BaseException:
            piece.free()
            raise
        if head is None:
            piece.free()
            return False
        self._out[head] = _Copy(chain, piece, writable, size)
        self._bytes += size
        return True

    def _reap(self) -> None:
        """Take back what the device nearby has used."""
        for head, written in self._driver.reap():
            copy = self._out.pop(head)
            copy.written = written
            self._done.append(copy)

    def _give_back(self, device: SplitDevice | PackedDevice) -> bool:
        """Copy back what was written, and tell the driver."""
        given = bool(self._done)
        while self._done:
            copy = self._done[0]
            # All of it: a status at the end of a buffer counts, whatever length the device names.
            for (address, length), (near, _) in zip(copy.chain.writable, copy.writable, strict=True):
                offset = near - copy.piece.address
                self._access.put(address, bytes(copy.piece.view[offset : offset + length]))
            if isinstance(device, PackedDevice):
                device.push(copy.chain, copy.written)
            else:
                device.push(copy.chain.head, copy.written)
            self._done.pop(0)
            self._bytes -= copy.size
            copy.piece.free()
        if device.publish():
            self._call()
        return given

    def _sleep(self, milliseconds: int | None) -> None:
        poll = select.poll()
        for fd in (self.wake, self.near_call, self.kick):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(milliseconds):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
        if self._device is not None:
            self._driver.disarm()


@dataclass
class _Copy:
    """A chain that is under way nearby."""

    chain: ModelChain
    piece: Piece
    writable: list[tuple[int, int]]
    size: int
    written: int = field(default=0)


class _FarAccess(Access):
    """Far memory as the model of the rings looks at memory."""

    def __init__(self, far: FarMemory) -> None:
        self.start = 0
        self.end = "device"
        self.observer = None
        self._far = far

    def __len__(self) -> int:
        return _FULL

    def close(self) -> None:
        """Nothing is held."""

    def load(self, address: int, size: int, part: str = "") -> bytes:
        if part == "table":
            return self.buffer(address, size)
        return self._far.read(address, size)

    def store(self, address: int, data: bytes, part: str = "") -> None:
        self._far.write(address, data)

    def load16(self, address: int, part: str = "") -> int:
        return int.from_bytes(self._far.read(address, 2), "little")

    def load64(self, address: int, part: str = "") -> int:
        return int.from_bytes(self._far.read(address, 8), "little")

    def store16(self, address: int, value: int, part: str = "") -> None:
        self._far.write(address, (value & 0xFFFF).to_bytes(2, "little"))

    def store32(self, address: int, value: int, part: str = "") -> None:
        self._far.write(address, value.to_bytes(4, "little"))

    def store64(self, address: int, value: int, part: str = "") -> None:
        self._far.write(address, value.to_bytes(8, "little"))

    def view(self, address: int, size: int) -> memoryview:
        """Nothing is looked at before it is copied, and then it is seen whether it is there."""
        if address + size > 1 << 64:
            raise ProtocolError(f"{size} bytes at {address:#x} are not guest memory", "2.7.5")
        return memoryview(b"")

    def _order(self, kind: str) -> None:
        """Messages are in order."""

    def buffer(self, address: int, size: int) -> bytes:
        """Read what a descriptor points to: it has to be there."""
        try:
            return self._far.read(address, size) if size else b""
        except AwayError as error:
            raise ProtocolError(f"{size} bytes at {address:#x} are not guest memory", "2.7.5") from error

    def put(self, address: int, data: bytes) -> None:
        """Write to what a descriptor points to."""
        try:
            if data:
                self._far.write(address, data)
        except AwayError as error:
            raise ProtocolError(f"{len(data)} bytes at {address:#x} are not guest memory", "2.7.5") from error
