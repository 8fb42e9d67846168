"""Information about a function's regions, and access to them."""

import os

from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user.function import Function
from virtio.transport.vfio_user.messages import IO_FD_IOEVENTFD, IOEVENTFD_DATAMATCH, DeviceFlag, RegionFlag
from virtio.transport.vfio_user.payloads import (
    DeviceInfo,
    IoEventFd,
    RegionAccess,
    RegionInfo,
    RegionIoFds,
    pack_count,
    pack_sparse,
    unpack_writes,
)
from virtio.transport.vfio_user.refusal import invalid


class Regions:
    """What a client asks of regions."""

    def __init__(self, function: Function) -> None:
        """Nothing is opened yet."""
        self._function = function
        self._kicks: dict[int, int] = {}

    def device(self, payload: bytes) -> bytes:
        """Answer DEVICE_GET_INFO."""
        if DeviceInfo.unpack(payload).argsz < DeviceInfo.FORM.size:
            raise invalid("argsz is too small")
        regions, irqs = len(self._function.regions), len(self._function.interrupts)
        flags = DeviceFlag.RESET | DeviceFlag.PCI
        return DeviceInfo(DeviceInfo.FORM.size, flags, regions, irqs).pack()

    def info(self, payload: bytes) -> tuple[bytes, tuple[int, ...]]:
        """Answer DEVICE_GET_REGION_INFO, with the descriptor to map if there is one."""
        asked = RegionInfo.unpack(payload)
        if asked.argsz < RegionInfo.FORM.size:
            raise invalid(f"argsz is {asked.argsz}")
        self._check_index(asked.index)
        region = self._function.regions[asked.index]
        if not region.size:
            return RegionInfo(RegionInfo.FORM.size, 0, asked.index).pack(), ()
        flags = (RegionFlag.READ if region.readable else 0) | (RegionFlag.WRITE if region.writable else 0)
        # One descriptor goes with a region. Its areas lie in it as they lie in the region.
        fd = region.areas[0].fd if region.areas else -1
        base = region.areas[0].fd_offset - region.areas[0].offset if region.areas else 0
        areas = [
            (area.offset, area.size)
            for area in region.areas
            if area.fd == fd and area.fd_offset - area.offset == base >= 0
        ]
        if not areas:
            return RegionInfo(RegionInfo.FORM.size, flags, asked.index, 0, region.size).pack(), ()
        flags |= RegionFlag.MMAP | RegionFlag.CAPS
        capability = pack_sparse(areas)
        size = RegionInfo.FORM.size + len(capability)
        # Where it is in a full answer, even if this one has no room for it: QEMU takes 0 for an error.
        head = RegionInfo(size, flags, asked.index, RegionInfo.FORM.size, region.size, base).pack()
        return (head + capability if asked.argsz >= size else head), (fd,)

    def io_fds(self, payload: bytes, most: int) -> tuple[bytes, tuple[int, ...]]:
        """Answer DEVICE_GET_REGION_IO_FDS: an eventfd for each queue that can be notified there."""
        asked = RegionIoFds.unpack(payload)
        if asked.argsz < RegionIoFds.FORM.size or asked.flags or asked.count:
            raise invalid("argsz, flags or count")
        self._check_index(asked.index)
        found = [one for one in self._function.notifications if one.region == asked.index][:most]
        size = RegionIoFds.FORM.size + len(found) * IoEventFd.FORM.size
        if asked.argsz < size or not found:
            return RegionIoFds(size, 0, asked.index, len(found)).pack(), ()
        parts = [RegionIoFds(size, 0, asked.index, len(found)).pack()]
        for place, one in enumerate(found):
            flags = 0 if one.value is None else IOEVENTFD_DATAMATCH
            value = one.value or 0
            parts.append(IoEventFd(one.offset, one.size, place, IO_FD_IOEVENTFD, flags, 0, value).pack())
        return b"".join(parts), tuple(self._kick(one.queue) for one in found)

    def read(self, payload: bytes, most: int) -> bytes:
        """Answer REGION_READ."""
        asked = RegionAccess.unpack(payload)
        self._check(asked, most)
        if not self._function.regions[asked.region].readable:
            raise invalid(f"region {asked.region} is not readable")
        return payload + self._function.read(asked.region, asked.offset, asked.count)

    def write(self, payload: bytes, most: int) -> bytes:
        """Do and answer REGION_WRITE."""
        asked = RegionAccess.unpack(payload)
        data = payload[RegionAccess.FORM.size :]
        if len(data) != asked.count:
            raise invalid(f"{len(data)} bytes of data where {asked.count} were said")
        self._write(asked, data, most)
        return payload[: RegionAccess.FORM.size]

    def write_multiple(self, payload: bytes) -> bytes:
        """Do and answer REGION_WRITE_MULTI."""
        writes = [
            (RegionAccess(offset, region, len(data)), data) for offset, region, data in unpack_writes(payload)
        ]
        for access, _ in writes:  # all of it or nothing
            self._check(access, 8)
        for access, data in writes:
            self._write(access, data, 8)
        return pack_count(len(writes))

    def close(self) -> None:
        """Close the eventfds. The function is detached: its queues have let go of them."""
        close_all(self._kicks.values())
        self._kicks.clear()

    def _kick(self, queue: int) -> int:
        if queue not in self._kicks:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._function.set_kick(queue, fd)
            except BaseException:
                os.close(fd)
                raise
            self._kicks[queue] = fd
        return self._kicks[queue]

    def _write(self, access: RegionAccess, data: bytes, most: int) -> None:
        self._check(access, most)
        if not self._function.regions[access.region].writable:
            raise invalid(f"region {access.region} is not writable")
        self._function.write(access.region, access.offset, data)

    def _check(self, access: RegionAccess, most: int) -> None:
        self._check_index(access.region)
        size = self._function.regions[access.region].size
        if access.count > most:
            raise invalid(f"{access.count} bytes at once")
        if access.offset + access.count > size:
            where = f"{access.count} bytes at {access.offset:#x}"
            raise invalid(f"region {access.region} has {size} bytes, not {where}")

    def _check_index(self, index: int) -> None:
        if index >= len(self._function.regions):
            raise invalid(f"there is no region {index}")
