"""The block device, 5.2: natively from a file and memory, and from Python."""

import io
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.device.rig import IOERR, OK, UNSUPP, Disk

from virtio import BlockDevice, ConfigurationError, IOCompleted, IOFailed, ProtocolError, UnsupportedRequest
from virtio._native import BlockRequest
from virtio.spec import block, core
from virtio.spec.block import F, T

pytestmark = pytest.mark.usefixtures("layout")

SECTORS = 2048
SIZE = SECTORS * 512


class InPython(BlockDevice):
    """The same disk with every request passing through Python."""

    def read(self, sector: int, into: memoryview) -> Any:
        return super().read(sector, into)


class Positioned:
    """An image as an object with positioned reads and writes."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.size = size
        self.flushes = 0

    def read(self, offset: int, into: memoryview) -> None:
        into[:] = self.data[offset : offset + len(into)]

    def write(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushes += 1


def a_file(folder: Path, **options: Any) -> BlockDevice:
    path = folder / "disk.img"
    path.write_bytes(bytes(SIZE))
    return BlockDevice(path, **options)


BACKENDS: dict[str, Callable[..., BlockDevice]] = {
    "file": a_file,
    "direct": lambda folder, **options: a_file(folder, direct=True, **options),
    "memory": lambda folder, **options: BlockDevice(size=SIZE, **options),
    "subclass": lambda folder, **options: InPython(size=SIZE, **options),
    "bytearray": lambda folder, **options: BlockDevice(bytearray(SIZE), **options),
    "mmap": lambda folder, **options: BlockDevice(mmap.mmap(-1, SIZE), **options),
    "file object": lambda folder, **options: BlockDevice(io.BytesIO(bytes(SIZE)), **options),
    "positioned": lambda folder, **options: BlockDevice(Positioned(SIZE), **options),
}


@pytest.fixture(params=BACKENDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    device = BACKENDS[request.param](tmp_path, secure_erase=True)
    with Disk(device) as rig:
        yield rig
    device.close()


def pattern(sector: int, sectors: int = 1) -> bytes:
    return b"".join((sector + n).to_bytes(8, "little") * 64 for n in range(sectors))


def test_what_is_written_is_read(disk: Disk) -> None:
    assert disk.read(5) == (OK, bytes(512))
    assert disk.write(5, pattern(5, 3)) == OK
    assert disk.read(4) == (OK, bytes(512))
    assert disk.read(6) == (OK, pattern(6))
    assert disk.read(5, 1536) == (OK, pattern(5, 3))
    assert disk.write(SECTORS - 1, pattern(9)) == OK
    assert disk.read(SECTORS - 1) == (OK, pattern(9))
    assert disk.flush() == OK


def test_any_segmentation(disk: Disk) -> None:
    data = pattern(100, 4)
    pieces = [data[:1], data[1:511], data[511:513], data[513:1600], data[1600:]]
    assert disk.request(T.OUT, 100, data=pieces) == (OK, b"")
    assert disk.request(T.IN, 100, into=[7, 505, 1000, 536]) == (OK, data)
    # The header may be cut anywhere (2.7.4.2).
    assert disk.request(T.IN, 100, into=[2048], header=[4, 1, 11]) == (OK, data)


def test_past_the_end(disk: Disk) -> None:
    for sector, sectors in ((SECTORS, 1), (SECTORS - 1, 2), (1 << 55, 1), ((1 << 64) - 1, 1)):
        assert disk.request(T.IN, sector, into=[sectors * 512])[0] == IOERR
        assert disk.write(sector, bytes(sectors * 512)) == IOERR
    assert disk.read(SECTORS - 1)[0] == OK


def test_unaligned_lengths(disk: Disk) -> None:
    assert disk.request(T.IN, 0, into=[511])[0] == IOERR
    assert disk.write(0, bytes(513)) == IOERR


def test_unknown_requests(disk: Disk) -> None:
    for kind in (2, 3, 99, T.ZONE_REPORT, T.ZONE_APPEND, T.ZONE_RESET_ALL, T.GET_LIFETIME):
        assert disk.request(kind, 0, into=[8])[0] == UNSUPP


def test_write_zeroes(disk: Disk) -> None:
    disk.write(8, pattern(8, 8))
    assert disk.segments(T.WRITE_ZEROES, (9, 2, 0), (13, 1, 1)) == OK
    expected = pattern(8) + bytes(1024) + pattern(11, 2) + bytes(512) + pattern(14, 2)
    assert disk.read(8, 4096) == (OK, expected)
    assert disk.segments(T.WRITE_ZEROES, (0, 1, 2)) == UNSUPP  # an unknown flag
    assert disk.segments(T.WRITE_ZEROES, (SECTORS - 1, 2, 0)) == IOERR
    assert disk.read(8, 4096) == (OK, expected)


def test_secure_erase(disk: Disk) -> None:
    disk.write(8, pattern(8, 3))
    assert disk.segments(T.SECURE_ERASE, (9, 1, 0)) == OK
    assert disk.read(8, 1536) == (OK, pattern(8) + bytes(512) + pattern(10))
    assert disk.segments(T.SECURE_ERASE, (9, 1, 1)) == UNSUPP


def test_discard(disk: Disk) -> None:
    if not disk.features & F.DISCARD:
        assert disk.segments(T.DISCARD, (0, 8, 0)) == UNSUPP
        return
    disk.write(0, pattern(0, 16))
    assert disk.segments(T.DISCARD, (0, 8, 0)) == OK
    assert disk.read(8, 4096) == (OK, pattern(8, 8))
    assert disk.segments(T.DISCARD, (0, 8, 1)) == UNSUPP  # unmap is not for discard
    assert disk.segments(T.DISCARD, (SECTORS, 1, 0)) == IOERR


def test_the_file_gives_back_space(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    device = BlockDevice(path)
    with Disk(device) as disk:
        before = path.stat().st_blocks
        assert disk.segments(T.DISCARD, (0, 1024, 0)) == OK
        assert path.stat().st_blocks <= before - 1000
        assert disk.segments(T.WRITE_ZEROES, (1024, 512, 1)) == OK
        assert path.stat().st_blocks <= before - 1500
        assert path.stat().st_size == SIZE
    device.close()


def test_identity_and_lifetime() -> None:
    device = BlockDevice(size=SIZE, serial="0123456789ABCDEFGHIJ", lifetime=(2, 5, 0))
    with Disk(device) as disk:
        assert disk.request(T.GET_ID, into=[20]) == (OK, b"0123456789ABCDEFGHIJ")
        assert disk.request(T.GET_LIFETIME, into=[6]) == (OK, bytes([2, 0, 5, 0, 0, 0]))
    for serial in ("more than twenty characters", "émile"):
        with pytest.raises(ConfigurationError, match="at most 20 ASCII"):
            BlockDevice(size=SIZE, serial=serial)


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only(backend: str, tmp_path: Path) -> None:
    device = BACKENDS[backend](tmp_path, read_only=True)
    with Disk(device) as disk:
        assert disk.features & F.RO
        assert not disk.features & (F.DISCARD | F.WRITE_ZEROES | F.SECURE_ERASE)
        assert disk.write(0, pattern(1)) == IOERR
        assert disk.read(0) == (OK, bytes(512))
    device.close()


def test_images_that_cannot_be_written_are_read_only(tmp_path: Path) -> None:
    class OnlyRead:
        size = SIZE

        def read(self, offset: int, into: memoryview) -> None: ...

    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file:
        for image in (bytes(SIZE), OnlyRead(), file):
            assert BlockDevice(image).offered_features & F.RO


def test_what_is_offered_follows_from_what_it_has() -> None:
    plain = BlockDevice(size=SIZE)
    offered = plain.offered_features
    assert offered & F.FLUSH
    assert offered & F.CONFIG_WCE
    assert offered & F.BLK_SIZE
    assert not offered & (
        F.MQ | F.TOPOLOGY | F.GEOMETRY | F.RO | F.LIFETIME | F.SECURE_ERASE | F.SIZE_MAX | F.ZONED
    )
    rich = BlockDevice(
        size=SIZE,
        queues=4,
        block_size=512,
        physical_block_size=4096,
        min_io_size=4096,
        opt_io_size=65536,
        geometry=(4, 16, 32),
        size_max=8192,
        seg_max=14,
        max_segments=3,
        max_sectors=100,
        secure_erase=True,
        discard=True,
        lifetime=(1, 1, 1),
    )
    assert rich.offered_features & F.TOPOLOGY
    assert len(rich.queues) == 4
    assert [queue.name for queue in rich.queues] == ["requestq1", "requestq2", "requestq3", "requestq4"]
    config = block.CONFIG.unpack(rich.read_config(0, rich.config_size))
    assert (config.capacity, config.size_max, config.seg_max, config.num_queues) == (SECTORS, 8192, 14, 4)
    assert (config.geometry.cylinders, config.geometry.heads, config.geometry.sectors) == (4, 16, 32)
    assert (config.topology.physical_block_exp, config.topology.min_io_size) == (3, 8)
    assert config.topology.opt_io_size == 128
    assert (config.max_discard_sectors, config.max_discard_seg, config.discard_sector_alignment) == (
        100,
        3,
        8,
    )
    assert (config.max_write_zeroes_sectors, config.max_secure_erase_seg) == (100, 3)
    assert config.unused0 == 0
    assert config.unused1 == bytes(3)
    masked = BlockDevice(size=SIZE, mask="FLUSH")
    assert not masked.offered_features & (F.FLUSH | F.CONFIG_WCE)  # 5.2.5.2


def test_limits_on_segments() -> None:
    with Disk(BlockDevice(size=SIZE, seg_max=2, size_max=1024, max_segments=2, max_sectors=8)) as disk:
        assert disk.request(T.IN, 0, into=[500, 524])[0] == OK
        assert disk.request(T.IN, 0, into=[500, 500, 536])[0] == IOERR
        assert disk.request(T.IN, 0, into=[1536])[0] == IOERR
        assert disk.segments(T.WRITE_ZEROES, (0, 1, 0), (1, 1, 0)) == OK
        assert disk.segments(T.WRITE_ZEROES, (0, 1, 0), (1, 1, 0), (2, 1, 0)) != OK
        assert disk.segments(T.WRITE_ZEROES, (0, 9, 0)) != OK


def test_several_queues(tmp_path: Path) -> None:
    device = a_file(tmp_path, queues=3)
    with Disk(device) as disk:
        for queue in range(3):
            assert disk.request(T.OUT, queue, [pattern(queue)], queue=queue)[0] == OK
        for queue in range(3):
            assert disk.request(T.IN, 0, into=[1536], queue=queue) == (OK, pattern(0, 3))
        counters = [queue.counters for queue in device.queues]
        assert [one.chains for one in counters if one is not None] == [2, 2, 2]
    device.close()


# --- the cache mode


class Flushes(BlockDevice):
    count = 0

    def flush(self) -> Any:
        self.count += 1
        return super().flush()


def test_the_driver_switches_the_cache() -> None:
    device = Flushes(size=SIZE)
    with Disk(device) as disk:
        where = block.CONFIG.offset("writeback")
        assert device.read_config(where, 1) == b"\1"
        disk.write(0, pattern(0))
        assert device.count == 0
        disk.flush()
        assert device.count == 1
        generation = device.config_generation
        device.write_config(where, b"\0")
        assert (device.writeback, device.config_generation) == (False, generation)
        disk.write(0, pattern(0))
        assert device.count == 2
        device.write_config(where, b"\1")
        disk.write(0, pattern(0))
        assert device.count == 2
        device.write_config(where, b"\0")
        device.set_status(0)
        assert device.writeback  # the mode after a reset is the device's own
    with pytest.raises(ProtocolError, match="read-only configuration field writeback"):
        device.write_config(where, b"\0")  # nobody negotiated it


@pytest.mark.parametrize(
    ("cache", "without", "writeback"),
    [
        ("writeback", 0, True),
        ("writeback", F.CONFIG_WCE, True),
        ("writeback", F.CONFIG_WCE | F.FLUSH, False),  # who cannot flush gets safe writes (5.2.6.2)
        ("writeback", F.FLUSH, False),  # a must (5.2.5.2)
        ("writethrough", 0, False),
        ("writethrough", F.CONFIG_WCE, False),
        ("unsafe", 0, True),
    ],
)
def test_the_cache_mode_that_features_imply(cache: Any, without: int, writeback: bool) -> None:
    device = BlockDevice(size=SIZE, cache=cache)
    with Disk(device, without=without):
        assert device.writeback is writeback
        assert device.config.writeback == writeback


# --- capacity


def test_the_capacity_changes_while_running(tmp_path: Path) -> None:
    device = a_file(tmp_path)
    path = tmp_path / "disk.img"
    with Disk(device) as disk:
        assert disk.read(SECTORS)[0] == IOERR
        device.capacity = 2 * SIZE
        assert path.stat().st_size == 2 * SIZE
        assert disk.events.config_changes == 1
        assert device.config.capacity == 2 * SECTORS
        assert disk.read(2 * SECTORS - 1) == (OK, bytes(512))
        device.resize(SIZE // 2)
        assert path.stat().st_size == 2 * SIZE  # nothing is cut off
        assert disk.read(SECTORS // 2)[0] == IOERR
        os.truncate(path, 3 * SIZE)
        device.resize()
        assert device.capacity == 3 * SIZE
        assert disk.events.config_changes == 3
        with pytest.raises(ConfigurationError, match="multiple of 512"):
            device.resize(1000)
    device.close()


def test_memory_keeps_its_size() -> None:
    device = BlockDevice(size=SIZE)
    with pytest.raises(ConfigurationError, match="keeps its size"):
        device.resize(2 * SIZE)
    assert device.capacity == SIZE


# --- Python


class Flaky(BlockDevice):
    def read(self, sector, into):  # type: ignore[no-untyped-def]  # as in the documentation
        raise IOFailed if sector == 2048 else super().read(sector, into)


def test_a_disk_that_fails_on_one_sector() -> None:
    with Disk(Flaky(size=4 * SIZE)) as disk:
        disk.write(2047, pattern(2047, 3))
        assert disk.read(2047) == (OK, pattern(2047))
        assert disk.read(2048)[0] == IOERR
        assert disk.read(2049) == (OK, pattern(2049))
        assert disk.events.faults == []


def test_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: dict[int, Any] = {
        1: None,
        2: IOCompleted,
        3: IOFailed("worn out"),
        4: UnsupportedRequest,
        5: OSError(28, "No space left on device"),
        6: ZeroDivisionError("a bug"),
        7: IOCompleted(),
    }

    class Various(BlockDevice):
        def write(self, sector: int, data: memoryview) -> Any:
            outcome = outcomes[sector]
            if isinstance(outcome, Exception) or outcome in (IOFailed, UnsupportedRequest):
                raise outcome
            return outcome

    with Disk(Various(size=SIZE)) as disk:
        assert [disk.write(sector, bytes(512)) for sector in outcomes] == [
            OK,
            OK,
            IOERR,
            UNSUPP,
            IOERR,
            IOERR,
            OK,
        ]
    assert "a bug" in caplog.text


def test_requests_come_in_batches() -> None:
    batches: list[list[tuple[str, int, int]]] = []

    class Batched(BlockDevice):
        def answer(self, requests: Sequence[BlockRequest]) -> None:
            batches.append([(one.kind, one.offset, one.size) for one in requests])
            super().answer(requests)

    with Disk(Batched(size=SIZE), live=False) as disk:
        driver = disk.drivers[0]
        for sector in range(16):
            driver.add([block.HEADER.pack(type=T.IN, sector=sector)], [512, 1])
        driver.publish()
        disk.go_live()
        assert len(disk.used(0, 16)) == 16
    assert batches == [[("read", sector * 512, 512) for sector in range(16)]]


def test_requests_may_be_answered_later() -> None:
    held: list[BlockRequest] = []
    arrived = threading.Event()

    class Slow(BlockDevice):
        def answer(self, requests: Sequence[BlockRequest]) -> None:
            held.extend(requests)
            arrived.set()

    with Disk(Slow(size=SIZE)) as disk:
        head = disk.submit(T.IN, 0, into=[512])
        assert arrived.wait(5)
        assert disk.none_used(0)
        (request,) = held
        request.data[:] = b"z" * 512
        request.complete()
        (used,) = disk.used(0)
        assert disk.result(head, used) == (OK, b"z" * 512)
        with pytest.raises(ConfigurationError):
            request.complete()


def test_discards_reach_python() -> None:
    calls: list[tuple[Any, ...]] = []

    class Listening(BlockDevice):
        def discard(self, sector: int, sectors: int) -> None:
            calls.append(("discard", sector, sectors))

        def write_zeroes(self, sector: int, sectors: int, unmap: bool) -> None:
            calls.append(("zeroes", sector, sectors, unmap))

    device = Listening(bytearray(SIZE))
    with Disk(device) as disk:
        assert disk.features & F.DISCARD
        disk.segments(T.DISCARD, (1, 2, 0), (8, 4, 0))
        disk.segments(T.WRITE_ZEROES, (5, 1, 1))
    assert calls == [("discard", 1, 2), ("discard", 8, 4), ("zeroes", 5, 1, True)]


# --- what cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs an image, or a size"),
        ({"size": 1000}, "multiple of 512"),
        ({"size": SIZE, "queues": 0}, "1 to 1024 queues"),
        ({"size": SIZE, "cache": "fast"}, "cache is one of"),
        ({"size": SIZE, "block_size": 1000}, "a power of two"),
        ({"size": SIZE, "block_size": 256}, "a power of two from 512"),
        ({"size": SIZE, "mask": "NOISE"}, "no feature 'NOISE'"),
        ({"image": "/nowhere/disk.img"}, "/nowhere/disk.img"),
        ({"image": object()}, "cannot stand on a object"),
        ({"image": bytearray(512), "size": 1024}, "more than the 512 bytes"),
        ({"image": bytearray(512), "direct": True}, "direct I/O is for files"),
        ({"image": type("Endless", (), {"read": print})()}, "say size="),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        BlockDevice(**arguments)


def test_a_request_without_room_for_its_status() -> None:
    with Disk(BlockDevice(size=SIZE)) as disk:
        disk.add(0, [block.HEADER.pack(type=T.IN)], [])
        assert disk.events.happened.wait(5)
        assert disk.device.status & core.STATUS.DEVICE_NEEDS_RESET
        assert disk.events.faults[0].clause.startswith("5")
