"""A physical function's virtual functions, and the commands that administer them (VIRTIO 1.4, 2.12).

::

    virtual = VirtualFunctions([virtio.BlockDevice(size=1 << 30) for _ in range(4)])
    owner = virtio.BlockDevice("disk.img", administration=virtual.administrator())
    function = PciFunction(owner, virtual_functions=virtual)

Each virtual function is a function of its own, in ``virtual.functions``, to be served on its own. Members of
the group are numbered from 1.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from virtio.device.admin import (
    EEXIST,
    Administrator,
    Capability,
    CommandError,
    Group,
    InvalidFieldError,
    SelfGroup,
    fitting,
    unpack,
)
from virtio.errors import ConfigurationError, Error, ProtocolError
from virtio.spec import admin, pci, pci_bus
from virtio.spec.admin_data import Part, unpack_parts
from virtio.spec.layout import Struct
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci import parts
from virtio.transport.pci.config_space import ConfigSpace
from virtio.transport.pci.function import PciFunction
from virtio.transport.pci.layout import Layout
from virtio.transport.pci.state import FunctionState
from virtio.transport.pci.state import unpack as unpack_state
from virtio.transport.pci.transitional import LegacyFunction

MOST = 256
OBJECTS = 8
"""Objects for getting parts, and as many for setting them."""

_CAP = pci_bus.SRIOV_CAP
_GET, _SET = admin.PARTS_OBJ_TYPE.GET, admin.PARTS_OBJ_TYPE.SET
_STOPPED = 1 << admin.MODE_BIT.STOPPED
_STATUS = admin.STATUS
_PARTS_GET = Struct(
    "virtio_admin_cmd_dev_parts_get_data", admin.PARTS_GET.section, admin.PARTS_GET.fields[:3]
)


@dataclass
class _Member:
    function: PciFunction
    stopped: bool = False
    objects: dict[int, int] = field(default_factory=dict)
    """Objects for device parts, by their numbers: what each is for."""
    waiting: FunctionState | None = None
    """Parts that were set, until the member is resumed."""


class VirtualFunctions(Group):
    """The group of an owner's virtual functions."""

    def __init__(
        self,
        devices: Sequence[DeviceEnd],
        *,
        layout: Layout | None = None,
        enabled: bool = True,
        legacy: bool = False,
    ) -> None:
        """Make a function of each device.

        ``enabled``: whether they are there from the beginning, as behind a hypervisor that hides the SR-IOV
        capability from its guests; else only when the driver of the physical function enables them.
        ``legacy``: let the owner's driver use the legacy interface of the members (2.12.1.1); that is there
        for block, console and entropy devices.
        """
        super().__init__(admin.GROUP.SR_IOV)
        if not 1 <= len(devices) <= MOST:
            raise ConfigurationError(f"{len(devices)} virtual functions; there can be 1 to {MOST}")
        self.layout = layout or Layout(intx=False)  # virtual functions have no interrupt pin
        self.enabled = enabled
        make = LegacyFunction if legacy else PciFunction
        self._members = [_Member(make(device, layout=self.layout)) for device in devices]
        self._config: ConfigSpace | None = None
        self._offset = 0
        self.capability = Capability(
            admin.CAPABILITY.CAP, "device parts", bytes((OBJECTS, OBJECTS)), in_use=self._objects_in_use
        )
        op = admin.OPCODE
        self.add(op.RESOURCE_OBJ_CREATE, self._create)
        self.add(op.RESOURCE_OBJ_MODIFY, self._modify)
        self.add(op.RESOURCE_OBJ_QUERY, self._query)
        self.add(op.RESOURCE_OBJ_DESTROY, self._destroy)
        self.add(op.DEV_PARTS_METADATA_GET, self._metadata)
        self.add(op.DEV_PARTS_GET, self._get_parts)
        self.add(op.DEV_PARTS_SET, self._set_parts)
        self.add(op.DEV_MODE_SET, self._set_mode)
        if legacy:
            for device, read, write in (
                (False, op.LEGACY_COMMON_CFG_READ, op.LEGACY_COMMON_CFG_WRITE),
                (True, op.LEGACY_DEV_CFG_READ, op.LEGACY_DEV_CFG_WRITE),
            ):
                self.add(read, functools.partial(self._legacy_read, device))
                self.add(write, functools.partial(self._legacy_write, device))

    @property
    def functions(self) -> list[PciFunction]:
        """The virtual functions; the first is member 1."""
        return [member.function for member in self._members]

    def administrator(self) -> Administrator:
        """Return what carries out commands for these, and for the owner itself: give it to the owner."""
        return Administrator([SelfGroup([self.capability]), self])

    # --- the SR-IOV capability of the physical function (PCIe 9.3.3)

    def add_capability(self, config: ConfigSpace, device_id: int) -> None:
        """Put the capability into a configuration space that is being built."""
        functions = self._members[0].function
        count = len(self._members)
        bars = [0] * pci_bus.BARS
        for index, region in enumerate(functions.regions[: pci_bus.BARS]):
            if region.size:
                wide = region.kind == "memory64"
                bars[index] = pci_bus.BAR_MEMORY_64 if wide else 0
                bars[index] |= pci_bus.BAR_PREFETCHABLE if region.prefetchable else 0
        body = _CAP.pack(
            control=pci_bus.SRIOV_VF_ENABLE | pci_bus.SRIOV_VF_MSE if self.enabled else 0,
            initial_vfs=count,
            total_vfs=count,
            num_vfs=count if self.enabled else 0,
            first_vf_offset=1,
            vf_stride=1,
            vf_device_id=pci.DEVICE_ID_BASE + device_id,
            supported_page_sizes=1,
            system_page_size=1,
            vf_bar=bars,
        )
        offset = config.add_extended_capability(pci_bus.EXTENDED_CAP_ID.SR_IOV, 1, body[4:])
        writable = pci_bus.SRIOV_VF_ENABLE | pci_bus.SRIOV_VF_MSE
        config.allow(offset + _CAP.offset("control"), writable, 2)
        config.allow(offset + _CAP.offset("num_vfs"), 0xFFFF, 2)
        for index, region in enumerate(functions.regions[: pci_bus.BARS]):
            if region.size:
                size = 8 if region.kind == "memory64" else 4
                place = offset + _CAP.offset("vf_bar") + 4 * index
                config.allow(place, -region.size & ~0xF & ((1 << 8 * size) - 1), size)
        config.watch(offset + _CAP.offset("control"), 2, self._control_written)
        self._config, self._offset = config, offset

    def _field(self, name: str) -> int:
        assert self._config is not None
        return self._config.field(_CAP, name, self._offset)

    @property
    def present(self) -> bool:
        """Whether the virtual functions are enabled."""
        return self._config is not None and bool(self._field("control") & pci_bus.SRIOV_VF_ENABLE)

    def has(self, member: int) -> bool:
        """From 1 to as many as the driver has enabled."""
        return 1 <= member <= min(self._field("num_vfs"), len(self._members))

    def _control_written(self) -> None:
        if not self.present:  # functions that go away lose all they had
            for member in self._members:
                self._forget(member)
                member.function.reset()

    def reset(self) -> None:
        """The owner was reset: objects are destroyed, and nobody stays stopped (2.12.1.3)."""
        super().reset()
        for member in self._members:
            self._forget(member)

    def _forget(self, member: _Member) -> None:
        member.objects.clear()
        member.waiting = None
        if member.stopped:
            member.stopped = False
            member.function.resume()

    # --- objects for device parts (2.12.1.3, 2.12.1.4.2)

    def _objects_in_use(self) -> bytes:
        highest = [0, 0]
        for member in self._members:
            for number, use in member.objects.items():
                highest[use] = max(highest[use], number + 1)
        return bytes(highest)

    def _member(self, number: int) -> _Member:
        return self._members[number - 1]

    def _object(self, member: int, header: object, use: int | None = None) -> int:
        """Return the number of an object that is there, and for that use."""
        kind, number = header.type, header.id  # type: ignore[attr-defined]
        if kind != admin.RESOURCE_OBJ.DEV_PARTS or number not in self._member(member).objects:
            raise CommandError(f"there is no object {number} of type {kind:#x}", _STATUS.ENXIO)
        if use is not None and self._member(member).objects[number] != use:
            raise InvalidFieldError(f"object {number} is not for this")
        return int(number)

    def _purpose(self, value: bytes) -> int:
        use = int(unpack(admin.PARTS_OBJ, value).type)
        if use not in (_GET, _SET):
            raise InvalidFieldError(f"an object for device parts of type {use}")
        return use

    def _create(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.OBJ_CREATE, data)
        kind, number = request.hdr.type, request.hdr.id
        if kind != admin.RESOURCE_OBJ.DEV_PARTS:
            raise CommandError(f"there are no objects of type {kind:#x}", _STATUS.ENXIO)
        use = self._purpose(request.resource_obj_specific_data)
        if number >= self.capability.taken[use]:
            raise CommandError(
                f"object {number}; the driver said that it uses {self.capability.taken[use]}", _STATUS.ENOSPC
            )
        objects = self._member(member).objects
        if number in objects:
            raise CommandError(f"object {number} is there already", EEXIST)
        objects[number] = use
        return b""

    def _modify(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.OBJ_MODIFY, data)
        number = self._object(member, request.hdr)
        self._member(member).objects[number] = self._purpose(request.resource_obj_specific_data)
        return b""

    def _query(self, member: int, data: bytes, room: int) -> bytes:
        number = self._object(member, unpack(admin.OBJ_QUERY, data).hdr)
        return admin.PARTS_OBJ.pack(type=self._member(member).objects[number])

    def _destroy(self, member: int, data: bytes, room: int) -> bytes:
        number = self._object(member, unpack(admin.OBJ_HDR, data))
        del self._member(member).objects[number]
        return b""

    # --- the legacy interface of members (2.12.1.1)

    def _legacy_function(self, member: int) -> LegacyFunction:
        function = self._member(member).function
        assert isinstance(function, LegacyFunction), "else there are no such commands"
        return function

    def _legacy_read(self, device: bool, member: int, data: bytes, room: int) -> bytes:
        offset = unpack(admin.LEGACY_COMMON_RD, data).offset
        try:
            return self._legacy_function(member).legacy_read(offset, room, device=device)
        except ProtocolError as error:
            raise InvalidFieldError(str(error)) from error

    def _legacy_write(self, device: bool, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.LEGACY_COMMON_WR, data)
        try:
            self._legacy_function(member).legacy_write(request.offset, request.data, device=device)
        except ProtocolError as error:
            raise InvalidFieldError(str(error)) from error
        return b""

    # --- device parts (2.12.1.4.3)

    def _still(self, member: int, run: Callable[[PciFunction], list[Part]]) -> list[Part]:
        """Do something with a member that stands still meanwhile."""
        found = self._member(member)
        if found.stopped:
            return run(found.function)
        found.function.stop()
        try:
            return run(found.function)
        finally:
            found.function.resume()

    def _metadata(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.METADATA, data)
        self._object(member, request.hdr, _GET)
        found = self._still(member, parts.collect)
        kind = admin.METADATA_TYPE
        if request.type == kind.SIZE:
            result = admin.METADATA_SIZE.pack(size=sum(len(part.pack()) for part in found))
        elif request.type == kind.COUNT:
            result = admin.METADATA_COUNT.pack(count=len(found))
        elif request.type == kind.LIST:
            result = admin.METADATA_COUNT.pack(count=len(found)) + b"".join(part.header for part in found)
        else:
            raise InvalidFieldError(f"metadata of type {request.type}")
        return fitting(result, room)

    def _get_parts(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(_PARTS_GET, data[: admin.PARTS_GET.minimum])
        self._object(member, request.hdr, _GET)
        if request.type == admin.PARTS_GET_TYPE.ALL:
            found = self._still(member, parts.collect)
        elif request.type == admin.PARTS_GET_TYPE.SELECTED:
            try:
                wanted = parts.headers_of(data[admin.PARTS_GET.minimum :])
            except ProtocolError as error:
                raise InvalidFieldError(str(error)) from error
            found = self._still(member, lambda function: parts.select(function, wanted))
        else:
            raise InvalidFieldError(f"device parts of type {request.type}")
        return fitting(b"".join(part.pack() for part in found), room)

    def _set_parts(self, member: int, data: bytes, room: int) -> bytes:
        request = unpack(admin.PARTS_SET, data)
        self._object(member, request.hdr, _SET)
        found = self._member(member)
        if not found.stopped:
            raise CommandError(f"member {member} is not stopped", _STATUS.EBUSY)
        try:
            before = found.waiting or unpack_state(found.function.save())
            found.waiting = parts.merge(found.function, before, unpack_parts(request.parts))
        except Error as error:
            raise InvalidFieldError(str(error)) from error
        return b""

    def _set_mode(self, member: int, data: bytes, room: int) -> bytes:
        flags = unpack(admin.MODE_SET, data).flags
        if flags & ~_STOPPED:
            raise InvalidFieldError(f"mode flags {flags:#x}")
        found = self._member(member)
        if flags:
            if not found.stopped:
                found.function.stop()
                found.stopped = True
        elif found.stopped:
            if found.waiting is not None:
                state, before = found.waiting, found.function.save()
                found.waiting = None
                try:
                    found.function.load(state.pack())
                except Error as error:
                    with contextlib.suppress(Error):
                        found.function.load(before)
                    raise InvalidFieldError(f"the parts that were set cannot be: {error}") from error
                finally:
                    found.function.dma_changed()
            found.stopped = False
            found.function.resume()
        return b""
