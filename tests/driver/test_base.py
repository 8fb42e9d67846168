"""3.1.1, step by step, as the device sees it; and what becomes of a driver that cannot go on."""

import threading
from types import ModuleType
from typing import Any, ClassVar

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio import spec
from virtio.device.base import Device
from virtio.driver.base import Driver
from virtio.errors import (
    ConfigurationError,
    DeviceError,
    Error,
    FeatureNegotiationError,
    ProtocolError,
    TransportError,
)
from virtio.queue import Chain
from virtio.spec import block, core
from virtio.spec.core import STATUS as S
from virtio.transport import open_driver_end

LIVE = S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK | S.DRIVER_OK


class Echo(Device):
    """Answers each buffer with what is in it; writes down what its driver does."""

    spec = block
    features = block.F.MQ | block.F.CONFIG_WCE | block.F.FLUSH | block.F.TOPOLOGY

    def __init__(self, **options: Any) -> None:
        self.statuses: list[int] = []
        self.refuse = False
        self.reads: list[tuple[int, int]] = []
        super().__init__(config={"capacity": 8, "num_queues": 2, "writeback": 1}, **options)

    def on_requests(self, chain: Chain) -> None:
        chain.write(chain.read()[::-1])

    def set_status(self, status: int) -> None:
        self.statuses.append(status)
        super().set_status(status)

    def negotiated(self, features: int) -> None:
        if self.refuse:
            raise FeatureNegotiationError("not like this", "2.2.2")

    def read_config(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return super().read_config(offset, size)


class EchoDriver(Driver):
    """Sends bytes through queue 0."""

    spec: ClassVar[ModuleType] = spec.block
    understood: ClassVar[int] = block.F.MQ | block.F.CONFIG_WCE | block.F.FLUSH | block.F.TOPOLOGY
    changes = 0

    def set_up(self) -> None:
        self.queue = self.add_queue(0, tables=32)
        self.buffer = self.allocate(8192)

    def config_changed(self) -> None:
        self.changes += 1

    def begin(self, data: bytes, pieces: int = 1) -> int:
        """Offer the bytes in so many pieces."""
        memoryview(self.buffer)[: len(data)] = data
        step = len(data) // pieces
        address = self.buffer.address
        readable = [(address + at, step) for at in range(0, len(data), step)]
        token = self.queue.native.submit(readable, [(address + 4096, len(data))])
        assert token is not None
        return token

    def end_of(self, token: int, timeout: float = 10.0) -> bytes:
        written, _ = self.queue.native.wait(token, timeout)
        return bytes(memoryview(self.buffer)[4096 : 4096 + written])


@pytest.fixture
def served(request: pytest.FixtureRequest, stack: Any) -> tuple[Echo, str]:
    device = Echo()
    stack.callback(device.close)
    place = f"mem:{request.node.name}"
    stack.enter_context(virtio.start(device, place))
    return device, place


def test_the_steps_in_their_order(served: tuple[Echo, str]) -> None:
    device, place = served
    with EchoDriver(open_driver_end(place)) as driver:
        assert device.statuses == [
            0,
            S.ACKNOWLEDGE,
            S.ACKNOWLEDGE | S.DRIVER,
            S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK,
            LIVE,
        ]
        assert driver.features == device.negotiated_features
        assert driver.features & core.F.VERSION_1
        assert not driver.features & ~(driver.understood | core.F.mask)
    assert device.statuses[-1] == 0


@pytest.fixture
def echoed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let block devices be driven by the driver above."""
    monkeypatch.setattr("virtio.transport.driver_class", lambda kind: EchoDriver)


@pytest.mark.usefixtures("echoed")
def test_buffers_go_there_and_back(drive: Drive, layout: str) -> None:
    driver = drive(Echo(), mask=layout)
    for size, pieces in ((1, 1), (4000, 1), (4000, 20), (100, 2)):
        data = bytes(range(256)) * 16
        token = driver.begin(data[:size], pieces)
        assert driver.end_of(token) == data[:size][::-1]
    counters = driver.queue.counters
    assert counters.requests == counters.completions == 4
    assert bool(counters.indirect) == bool(driver.features & core.F.INDIRECT_DESC)


def test_a_device_that_refuses(served: tuple[Echo, str]) -> None:
    device, place = served
    device.refuse = True
    with pytest.raises(FeatureNegotiationError, match="go along"):
        EchoDriver(open_driver_end(place))
    assert any(status & S.FAILED for status in device.statuses)
    assert not any(status & S.DRIVER_OK for status in device.statuses)
    device.refuse = False
    with EchoDriver(open_driver_end(place)) as driver:
        assert driver.end_of(driver.begin(b"again")) == b"niaga"


def test_what_is_missing(served: tuple[Echo, str], monkeypatch: pytest.MonkeyPatch) -> None:
    device, place = served
    monkeypatch.setattr(device, "offered_features", device.offered_features & ~core.F.VERSION_1)
    with pytest.raises(FeatureNegotiationError, match="VERSION_1") as caught:
        EchoDriver(open_driver_end(place))
    assert caught.value.missing == core.F.VERSION_1
    assert device.statuses[-2] & S.FAILED


def test_another_type(served: tuple[Echo, str]) -> None:
    device, place = served
    with pytest.raises(ConfigurationError, match="type block, not entropy"):
        virtio.connect(place, "entropy")
    assert not any(device.statuses), "nothing is said to a device that is not driven"


def test_masks(served: tuple[Echo, str]) -> None:
    _, place = served
    with EchoDriver(open_driver_end(place), mask="FLUSH,EVENT_IDX") as driver:
        assert "VIRTIO_BLK_F_FLUSH" not in driver.feature_names
        assert "VIRTIO_F_EVENT_IDX" not in driver.feature_names
        assert driver.end_of(driver.begin(b"abc")) == b"cba"
    with pytest.raises(ConfigurationError, match="no feature 'NOSUCH'"):
        EchoDriver(open_driver_end(place), mask="NOSUCH")


def test_configuration(served: tuple[Echo, str]) -> None:
    device, place = served
    with EchoDriver(open_driver_end(place), mask="TOPOLOGY") as driver:
        assert driver.config.capacity == 8
        assert driver.config.values()["num_queues"] == 2
        assert "capacity" in driver.config
        assert "topology" not in driver.config
        assert "topology" not in driver.config.values()
        with pytest.raises(AttributeError, match="VIRTIO_BLK_F_TOPOLOGY"):
            _ = driver.config.topology
        with pytest.raises(AttributeError, match="no nonsense"):
            _ = driver.config.nonsense
        with pytest.raises(ConfigurationError, match="must not write capacity"):
            driver.config.capacity = 9
        driver.config.writeback = 0
        assert device.config.writeback == 0
        seen = threading.Event()
        driver.on_config_change(seen.set)
        device.config.capacity = 99
        assert seen.wait(10)
        assert (driver.config.capacity, driver.changes) == (99, 1)


def test_a_configuration_that_changes_while_it_is_read(
    served: tuple[Echo, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, place = served
    with EchoDriver(open_driver_end(place)) as driver:
        original = device.read_config
        left = [3]

        def restless(offset: int, size: int) -> bytes:
            data = original(offset, size)
            if left[0]:
                left[0] -= 1
                device.config.capacity += 1
            return data

        monkeypatch.setattr(device, "read_config", restless)
        assert driver.config.capacity == 8 + 3
        left[0] = 1 << 30
        with pytest.raises(ProtocolError, match="changes all the time"):
            _ = driver.config.capacity


def test_a_queue_that_is_not_there(served: tuple[Echo, str]) -> None:
    class Greedy(EchoDriver):
        def set_up(self) -> None:
            self.add_queue(7)

    device, place = served
    with pytest.raises(ConfigurationError):
        Greedy(open_driver_end(place))
    assert device.statuses[-2] & S.FAILED
    assert device.statuses[-1] == 0


class Silent(Echo):
    """Keeps what it gets."""

    def on_requests(self, chain: Chain) -> None:
        chain.hold(idle=True)
        self.held = chain


@pytest.mark.usefixtures("echoed")
@pytest.mark.parametrize("polling", [0, 1000])
def test_closing_ends_what_waits(drive: Drive, polling: int) -> None:
    driver = drive(Silent(), polling=polling)
    token = driver.begin(b"abc")
    with pytest.raises(TimeoutError):
        driver.end_of(token, 0.01)
    raised: list[Exception] = []

    def wait() -> None:
        try:
            driver.end_of(token)
        except Error as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    driver.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in raised] == ["the driver is closed"]
    with pytest.raises(TransportError, match="closed"):
        driver.allocate(4096)
    driver.close()


def test_a_device_that_goes(stack: Any, tmp_path: Any, transport: str) -> None:
    device = Silent()
    place = "mem:leaving" if transport == "mem" else f"vhost-user:{tmp_path}/leaving.sock"
    stack.callback(device.close)
    server = virtio.start(device, place)
    driver = EchoDriver(open_driver_end(place))
    token = driver.begin(b"abc")
    stopper = threading.Timer(0.1, server.stop)
    stopper.start()
    with pytest.raises(TransportError):
        driver.end_of(token)
    stopper.join()
    assert driver.failure is not None
    with pytest.raises(TransportError):
        driver.allocate(4096)
    driver.close()
    assert driver.closed


@pytest.mark.usefixtures("echoed")
def test_a_device_that_needs_a_reset(drive: Drive) -> None:
    """A request that no block device can parse breaks the queue, and the driver hears of it."""
    driver = drive(virtio.BlockDevice(size=1 << 20))
    token = driver.begin(b"abc")  # no header, no status
    with pytest.raises(DeviceError, match="needs a reset") as waiting:
        driver.end_of(token)
    assert isinstance(driver.failure, DeviceError)
    assert waiting.value.status == driver.failure.status == S.DEVICE_NEEDS_RESET
