"""Group administration commands, from the owner's side (VIRTIO 1.4, 2.12 and 2.13): bytes in, bytes out.

An :class:`Administrator` takes the device-readable part of a command and returns the device-writable one.
What can be commanded is up to its groups: :class:`SelfGroup` is the device itself, with capabilities and
resource objects; others are the transports', as the virtual functions of a PCI device.

Give it to a device, ``Device(…, administration=administrator)``, and the device offers VIRTIO_F_ADMIN_VQ and
has an administration virtqueue, on transports that carry one.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from virtio._native import Chain
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import admin
from virtio.spec.admin_data import ANSWER_SIZE, HEADER, HEADER_SIZE, bits_of, numbers_of
from virtio.spec.layout import Record, Struct

_log = logging.getLogger("virtio.device.admin")

LARGEST = 1 << 20
"""Bytes of a command that are looked at; none is nearly as long."""

OPCODE, STATUS, QUALIFIER = admin.OPCODE, admin.STATUS, admin.QUALIFIER
EEXIST = 17
"""2.12.1.3.5 names it, and the table of values has forgotten it: values are those of Linux (2.12.1)."""
ALWAYS = frozenset((OPCODE.LIST_QUERY, OPCODE.LIST_USE))
"""The commands that a driver may use before it says which it will use."""


class CommandError(Exception):
    """A command failed: the status, and what it is qualified by."""

    def __init__(
        self, message: str, status: int = STATUS.EINVAL, qualifier: int = QUALIFIER.INVALID_COMMAND
    ) -> None:
        """``message`` is for the log; a driver gets the numbers."""
        super().__init__(message)
        self.status = status
        self.qualifier = qualifier


class InvalidFieldError(CommandError):
    """Something within the command's own data cannot be."""

    def __init__(self, message: str) -> None:
        """``message`` is for the log."""
        super().__init__(message, STATUS.EINVAL, QUALIFIER.INVALID_FIELD)


class Command(NamedTuple):
    """What carries out an opcode."""

    run: Callable[[int, bytes, int], bytes]
    """Called with the member, the command's own data, and the room for its result, in bytes."""
    addressed: bool = True
    """Whether the member that the command names matters."""


class Group:
    """A group of devices with one owner (2.12)."""

    def __init__(self, number: int) -> None:
        """``number`` is the group type."""
        self.number = number
        self.used = ALWAYS
        self._commands: dict[int, Command] = {
            OPCODE.LIST_QUERY: Command(lambda *_: bits_of(self._commands), False),
            OPCODE.LIST_USE: Command(self._use, False),
        }

    def add(self, opcode: int, run: Callable[[int, bytes, int], bytes], *, addressed: bool = True) -> None:
        """Carry out ``opcode`` with ``run``."""
        self._commands[opcode] = Command(run, addressed)

    @property
    def supported(self) -> frozenset[int]:
        """Opcodes that can be carried out."""
        return frozenset(self._commands)

    @property
    def present(self) -> bool:
        """Whether the group exists at present."""
        return True

    def has(self, member: int) -> bool:
        """Whether this is the identifier of a member."""
        raise NotImplementedError

    def reset(self) -> None:
        """The owner was reset."""
        self.used = ALWAYS

    def execute(self, opcode: int, member: int, data: bytes, room: int) -> bytes:
        """Carry out a command and return its result. Raises :class:`CommandError`."""
        command = self._commands.get(opcode)
        if command is None or opcode not in self.used:
            name = OPCODE.name(opcode) or f"{opcode:#x}"
            known = (
                "not supported" if command is None else "not among those that the driver said it would use"
            )
            raise CommandError(f"{name} is {known}", STATUS.EINVAL, QUALIFIER.INVALID_OPCODE)
        if command.addressed and not self.has(member):
            raise CommandError(
                f"group {self.number} has no member {member}", STATUS.EINVAL, QUALIFIER.INVALID_MEMBER
            )
        return command.run(member, data, room)

    def _use(self, member: int, data: bytes, room: int) -> bytes:
        wanted = numbers_of(data)
        if unknown := wanted - self.supported:
            raise InvalidFieldError(f"the driver wants to use the opcodes {sorted(unknown)}, never offered")
        self.used = wanted
        return b""


class Capability:
    """A capability of which each byte is a limit or a set of flags; the driver may take less, never more."""

    def __init__(self, number: int, name: str, offered: bytes, *, in_use: Callable[[], bytes]) -> None:
        """``in_use`` returns, in the form of ``offered``, what the driver cannot give up at present."""
        self.number = number
        self.name = name
        self.offered = offered
        self.taken = bytes(len(offered))
        self._in_use = in_use

    def take(self, wanted: bytes) -> None:
        """The driver says what it will use."""
        wanted = wanted[: len(self.offered)].ljust(len(self.offered), b"\0")
        if any(more > most for more, most in zip(wanted, self.offered, strict=True)):
            raise InvalidFieldError(f"the driver wants more of {self.name} than there is: {wanted.hex()}")
        if any(less < used for less, used in zip(wanted, self._in_use(), strict=True)):
            raise CommandError(f"what {self.name} is about is in use", STATUS.EBUSY)
        self.taken = wanted


class ResourceObjects(Protocol):
    """The resource objects of one type (2.12.1.3). What cannot be done is a :class:`CommandError`."""

    def create(self, number: int, value: bytes) -> None:
        """Make one. ``value`` may have bytes behind it that fill up the command."""

    def modify(self, number: int, value: bytes) -> None:
        """Change one, or leave it as it is if that fails."""

    def query(self, number: int) -> bytes:
        """Return what it was created or changed with last."""

    def destroy(self, number: int) -> None:
        """Destroy one."""

    def reset(self) -> None:
        """Destroy all: the device is reset."""


class SelfGroup(Group):
    """The owner itself, as a group of one (2.12): its capabilities (2.12.1.2) and objects (2.12.1.3)."""

    def __init__(self, capabilities: Sequence[Capability] = ()) -> None:
        """``capabilities`` are those to offer; without any the commands about them are not supported."""
        super().__init__(admin.GROUP.SELF)
        self.capabilities: dict[int, Capability] = {}
        self._objects: dict[int, ResourceObjects] = {}
        self.offer(capabilities)

    def offer(
        self, capabilities: Sequence[Capability], objects: Mapping[int, ResourceObjects] | None = None
    ) -> None:
        """Offer more, with the types of resource objects that go with it."""
        self.capabilities |= {capability.number: capability for capability in capabilities}
        if self.capabilities:
            self.add(OPCODE.CAP_ID_LIST_QUERY, lambda *_: bits_of(self.capabilities))
            self.add(OPCODE.DEVICE_CAP_GET, self._get)
            self.add(OPCODE.DRIVER_CAP_SET, self._set)
        self._objects |= objects or {}
        if self._objects:
            self.add(OPCODE.RESOURCE_OBJ_CREATE, self._create)
            self.add(OPCODE.RESOURCE_OBJ_MODIFY, self._modify)
            self.add(OPCODE.RESOURCE_OBJ_QUERY, self._query)
            self.add(OPCODE.RESOURCE_OBJ_DESTROY, self._destroy)

    def has(self, member: int) -> bool:
        """The only member is 0."""
        return member == 0

    def reset(self) -> None:
        """Forget what the driver took."""
        super().reset()
        for capability in self.capabilities.values():
            capability.taken = bytes(len(capability.offered))
        for objects in self._objects.values():
            objects.reset()

    def _find(self, number: int) -> Capability:
        if number not in self.capabilities:
            raise CommandError(f"there is no capability {number:#x}", STATUS.ENXIO)
        return self.capabilities[number]

    def _get(self, member: int, data: bytes, room: int) -> bytes:
        return self._find(unpack(admin.CAP_GET, data).id).offered

    def _set(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.CAP_SET, data)
        self._find(request.id).take(request.cap_specific_data)
        return b""

    def _objects_of(self, kind: int) -> ResourceObjects:
        if kind not in self._objects:
            raise CommandError(f"there are no objects of type {kind:#x}", STATUS.ENXIO)
        return self._objects[kind]

    def _create(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.OBJ_CREATE, data)
        self._objects_of(request.hdr.type).create(request.hdr.id, request.resource_obj_specific_data)
        return b""

    def _modify(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.OBJ_MODIFY, data)
        self._objects_of(request.hdr.type).modify(request.hdr.id, request.resource_obj_specific_data)
        return b""

    def _query(self, member: int, data: bytes, room: int) -> bytes:
        header = unpack(admin.OBJ_QUERY, data).hdr
        return fitting(self._objects_of(header.type).query(header.id), room)

    def _destroy(self, member: int, data: bytes, room: int) -> bytes:
        header = unpack(admin.OBJ_HDR, data)
        self._objects_of(header.type).destroy(header.id)
        return b""


class Administrator:
    """Carries out administration commands for the groups of one owner."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """``groups`` are of different types."""
        self.groups = {group.number: group for group in groups}
        if len(self.groups) != len(groups):
            raise ConfigurationError("an owner has one group of a type")

    def reset(self) -> None:
        """The owner was reset: drivers say anew what they will use."""
        for group in self.groups.values():
            group.reset()

    def execute(self, readable: bytes, room: int) -> bytes:
        """Carry out one command.

        ``readable`` is its device-readable part, ``room`` how many bytes its device-writable part has. Both
        may be shorter than the structures, or longer (2.13). Returns what is to be written.
        """
        header = admin_header(readable)
        try:
            result = self._execute(header, readable[HEADER_SIZE:], max(0, room - ANSWER_SIZE))
            status = qualifier = 0
        except CommandError as error:
            _log.info("administration command %#x for group %d: %s", header.opcode, header.group_type, error)
            result, status, qualifier = b"", error.status, error.qualifier
        answer = status.to_bytes(2, "little") + qualifier.to_bytes(2, "little") + bytes(4) + result
        return answer[:room]

    def _execute(self, header: Record, data: bytes, room: int) -> bytes:
        group = self.groups.get(header.group_type)
        if group is None or not group.present:
            raise CommandError(
                f"there is no group {header.group_type}", STATUS.EINVAL, QUALIFIER.INVALID_GROUP
            )
        return group.execute(header.opcode, header.group_member_id, data, room)

    def serve(self, chain: Chain) -> None:
        """Answer a buffer of an administration virtqueue (2.13)."""
        if len(chain.writable) == 0:
            raise ProtocolError("an administration command without room for a status", "2.13")
        chain.write(self.execute(chain.read(LARGEST), len(chain.writable)))


def fitting(result: bytes, room: int) -> bytes:
    """Return a result that must not be cut short; :class:`CommandError` if there is no room for it."""
    if len(result) > room:
        raise CommandError(f"{len(result)} bytes of result, and room for {room}", STATUS.ENOMEM)
    return result


def admin_header(readable: bytes) -> Record:
    """Return the fields of a command that all commands have; what is missing counts as zero."""
    return HEADER.unpack(readable[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0"))


def unpack(layout: Struct, data: bytes) -> Record:
    """Read a command's own data; what is missing counts as zero (2.13)."""
    try:
        return layout.unpack(data.ljust(layout.minimum, b"\0"))
    except ProtocolError as error:
        raise InvalidFieldError(str(error)) from error
