"""The block driver, on our own device: over each transport, with each layout."""

import gc
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.driver.conftest import Drive

import virtio
from virtio.device.block import BlockDevice
from virtio.errors import (
    ConfigurationError,
    DeviceError,
    IOFailed,
    ProtocolError,
    TransportError,
    UnsupportedRequest,
)

SIZE = 4 << 20


@pytest.fixture
def disk(drive: Drive, layout: str) -> Any:
    return drive(BlockDevice(size=SIZE, serial="drv-1"), mask=layout)


def test_reading_and_writing(disk: Any) -> None:
    assert disk.capacity == SIZE
    assert disk.sectors == SIZE // 512
    assert disk.read(0, 1) == bytes(512)
    for sector, size in ((0, 512), (1, 4096), (7, 128 << 10), (3, (1 << 20) + 512)):
        data = os.urandom(size)
        disk.write(sector, data)
        assert disk.read(sector, size // 512) == data
        into = bytearray(size)
        assert disk.readinto(sector, into) == size
        assert into == data
    disk.flush()
    assert disk.get_id() == "drv-1"
    assert disk.queues[0].outstanding == 0
    assert disk.read(0, 0) == b""


def test_shared_memory_is_not_copied(disk: Any) -> None:
    data = os.urandom(1 << 20)
    buffer = disk.allocate(1 << 20)
    memoryview(buffer)[:] = data
    disk.write(0, buffer)
    assert disk.read(0, 2048) == data
    array = np.frombuffer(disk.allocate(8192), np.uint8)
    array[:] = 1
    assert disk.readinto(8, array[4096:]) == 4096
    assert array[:4096].all()
    assert array[4096:].tobytes() == data[4096:8192]


def test_shared_memory_goes_back_when_nothing_refers_to_it(disk: Any) -> None:
    addresses = set()
    for _ in range(10):
        buffer = disk.allocate(1 << 20)
        addresses.add(buffer.address)
        view = memoryview(buffer)[5:]
        del buffer
        view[0] = 1
        del view
        gc.collect()
    assert len(addresses) == 1
    array = np.frombuffer(disk.allocate(1 << 20), np.uint8)
    assert disk.allocate(1 << 20).address not in addresses
    del array


def test_zeros_and_discards(drive: Drive, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * SIZE)
    disk = drive(BlockDevice(image))
    disk.write_zeroes(8, 16, unmap=True)
    assert disk.read(7, 18) == b"x" * 512 + bytes(16 * 512) + b"x" * 512
    disk.discard(0, disk.sectors)
    with pytest.raises(ConfigurationError, match="erase securely: it offers no VIRTIO_BLK_F_SECURE_ERASE"):
        disk.secure_erase(0, 1)
    with pytest.raises(ConfigurationError, match="LIFETIME"):
        disk.lifetime()
    assert disk.writeback
    disk.writeback = False
    assert not disk.writeback


def test_limits_of_the_device_are_kept(drive: Drive, tmp_path: Path) -> None:
    device = BlockDevice(size=SIZE)
    device.target.max_write_zeroes_sectors = device.config.max_write_zeroes_sectors = 100
    disk = drive(device)
    disk.write(0, b"x" * 512 * 1000)
    disk.write_zeroes(0, 999)
    assert disk.read(998, 2) == bytes(512) + b"x" * 512


def test_what_cannot_be(disk: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: disk.read(disk.sectors, 1),
        lambda: disk.read(-1, 1),
        lambda: disk.write(disk.sectors - 1, bytes(1024)),
        lambda: disk.discard(0, disk.sectors + 1),
        lambda: disk.submit_read(disk.sectors, 1),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="of a disk of 8192 sectors"):
            call()
    with pytest.raises(ConfigurationError, match="whole sectors"):
        disk.write(0, b"abc")
    with pytest.raises(ConfigurationError, match="shared memory"):
        disk.submit_read(0, bytearray(512))
    with pytest.raises(ConfigurationError, match="divided"):
        disk.read_batch([1, 2, 3], disk.allocate(1024))
    assert disk.read(0, 1) == bytes(512)


def test_a_read_only_disk(drive: Drive) -> None:
    disk = drive(BlockDevice(size=SIZE, read_only=True))
    assert disk.read_only
    calls: list[Callable[[], object]] = [
        lambda: disk.write(0, bytes(512)),
        lambda: disk.write_batch([0], bytes(512)),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="read-only"):
            call()
    assert disk.read(0, 1) == bytes(512)


def test_a_disk_that_grows(drive: Drive) -> None:
    device = BlockDevice(size=SIZE)
    disk = drive(device)
    grown = threading.Event()
    disk.on_config_change(grown.set)
    device.target.capacity = 2 * SIZE
    device.config.capacity = 2 * SIZE // 512
    assert grown.wait(10)
    assert disk.capacity == 2 * SIZE


class Flaky(BlockDevice):
    """Fails where it is told to."""

    def read(self, sector: int, into: memoryview) -> Any:
        if sector == 64:
            raise virtio.IOFailed
        if sector == 72:
            raise virtio.UnsupportedRequest
        return super().read(sector, into)


def test_errors_name_request_place_and_status(drive: Drive) -> None:
    disk = drive(Flaky(size=SIZE))
    with pytest.raises(IOFailed, match="IN at sector 64: the device says VIRTIO_BLK_S_IOERR") as caught:
        disk.read(64, 1)
    assert caught.value.status == 1
    with pytest.raises(UnsupportedRequest):
        disk.read(72, 1)
    request = disk.submit_read(64, 1)
    with pytest.raises(IOFailed):
        request.wait(10)
    assert "IOERR" in repr(request)
    statuses = disk.read_batch([0, 64, 72, 80], disk.allocate(4 * 512))
    assert statuses == bytes([0, 1, 2, 0])
    assert disk.read(0, 1) == bytes(512)


def test_batches(disk: Any) -> None:
    sectors = np.random.default_rng(1).permutation(1000).astype(np.uint64) * 8
    data = np.frombuffer(disk.allocate(1000 * 4096), np.uint8)
    data[:] = np.random.default_rng(2).integers(0, 256, len(data), dtype=np.uint8)
    assert disk.write_batch(sectors, data) is None
    back = np.frombuffer(disk.allocate(1000 * 4096), np.uint8)
    assert disk.read_batch(sectors, back, depth=3) is None
    assert (back == data).all()
    assert disk.read(int(sectors[5]), 8) == data[5 * 4096 : 6 * 4096].tobytes()
    back[:] = 0
    assert disk.read_batch([int(sector) for sector in sectors], back) is None
    assert (back == data).all()
    assert disk.read_batch(sectors.astype(np.uint32), back) is None


def test_tokens(disk: Any) -> None:
    writes = [disk.submit_write(8 * number, bytes([number]) * 4096) for number in range(100)]
    for write in writes:
        write.wait(10)
    reads = [disk.submit_read(8 * number, 8) for number in range(100)]
    for number, read in reversed(list(enumerate(reads))):
        assert read.wait(10) == bytes([number]) * 4096
        assert read.done
        assert read.wait() == bytes([number]) * 4096, "as often as one likes"
    assert len(disk.submit_flush().wait(10)) == 0
    polled = disk.submit_read(0, 1)
    while not polled.poll():
        pass


class Slow(BlockDevice):
    """Answers when it is told to."""

    def __init__(self, **options: Any) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(**options)

    def read(self, sector: int, into: memoryview) -> Any:
        self.gate.wait(10)
        return super().read(sector, into)


def test_time_outs_leave_the_queue_usable(drive: Drive) -> None:
    device = Slow(size=SIZE)
    disk = drive(device)
    disk.write(0, b"x" * 4096)
    device.gate.clear()
    with pytest.raises(TimeoutError):
        disk.read(0, 8, timeout=0.02)
    shared = disk.allocate(4096)
    address = shared.address
    with pytest.raises(TimeoutError):
        disk.readinto(0, shared, timeout=0.02)
    with pytest.raises(TimeoutError):
        disk.read_batch([0, 8], disk.allocate(1024), timeout=0.02)
    with pytest.raises(TimeoutError):
        disk.load("read", disk.allocate(2 * 4096), depth=2, timeout=0.02)
    request = disk.submit_read(0, 8)
    with pytest.raises(TimeoutError):
        request.wait(0.02)
    cancelled = disk.submit_read(0, 8)
    cancelled.cancel()
    cancelled.cancel()
    with pytest.raises(ConfigurationError, match="cancelled"):
        cancelled.wait()
    del shared
    gc.collect()
    assert disk.allocate(4096).address != address, "the device may still write there"
    assert disk.reclaim() > 0
    assert disk.queues[0].outstanding > 0
    device.gate.set()
    assert request.wait(10) == b"x" * 4096
    assert disk.read(0, 8) == b"x" * 4096
    while disk.queues[0].outstanding:
        disk.read(0, 1)
    assert disk.reclaim() == 0


def test_a_dropped_token_gives_its_buffer_back(drive: Drive) -> None:
    disk = drive(BlockDevice(size=SIZE))
    for _ in range(300):
        disk.submit_read(0, 8)
    gc.collect()
    disk.read(0, 1)
    while disk.queues[0].outstanding:
        disk.read(0, 1)
    assert disk.reclaim() == 0


def test_many_queues_and_threads(drive: Drive, layout: str) -> None:
    disk = drive(BlockDevice(size=SIZE, queues=4), queues=3, mask=layout)
    assert [queue.name for queue in disk.queues] == ["requestq1", "requestq2", "requestq3"]
    wrong: list[int] = []

    def work(number: int) -> None:
        for round_ in range(100):
            data = bytes([number, round_]) * 256
            disk.write(number, data)
            if disk.read(number, 1) != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(queue.counters.requests for queue in disk.queues)


def test_load_with_verification(disk: Any) -> None:
    (requests,) = disk._requests
    result = requests.load(
        "verify", disk.allocate(64 * 4096), sectors=disk.sectors, depth=64, requests=20_000
    )
    assert (result.requests, result.failed, result.mismatches) == (20_000, 0, 0)


def test_what_cannot_be_asked_for(disk: Any) -> None:
    buffer = disk.allocate(4096)
    for options in ({"depth": 0}, {"size": 100}, {"depth": 2}, {"seconds": -1}, {"timeout": -1}):
        with pytest.raises(ConfigurationError):
            disk.load("read", buffer, **{"depth": 1, "requests": 1, **options})
    with pytest.raises(ConfigurationError, match="neither"):
        disk.load("guess", buffer, depth=1)
    with pytest.raises(ConfigurationError, match="polling"):
        disk.set_polling(-1)
    assert disk.load("read", buffer, depth=1, requests=1).requests == 1


def test_a_device_that_dies_under_load(stack: Any, tmp_path: Path, transport: str) -> None:
    device = BlockDevice(size=SIZE)
    place = "mem:dying" if transport == "mem" else f"vhost-user:{tmp_path}/dying.sock"
    stack.callback(device.close)
    server = virtio.start(device, place)
    disk = virtio.connect(place, "block")
    stop = threading.Timer(0.2, server.stop)
    stop.start()
    with pytest.raises((TransportError, ProtocolError, DeviceError)):
        all(disk.read(0, 8) for _ in itertools.count())
    stop.join()
    disk.close()
    with pytest.raises(TransportError, match="closed"):
        disk.read(0, 1)
