"""A function behind a vfio-user socket: what a driver of virtio-pci drives."""

import fcntl
import itertools
import mmap
import os
import socket
import threading
from collections.abc import Callable, Sequence

from virtio.errors import ConfigurationError, Error, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.transport.pci.interface import MapArea, Notification, Region, RegionIndex
from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user import moving, version
from virtio.transport.vfio_user.client import Client
from virtio.transport.vfio_user.exchange import ViolationError
from virtio.transport.vfio_user.messages import (
    IO_FD_IOEVENTFD,
    IOEVENTFD_DATAMATCH,
    MAJOR,
    MAX_TRANSFER,
    MINOR,
    Command,
    DeviceFlag,
    DmaFlag,
    IrqSet,
    RegionFlag,
)
from virtio.transport.vfio_user.payloads import (
    DeviceInfo,
    DmaMap,
    IoEventFd,
    IrqInfo,
    IrqSetting,
    PayloadError,
    RegionAccess,
    RegionInfo,
    RegionIoFds,
    unpack_sparse,
)

_MAX_REGIONS = 64
NOTIFICATION = 2
"""Bytes of a notification without data."""


class VfioUserBus:
    """A :class:`~virtio.transport.pci.interface.PciBus` over a socket."""

    def __init__(
        self, connection: socket.socket, memory: SharedMemory, *, address: str, timeout: float, share: bool
    ) -> None:
        """Make the server's acquaintance. Socket and memory belong to the bus from here.

        Unless ``share``, the memory's descriptors are not handed over: the server reaches it by messages.
        """
        self.address = address
        self.timeout = timeout
        self.memory = memory
        self._share_fds = share
        self._lock = threading.Lock()
        self._fds: list[int] = []
        self._kicks: dict[int, int] = {}
        self._doorbells: dict[tuple[int, int], memoryview | None] = {}
        self._maps: dict[MapArea, mmap.mmap | None] = {}
        self._client = Client(connection, memory.native, name=address, timeout=timeout)
        try:
            self._agree()
            for region in memory.regions:
                self._map(region)
            memory.on_growth(self._map)
            self.regions, self.interrupts = self._look()
            self._resettable = bool(self._flags & DeviceFlag.RESET)
            if self._resettable:
                self.reset()
        except PayloadError as error:
            self.close()
            raise ViolationError(str(error)) from error
        except BaseException:
            self.close()
            raise

    # --- accesses

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region."""
        asked = RegionAccess(offset, region, size).pack()
        answer, fds = self._client.call(Command.REGION_READ, asked)
        close_all(fds)
        if answer[: len(asked)] != asked or len(answer) != len(asked) + size:
            raise ViolationError(f"{len(answer)} bytes came for a read of {size}")
        return answer[len(asked) :]

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region. What only notifies a queue is stored where it can be mapped, else posted."""
        asked = RegionAccess(offset, region, len(data)).pack() + bytes(data)
        if (region, offset) in self._doorbells:
            with self._lock:
                place = self._doorbells.get((region, offset))
                if place is not None and place.itemsize == len(data):
                    self._client.check()
                    place[0] = int.from_bytes(data, "little")  # one store
                    return
            self._client.post(Command.REGION_WRITE, asked)
        else:
            close_all(self._client.call(Command.REGION_WRITE, asked)[1])

    def kick_fd(self, notification: Notification) -> int | None:
        """Eventfd that stands for this write, if the server has one and the place cannot be mapped."""
        place = self._doorbell(notification)
        self._doorbells[notification.region, notification.offset] = place
        if place is not None or notification.size != NOTIFICATION:
            return None  # nothing is cheaper than a store; and what carries data is no eventfd's
        asked = RegionIoFds(65536, 0, notification.region, 0)
        try:
            payload, fds = self._client.call(Command.DEVICE_GET_REGION_IO_FDS, asked.pack())
        except TransportError:
            self._client.check()  # an optional message: it may be refused
            return None
        try:
            chosen = _choose(payload, notification)
            if chosen is None or chosen >= len(fds):
                return None
            fd = fds.pop(chosen)
        except PayloadError as error:
            raise ViolationError(str(error)) from error
        finally:
            close_all(fds)
        with self._lock:
            old = self._kicks.pop(notification.queue, None)
            if old is not None:
                os.close(old)
            self._kicks[notification.queue] = fd
        return fd

    def _doorbell(self, notification: Notification) -> memoryview | None:
        """Where this write can be a store."""
        region, start, size = notification[:3]
        for area in self.regions[region].areas:
            if area.offset <= start and start + size <= area.offset + area.size:
                mapped = self._mapping(area)
                if mapped is not None:
                    at = start - area.offset
                    return memoryview(mapped)[at : at + size].cast("H" if size == NOTIFICATION else "I")
        return None

    def _mapping(self, area: MapArea) -> mmap.mmap | None:
        if area not in self._maps:
            try:
                seals = fcntl.fcntl(area.fd, fcntl.F_GET_SEALS)
                # Stores to a file that the server has made shorter would be the end of this process.
                safe = seals & fcntl.F_SEAL_SHRINK and os.fstat(area.fd).st_size >= area.fd_offset + area.size
                mapped = mmap.mmap(area.fd, area.size, offset=area.fd_offset) if safe else None
            except (OSError, ValueError):  # no such file, or not at a page: messages do as well
                mapped = None
            self._maps[area] = mapped
        return self._maps[area]

    # --- interrupts

    def set_interrupts(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        """Send vectors to eventfds."""
        if not fds:
            self._set_irqs(IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, index, 0, 0)
            return
        most = max(1, self._most_fds)
        at = start
        for given, run in itertools.groupby(fds, lambda fd: fd is not None):
            vectors = list(run)
            for first in range(0, len(vectors), most):
                part = vectors[first : first + most]
                passed = [fd for fd in part if fd is not None]
                assert not given or len(passed) == len(part)
                self._set_irqs(IrqSet.DATA_EVENTFD | IrqSet.ACTION_TRIGGER, index, at, len(part), passed)
                at += len(part)

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again."""
        self._set_irqs(IrqSet.DATA_NONE | IrqSet.ACTION_UNMASK, index, start, count)

    def _set_irqs(self, flags: int, index: int, start: int, count: int, fds: Sequence[int] = ()) -> None:
        payload = IrqSetting(IrqSetting.FORM.size, flags, index, start, count).pack()
        close_all(self._client.call(Command.DEVICE_SET_IRQS, payload, fds)[1])

    # --- the function as a whole

    def reset(self) -> None:
        """Reset the function."""
        if not self._resettable:
            raise ConfigurationError(f"{self.address}: this function cannot be reset")
        close_all(self._client.call(Command.DEVICE_RESET)[1])

    def save(self) -> bytes:
        """Stop the function, and return all of its state; :meth:`resume` has it run again."""
        return moving.save(self._client)

    def load(self, state: bytes) -> None:
        """Have the function go on where the one was that returned ``state``; the driver notices nothing.

        Memory and interrupts are the bus's: they are to be there already.
        """
        moving.load(self._client, state)

    def resume(self) -> None:
        """Have the function run again after :meth:`save`."""
        moving.resume(self._client)

    def on_lost(self, callback: Callable[[Error], object] | None) -> None:
        """Call this when the connection is lost; at once if it is."""
        self._client.on_lost(callback)

    def close(self) -> None:
        """Disconnect, and unmap the memory. Twice: harmless."""
        self._client.close()
        self.memory.on_growth(None)
        self.memory.close()
        with self._lock:
            close_all(self._fds)
            close_all(self._kicks.values())
            self._fds.clear()
            self._kicks.clear()
            for place in self._doorbells.values():
                if place is not None:
                    place.release()
            self._doorbells.clear()
            for mapped in self._maps.values():
                if mapped is not None:
                    mapped.close()
            self._maps.clear()

    # --- the beginning

    def _agree(self) -> None:
        # A server that gets no descriptors will ask for memory: let it do so by a socket of its own.
        twin = not self._share_fds
        payload, fds = self._client.call(Command.VERSION, version.propose(twin=twin))
        try:
            hello = version.decode(payload)
            if hello.major != MAJOR or hello.minor > MINOR:
                raise ViolationError(f"the server answers with version {hello.major}.{hello.minor}")
            if hello.capabilities.twin_socket:
                index = hello.capabilities.twin_index
                if not twin:
                    raise ViolationError("the server wants a second socket, which was not offered")
                if index is None or index >= len(fds):
                    raise ViolationError("the server announces a second socket, and does not send it")
                self._client.open_twin(fds.pop(index))
        finally:
            close_all(fds)
        self._most_fds = hello.capabilities.max_msg_fds

    def _map(self, region: SharedRegion) -> None:
        fds = [region.fd] if self._share_fds else []
        wanted = DmaMap(DmaMap.FORM.size, DmaFlag.READ | DmaFlag.WRITE, 0, region.guest_address, region.size)
        close_all(self._client.call(Command.DMA_MAP, wanted.pack(), fds)[1])

    def _look(self) -> tuple[Sequence[Region], Sequence[int]]:
        """Ask what there is."""
        payload, fds = self._client.call(Command.DEVICE_GET_INFO, DeviceInfo(DeviceInfo.FORM.size).pack())
        close_all(fds)
        info = DeviceInfo.unpack(payload)
        self._flags = info.flags
        if not info.flags & DeviceFlag.PCI:
            raise TransportError(f"{self.address} is no PCI function")
        if not RegionIndex.CONFIG < info.regions <= _MAX_REGIONS or info.irqs > _MAX_REGIONS:
            raise ViolationError(f"{info.regions} regions, {info.irqs} kinds of interrupts")
        regions = [self._region(index) for index in range(info.regions)]
        interrupts = [self._count(index) for index in range(info.irqs)]
        return regions, interrupts

    def _count(self, index: int) -> int:
        size = IrqInfo.FORM.size
        payload, fds = self._client.call(Command.DEVICE_GET_IRQ_INFO, IrqInfo(size, 0, index, 0).pack())
        close_all(fds)
        info = IrqInfo.unpack(payload)
        if info.index != index:
            raise ViolationError(f"interrupts {info.index} are described, and {index} were asked for")
        return info.count

    def _region(self, index: int) -> Region:
        size = RegionInfo.FORM.size
        while True:
            payload, fds = self._client.call(
                Command.DEVICE_GET_REGION_INFO, RegionInfo(size, 0, index).pack()
            )
            with self._lock:
                self._fds += fds  # mapped or not, they are needed no longer than the bus
            info = RegionInfo.unpack(payload)
            if info.index != index:
                raise ViolationError(f"region {info.index} is described, and {index} was asked for")
            if not size < info.argsz <= MAX_TRANSFER:
                break
            size = info.argsz
        areas: tuple[MapArea, ...] = ()
        if info.flags & RegionFlag.MMAP and fds:
            sparse = [(0, info.size)]
            if info.flags & RegionFlag.CAPS:
                sparse = unpack_sparse(payload, info.cap_offset) or sparse
            areas = tuple(
                MapArea(at, length, fds[0], info.offset + at)
                for at, length in sparse
                if at + length <= info.size
            )
        return Region(
            size=info.size,
            kind="config" if index == RegionIndex.CONFIG else "",
            readable=bool(info.flags & RegionFlag.READ),
            writable=bool(info.flags & RegionFlag.WRITE),
            areas=areas,
        )


def _choose(payload: bytes, wanted: Notification) -> int | None:
    """Find the descriptor that stands for a write, in an answer to DEVICE_GET_REGION_IO_FDS."""
    head = RegionIoFds.unpack(payload)
    if not head.count:
        return None
    body = payload[RegionIoFds.FORM.size :]
    step = len(body) // head.count
    if step < IoEventFd.FORM.size:
        raise PayloadError(f"{head.count} sub-regions in {len(body)} bytes")
    for at in range(0, head.count * step, step):
        found = IoEventFd.unpack(body[at : at + step])
        matches = not found.flags & IOEVENTFD_DATAMATCH or found.datamatch == wanted.value
        if (
            found.type == IO_FD_IOEVENTFD
            and found.offset == wanted.offset
            and found.size in (0, wanted.size)
            and matches
        ):
            return found.fd_index
    return None
