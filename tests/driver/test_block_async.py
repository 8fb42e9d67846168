"""The block driver in event loops."""

import asyncio
import os
import threading
from typing import Any

import pytest
from tests.driver.conftest import Drive
from tests.driver.test_block import SIZE, Flaky, Slow

import virtio
from virtio.device.block import BlockDevice
from virtio.errors import ConfigurationError, IOFailed


@pytest.fixture
def disk(drive: Drive, layout: str) -> Any:
    return drive(BlockDevice(size=SIZE), mask=layout)


def test_more_at_once_than_the_queue_holds(disk: Any) -> None:
    async def main() -> None:
        data = os.urandom(SIZE)
        await asyncio.gather(*(disk.awrite(at // 512, data[at : at + 4096]) for at in range(0, SIZE, 4096)))
        await disk.aflush()
        pieces = await asyncio.gather(*(disk.aread(sector, 8) for sector in range(0, disk.sectors, 8)))
        assert b"".join(pieces) == data
        buffer = disk.allocate(8192)
        assert await disk.areadinto(8, buffer) == 8192
        assert bytes(buffer) == data[4096:12288]

    asyncio.run(main())
    assert disk.queues[0].outstanding == 0


def test_one_loop_after_another(disk: Any) -> None:
    for number in range(3):
        asyncio.run(disk.awrite(number, bytes([number]) * 512))
    assert disk.read(0, 3) == bytes(512) + b"\1" * 512 + b"\2" * 512


def test_a_loop_and_threads_on_one_queue(disk: Any) -> None:
    over = threading.Event()
    wrong: list[bytes] = []

    def read() -> None:
        while not over.is_set():
            if (data := disk.read(8, 8)) != b"y" * 4096:
                wrong.append(data)

    async def main() -> None:
        for number in range(300):
            await disk.awrite(16, bytes([number % 256]) * 512)
            assert await disk.aread(16, 1) == bytes([number % 256]) * 512

    disk.write(8, b"y" * 4096)
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_errors(drive: Drive) -> None:
    disk = drive(Flaky(size=SIZE))

    async def main() -> None:
        with pytest.raises(IOFailed, match="sector 64"):
            await disk.aread(64, 1)
        with pytest.raises(ConfigurationError, match="of a disk"):
            await disk.aread(1 << 40, 1)
        assert await disk.aread(0, 1) == bytes(512)

    asyncio.run(main())


def test_cancelling_leaves_the_queue_usable(drive: Drive) -> None:
    device = Slow(size=SIZE)
    disk = drive(device)

    async def main() -> None:
        device.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await disk.aread(0, 8)
        task = asyncio.ensure_future(disk.aread(0, 8))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert disk.queues[0].outstanding == 2
        device.gate.set()
        assert await disk.aread(0, 8) == bytes(4096)

    asyncio.run(main())
    assert disk.queues[0].outstanding == 0


@pytest.mark.parametrize("how", ["close", "stop"])
def test_the_end_is_told(stack: Any, how: str) -> None:
    device = Slow(size=SIZE)
    stack.callback(device.close)
    stack.callback(device.gate.set)
    server = virtio.start(device, f"mem:end-{how}")
    disk = virtio.connect(f"mem:end-{how}")

    async def main() -> None:
        device.gate.clear()
        tasks = [asyncio.ensure_future(disk.aread(0, 8)) for _ in range(3)]
        await asyncio.sleep(0.01)
        device.gate.set() if how == "stop" else None
        await asyncio.to_thread(disk.close if how == "close" else server.stop)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        if how == "close":
            assert all(isinstance(result, virtio.Error) for result in results)
        else:
            with pytest.raises(virtio.Error):
                await disk.aread(0, 8)

    asyncio.run(main())
    device.gate.set()
    disk.close()
    server.stop()
