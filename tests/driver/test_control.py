"""What a driver does with a device that runs: reset single queues, suspend it, tell more with a kick."""

import asyncio
import threading
import time
from typing import Any

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio.errors import ConfigurationError, ProtocolError, TransportError
from virtio.queue import Chain
from virtio.spec import core
from virtio.spec.core import STATUS as S

SECTORS = 2048
RESET = "RING_RESET"
SUSPEND = "SUSPEND"


class Slow(virtio.BlockDevice):
    """Reads sector 1 only when it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(size=SECTORS * 512, **options)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def read(self, sector: int, into: memoryview) -> Any:
        if sector == 1:
            self.reached.set()
            assert self.go_on.wait(10)
        return super().read(sector, into)


# --- resetting a queue (2.6.1)


def test_a_queue_is_reset_and_goes_on_with_another_size(drive: Drive, layout: str) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, queues=2, features=RESET), queues=2, mask=layout)
    buffer = disk.allocate(64 * 4096)
    for size in (64, 8, None, 256):
        for queue in disk.queues:
            queue.reset(size=size)
            assert size is None or queue.size == size
        result = disk.load("verify", buffer, depth=min(64, disk.queues[0].size // 3), requests=300)
        assert (result.requests, result.failed, result.mismatches) == (300, 0, 0)
        disk.write(7, b"x" * 512)
        assert disk.read(7, 1) == b"x" * 512


def test_what_was_out_is_given_up_and_its_buffers_come_back(drive: Drive) -> None:
    device = Slow(features=RESET)
    disk = drive(device)
    device.go_on.clear()
    request = disk.submit_read(1, 1)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            disk.read(1, 1)
        except TransportError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert device.reached.wait(10)
    with pytest.raises(TimeoutError):
        disk.readinto(1, disk.allocate(512), timeout=0.01)
    assert disk.reclaim() == 1
    threading.Timer(0.1, device.go_on.set).start()
    disk.queues[0].reset()
    reader.join(10)
    assert "was reset" in str(errors[0])
    with pytest.raises(TransportError, match="was reset"):
        request.wait(1)
    assert disk.reclaim() == 0
    assert disk.read(0, 1) == bytes(512)


def test_other_queues_go_on_meanwhile(drive: Drive) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, queues=2, features=RESET), queues=2)
    buffer = disk.allocate(32 * 4096)
    results: list[Any] = []
    disk.read(0, 1)  # this thread has one queue, the next the other
    loading = threading.Thread(
        target=lambda: results.append(disk.load("verify", buffer, depth=32, requests=5000))
    )
    before = disk.queues[0].counters.requests
    mine = 0 if before else 1
    loading.start()
    for _ in range(20):
        disk.queues[mine].reset()
        disk.read(3, 1)
    loading.join()
    assert (results[0].requests, results[0].failed, results[0].mismatches) == (5000, 0, 0)


def test_event_loops_go_on_with_the_new_queue(drive: Drive) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, features=RESET))

    async def use() -> None:
        assert await disk.aread(0, 1) == bytes(512)
        disk.queues[0].reset(size=16)
        await disk.awrite(0, b"y" * 512)
        assert await disk.aread(0, 1) == b"y" * 512

    asyncio.run(use())


def test_a_console_and_an_entropy_device_go_on_too(drive: Drive) -> None:
    said: list[bytes] = []
    device = virtio.ConsoleDevice(said.append, features=RESET)
    console = drive(device)
    for _ in range(3):
        device.send(b"hello")
        assert console.receive(timeout=10) == b"hello"
        console.send(b"world")
        console.drain(10)
        for queue in console.queues:
            queue.reset(size=8)
    assert said == [b"world"] * 3
    rng = drive(virtio.EntropyDevice(features=RESET))
    assert len(rng.read(10, timeout=10)) == 10
    rng.queues[0].reset()
    assert len(rng.read(10, timeout=10)) == 10


def test_without_the_feature_a_queue_is_not_reset(drive: Drive) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, features=RESET), mask=RESET)
    with pytest.raises(ConfigurationError, match="RING_RESET"):
        disk.queues[0].reset()
    with pytest.raises(ConfigurationError, match="RING_RESET"):
        disk.end.reset_queue(0)
    assert disk.read(0, 1) == bytes(512)
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, features=RESET))
    with pytest.raises(ConfigurationError, match="0 entries"):
        disk.queues[0].reset(size=0)
    assert disk.read(0, 1) == bytes(512)


# --- suspending the device (3.4)


@pytest.fixture(params=["split", "packed"])
def mask(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "packed" else "RING_PACKED"


@pytest.mark.parametrize("transport", ["mem"])
def test_a_device_stands_still_and_goes_on(drive: Drive, transport: str, mask: str) -> None:
    device = virtio.BlockDevice(size=SECTORS * 512, features=SUSPEND)
    disk = drive(device, mask=mask)
    disk.write(3, b"z" * 512)
    disk.suspend()
    disk.suspend()  # it is already
    assert disk.suspended
    assert disk.end.status == S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK | S.SUSPEND
    assert not device.queues[0].running
    before = disk.queues[0].counters.kicks
    request = disk.submit_read(3, 1)
    with pytest.raises(TimeoutError):
        request.wait(0.05)
    assert disk.queues[0].counters.kicks == before
    disk.resume()
    disk.resume()
    assert bytes(request.wait(10)) == b"z" * 512
    assert disk.end.status == S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK | S.DRIVER_OK


@pytest.mark.parametrize("transport", ["mem"])
def test_what_the_device_has_is_finished_first(drive: Drive, transport: str) -> None:
    device = Slow(features=SUSPEND)
    disk = drive(device)
    device.go_on.clear()
    request = disk.submit_read(1, 1)
    assert device.reached.wait(10)
    threading.Timer(0.1, device.go_on.set).start()
    disk.suspend()
    assert request.done


@pytest.mark.parametrize("transport", ["mem"])
def test_under_load_nothing_is_lost(drive: Drive, transport: str, mask: str) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, queues=2, features=SUSPEND), mask=mask, queues=2)
    buffer = disk.allocate(64 * 4096)
    results: list[Any] = []
    loading = threading.Thread(
        target=lambda: results.append(disk.load("verify", buffer, depth=64, requests=20000))
    )
    loading.start()
    for _ in range(20):
        disk.suspend()
        disk.resume()
    loading.join()
    assert (results[0].requests, results[0].failed, results[0].mismatches) == (20000, 0, 0)


@pytest.mark.parametrize("transport", ["mem"])
def test_the_configuration_stays_meanwhile(drive: Drive, transport: str) -> None:
    device = virtio.BlockDevice(size=SECTORS * 512, features=SUSPEND)
    disk = drive(device)
    told = threading.Event()
    disk.on_config_change(told.set)
    disk.suspend()
    with pytest.raises(ConfigurationError, match="suspended"):
        disk.writeback = False
    device.config.capacity = SECTORS // 2
    assert not told.wait(0.05)
    disk.resume()
    assert told.wait(10)
    assert disk.sectors == SECTORS // 2
    disk.writeback = False
    assert not device.writeback


@pytest.mark.parametrize("transport", ["mem"])
def test_a_suspended_device_can_be_let_go(drive: Drive, transport: str) -> None:
    device = virtio.BlockDevice(size=SECTORS * 512, features=SUSPEND)
    disk = drive(device)
    disk.suspend()
    disk.submit_read(3, 1)
    disk.close()
    assert device.status == 0


class Stubborn(virtio.BlockDevice):
    """A device that does not let itself be suspended, or resumed."""

    refuse = 0

    def __init__(self) -> None:
        super().__init__(size=SECTORS * 512, features=SUSPEND)

    def set_status(self, status: int) -> None:
        if status & self.refuse:
            if self.refuse & S.DEVICE_NEEDS_RESET:
                self.fail("no", "3.4.2")
            return
        super().set_status(status)


@pytest.mark.parametrize("transport", ["mem"])
def test_a_device_that_does_not_obey_is_an_error_in_time(drive: Drive, transport: str) -> None:
    device = Stubborn()
    disk = drive(device, timeout=1)
    device.refuse = S.SUSPEND
    began = time.monotonic()
    with pytest.raises(TransportError, match="does not change it"):
        disk.suspend()
    assert time.monotonic() - began < 5
    assert not disk.suspended
    assert disk.read(0, 1) == bytes(512), "it goes on as before"
    device.refuse |= S.DEVICE_NEEDS_RESET
    with pytest.raises(ProtocolError, match="needs a reset"):
        disk.suspend()


@pytest.mark.parametrize("transport", ["vhost-user"])
def test_what_a_wire_has_no_word_for_is_not_offered(drive: Drive, transport: str) -> None:
    disk = drive(virtio.BlockDevice(size=SECTORS * 512, features="SUSPEND,NOTIFICATION_DATA"))
    assert not disk.features & (core.F.SUSPEND | core.F.NOTIFICATION_DATA)
    with pytest.raises(ConfigurationError, match="SUSPEND"):
        disk.suspend()
    with pytest.raises(ConfigurationError, match="SUSPEND"):
        drive(virtio.BlockDevice(size=SECTORS * 512)).suspend()


# --- kicks that say how much there is (2.9)


@pytest.mark.parametrize("transport", ["mem"])
def test_kicks_carry_how_much_there_is(drive: Drive, transport: str, mask: str) -> None:
    words: list[int | None] = []

    class Listener(virtio.EntropyDevice):
        def __init__(self) -> None:
            super().__init__(features="NOTIFICATION_DATA", mask="EVENT_IDX")
            (queue,) = self.queues
            notify = queue.notify

            def listen(data: int | None = None) -> None:
                words.append(data)
                notify(data)

            queue.notify = listen  # type: ignore[method-assign]

        def on_requests(self, chain: Chain) -> None:
            chain.write(b"r")

    rng = drive(Listener(), mask=mask, queue_size=4)
    assert rng.features & core.F.NOTIFICATION_DATA
    # While the device is busy it wants no kicks, and how long that is nobody knows.
    count = 6
    assert rng.read(count, timeout=10) == b"r" * count
    while not words:
        assert rng.read(1, timeout=10) == b"r"
        count += 1
    if mask:
        expected = [number << 16 for number in range(1, count + 1)]
    else:  # four places, and a wrap counter that begins with 1
        expected = [(number % 4 | (1 - number // 4 % 2) << 15) << 16 for number in range(1, count + 1)]
    places = [expected.index(word) for word in words if word is not None]
    assert len(places) == len(words)
    assert places == sorted(set(places)), "in their order, some left out"


@pytest.mark.parametrize("transport", ["mem"])
def test_a_disk_is_used_with_kicks_that_carry_data(drive: Drive, transport: str, layout: str) -> None:
    device = virtio.BlockDevice(size=SECTORS * 512, features="NOTIFICATION_DATA,IN_ORDER")
    disk = drive(device, mask=layout)
    assert disk.features & core.F.NOTIFICATION_DATA
    result = disk.load("verify", disk.allocate(32 * 4096), depth=32, requests=2000)
    assert (result.requests, result.failed, result.mismatches) == (2000, 0, 0)
    assert disk.queues[0].wire.kick_fd is None
