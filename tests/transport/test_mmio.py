"""The registers of virtio over MMIO (VIRTIO 1.4, 4.2), poked as a driver may and as it must not."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transport.contract import BASIC, READY, Mirror
from tests.transport.pci.rig import logged

import virtio
from virtio._native import Memory
from virtio.device.base import Device
from virtio.errors import ConfigurationError, TransportError
from virtio.memory.shared import SharedMemory
from virtio.queue import Chain
from virtio.queue.model.ring import SplitLayout
from virtio.queue.model.split import SplitDriver
from virtio.spec import block, core, fs, mmio
from virtio.transport.mmio import MmioDriverEnd, MmioLegacyRegisters, MmioRegisters, SharedMemoryRegion

S = core.STATUS
REG = {row.name: row.offset for row in (*mmio.REGISTERS, *mmio.LEGACY_REGISTERS)}
USED, CHANGED = 1, 2
SECONDS = 10.0


class Board:
    """A device on a bus, with memory and an interrupt line."""

    def __init__(self, registers: type[MmioRegisters] = MmioRegisters, **options: Any) -> None:
        self.device = Mirror()
        self.levels: list[bool] = []
        self.registers = registers(self.device, self.levels.append, **options)
        self.shared = SharedMemory(1 << 20)
        self.memory = Memory()
        for region in self.shared.regions:
            self.memory.add(region.guest_address, region.size, region.fd)
        self.registers.attach(self.memory)
        self.piece = self.shared.allocate(1 << 16, 4096)

    def get(self, name: str) -> int:
        return int.from_bytes(self.registers.read(REG[name], 4), "little")

    def set(self, name: str, value: int) -> None:
        self.registers.write(REG[name], value.to_bytes(4, "little"))

    def elsewhere(self, name: str) -> None:
        self.set("QueueSel", 7)
        self.set(name, 1)

    @property
    def ignored(self) -> dict[str, int]:
        return dict(self.registers.ignored)

    def negotiate(self, features: int = BASIC) -> None:
        self.set("Status", 0)
        self.set("Status", S.ACKNOWLEDGE)
        self.set("Status", S.ACKNOWLEDGE | S.DRIVER)
        for word in range(4):
            self.set("DriverFeaturesSel", word)
            self.set("DriverFeatures", features >> 32 * word & 0xFFFF_FFFF)
        self.set("Status", READY)

    def ring(self, layout: SplitLayout | None = None, size: int = 16) -> SplitDriver:
        start, stop = self.piece.address, self.piece.address + self.piece.size
        return SplitDriver(
            self.piece.view, start, size, core.F.EVENT_IDX, layout=layout, start=start, end=stop
        )

    def place(self, index: int = 0, size: int = 16, **addresses: int) -> None:
        self.set("QueueSel", index)
        self.set("QueueSize", size)
        for name, register in (("descriptors", "Desc"), ("available", "Driver"), ("used", "Device")):
            self.set(f"Queue{register}Low", addresses[name] & 0xFFFF_FFFF)
            self.set(f"Queue{register}High", addresses[name] >> 32)

    def close(self) -> None:
        self.registers.detach()
        self.memory.clear()
        self.piece.free()
        self.piece.view.release()
        self.shared.close()


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.close()


def running(board: Board) -> SplitDriver:
    """Bring queue 0 up."""
    board.negotiate()
    ring = board.ring()
    board.place(**ring.addresses)
    board.set("QueueReady", 1)
    board.set("Status", READY | S.DRIVER_OK)
    assert board.get("QueueReady") == 1
    return ring


def addresses(ring: SplitDriver) -> dict[str, int]:
    return {
        "descriptors": ring.layout.descriptors,
        "available": ring.layout.available,
        "used": ring.layout.used,
    }


def mirror(board: Board, ring: SplitDriver, data: bytes = b"hello") -> None:
    """Send a buffer there and back, with the interrupt that tells of it."""
    ring.enable_interrupts()
    head = ring.add([data], [len(data)])
    ring.publish()
    board.set("QueueNotify", 0)
    deadline = time.monotonic() + SECONDS
    while not board.get("InterruptStatus") & USED:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert [entry.head for entry in ring.poll_used()] == [head]
    assert ring.data(head) == data[::-1]
    board.set("InterruptACK", USED)
    assert not board.get("InterruptStatus") & USED


def test_the_registers_say_who_is_there(board: Board) -> None:
    assert board.get("MagicValue").to_bytes(4, "little") == b"virt"
    assert board.get("Version") == 2
    assert board.get("DeviceID") == 2
    assert board.get("VendorID") == 0x1AF4
    features = 0
    for word in range(6):
        board.set("DeviceFeaturesSel", word)
        features |= board.get("DeviceFeatures") << 32 * word
    assert features == board.device.offered_features
    assert not board.ignored


def test_a_buffer_takes_an_interrupt(board: Board) -> None:
    ring = running(board)
    for _ in range(20):
        mirror(board, ring)
    assert board.levels == [True, False] * 20
    assert not board.ignored


def test_events_stay_until_they_are_acknowledged(board: Board) -> None:
    ring = running(board)
    board.device.config["capacity"] = 9
    assert board.get("InterruptStatus") == CHANGED
    mirror(board, ring)
    board.set("InterruptACK", USED)
    assert board.get("InterruptStatus") == CHANGED
    assert board.levels == [True], "a level: it stays up while there is a reason"
    board.set("InterruptACK", CHANGED)
    assert board.levels == [True, False]


def test_a_reset_clears_interrupts_and_queues(board: Board) -> None:
    running(board)
    board.device.config["capacity"] = 9
    board.set("Status", 0)
    assert board.get("Status") == 0
    assert board.get("InterruptStatus") == 0
    assert board.get("QueueReady") == 0
    assert board.levels[-1] is False
    assert not board.device.queues[0].running


def test_a_queue_goes_on_unless_it_was_set_up_anew(board: Board) -> None:
    ring = running(board)
    mirror(board, ring, b"one")
    board.set("QueueReady", 0)
    assert board.get("QueueReady") == 0
    assert not board.device.queues[0].running
    board.set("QueueReady", 1)
    mirror(board, ring, b"two")
    board.set("QueueReady", 0)
    again = board.ring(size=32)
    board.place(size=32, **again.addresses)
    board.set("QueueReady", 1)
    mirror(board, again, b"anew")


def test_a_queue_is_reset_by_its_register(board: Board) -> None:
    board.negotiate(BASIC | core.F.RING_RESET)
    ring = board.ring()
    board.place(**ring.addresses)
    board.set("QueueReady", 1)
    board.set("Status", READY | S.DRIVER_OK)
    mirror(board, ring)
    board.set("QueueReset", 1)
    assert board.get("QueueReset") == board.get("QueueReady") == 0
    again = board.ring(size=64)
    board.place(size=64, **again.addresses)
    board.set("QueueReady", 1)
    mirror(board, again)
    assert not board.ignored


def test_shared_memory_regions_are_told() -> None:
    region = SharedMemoryRegion(0x1_2345_6000, 0x2_0000_1000)
    board = Board(shared_memory={fs.DEVICE.shared_memory[0].id: region})
    try:
        for number, expected in ((0, region), (1, None), (200, None)):
            board.set("SHMSel", number)
            size = board.get("SHMLenLow") | board.get("SHMLenHigh") << 32
            base = board.get("SHMBaseLow") | board.get("SHMBaseHigh") << 32
            assert (base, size) == (expected or (2**64 - 1, 2**64 - 1))
    finally:
        board.close()


# --- what a driver must not do: each with the clause that is counted

RULES = "4.2.2.2"
FORBIDDEN: dict[str, tuple[Callable[[Board], object], str]] = {
    "a byte of a control register": (lambda b: b.registers.read(0, 1), RULES),
    "a halfword": (lambda b: b.registers.read(2, 2), RULES),
    "a doubleword": (lambda b: b.registers.write(0x80, bytes(8)), RULES),
    "not aligned": (lambda b: b.registers.read(0x71, 4), RULES),
    "nothing at all": (lambda b: b.registers.write(0x70, b""), RULES),
    "writing a read-only register": (lambda b: b.set("MagicValue", 1), RULES),
    "reading a write-only register": (lambda b: b.get("QueueSel"), RULES),
    "no register": (lambda b: b.registers.read(0x0C, 4) and b.registers.read(0x18, 4), RULES),
    "a legacy register": (lambda b: b.set("QueuePFN", 1), RULES),
    "unknown interrupts": (lambda b: b.set("InterruptACK", 4), RULES),
    "changing a queue that is ready": (lambda b: b.set("QueueSize", 8), RULES),
    "moving a queue that is ready": (lambda b: b.set("QueueDescHigh", 8), RULES),
    "a queue that is not there": (lambda b: b.elsewhere("QueueReady"), RULES),
    "setting up one that is not there": (lambda b: b.elsewhere("QueueSize"), RULES),
    "a reset without the feature": (lambda b: b.set("QueueReset", 1), RULES),
    "notifying a queue that is not there": (lambda b: b.set("QueueNotify", 70000), "4.2.3.3"),
    "notifying one that is not ready": (lambda b: b.set("QueueNotify", 1), "4.2.3.3"),
    "features after FEATURES_OK": (lambda b: b.set("DriverFeatures", 0), "3.1.1"),
    "taking a status bit back": (lambda b: b.set("Status", S.ACKNOWLEDGE), "2.1.1"),
    "an unknown status bit": (lambda b: b.set("Status", READY | S.DRIVER_OK | 0x20), "2.1"),
    "writing a field that is the device's": (lambda b: b.registers.write(0x100, bytes(4)), "5.2.4"),
    "three bytes of configuration": (lambda b: b.registers.read(0x100, 3), RULES),
    "eight bytes of configuration": (lambda b: b.registers.write(0x100, bytes(8)), RULES),
    "configuration across fields": (lambda b: b.registers.read(0x102, 4), RULES),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_is_ignored_and_counted(board: Board, name: str) -> None:
    ring = running(board)
    act, clause = FORBIDDEN[name]
    with logged() as lines:
        act(board)
    assert set(board.ignored) == {clause}
    assert lines
    assert all(line.endswith(f"(VIRTIO 1.4, {clause})") for line in lines)
    assert board.get("Status") == READY | S.DRIVER_OK
    board.set("QueueSel", 0)
    mirror(board, ring)


BAD_QUEUES: dict[str, tuple[dict[str, int], str]] = {
    "no entries": ({"size": 0}, "2.7"),
    "not a power of 2": ({"size": 12}, "2.7"),
    "more than there are": ({"size": 2048}, "2.7"),
    "far more": ({"size": 0xFFFF_FFFF}, "2.7"),
    "descriptors not aligned": ({"descriptors": 8}, "2.7"),
    "driver area not aligned": ({"available": 1}, "2.7"),
    "device area not aligned": ({"used": 2}, "2.7"),
}


@pytest.mark.parametrize("name", BAD_QUEUES)
def test_a_queue_that_cannot_be_is_not_enabled(board: Board, name: str) -> None:
    board.negotiate()
    ring = board.ring()
    change, clause = dict(BAD_QUEUES[name][0]), BAD_QUEUES[name][1]
    size = change.pop("size", 16)
    board.place(size=size, **(addresses(ring) | change))
    board.set("QueueReady", 1)
    assert board.get("QueueReady") == 0
    assert set(board.ignored) == {clause}
    board.place(**ring.addresses)
    board.set("QueueReady", 1)
    assert board.get("QueueReady") == 1
    board.set("Status", READY | S.DRIVER_OK)
    mirror(board, ring)


@pytest.mark.parametrize("address", [0, 0xFFFF_FFFF_FFFF_F000, 0x10_0000_0000, 0xDEAD_0000])
def test_a_queue_outside_of_memory_costs_the_device_only(board: Board, address: int) -> None:
    board.negotiate()
    board.place(descriptors=address, available=address, used=address)
    board.set("QueueReady", 1)
    board.set("Status", READY | S.DRIVER_OK)
    board.set("QueueNotify", 0)
    mirror(board, running(board))


def test_a_queue_is_not_enabled_before_features_are(board: Board) -> None:
    board.set("Status", S.ACKNOWLEDGE | S.DRIVER)
    board.place(**board.ring().addresses)
    board.set("QueueReady", 1)
    assert board.get("QueueReady") == 0
    assert board.ignored == {"3.1.1": 1}


@pytest.mark.parametrize(
    "bits", [BASIC | block.F.ZONED, BASIC & ~core.F.VERSION_1, (1 << 128) - 1, BASIC | 1 << 130]
)
def test_features_that_cannot_be_leave_features_ok_clear(board: Board, bits: int) -> None:
    board.negotiate(bits & (1 << 128) - 1)
    if bits >> 128:
        board.set("Status", 0)
        board.set("DriverFeaturesSel", 4)
        board.set("DriverFeatures", bits >> 128)
        board.set("Status", READY)
    assert not board.get("Status") & S.FEATURES_OK
    mirror(board, running(board))


def test_every_access_at_every_offset_is_survived(board: Board) -> None:
    running(board)
    for offset in range(0x100 + board.device.config_size + 16):
        for size in (0, 1, 2, 3, 4, 8, 16):
            assert len(board.registers.read(offset, size)) == size
            for data in (bytes(size), b"\xff" * size, b"\x01".ljust(size, b"\0")[:size]):
                board.registers.write(offset, data)
    mirror(board, running(board))


offsets = st.one_of(st.sampled_from(sorted(REG.values())), st.integers(0, 0x180))
values = st.one_of(st.integers(0, 20), st.just(0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(offsets, values), max_size=60))
def test_no_sequence_of_accesses_breaks_the_device(steps: list[tuple[int, int]]) -> None:
    board = Board()
    try:
        board.negotiate()
        for offset, value in steps:
            board.registers.write(offset, value.to_bytes(4, "little"))
            board.registers.read(offset, 4)
        mirror(board, running(board))
    finally:
        board.close()


# --- version 1


@pytest.fixture
def legacy() -> Iterator[Board]:
    made = Board(MmioLegacyRegisters)
    yield made
    made.close()


def legacy_queue(board: Board) -> SplitDriver:
    board.set("GuestPageSize", 4096)
    board.set("QueueSel", 0)
    assert board.get("QueuePFN") == 0
    assert board.get("QueueSizeMax") >= 16
    start = board.piece.address
    ring = board.ring(SplitLayout(16, start, start + 256, start + 4096))
    board.set("QueueSize", 16)
    board.set("QueueAlign", 4096)
    board.set("QueuePFN", start // 4096)
    assert board.get("QueuePFN") == start // 4096
    return ring


def test_a_legacy_driver_is_served(legacy: Board) -> None:
    assert legacy.get("Version") == 1
    legacy.set("DeviceFeaturesSel", 0)
    offered = legacy.get("DeviceFeatures")
    assert offered & core.F.ANY_LAYOUT
    assert offered & core.F.EVENT_IDX
    legacy.set("DeviceFeaturesSel", 1)
    assert legacy.get("DeviceFeatures") == 0
    legacy.set("Status", S.ACKNOWLEDGE)
    legacy.set("Status", S.ACKNOWLEDGE | S.DRIVER)
    legacy.set("DriverFeaturesSel", 0)
    legacy.set("DriverFeatures", core.F.EVENT_IDX | core.F.ANY_LAYOUT)
    ring = legacy_queue(legacy)
    legacy.set("Status", S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK)
    assert legacy.get("Status") == S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK
    assert legacy.device.negotiated_features == core.F.EVENT_IDX | core.F.VERSION_1
    mirror(legacy, ring)
    legacy.set("QueuePFN", 0)
    assert legacy.get("QueuePFN") == 0
    assert not legacy.device.queues[0].running
    assert not legacy.ignored


def test_a_legacy_driver_may_begin_before_driver_ok(legacy: Board) -> None:
    legacy.set("Status", S.ACKNOWLEDGE | S.DRIVER)
    legacy.set("DriverFeatures", core.F.EVENT_IDX)
    mirror(legacy, legacy_queue(legacy))
    legacy.set("Status", 0)
    assert legacy.get("QueuePFN") == 0


@pytest.mark.parametrize(
    ("register", "value"), [("GuestPageSize", 0), ("GuestPageSize", 1000), ("QueueAlign", 3), ("QueuePFN", 5)]
)
def test_a_legacy_queue_that_cannot_be_is_not_taken(legacy: Board, register: str, value: int) -> None:
    legacy.set(register, value)
    assert legacy.ignored == {"4.2.4": 1}
    assert legacy.get("QueuePFN") == 0


def test_the_legacy_interface_is_there_for_few_types() -> None:
    class Filesystem(Device):
        spec = fs

        def on_hiprio(self, chain: Chain) -> None: ...

        def on_notification(self, chain: Chain) -> None: ...

        def on_requests(self, chain: Chain) -> None: ...

    with pytest.raises(ConfigurationError, match="block, console, entropy"):
        MmioLegacyRegisters(Filesystem(), bool)


# --- the driver's end


def test_a_disk_behind_registers() -> None:
    with (
        contextlib.closing(virtio.BlockDevice(size=1 << 20)) as device,
        virtio.start(device, "mmio:disk"),
        virtio.connect("mmio:disk") as disk,
    ):
        assert disk.capacity == 1 << 20
        data = os.urandom(8192)
        disk.write(8, data)
        disk.flush()
        assert disk.read(8, 16) == data


class Bus:
    """Registers that answer as they please."""

    address = "mmio:rogue"
    size = 0x200

    def __init__(self, **answers: int) -> None:
        self.answers = {"MagicValue": mmio.MAGIC, "Version": 2, "DeviceID": 2} | answers
        self.memory = SharedMemory(1 << 20)
        self.interrupt_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.closed = False

    def read(self, offset: int, size: int) -> int:
        names = {row.offset: row.name for row in mmio.REGISTERS}
        return self.answers.get(names.get(offset, ""), 0)

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def on_loss(self, callback: object) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.interrupt_fd)
            self.memory.close()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"MagicValue": 0}, "magic value"),
        ({"Version": 1}, "version 1"),
        ({"Version": 3}, "version 3"),
        ({"DeviceID": 0}, "placeholder"),
    ],
)
def test_registers_of_something_else_are_left_alone(answers: dict[str, int], said: str) -> None:
    bus = Bus(**answers)
    with contextlib.closing(bus), pytest.raises(TransportError, match=said):
        MmioDriverEnd(bus)


def test_a_device_that_does_not_come_out_of_reset_is_given_up() -> None:
    with MmioDriverEnd(Bus(Status=0xFF), timeout=0.1) as end:
        with pytest.raises(TransportError, match=r"did not reset within 0\.1 s"):
            end.reset()
        with pytest.raises(TransportError):
            _ = end.status


def test_a_queue_that_stays_disabled_is_an_error() -> None:
    with MmioDriverEnd(Bus(Status=READY, QueueSizeMax=16), timeout=0.1) as end:
        for size, error in ((32, ConfigurationError), (16, TransportError)):
            with pytest.raises(error):
                end.start_queue(0, size=size, descriptors=0, available=0, used=0)
