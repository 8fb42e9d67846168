"""A physical function, its virtual functions, and the commands that administer them (VIRTIO 1.4, 2.12)."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import virtio
from virtio.driver.admin import SELF, SR_IOV, AdminError, AdminGroup
from virtio.driver.block import BlockDriver
from virtio.memory.shared import SharedMemory
from virtio.queue.model.ring import SplitLayout
from virtio.queue.model.split import SplitDriver
from virtio.spec import admin, block, core, pci, pci_bus
from virtio.spec.admin_data import Part
from virtio.transport.pci import (
    InterruptIndex,
    PciFunction,
    RegionIndex,
    VirtualFunctions,
    open_driver_end,
    start,
)
from virtio.transport.pci.parts import ORDER

STATUS, Q, OP = admin.STATUS, admin.QUALIFIER, admin.OPCODE
PARTS, GET, SET = admin.RESOURCE_OBJ.DEV_PARTS, admin.PARTS_OBJ_TYPE.GET, admin.PARTS_OBJ_TYPE.SET
GETTER, SETTER = b"\0" * 8, b"\1" + b"\0" * 7
COUNT = 4
LEGACY = pci.LEGACY_CFG


class Card:
    """A card with a disk of its own and four virtual functions with one each."""

    def __init__(
        self, stack: contextlib.ExitStack, image: str | None = None, *, legacy: bool = False
    ) -> None:
        self.disks = [
            virtio.BlockDevice(image, size=1 << 20, name=f"vf{number}") for number in range(1, COUNT + 1)
        ]
        self.virtual = VirtualFunctions(self.disks, legacy=legacy)
        self.owner = virtio.BlockDevice(size=1 << 20, name="pf", administration=self.virtual.administrator())
        self.function = PciFunction(self.owner, virtual_functions=self.virtual)
        stack.enter_context(start(self.function, "pf"))
        for number, function in enumerate(self.virtual.functions, 1):
            stack.enter_context(start(function, f"vf{number}"))
        for device in (self.owner, *self.disks):
            stack.callback(device.close)
        self.driver: BlockDriver = stack.enter_context(virtio.connect("pci:pf"))
        self._stack = stack

    def group(self) -> AdminGroup:
        assert self.driver.administration is not None
        own = self.driver.administration.group(SELF)
        own.take_capability(admin.CAPABILITY.CAP, own.capability(admin.CAPABILITY.CAP))
        return self.driver.administration.group(SR_IOV)

    def disk(self, number: int, mask: str = "") -> BlockDriver:
        found: BlockDriver = self._stack.enter_context(virtio.connect(f"pci:vf{number}", mask=mask))
        return found

    def sriov(self, name: str) -> int:
        """Where a field of the SR-IOV capability is."""
        at = pci_bus.EXTENDED_CAP_START
        while True:
            header = int.from_bytes(self.function.read(RegionIndex.CONFIG, at, 4), "little")
            if header & 0xFFFF == pci_bus.EXTENDED_CAP_ID.SR_IOV:
                return at + pci_bus.SRIOV_CAP.offset(name)
            at = header >> 20
            assert at, "there is no SR-IOV capability"

    def get(self, name: str) -> int:
        return int.from_bytes(self.function.read(RegionIndex.CONFIG, self.sriov(name), 2), "little")

    def set(self, name: str, value: int) -> None:
        self.function.write(RegionIndex.CONFIG, self.sriov(name), value.to_bytes(2, "little"))


@pytest.fixture
def card() -> Iterator[Card]:
    with contextlib.ExitStack() as stack:
        made = Card(stack)
        yield made
    # pytest holds the card a while longer, and errors hold frames: descriptors would stay open with them.
    vars(made).clear()
    gc.collect()


def test_the_functions_all_work(card: Card) -> None:
    disks = [card.disk(number) for number in range(1, COUNT + 1)]
    data = [os.urandom(4096) for _ in range(COUNT + 1)]
    for disk, mine in zip([card.driver, *disks], data, strict=True):
        disk.write(8, mine)
    for disk, mine in zip([card.driver, *disks], data, strict=True):
        assert disk.read(8, 8) == mine


def test_the_capability_tells_how_many_there_are(card: Card) -> None:
    assert card.get("total_vfs") == card.get("initial_vfs") == card.get("num_vfs") == COUNT
    assert card.get("vf_device_id") == 0x1042
    assert card.get("control") & pci_bus.SRIOV_VF_ENABLE
    end = open_driver_end("vf1")
    with end:
        assert not end.device_features & core.F.SR_IOV
    assert card.driver.end.device_features & core.F.SR_IOV


def test_the_group_is_there_when_they_are_enabled(card: Card) -> None:
    group = card.group()
    card.set("control", 0)
    with pytest.raises(AdminError) as caught:
        group.stop(1)
    assert caught.value.qualifier == Q.INVALID_GROUP
    card.set("num_vfs", 2)
    card.set("control", pci_bus.SRIOV_VF_ENABLE)
    group.stop(2)
    for member in (0, 3, 5):
        with pytest.raises(AdminError) as caught:
            group.stop(member)
        assert caught.value.qualifier == Q.INVALID_MEMBER


def test_a_stopped_member_goes_on_where_it_was(card: Card) -> None:
    group, disk = card.group(), card.disk(2)
    data = os.urandom(512)
    disk.write(0, data)
    group.stop(2)
    group.stop(2)  # again: completes
    with pytest.raises(TimeoutError):
        disk.read(0, 1, timeout=0.2)
    card.disk(1).write(0, data)  # the others do not notice
    group.resume(2)
    group.resume(2)
    assert disk.read(0, 1) == data


def test_objects_are_as_many_as_the_driver_said(card: Card) -> None:
    group = card.group()
    assert card.driver.administration is not None
    own = card.driver.administration.group(SELF)
    own.take_capability(admin.CAPABILITY.CAP, b"\2\1")
    group.create(PARTS, 0, GETTER, member=1)
    group.create(PARTS, 1, GETTER, member=1)
    assert group.query(PARTS, 0, member=1) == GETTER
    for number, value, status in ((0, SETTER, 17), (2, GETTER, STATUS.ENOSPC), (1, SETTER, STATUS.ENOSPC)):
        with pytest.raises(AdminError) as caught:
            group.create(PARTS, number, value, member=1)
        assert caught.value.status == status
    with pytest.raises(AdminError) as caught:
        own.take_capability(admin.CAPABILITY.CAP, b"\1\1")
    assert caught.value.status == STATUS.EBUSY
    group.destroy(PARTS, 1, member=1)
    with pytest.raises(AdminError) as caught:
        group.destroy(PARTS, 1, member=1)
    assert caught.value.status == STATUS.ENXIO
    group.create(PARTS, 1, GETTER, member=1)
    with pytest.raises(AdminError):
        group.create(PARTS, 0, b"\2" + bytes(7), member=2)
    with pytest.raises(AdminError):
        group.create(5, 0, GETTER, member=2)


def test_the_parts_of_a_member_are_listed_in_order(card: Card) -> None:
    group = card.group()
    disk = card.disk(3)
    disk.write(0, bytes(512))
    group.create(PARTS, 0, GETTER, member=3)
    group.stop(3)
    parts = group.get_parts(0, member=3)
    kinds = [ORDER.index(part.kind) for part in parts]
    assert kinds == sorted(kinds)
    assert group.parts_size(0, member=3) == sum(len(part.pack()) for part in parts)
    headers = group.part_headers(0, member=3)
    assert [(part.kind, part.selector, len(part.value)) for part in headers] == [
        (part.kind, part.selector, len(part.value)) for part in parts
    ]
    assert parts[0].optional
    features = next(part for part in parts if part.kind == admin.PART_TYPE.DRV_FEATURES)
    assert int.from_bytes(features.value, "little") == disk.features
    queue = next(part for part in parts if part.kind == admin.PART_TYPE.VQ_CFG)
    values = admin.PART_VQ_CFG.unpack(queue.value)
    assert (values.queue_size, values.enabled) == (disk.queues[0].size, 1)
    assert values.queue_desc == disk.queues[0].address
    chosen = group.get_parts(0, member=3, selected=[queue, features, Part(0x3FF, b"")])
    assert chosen == [features, queue], "in the standard's order, without what is not there"
    assert group.get_parts(0, member=3) == parts, "and again"
    with pytest.raises(AdminError) as caught:
        group.execute(
            OP.DEV_PARTS_GET,
            admin.PARTS_GET.pack(hdr={"type": PARTS, "id": 0}, type=admin.PARTS_GET_TYPE.ALL),
            member=3,
            room=64,
        )
    assert caught.value.status == STATUS.ENOMEM


@pytest.mark.parametrize("mask", ["RING_PACKED", ""], ids=["split", "packed"])
def test_the_state_of_one_member_is_set_on_another(tmp_path: Path, mask: str) -> None:
    """Two functions with one disk: requests that wait for the first one are answered by the second."""
    image = tmp_path / "shared.img"
    image.write_bytes(bytes(1 << 20))
    with contextlib.ExitStack() as stack:
        card = Card(stack, str(image))
        group, disk = card.group(), card.disk(1, mask=mask)
        data = os.urandom(20 * 4096)
        disk.write(0, data)
        for member, value in ((1, GETTER), (2, SETTER)):
            group.create(PARTS, 0, value, member=member)
            group.stop(member)
        into = disk.allocate(len(data))
        waiting = disk.submit_read(0, into)
        parts = group.get_parts(0, member=1)
        second, device = card.virtual.functions[1], card.disks[1]
        second.attach()
        stack.callback(second.detach)
        take_the_place(second, disk)
        group.set_parts(0, parts, member=2)
        group.set_parts(0, parts, member=2)  # again: the same
        assert device.negotiated_features == 0, "parts take effect when the member is resumed"
        group.resume(2)
        # RING_RESET is the function's own affair.
        assert device.negotiated_features == disk.features & ~core.F.RING_RESET
        assert device.status == card.disks[0].status
        waiting.wait()
        assert bytes(into) == data
        counters = device.queues[0].counters
        assert counters is not None
        assert counters.chains == 1


def take_the_place(function: PciFunction, disk: BlockDriver) -> None:
    """Do for a function what a hypervisor does besides: memory, bus mastering, MSI-X."""
    shared = disk.end.memory
    assert isinstance(shared, SharedMemory)
    for region in shared.regions:
        function.memory.add(region.guest_address, region.size, region.fd)
    function.write(RegionIndex.CONFIG, 4, b"\x06\0")
    function.set_interrupts(InterruptIndex.MSIX, 0, [None, disk.queues[0].wire.call_fd])
    at = function.read(RegionIndex.CONFIG, 0x34, 1)[0]
    while function.read(RegionIndex.CONFIG, at, 1)[0] != pci_bus.CAP_ID.MSIX:
        at = function.read(RegionIndex.CONFIG, at + 1, 1)[0]
    function.write(RegionIndex.CONFIG, at + 2, pci_bus.MSIX_ENABLE.to_bytes(2, "little"))
    function.dma_changed()


Change = Callable[[list[Part]], list[Part]]
BAD_PARTS: dict[str, Change] = {
    "a part that is not there": lambda parts: [Part(0x3FF, b"")],
    "out of order": lambda parts: parts[::-1],
    "a length of its own": lambda parts: [parts[0], parts[1]._replace(value=bytes(8)), *parts[2:]],
    "other features offered": lambda parts: [parts[0]._replace(value=bytes(16)), *parts[1:]],
    "a queue that is not there": lambda parts: [Part(admin.PART_TYPE.VQ_CFG, bytes(32), b"\7" + bytes(7))],
    "a field that is none": lambda parts: [Part(admin.PART_TYPE.PCI_COMMON_CFG, b"\0", b"\3" + bytes(7))],
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_parts_that_cannot_be_change_nothing(card: Card, name: str) -> None:
    group, disk = card.group(), card.disk(1)
    group.create(PARTS, 0, GETTER, member=1)
    group.create(PARTS, 1, SETTER, member=1)
    group.stop(1)
    before = group.get_parts(0, member=1)
    with pytest.raises(AdminError) as caught:
        group.set_parts(1, BAD_PARTS[name](before), member=1)
    assert caught.value.qualifier == Q.INVALID_FIELD
    assert group.get_parts(0, member=1) == before
    group.resume(1)
    disk.write(0, bytes(512))


def test_parts_are_set_on_a_stopped_member_only(card: Card) -> None:
    group = card.group()
    group.create(PARTS, 0, GETTER, member=1)
    group.create(PARTS, 1, SETTER, member=1)
    parts = group.get_parts(0, member=1)
    for number, member in ((1, 1), (0, 1), (1, 2)):
        with pytest.raises(AdminError):
            group.set_parts(number, parts, member=member)
    group.stop(1)
    with pytest.raises(AdminError):
        group.set_parts(0, parts, member=1)  # that one is for getting


def test_unknown_parts_may_be_optional(card: Card) -> None:
    group, disk = card.group(), card.disk(1)
    group.create(PARTS, 0, SETTER, member=1)
    group.stop(1)
    group.set_parts(0, [Part(0x3FF, b"what", optional=True)], member=1)
    group.resume(1)
    disk.write(0, bytes(512))


def test_parts_need_somebody_who_has_opened_the_function(card: Card) -> None:
    group = card.group()
    group.create(PARTS, 0, SETTER, member=1)
    group.stop(1)
    group.set_parts(0, [], member=1)
    with pytest.raises(AdminError):
        group.resume(1)
    group.resume(1)  # without them


def test_a_reset_of_the_owner_frees_its_members(card: Card) -> None:
    group, disk = card.group(), card.disk(1)
    group.create(PARTS, 0, GETTER, member=1)
    group.stop(1)
    card.driver.close()
    disk.write(0, bytes(512))
    assert card.virtual.capability.taken == b"\0\0"


# --- the legacy interface of a member (2.12.1.1)


def test_a_legacy_driver_reaches_a_member_by_commands() -> None:
    with contextlib.ExitStack() as stack:
        card = Card(stack, legacy=True)
        group = card.group()
        function, device = card.virtual.functions[0], card.disks[0]
        shared = SharedMemory(1 << 20)
        stack.callback(shared.close)
        for region in shared.regions:
            function.memory.add(region.guest_address, region.size, region.fd)
        function.attach()
        stack.callback(function.detach)
        function.write(RegionIndex.CONFIG, 4, b"\x06\0")
        piece = shared.allocate(1 << 16, 4096)
        features = group.legacy_read(LEGACY.offset("device_features"), 4, member=1)
        assert int.from_bytes(features, "little") & core.F.ANY_LAYOUT
        assert group.legacy_read(0, 8, member=1, device=True) == (2048).to_bytes(8, "little")
        group.legacy_write(LEGACY.offset("device_status"), b"\x03", member=1)
        group.legacy_write(LEGACY.offset("driver_features"), bytes(4), member=1)
        group.legacy_write(LEGACY.offset("queue_select"), bytes(2), member=1)
        size = int.from_bytes(group.legacy_read(LEGACY.offset("queue_size"), 2, member=1), "little")
        page = piece.address // 4096
        group.legacy_write(LEGACY.offset("queue_address"), page.to_bytes(4, "little"), member=1)
        group.legacy_write(LEGACY.offset("device_status"), b"\x07", member=1)
        assert device.queues[0].running
        start, used = piece.address, piece.address + -(-(18 * size + 6) // 4096) * 4096
        layout = SplitLayout(size, start, start + 16 * size, used)
        ring = SplitDriver(
            piece.view, start, size, 0, layout=layout, start=start, end=piece.address + piece.size
        )
        header = block.HEADER.pack(type=block.T.IN, sector=0)
        head = ring.add([header], [512, 1])
        ring.publish()
        group.legacy_write(LEGACY.offset("queue_notify"), bytes(2), member=1)
        deadline = time.monotonic() + 10
        while not (found := ring.poll_used()):
            assert time.monotonic() < deadline
        assert found[0].head == head
        assert ring.data(head)[512] == block.S.OK
        ring.close()
        piece.free()
        piece.view.release()


NO_FIELDS = [(0, 2, 0), (1, 4, 0), (20, 2, 0), (24, 1, 0), (0, 0, 0), (6, 4, 1), (255, 1, 1), (0, 16, 1)]


@pytest.mark.parametrize(("offset", "size", "device"), NO_FIELDS)
def test_what_is_no_field_of_a_legacy_driver_fails(offset: int, size: int, device: int) -> None:
    with contextlib.ExitStack() as stack:
        card = Card(stack, legacy=True)
        group = card.group()
        with pytest.raises(AdminError) as caught:
            group.legacy_read(offset, size, member=1, device=bool(device))
        assert caught.value.qualifier == Q.INVALID_FIELD
        with pytest.raises(AdminError) as caught:
            group.legacy_write(offset, bytes(size), member=1, device=bool(device))
        assert caught.value.qualifier == Q.INVALID_FIELD
    del card, group, caught
    gc.collect()


def test_without_being_asked_for_there_is_no_legacy_interface(card: Card) -> None:
    group = card.group()
    assert OP.LEGACY_COMMON_CFG_READ not in group.commands
