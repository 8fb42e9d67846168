"""Group administration commands (VIRTIO 1.4, 2.12): what is carried out, and what a driver is told."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.device.rig import Rig

from virtio.device.admin import Administrator, Capability, Group, SelfGroup
from virtio.device.base import Device
from virtio.errors import ConfigurationError
from virtio.queue import Chain
from virtio.spec import admin, core, entropy

OP, STATUS, Q = admin.OPCODE, admin.STATUS, admin.QUALIFIER
CAPABILITY = 0x800


class Owner(Administrator):
    """An owner with capabilities and a group of three members, of which each is a byte."""

    def __init__(self) -> None:
        self.in_use = bytes(2)
        self.capability = Capability(CAPABILITY, "test", b"\x04\x02", in_use=lambda: self.in_use)
        self.members = SomeGroup()
        super().__init__([SelfGroup([self.capability]), self.members])

    def command(
        self, opcode: int, data: bytes = b"", *, group: int = 0, member: int = 0, room: int = 64
    ) -> tuple[int, int, bytes]:
        answer = self.execute(struct.pack("<HH12xQ", opcode, group, member) + data, room)
        status, qualifier = struct.unpack("<HH4x", answer[:8])
        return status, qualifier, answer[8:]

    def use(self, opcodes: Sequence[int], group: int = 0) -> tuple[int, int, bytes]:
        return self.command(
            OP.LIST_USE, sum(1 << opcode for opcode in opcodes).to_bytes(8, "little"), group=group
        )


class SomeGroup(Group):
    def __init__(self) -> None:
        super().__init__(7)
        self.here = True
        self.values = bytearray(3)
        self.add(OP.LEGACY_NOTIFY_INFO, self._swap)

    @property
    def present(self) -> bool:
        return self.here

    def has(self, member: int) -> bool:
        return 1 <= member <= len(self.values)

    def _swap(self, member: int, data: bytes, room: int) -> bytes:
        before = self.values[member - 1]
        self.values[member - 1] = data[0] if data else 0
        return bytes([before])


OK = (STATUS.OK, Q.OK)


def test_the_commands_of_a_group_are_listed() -> None:
    owner = Owner()
    status, qualifier, result = owner.command(OP.LIST_QUERY)
    assert (status, qualifier) == OK
    assert int.from_bytes(result, "little") == 0b11 | 0b111 << OP.CAP_ID_LIST_QUERY
    assert len(result) == 8
    _, _, result = owner.command(OP.LIST_QUERY, group=7)
    assert int.from_bytes(result, "little") == 0b11 | 1 << OP.LEGACY_NOTIFY_INFO


def test_only_what_the_driver_said_is_carried_out() -> None:
    owner = Owner()
    refused = (STATUS.EINVAL, Q.INVALID_OPCODE, b"")
    assert owner.command(OP.LEGACY_NOTIFY_INFO, b"\5", group=7, member=1) == refused
    assert owner.members.values == bytes(3)
    assert owner.use([0, 1, OP.LEGACY_NOTIFY_INFO], group=7)[:2] == OK
    assert owner.command(OP.LEGACY_NOTIFY_INFO, b"\5", group=7, member=1) == (*OK, b"\0")
    assert owner.command(OP.LEGACY_NOTIFY_INFO, b"\6", group=7, member=1) == (*OK, b"\5")
    assert owner.command(OP.CAP_ID_LIST_QUERY) == refused, "each group has its own list"
    assert owner.use([OP.LEGACY_NOTIFY_INFO], group=7)[:2] == OK, "a driver may lock itself out"
    assert owner.command(OP.LIST_QUERY, group=7) == refused
    owner.reset()
    assert owner.command(OP.LIST_QUERY, group=7)[:2] == OK
    assert owner.command(OP.LEGACY_NOTIFY_INFO, group=7, member=1) == refused
    assert owner.use([0, 1, OP.LEGACY_NOTIFY_INFO], group=7)[:2] == OK


def test_opcodes_that_were_not_offered_cannot_be_used() -> None:
    owner = Owner()
    assert owner.use([0, 1, 63]) == (STATUS.EINVAL, Q.INVALID_FIELD, b"")
    assert owner.command(OP.CAP_ID_LIST_QUERY)[1] == Q.INVALID_OPCODE


def test_the_group_is_checked_before_the_opcode_and_the_opcode_before_the_member() -> None:
    owner = Owner()
    assert owner.command(0x7FFF, group=9, member=9)[:2] == (STATUS.EINVAL, Q.INVALID_GROUP)
    assert owner.command(0x7FFF, group=7, member=9)[:2] == (STATUS.EINVAL, Q.INVALID_OPCODE)
    owner.use([OP.LEGACY_NOTIFY_INFO], group=7)
    for member in (0, 4, 1 << 63):
        answer = owner.command(OP.LEGACY_NOTIFY_INFO, group=7, member=member)
        assert answer[:2] == (STATUS.EINVAL, Q.INVALID_MEMBER)
    owner.members.here = False
    answer = owner.command(OP.LEGACY_NOTIFY_INFO, group=7, member=1)
    assert answer[:2] == (STATUS.EINVAL, Q.INVALID_GROUP)


def test_parts_may_be_shorter_or_longer_than_described() -> None:
    owner = Owner()
    readable = struct.pack("<HH12xQ", OP.LIST_QUERY, 0, 0)
    whole = owner.execute(readable, 1000)
    assert len(whole) == 16
    for room in range(17):
        assert owner.execute(readable, room) == whole[:room]
    for length in range(len(readable)):  # what is missing is zero, and zero is LIST_QUERY of the self group
        assert owner.execute(readable[:length], 1000) == whole
    assert owner.execute(readable + bytes(500), 1000) == whole


def test_capabilities_are_listed_and_got() -> None:
    owner = Owner()
    owner.use([OP.CAP_ID_LIST_QUERY, OP.DEVICE_CAP_GET, OP.DRIVER_CAP_SET])
    _, _, listed = owner.command(OP.CAP_ID_LIST_QUERY, room=1000)
    assert int.from_bytes(listed, "little") == 1 << CAPABILITY
    assert len(listed) == 8 * (CAPABILITY // 64 + 1)
    number = CAPABILITY.to_bytes(2, "little") + bytes(6)
    assert owner.command(OP.DEVICE_CAP_GET, number) == (*OK, b"\x04\x02")
    assert owner.command(OP.DEVICE_CAP_GET, b"\1")[0] == STATUS.ENXIO
    assert owner.command(OP.DRIVER_CAP_SET, b"\1")[0] == STATUS.ENXIO
    assert owner.command(OP.DEVICE_CAP_GET, number, member=1)[:2] == (STATUS.EINVAL, Q.INVALID_MEMBER)


def test_a_driver_takes_of_a_capability_what_there_is() -> None:
    owner = Owner()
    owner.use([OP.DRIVER_CAP_SET])
    number = CAPABILITY.to_bytes(2, "little") + bytes(6)
    assert owner.capability.taken == b"\0\0"
    assert owner.command(OP.DRIVER_CAP_SET, number + b"\x03\x02")[:2] == OK
    assert owner.capability.taken == b"\x03\x02"
    assert owner.command(OP.DRIVER_CAP_SET, number + b"\x05\x02")[:2] == (STATUS.EINVAL, Q.INVALID_FIELD)
    owner.in_use = b"\x02\x00"
    assert owner.command(OP.DRIVER_CAP_SET, number + b"\x01\x02")[0] == STATUS.EBUSY
    assert owner.capability.taken == b"\x03\x02"
    assert owner.command(OP.DRIVER_CAP_SET, number + b"\x02")[:2] == OK
    owner.reset()
    assert owner.capability.taken == b"\0\0"


def test_an_owner_without_capabilities_does_not_have_their_commands() -> None:
    owner = Administrator([SelfGroup()])
    answer = owner.execute(struct.pack("<HH12xQ", OP.LIST_QUERY, 0, 0), 64)
    assert int.from_bytes(answer[8:], "little") == 0b11


def test_a_type_of_group_is_there_once() -> None:
    with pytest.raises(ConfigurationError):
        Administrator([SelfGroup(), SelfGroup()])


@given(st.binary(max_size=200), st.integers(0, 100), st.booleans())
def test_whatever_comes_is_answered(readable: bytes, room: int, everything: bool) -> None:
    owner = Owner()
    if everything:
        owner.use(range(2, 10))
    assert len(owner.execute(readable, room)) >= min(room, 8)


class Served(Device):
    """An entropy device that owns a group."""

    spec = entropy

    def on_requests(self, chain: Chain) -> None:
        chain.write(b"\1" * len(chain.writable))


def test_a_device_has_an_administration_virtqueue() -> None:
    owner = Owner()
    device = Served(administration=owner)
    assert device.offered_features & core.F.ADMIN_VQ
    assert device.admin_queues == range(1, 2)
    assert [queue.name for queue in device.queues] == ["requestq", "adminq"]
    with Rig(device) as rig:
        query = struct.pack("<HH12xQ", OP.LIST_QUERY, 0, 0)
        assert rig.ask(1, [query], [64]) == owner.execute(query, 64)
        assert rig.ask(1, [], [8]) == bytes(8)
        rig.ask(1, [struct.pack("<HH12xQQ", OP.LIST_USE, 7, 0, 1)], [8])
        assert owner.members.used == {0}
        device.set_status(0)
        assert owner.members.used == {0, 1}, "a reset forgets what the driver uses"


def test_without_an_owner_there_is_no_such_queue() -> None:
    device = Served()
    assert not device.offered_features & core.F.ADMIN_VQ
    assert len(device.admin_queues) == 0
    masked = Served(administration=Owner(), mask="ADMIN_VQ")
    assert len(masked.queues) == 1
    with pytest.raises(ConfigurationError, match="administration"):
        Served(features=core.F.ADMIN_VQ)
