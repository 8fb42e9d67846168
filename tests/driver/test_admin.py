"""Administration commands from the driver's side, to an owner in the same process."""

from collections.abc import Iterator

import pytest
from tests.device.test_admin import CAPABILITY, OP, STATUS, Owner, Q, Served

import virtio
from virtio.device.admin import CommandError
from virtio.driver.admin import SELF, AdminError
from virtio.driver.entropy import EntropyDriver
from virtio.errors import ProtocolError
from virtio.spec import admin
from virtio.spec.admin_data import Part, bits_of, numbers_of, unpack_parts

GROUP = 7


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture(params=["mem:owner", "pci:owner"])
def driver(owner: Owner, request: pytest.FixtureRequest) -> Iterator[EntropyDriver]:
    device = Served(administration=owner)
    with virtio.start(device, request.param), virtio.connect(request.param) as found:
        assert isinstance(found, EntropyDriver)
        yield found


def test_a_driver_says_what_it_uses_and_commands(driver: EntropyDriver, owner: Owner) -> None:
    assert driver.administration is not None
    group = driver.administration.group(GROUP)
    assert group.commands == {OP.LIST_QUERY, OP.LIST_USE, OP.LEGACY_NOTIFY_INFO} == owner.members.used
    assert group.execute(OP.LEGACY_NOTIFY_INFO, b"\5", member=2) == b"\0"
    assert group.execute(OP.LEGACY_NOTIFY_INFO, b"\6", member=2) == b"\5"
    assert driver.read(100) == b"\1" * 100, "the device goes on beside"
    assert [queue.name for queue in driver.queues] == ["requestq", "adminq"]


def test_capabilities(driver: EntropyDriver, owner: Owner) -> None:
    assert driver.administration is not None
    group = driver.administration.group(SELF)
    assert group.capabilities() == {CAPABILITY}
    assert group.capability(CAPABILITY) == b"\x04\x02"
    group.take_capability(CAPABILITY, b"\x03\x01")
    assert owner.capability.taken == b"\x03\x01"


def test_a_refusal_is_an_error_with_both_numbers(driver: EntropyDriver) -> None:
    assert driver.administration is not None
    group = driver.administration.group(GROUP)
    with pytest.raises(AdminError, match=r"LEGACY_NOTIFY_INFO failed: .*EINVAL, .*INVALID_MEMBER") as caught:
        group.execute(OP.LEGACY_NOTIFY_INFO, member=4)
    assert (caught.value.status, caught.value.qualifier) == (STATUS.EINVAL, Q.INVALID_MEMBER)
    with pytest.raises(AdminError):
        driver.administration.group(GROUP + 1)


def test_a_command_is_sent_again_if_the_owner_asks_for_it(driver: EntropyDriver, owner: Owner) -> None:
    """2.13.2: EAGAIN."""
    assert driver.administration is not None
    group = driver.administration.group(GROUP)
    asked = []

    def busy(member: int, data: bytes, room: int) -> bytes:
        asked.append(member)
        if len(asked) < 4 or member == 3:
            raise CommandError("not now", STATUS.EAGAIN)
        return b"done"

    owner.members.add(OP.LEGACY_NOTIFY_INFO, busy)
    assert group.execute(OP.LEGACY_NOTIFY_INFO, member=2) == b"done"
    assert asked == [2, 2, 2, 2]
    with pytest.raises(AdminError, match="EAGAIN"):
        driver.administration.execute(OP.LEGACY_NOTIFY_INFO, group=GROUP, member=3, timeout=2)
    assert group.execute(OP.LEGACY_NOTIFY_INFO, member=1) == b"done"


def test_a_result_may_be_cut_short(driver: EntropyDriver) -> None:
    assert driver.administration is not None
    group = driver.administration.group(SELF)
    whole = group.execute(OP.CAP_ID_LIST_QUERY)
    for room in (0, 1, 8, 100):
        assert group.execute(OP.CAP_ID_LIST_QUERY, room=room) == whole[:room]


def test_a_device_that_owns_nothing_has_no_administration() -> None:
    with virtio.start(Served(), "mem:single"), virtio.connect("mem:single") as driver:
        assert driver.administration is None


def test_numbers_are_bits_of_words() -> None:
    for numbers in ((), (0,), (63,), (64,), (0, 64, 200)):
        packed = bits_of(numbers)
        assert len(packed) == 8 * (max(numbers, default=0) // 64 + 1)
        assert numbers_of(packed) == set(numbers)


def test_parts_stand_one_after_another() -> None:
    parts = [
        Part(admin.PART_TYPE.DRV_FEATURES, bytes(range(16))),
        Part(admin.PART_TYPE.VQ_CFG, b"", b"\1" + bytes(7), optional=True),
        Part(0x300, b"x" * 5),
    ]
    packed = b"".join(part.pack() for part in parts)
    assert unpack_parts(packed) == parts
    assert [part.name for part in parts] == [
        "VIRTIO_DEV_PART_DRV_FEATURES",
        "VIRTIO_DEV_PART_VQ_CFG",
        "0x300",
    ]
    assert unpack_parts(packed + bytes(7)) == parts, "zeros fill a command up"
    for end in (1, 15, 20, len(packed) - 1):
        with pytest.raises(ProtocolError):
            unpack_parts(packed[:end])
