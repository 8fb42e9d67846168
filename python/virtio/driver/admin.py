"""Group administration commands, from the driver's side (VIRTIO 1.4, 2.12 and 2.13).

A driver whose device has an administration virtqueue has one of these as ``driver.administration``::

    with virtio.connect("vfio-user:/run/pf.sock", "block") as disk:
        group = disk.administration.group(SR_IOV)
        print(group.commands)                       # by number, what can be commanded
        parts = group.get_parts(1)                  # the state of the first virtual function
"""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError, DeviceError, TransportError
from virtio.spec import admin
from virtio.spec.admin_data import ANSWER_SIZE, HEADER, Part, bits_of, numbers_of, unpack_parts

if TYPE_CHECKING:
    from virtio.driver.base import Driver
    from virtio.driver.queue import DriverQueue

SELF, SR_IOV = admin.GROUP.SELF, admin.GROUP.SR_IOV
OPCODE = admin.OPCODE
ROOM = 1 << 14
"""Bytes for a command, and as many for its result, unless more are asked for."""

_PAUSE = 0.01
"""Seconds after which a command is sent again that could not be carried out at that moment."""
_STOPPED = 1 << admin.MODE_BIT.STOPPED


class AdminError(DeviceError):
    """The owner refused a command: ``status`` and ``qualifier`` of :mod:`virtio.spec.admin`."""

    def __init__(self, message: str, status: int, qualifier: int) -> None:
        """Keep both numbers."""
        super().__init__(message, status)
        self.qualifier = qualifier


class Administration:
    """Sends commands, one at a time, and waits for each."""

    def __init__(self, driver: "Driver", index: int) -> None:
        """Use queue ``index`` of a device that is being set up."""
        self._lock = threading.Lock()
        self._device: tuple[Driver, DriverQueue] | None = (driver, driver.add_queue(index))

    def close(self) -> None:
        """The driver is closed."""
        self._device = None

    def group(self, number: int) -> "AdminGroup":
        """Return a group, having told the owner that all it offers for it will be used (2.12.1).

        Raises :class:`AdminError` if the owner has no such group at present.
        """
        return AdminGroup(self, number)

    def execute(
        self,
        opcode: int,
        data: bytes = b"",
        *,
        group: int = SELF,
        member: int = 0,
        room: int = ROOM,
        exact: bool = False,
        timeout: float | None = None,
    ) -> bytes:
        """Send one command and return its result, for which there is room for ``room`` bytes.

        Commands are filled up to a multiple of 64 bits (2.13.2) unless their length matters: ``exact``.

        Sent again while the owner says EAGAIN, for half of the time. Raises :class:`AdminError` if it failed,
        ``TimeoutError`` after ``timeout`` seconds (the transport's by default); the queue cannot be used
        any more then.
        """
        packed = HEADER.pack(opcode=opcode, group_type=group, group_member_id=member) + data
        if not exact:
            packed += bytes(-len(packed) % 8)
        with self._lock:
            if self._device is None:
                raise TransportError("the driver is closed")
            driver, _ = self._device
            timeout = driver.end.timeout if timeout is None else timeout
            deadline = time.monotonic() + timeout
            # The other half is for the answer to the last one: without it the queue would be lost.
            patience = deadline - timeout / 2
            while True:
                answer = self._send(packed, room, deadline)
                status, qualifier = (int.from_bytes(answer[at : at + 2], "little") for at in (0, 2))
                if status != admin.STATUS.EAGAIN:
                    break
                time.sleep(_PAUSE)  # nothing was done: it is to be tried again (2.13.2)
                if time.monotonic() > patience:
                    break
        if status != admin.STATUS.OK:
            raise AdminError(_refusal(opcode, status, qualifier), status, qualifier)
        return answer[ANSWER_SIZE:]

    def _send(self, packed: bytes, room: int, deadline: float) -> bytes:
        assert self._device is not None
        driver, queue = self._device
        native = queue.native
        buffer = driver.allocate(len(packed) + ANSWER_SIZE + room)
        view = memoryview(buffer).cast("B")
        view[: len(packed)] = packed
        token = native.submit(
            [(buffer.address, len(packed))], [(buffer.address + len(packed), ANSWER_SIZE + room)]
        )
        if token is None:
            raise ConfigurationError("the administration virtqueue is full: a command got stuck")
        written, _ = native.wait(token, max(0.0, deadline - time.monotonic()))
        # What the device did not write counts as zero (2.13).
        return bytes(view[len(packed) : len(packed) + written]).ljust(ANSWER_SIZE, b"\0")


class AdminGroup:
    """The members of a group of one owner."""

    def __init__(self, administration: Administration, number: int) -> None:
        """Ask what can be commanded, and say that all of it will be used."""
        self._administration = administration
        self.number = number
        self.commands = numbers_of(self.execute(OPCODE.LIST_QUERY))
        """Opcodes that the owner carries out for this group."""
        self.use(self.commands)

    def execute(self, opcode: int, data: bytes = b"", *, member: int = 0, room: int = ROOM) -> bytes:
        """Send one command for a member, see :meth:`Administration.execute`."""
        return self._administration.execute(opcode, data, group=self.number, member=member, room=room)

    def use(self, opcodes: Iterable[int]) -> None:
        """Say which commands will be used."""
        self.execute(OPCODE.LIST_USE, bits_of(opcodes))

    # --- capabilities (2.12.1.2), of the self group

    def capabilities(self) -> frozenset[int]:
        """Return the numbers of the capabilities that the device has."""
        return numbers_of(self.execute(OPCODE.CAP_ID_LIST_QUERY))

    def capability(self, number: int) -> bytes:
        """Return what the device has of a capability."""
        return self.execute(OPCODE.DEVICE_CAP_GET, admin.CAP_GET.pack(id=number))

    def take_capability(self, number: int, value: bytes) -> None:
        """Say what of it the driver will use."""
        self.execute(OPCODE.DRIVER_CAP_SET, admin.CAP_SET.pack(id=number, cap_specific_data=value))

    # --- resource objects (2.12.1.3)

    def create(self, kind: int, number: int, value: bytes, *, member: int = 0) -> None:
        """Create a resource object."""
        data = admin.OBJ_CREATE.pack(hdr={"type": kind, "id": number}, resource_obj_specific_data=value)
        self.execute(OPCODE.RESOURCE_OBJ_CREATE, data, member=member)

    def modify(self, kind: int, number: int, value: bytes, *, member: int = 0) -> None:
        """Change a resource object."""
        data = admin.OBJ_MODIFY.pack(hdr={"type": kind, "id": number}, resource_obj_specific_data=value)
        self.execute(OPCODE.RESOURCE_OBJ_MODIFY, data, member=member)

    def query(self, kind: int, number: int, *, member: int = 0) -> bytes:
        """Return what a resource object was created or changed with."""
        data = admin.OBJ_QUERY.pack(hdr={"type": kind, "id": number})
        return self.execute(OPCODE.RESOURCE_OBJ_QUERY, data, member=member)

    def destroy(self, kind: int, number: int, *, member: int = 0) -> None:
        """Destroy a resource object."""
        self.execute(OPCODE.RESOURCE_OBJ_DESTROY, _object(kind, number), member=member)

    # --- device parts (2.12.1.4): by an object that is made for it before

    def part_headers(self, number: int, *, member: int) -> list[Part]:
        """Return which parts a member has, with values of zeros, by object ``number`` for getting."""
        data = admin.METADATA.pack(hdr=_parts_object(number), type=admin.METADATA_TYPE.COUNT)
        count = admin.METADATA_COUNT.unpack(
            self.execute(OPCODE.DEV_PARTS_METADATA_GET, data, member=member)
        ).count
        data = admin.METADATA.pack(hdr=_parts_object(number), type=admin.METADATA_TYPE.LIST)
        size = admin.PART_HDR.size or 0
        answer = self.execute(
            OPCODE.DEV_PARTS_METADATA_GET, data, member=member, room=-(-(8 + count * size) // 8) * 8
        )
        headers = admin.METADATA_LIST.unpack(answer).hdrs
        return [
            Part(header.part_type, bytes(header.length), header.selector, bool(header.flags))
            for header in headers
        ]

    def parts_size(self, number: int, *, member: int) -> int:
        """Return how many bytes all parts of a member take up at most."""
        data = admin.METADATA.pack(hdr=_parts_object(number), type=admin.METADATA_TYPE.SIZE)
        answer = self.execute(OPCODE.DEV_PARTS_METADATA_GET, data, member=member)
        return int(admin.METADATA_SIZE.unpack(answer).size)

    def get_parts(self, number: int, *, member: int, selected: Sequence[Part] | None = None) -> list[Part]:
        """Return the parts of a member, all or those like ``selected``, by object ``number``."""
        kind = admin.PARTS_GET_TYPE.ALL if selected is None else admin.PARTS_GET_TYPE.SELECTED
        data = admin.PARTS_GET.pack(hdr=_parts_object(number), type=kind)
        data += b"".join(part.header for part in selected or ())
        room = self.parts_size(number, member=member)
        answer = self.execute(OPCODE.DEV_PARTS_GET, data, member=member, room=-(-room // 8) * 8)
        return unpack_parts(answer)

    def set_parts(self, number: int, parts: Sequence[Part], *, member: int) -> None:
        """Give a member, which is stopped, these parts; they take effect when it is resumed."""
        data = _object(admin.RESOURCE_OBJ.DEV_PARTS, number) + b"".join(part.pack() for part in parts)
        self.execute(OPCODE.DEV_PARTS_SET, data, member=member)

    def stop(self, member: int) -> None:
        """Stop a member: it does not touch memory and notifies nobody until :meth:`resume`."""
        self.execute(OPCODE.DEV_MODE_SET, admin.MODE_SET.pack(flags=_STOPPED), member=member)

    def resume(self, member: int) -> None:
        """Let a member run again."""
        self.execute(OPCODE.DEV_MODE_SET, admin.MODE_SET.pack(flags=0), member=member)

    # --- the legacy interface of a member (2.12.1.1)

    def legacy_read(self, offset: int, size: int, *, member: int, device: bool = False) -> bytes:
        """Read a legacy register, or with ``device`` legacy configuration."""
        opcode = OPCODE.LEGACY_DEV_CFG_READ if device else OPCODE.LEGACY_COMMON_CFG_READ
        # The room says how many bytes are read: here it cannot be a multiple of 64 bits (2.13.2).
        return self.execute(opcode, bytes([offset]), member=member, room=size)

    def legacy_write(self, offset: int, data: bytes, *, member: int, device: bool = False) -> None:
        """Write a legacy register, or with ``device`` legacy configuration."""
        opcode = OPCODE.LEGACY_DEV_CFG_WRITE if device else OPCODE.LEGACY_COMMON_CFG_WRITE
        packed = admin.LEGACY_COMMON_WR.pack(offset=offset, data=data)
        self._administration.execute(opcode, packed, group=self.number, member=member, exact=True)


def _object(kind: int, number: int) -> bytes:
    return admin.OBJ_HDR.pack(type=kind, id=number)


def _parts_object(number: int) -> dict[str, int]:
    return {"type": admin.RESOURCE_OBJ.DEV_PARTS, "id": number}


def _refusal(opcode: int, status: int, qualifier: int) -> str:
    name = OPCODE.name(opcode) or f"{opcode:#x}"
    said = admin.STATUS.name(status) or str(status)
    why = admin.QUALIFIER.name(qualifier) or str(qualifier)
    return f"{name} failed: {said}, {why} (VIRTIO 1.4, 2.12.1)"
