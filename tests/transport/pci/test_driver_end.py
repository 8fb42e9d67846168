"""The driver's end, over functions that say what they should not."""

import contextlib
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from tests.transport.contract import Mirror
from tests.transport.pci.rig import BASIC, CONFIG, FIELDS, READY, S

import virtio
from virtio.device.block import BlockDevice
from virtio.driver.block import BlockDriver
from virtio.errors import Error, ProtocolError, TransportError
from virtio.memory.shared import SharedMemory as DriverMemory
from virtio.spec import core, pci, pci_bus
from virtio.transport import pci as transport
from virtio.transport.pci import Layout, PciDriverEnd, Region
from virtio.transport.pci.capability_walk import walk
from virtio.transport.pci.interrupts import Interrupts
from virtio.transport.pci.local import FunctionServer, LocalBus

CAP = pci.CAP_TYPE


class Liar(LocalBus):
    """A bus whose function answers some accesses otherwise."""

    def __init__(self, server: FunctionServer) -> None:
        super().__init__(server, DriverMemory(1 << 20), 0.2)
        self.patches: dict[tuple[int, int], int] = {}
        """Bytes by region and offset."""
        self.fields: dict[str, Callable[[int], int]] = {}
        self.layout = server.function.layout
        self.shown: Sequence[Region] | None = None

    @property
    def regions(self) -> Sequence[Region]:
        return self.shown or super().regions

    def read(self, region: int, offset: int, size: int) -> bytes:
        data = bytearray(super().read(region, offset, size))
        for index in range(size):
            data[index] = self.patches.get((region, offset + index), data[index])
        for name, change in self.fields.items():
            if (region, offset) == (self.layout.common.bar, self.layout.common.offset + FIELDS[name][0]):
                data[:] = change(int.from_bytes(data, "little")).to_bytes(size, "little")
        return bytes(data)

    def patch(self, offset: int, value: int, size: int) -> None:
        for index, byte in enumerate(value.to_bytes(size, "little")):
            self.patches[CONFIG, offset + index] = byte

    def capability(self, cfg_type: int) -> int:
        at = self.read(CONFIG, 0x34, 1)[0]
        while self.read(CONFIG, at, 1)[0] != 9 or self.read(CONFIG, at + 3, 1)[0] != cfg_type:
            at = self.read(CONFIG, at + 1, 1)[0]
        return at


@pytest.fixture
def liar() -> Iterator[Liar]:
    device = Mirror()
    with transport.start(device, "liar") as server, contextlib.closing(device):
        bus = Liar(server)
        try:
            yield bus
        finally:
            bus.close()


# --- the walk


def test_what_an_honest_function_has(liar: Liar) -> None:
    found = walk(liar)
    assert (found.device_id, found.vectors, found.multiplier) == (2, 3, 4)
    assert found.device is not None
    assert found.device.length == 96


@pytest.mark.parametrize(
    ("cfg_type", "field", "value", "size", "error"),
    [
        (CAP.COMMON_CFG, "cap_next", 0x4C, 1, ProtocolError),  # a loop
        (CAP.COMMON_CFG, "cap_len", 8, 1, ProtocolError),
        (CAP.PCI_CFG, "cap_len", 0xFF, 1, None),
        (CAP.COMMON_CFG, "cfg_type", 77, 1, ProtocolError),  # then there is none
        (CAP.COMMON_CFG, "bar", 6, 1, ProtocolError),  # must be ignored: none again
        (CAP.COMMON_CFG, "bar", 1, 1, ProtocolError),  # an empty BAR
        (CAP.COMMON_CFG, "offset", 0x3FF0, 4, ProtocolError),
        (CAP.COMMON_CFG, "offset", 2, 4, ProtocolError),
        (CAP.COMMON_CFG, "length", 0x20, 4, ProtocolError),
        (CAP.COMMON_CFG, "length", 0xFFFF_FFFF, 4, ProtocolError),
        (CAP.COMMON_CFG, "length", 0x38, 4, None),  # as long as it was in 1.0
        (CAP.NOTIFY_CFG, "offset", 0x3001, 4, ProtocolError),
        (CAP.NOTIFY_CFG, "length", 0, 4, ProtocolError),
        (CAP.NOTIFY_CFG, "bar", 9, 1, ProtocolError),
        (CAP.ISR_CFG, "length", 0, 4, ProtocolError),
        (CAP.ISR_CFG, "cfg_type", 0, 1, ProtocolError),
        (CAP.DEVICE_CFG, "offset", 0x2001, 4, ProtocolError),
        (CAP.DEVICE_CFG, "cfg_type", 0, 1, None),
    ],
)
def test_capabilities_that_lie(
    liar: Liar, cfg_type: int, field: str, value: int, size: int, error: type[Error] | None
) -> None:
    liar.patch(liar.capability(cfg_type) + pci.CAP.offset(field), value, size)
    if error is None:
        walk(liar)
    else:
        with pytest.raises(error):
            walk(liar)


@pytest.mark.parametrize("multiplier", [1, 3, 6, 0xFFFF_FFFF])
def test_multipliers_that_cannot_be(liar: Liar, multiplier: int) -> None:
    liar.patch(liar.capability(CAP.NOTIFY_CFG) + 16, multiplier, 4)
    with pytest.raises(ProtocolError, match=r"4\.1\.4\.4\.1"):
        walk(liar)


@pytest.mark.parametrize(
    "value", [0x0000_0000, 0xFFFF_FFFF, 0x1042_8086, 0x1080_1AF4, 0x0FFF_1AF4, 0x1006_1AF4]
)
def test_other_functions_are_not_driven(liar: Liar, value: int) -> None:
    liar.patch(0, value, 4)
    with pytest.raises(TransportError):
        walk(liar)


def test_a_legacy_device_is_not_driven(liar: Liar) -> None:
    for patch in ((6, 0, 2), (0x34, 0, 1), (0x34, 0xFF, 1)):
        liar.patches.clear()
        liar.patch(*patch)
        with pytest.raises((TransportError, ProtocolError)):
            walk(liar)


def test_any_byte_may_be_wrong(liar: Liar) -> None:
    """Whatever a function says of itself ends in a map or a typed error."""
    for offset in range(0, 256):
        for value in (0, 1, 0x40, 0x7F, 0xFC, 0xFF):
            liar.patches = {(CONFIG, offset): value}
            with contextlib.suppress(Error):
                walk(liar)


# --- the registers


def test_a_function_that_does_not_reset(liar: Liar) -> None:
    liar.fields["device_status"] = lambda _: 1
    with pytest.raises(TransportError, match="did not reset"):
        PciDriverEnd(liar)


def test_a_function_that_is_gone(liar: Liar) -> None:
    end = PciDriverEnd(liar)
    failures: list[Error] = []
    liar.fields["device_status"] = lambda _: 0xFF
    with pytest.raises(TransportError, match="does not answer"):
        end.status  # noqa: B018
    end.on_failure(failures.append)
    with pytest.raises(TransportError):
        end.read_config(0, 8)
    end.close()


def negotiated(bus: Liar, features: int = BASIC) -> PciDriverEnd:
    end = PciDriverEnd(bus)
    end.set_status(S.ACKNOWLEDGE | S.DRIVER)
    end.accept(features)
    end.set_status(READY)
    return end


@pytest.mark.parametrize(
    ("field", "answer", "error"),
    [
        ("queue_enable", lambda value: 0, TransportError),
        ("queue_enable", lambda value: 2, Error),
        ("queue_msix_vector", lambda value: 0xFFFF, TransportError),
        ("queue_notify_off", lambda value: 0xFFFF, ProtocolError),
        ("queue_size", lambda value: 4, Error),
        ("queue_size", lambda value: 0, Error),
    ],
)
def test_registers_that_lie(liar: Liar, field: str, answer: Callable[[int], int], error: type[Error]) -> None:
    end = negotiated(liar)
    piece = end.memory.allocate(1 << 16, 4096)
    liar.fields[field] = answer
    at = piece.address
    with pytest.raises(error):
        end.start_queue(0, size=16, descriptors=at, available=at + 4096, used=at + 8192)
    liar.fields.clear()
    end.reset()
    piece.free()
    end.close()


def test_no_vector_to_be_had(liar: Liar) -> None:
    liar.fields["config_msix_vector"] = lambda _: 0xFFFF
    with pytest.raises(TransportError, match="config_msix_vector"):
        PciDriverEnd(liar)


def test_a_short_structure_has_no_late_features(liar: Liar) -> None:
    liar.patch(liar.capability(CAP.COMMON_CFG) + pci.CAP.offset("length"), 0x38, 4)
    end = PciDriverEnd(liar)
    assert not end.device_features & (core.F.RING_RESET | core.F.NOTIF_CONFIG_DATA | core.F.ADMIN_VQ)
    end.close()


def test_a_huge_number_of_queues(liar: Liar) -> None:
    liar.fields["num_queues"] = lambda _: 0xFFFF
    end = PciDriverEnd(liar)
    assert end.max_queues == 0xFFFF
    assert end.max_queue_size(0xFFFE) == 0
    end.close()


# --- what it does


def test_kicks_go_by_eventfd_or_by_a_write() -> None:
    device = Mirror()
    extra = core.F.NOTIFICATION_DATA | core.F.NOTIF_CONFIG_DATA
    with transport.start(
        device, "kicks", features=extra, notification_value=lambda index: index + 9
    ) as server:
        for features in (BASIC, BASIC | core.F.NOTIF_CONFIG_DATA, BASIC | extra):
            end = transport.open_driver_end("kicks", memory_size=1 << 20)
            end.set_status(S.ACKNOWLEDGE | S.DRIVER)
            end.accept(features)
            end.set_status(READY)
            at = end.memory.allocate(1 << 16, 4096).address
            wire = end.start_queue(1, size=16, descriptors=at, available=at + 4096, used=at + 8192)
            end.set_status(READY | S.DRIVER_OK)
            assert (wire.kick_fd is None) == bool(features & core.F.NOTIFICATION_DATA)
            if wire.kick_fd is None:
                wire.kick(1 << 16)
            else:
                os.eventfd_write(wire.kick_fd, 1)
            assert server.function.ignored == {}
            end.close()
            wire.kick(1 << 16)
    device.close()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
def test_a_disk_is_used(packed: bool, msix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = BlockDevice(size=1 << 20)
    mask = 0 if packed else core.F.RING_PACKED
    looks = []
    read_isr = Interrupts.read_isr

    def look(interrupts: Interrupts) -> int:
        looks.append(read_isr(interrupts))
        return looks[-1]

    monkeypatch.setattr(Interrupts, "read_isr", look)
    with (
        contextlib.closing(disk),
        transport.start(disk, "disk") as server,
        virtio.connect("pci:disk", msix=msix, mask=mask) as driver,
    ):
        assert isinstance(driver, BlockDriver)
        driver.write(0, b"hello".ljust(4096, b"\0"))
        driver.flush()
        assert bytes(driver.read(0, 8))[:5] == b"hello"
        assert bool(driver.features & core.F.RING_PACKED) == packed
        disk.resize(1 << 19)
        deadline = time.monotonic() + 10
        while driver.capacity != 1 << 19:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert server.function.ignored == {}, "the driver keeps to the rules"
        assert bool(looks) != msix, "with MSI-X nobody looks at the ISR status (4.1.4.5.2)"


@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
def test_random_bytes_are_read(msix: bool) -> None:
    with (
        contextlib.closing(virtio.EntropyDevice(os.urandom)) as device,
        transport.start(device, "noise"),
        virtio.connect("pci:noise", msix=msix) as driver,
    ):
        assert len(driver.read(300)) == 300


@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
def test_a_console_is_talked_to(msix: bool) -> None:
    said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with (
        contextlib.closing(virtio.ConsoleDevice(said.put)) as device,
        transport.start(device, "line"),
        virtio.connect("pci:line", msix=msix) as driver,
    ):
        driver.send(b"hello")
        driver.drain(timeout=10)
        assert said.get(timeout=10) == b"hello"


def test_a_layout_with_one_place_for_all_notifications() -> None:
    device = Mirror()
    layout = replace(Layout(), notify_multiplier=0)
    with transport.start(device, "one", layout=layout) as server:
        assert [each.value for each in server.function.notifications] == [0, 1]
        end = transport.open_driver_end("one", memory_size=1 << 20)
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        end.accept(BASIC)
        end.set_status(READY)
        at = end.memory.allocate(1 << 16, 4096).address
        wire = end.start_queue(1, size=16, descriptors=at, available=at + 4096, used=at + 8192)
        wire.kick()
        assert server.function.ignored == {}
        end.close()
    device.close()


@pytest.mark.parametrize("vectors", [1, 2, 3, 2048])
def test_any_number_of_vectors_will_do(vectors: int) -> None:
    disk = BlockDevice(size=1 << 20)
    layout = replace(Layout(), vectors=vectors)
    with (
        contextlib.closing(disk),
        transport.start(disk, "vectors", layout=layout),
        virtio.connect("pci:vectors") as driver,
    ):
        driver.write(0, b"hello".ljust(512, b"\0"))
        assert bytes(driver.read(0, 1))[:5] == b"hello"
        assert walk(driver.end.bus).vectors == vectors


def test_a_transitional_device_is_driven_as_a_modern_one() -> None:
    disk = BlockDevice(size=1 << 20)
    function = transport.TransitionalFunction(disk)
    with (
        contextlib.closing(disk),
        transport.start(function, "both"),
        virtio.connect("pci:both") as driver,
    ):
        assert driver.end.function.device_id == 2
        assert driver.features & core.F.VERSION_1
        driver.write(0, bytes(512))
        assert not function.legacy


def test_larger_capabilities_and_further_ones_of_a_kind(liar: Liar) -> None:
    """4.1.4.1: a driver takes the first, and takes more bytes than it knows."""
    honest = walk(liar)
    for cfg_type in (CAP.COMMON_CFG, CAP.ISR_CFG, CAP.DEVICE_CFG):
        at = liar.capability(cfg_type)
        liar.patch(at + pci.CAP.offset("cap_len"), liar.read(CONFIG, at + 2, 1)[0] + 4, 1)
    again = liar.capability(CAP.PCI_CFG)
    liar.patch(again + pci.CAP.offset("cfg_type"), CAP.ISR_CFG, 1)
    liar.patch(again + pci.CAP.offset("length"), 1, 4)
    found = walk(liar)
    assert (found.isr.offset, found.common.offset) == (honest.isr.offset, honest.common.offset)


def test_waking_a_function_up() -> None:
    device = Mirror()
    with transport.start(device, "asleep") as server:
        function = server.function
        bus = LocalBus(server, DriverMemory(1 << 20), 1.0)
        power = next(at for number, at in _capabilities(bus) if number == pci_bus.CAP_ID.POWER_MANAGEMENT) + 4
        bus.write(CONFIG, power, b"\3\0")
        end = PciDriverEnd(bus)
        assert function.read(CONFIG, power, 1)[0] & 3 == 0
        assert end.status == 0
        end.close()
    device.close()


def _capabilities(bus: LocalBus) -> list[tuple[int, int]]:
    from virtio.transport.pci.capability_walk import ConfigReader

    return list(ConfigReader(bus).capabilities())
