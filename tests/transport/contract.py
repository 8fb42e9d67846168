"""What every transport keeps, whatever its wire: inherited by the tests of each, which say where to serve.

It is driven by the model of the rings, so that it stands on nothing but the transport and the device.
"""

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import virtio
from virtio.device.base import Device
from virtio.errors import ConfigurationError, DeviceError, Error, RefusedError, TransportError
from virtio.queue import Chain
from virtio.queue.model.packed import PackedDriver
from virtio.queue.model.split import SplitDriver
from virtio.spec import block, core
from virtio.transport import open_driver_end
from virtio.transport.interface import DriverEnd, QueueWire

SECONDS = 10.0
S = core.STATUS
BASIC = core.F.VERSION_1 | core.F.EVENT_IDX | core.F.INDIRECT_DESC
READY = S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK


class Mirror(Device):
    """Answers each buffer with the same bytes, backwards. It has a block device's configuration."""

    spec = block
    features = block.F.MQ | block.F.CONFIG_WCE | block.F.FLUSH | core.F.RING_RESET | core.F.ORDER_PLATFORM

    def __init__(self, workers: int = 1) -> None:
        config = {"capacity": 8, "num_queues": 2, "writeback": 1}
        super().__init__(name="mirror", config=config, workers=workers)

    def on_requests(self, chain: Chain) -> None:
        chain.write(chain.read()[::-1])


class Served:
    """A device at an address."""

    def __init__(self, address: str, stack: contextlib.ExitStack) -> None:
        self.device = Mirror()
        stack.callback(self.device.close)
        self.server = stack.enter_context(virtio.start(self.device, address))
        self._stack = stack

    def connect(self, **options: Any) -> DriverEnd:
        end = open_driver_end(self.server.address + self.suffix, **options)
        self._stack.callback(end.close)
        return end

    suffix = ""


class Ring:
    """One queue in a driver's hand."""

    def __init__(self, end: DriverEnd, index: int, features: int, size: int = 16) -> None:
        self.end, self.index, self.size = end, index, size
        self.memory = end.memory.allocate(1 << 16, 4096)
        start, stop = self.memory.address, self.memory.address + self.memory.size
        model = PackedDriver if features & core.F.RING_PACKED else SplitDriver
        self.model = model(self.memory.view, start, size, features, start=start, end=stop)
        self.wire: QueueWire | None = None

    def start(self, base: int | None = None) -> None:
        self.wire = self.end.start_queue(self.index, size=self.size, base=base, **self.model.addresses)

    def offer(self, data: bytes) -> int:
        self.model.enable_interrupts()
        head = self.model.add([data], [len(data)])
        self.model.publish()
        if self.model.needs_kick():
            self.kick()
        return head

    def kick(self) -> None:
        assert self.wire is not None
        if self.wire.kick_fd is None:
            self.wire.kick()
        else:
            os.eventfd_write(self.wire.kick_fd, 1)

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Wait for a used buffer: a call is a hint."""
        assert self.wire is not None
        deadline = time.monotonic() + seconds
        while not (used := self.model.poll_used()):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.wire.call_fd], [], [], left)[0]:
                return []
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.wire.call_fd)
        return [entry.head for entry in used]

    def mirror(self, data: bytes) -> None:
        head = self.offer(data)
        assert self.wait() == [head]
        assert self.model.data(head) == data[::-1]

    def close(self) -> None:
        self.model.close()
        self.memory.free()
        self.memory.view.release()  # a failed call's traceback may hold this ring for a while


class Failures:
    """What a device's failures were said to be."""

    def __init__(self) -> None:
        self.count = 0
        self._queue: queue.SimpleQueue[Error] = queue.SimpleQueue()

    def take(self, error: Error) -> None:
        self.count += 1
        self._queue.put(error)

    def wait(self) -> Error:
        return self._queue.get(timeout=SECONDS)


class Contract:
    """The suite. A subclass says how a device is served."""

    address: str
    """Where; ``{tmp}`` stands for a folder."""
    suffix = ""

    @pytest.fixture
    def ends(self, tmp_path: Any) -> Iterator[Served]:
        with contextlib.ExitStack() as stack:
            served = Served(self.address.format(tmp=tmp_path), stack)
            served.suffix = self.suffix
            yield served

    def live(
        self, end: DriverEnd, features: int = BASIC, queues: Sequence[int] = (0, 1)
    ) -> contextlib.AbstractContextManager[list[Ring]]:
        return live(end, features, queues)

    # --- reset and negotiation

    def test_a_new_connection_finds_the_device_reset(self, ends: Served) -> None:
        end = ends.connect()
        assert end.status == 0
        assert end.timeout == 5.0
        assert end.address.startswith(self.address.partition(":")[0] + ":")
        assert end.device_id in (None, 2)

    def test_what_is_offered_is_the_devices(self, ends: Served) -> None:
        end = ends.connect()
        assert end.device_features & ~ends.device.offered_features == 0
        assert end.device_features & BASIC == BASIC
        carried = Mirror.features & ~core.F.RING_RESET  # not every transport has it
        assert end.device_features & carried == carried

    def test_the_status_is_read_as_written(self, ends: Served) -> None:
        end = ends.connect()
        for status in (S.ACKNOWLEDGE, S.ACKNOWLEDGE | S.DRIVER):
            end.set_status(status)
            assert end.status == status
        end.accept(BASIC)
        end.set_status(READY)
        assert end.status == READY
        assert ends.device.negotiated_features == BASIC

    def test_features_that_cannot_be_show_in_the_status(self, ends: Served) -> None:
        end = ends.connect()
        end.set_status(S.ACKNOWLEDGE | S.DRIVER)
        end.accept(BASIC & ~core.F.VERSION_1)
        end.set_status(READY)
        assert not end.status & S.FEATURES_OK
        end.reset()
        with self.live(end) as rings:  # a better choice is taken
            rings[0].mirror(b"hello")

    def test_features_that_are_not_offered_are_not_written(self, ends: Served) -> None:
        end = ends.connect()
        with pytest.raises(ConfigurationError):
            end.accept(BASIC | block.F.ZONED)

    def test_a_reset_takes_everything_back(self, ends: Served) -> None:
        end = ends.connect()
        for features in (BASIC, BASIC & ~core.F.EVENT_IDX, BASIC | core.F.RING_PACKED):
            with self.live(end, features) as rings:
                for ring in rings:
                    ring.mirror(b"before")
                end.reset()
                assert end.status == 0
                assert not any(queue.running for queue in ends.device.queues)
                rings[0].wire.kick() if rings[0].wire else None  # harmless
        end.set_status(0)  # again: harmless

    # --- configuration space

    def test_configuration_is_read_exactly(self, ends: Served) -> None:
        end = ends.connect()
        whole = ends.device.read_config(0, ends.device.config_size)
        assert end.config_size in (None, len(whole))
        assert end.read_config(0, 8) == (8).to_bytes(8, "little")
        assert end.read_config(34, 2) == whole[34:36]
        assert end.read_config(0, len(whole)) == whole
        assert end.read_config(8, 0) == b""

    def test_configuration_beyond_the_end_is_refused(self, ends: Served) -> None:
        end = ends.connect()
        for offset, size in ((5000, 1), (0, 5000), (-1, 4)):
            with pytest.raises(RefusedError):
                end.read_config(offset, size)
            with pytest.raises(RefusedError):
                end.write_config(offset, bytes(abs(size)))
        assert end.read_config(0, 8) == (8).to_bytes(8, "little")

    def test_configuration_is_written_where_that_is_allowed(self, ends: Served) -> None:
        end = ends.connect()
        writeback = block.CONFIG.offset("writeback")
        end.write_config(writeback, b"\0")
        assert ends.device.config["writeback"] == 0
        with pytest.raises(RefusedError):
            end.write_config(0, b"\1")
        assert ends.device.config["capacity"] == 8

    def test_changes_of_the_configuration_are_told(self, ends: Served) -> None:
        end = ends.connect()
        told = threading.Event()
        seen: list[bytes] = []

        def look() -> None:
            seen.append(end.read_config(0, 8))  # callbacks may call the transport
            told.set()

        end.on_config_change(look)
        with self.live(end):
            generation = end.config_generation
            ends.device.config["capacity"] = 9
            assert told.wait(SECONDS)
            assert seen[-1] == (9).to_bytes(8, "little")
            assert end.config_generation != generation
            end.on_config_change(None)
            ends.device.config["capacity"] = 10
            assert end.read_config(0, 8) == (10).to_bytes(8, "little")

    # --- queues

    def test_the_limits_of_queues(self, ends: Served) -> None:
        end = ends.connect()
        assert end.max_queues in (None, 2)
        assert end.max_queue_size(0) >= 256
        assert end.max_queue_size(70000) == 0

    @pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
    def test_buffers_go_there_and_back(self, ends: Served, layout: int) -> None:
        end = ends.connect()
        with self.live(end, BASIC | layout) as rings:
            for number in range(50):
                for ring in rings:
                    ring.mirror(bytes([number]) * (1 + number * 37) + b"end")

    @pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
    def test_a_stopped_queue_goes_on_from_its_base(self, ends: Served, layout: int) -> None:
        end = ends.connect()
        with self.live(end, BASIC | layout, [0]) as (ring,):
            for round_ in range(5):
                for _ in range(7):
                    ring.mirror(b"round %d" % round_)
                base = end.stop_queue(0)
                assert not ends.device.queues[0].running
                ring.start(base)

    def test_nothing_is_used_before_driver_ok(self, ends: Served) -> None:
        end = ends.connect()
        negotiate(end, BASIC)
        ring = Ring(end, 0, BASIC)
        try:
            ring.start()
            head = ring.offer(b"early")
            assert ring.wait(0.1) == []
            end.set_status(READY | S.DRIVER_OK)
            ring.kick()
            assert ring.wait() == [head]
            end.reset()
        finally:
            ring.close()

    def test_a_queue_may_start_after_driver_ok(self, ends: Served) -> None:
        end = ends.connect()
        with self.live(end, BASIC, [0]):
            late = Ring(end, 1, BASIC)
            late.start()
            late.mirror(b"late")
            late.close()
            end.reset()

    def test_a_queue_is_reset_by_itself(self, ends: Served) -> None:
        end = ends.connect()
        if not end.device_features & core.F.RING_RESET:
            pytest.skip("this transport does not carry VIRTIO_F_RING_RESET")
        with self.live(end, BASIC | core.F.RING_RESET) as rings:
            rings[0].mirror(b"before")
            end.reset_queue(0)
            rings[1].mirror(b"meanwhile")
            again = Ring(end, 0, BASIC, size=32)
            again.start()
            again.mirror(b"after")
            again.close()
            end.reset()

    @pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
    def test_a_queue_gets_other_sizes_while_another_runs(self, ends: Served, layout: int) -> None:
        """What ``ethtool -G`` does: a reset in the middle of the traffic of others."""
        end = ends.connect()
        if not end.device_features & core.F.RING_RESET:
            pytest.skip("this transport does not carry VIRTIO_F_RING_RESET")
        features = BASIC | core.F.RING_RESET | layout
        done, failed = threading.Event(), list[BaseException]()

        def traffic(ring: Ring) -> None:
            try:
                while not done.is_set():
                    ring.mirror(b"meanwhile")
            except BaseException as error:
                failed.append(error)

        with self.live(end, features) as rings:
            other = threading.Thread(target=traffic, args=(rings[1],))
            other.start()
            try:
                end.reset_queue(0)
                for size in (32, 8, 64, 16):
                    ring = Ring(end, 0, features, size=size)
                    ring.start()
                    for number in range(size + 3):
                        ring.mirror(b"%d" % number)
                    assert ends.device.queues[0].size == size
                    ring.offer(b"lost")  # if it is still under way at the reset, it is lost
                    end.reset_queue(0)
                    ring.close()
            finally:
                done.set()
                other.join()
            assert not failed
            end.reset()

    def test_queues_that_cannot_be_are_said_so(self, ends: Served) -> None:
        end = ends.connect()
        ring = Ring(end, 0, BASIC)
        try:
            with pytest.raises(ConfigurationError):
                ring.start()
            negotiate(end, BASIC)
            ring.index = 2
            if end.max_queues is not None:
                with pytest.raises(ConfigurationError):
                    ring.start()
            with pytest.raises(ConfigurationError):
                end.stop_queue(0)
            ring.index = 0
            ring.start()
            with pytest.raises(ConfigurationError):
                ring.start()
        finally:
            ring.close()

    def test_memory_grows_while_queues_run(self, ends: Served) -> None:
        end = ends.connect(memory_size=1 << 20)
        with self.live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"small")
            pieces = [end.memory.allocate(1 << 20) for _ in range(5)]
            late = Ring(end, 1, BASIC)
            late.start()
            late.mirror(b"in a new region")
            for piece in pieces:
                assert piece.view[:4] == bytes(4)
                piece.free()
            late.close()
            end.reset()

    def test_memory_that_cannot_be_is_said_so(self, ends: Served) -> None:
        end = ends.connect()
        for size, alignment in ((0, 16), (-1, 16), (16, 3), (16, 0)):
            with pytest.raises(ConfigurationError):
                end.memory.allocate(size, alignment)

    # --- errors and the end

    def test_a_device_that_broke_says_so_and_can_be_reset(self, ends: Served) -> None:
        end = ends.connect()
        failures = Failures()
        end.on_failure(failures.take)
        for _ in range(2):
            with self.live(end, BASIC, [0]) as (ring,):
                ring.mirror(b"well")
                break_rules(ring)
                assert isinstance(failures.wait(), DeviceError)
                assert end.status & S.DEVICE_NEEDS_RESET
                assert ring.wire is not None
                assert select.select([ring.wire.call_fd], [], [], SECONDS)[0], "who waits is woken"
                end.reset()
                assert end.status == 0
        assert failures.count == 2

    def test_a_device_that_is_taken_away_is_an_error(self, ends: Served) -> None:
        end = ends.connect()
        failures = Failures()
        end.on_failure(failures.take)
        with self.live(end) as rings:
            ends.server.stop()
            assert isinstance(failures.wait(), TransportError)
            assert rings[0].wire is not None
            assert select.select([rings[0].wire.call_fd], [], [], SECONDS)[0], "who waits is woken"
            for call in calls(end):
                with pytest.raises(TransportError):
                    call()
        assert failures.count == 1

    def test_after_close_every_call_says_so(self, ends: Served) -> None:
        end = ends.connect()
        with self.live(end) as rings:
            rings[0].mirror(b"hello")
            wire = rings[0].wire
            end.close()
            end.close()
            assert wire is not None
            wire.kick()  # harmless
            for call in calls(end):
                with pytest.raises(TransportError):
                    call()
            with pytest.raises(TransportError):
                end.memory.allocate(16)
        await_(lambda: not ends.device.attached)

    def test_the_device_is_free_again_after_close(self, ends: Served) -> None:
        for _ in range(5):
            end = ends.connect()
            with self.live(end) as rings:
                rings[1].mirror(b"hello")
            end.close()

    def test_a_second_driver_is_turned_away_in_time(self, ends: Served) -> None:
        end = ends.connect()
        with self.live(end) as rings:
            with pytest.raises(TransportError, match="another driver"):
                ends.connect(timeout=0.2)
            rings[0].mirror(b"undisturbed")

    def test_options_that_it_does_not_have_are_said_so(self, ends: Served) -> None:
        with pytest.raises(ConfigurationError, match="has no option 'flavour'"):
            ends.connect(flavour="sweet")
        with pytest.raises(ConfigurationError, match="has an option 'flavour'"):
            virtio.connect(ends.server.address, "block", flavour="sweet")

    def test_times_that_cannot_be_are_said_so(self, ends: Served) -> None:
        for seconds in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match="a timeout of"):
                ends.connect(timeout=seconds)
            with pytest.raises(ConfigurationError, match="a timeout of"):
                virtio.connect(ends.server.address, "block", timeout=seconds)

    def test_an_address_without_a_device_is_an_error(self, ends: Served) -> None:
        ends.server.stop()
        with pytest.raises(TransportError):
            ends.connect(timeout=0.5)

    def test_callbacks_may_close(self, ends: Served) -> None:
        end = ends.connect()
        closed = threading.Event()

        def close(_: Error) -> None:
            end.close()
            closed.set()

        end.on_failure(close)
        with self.live(end):
            ends.server.stop()
            assert closed.wait(SECONDS)

    def test_many_threads_may_call(self, ends: Served) -> None:
        end = ends.connect()
        wrong: list[object] = []

        def read() -> None:
            for _ in range(50):
                if end.read_config(0, 8) != (8).to_bytes(8, "little"):
                    wrong.append("config")

        with self.live(end) as rings:
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(50):
                rings[0].mirror(b"meanwhile")
            for thread in threads:
                thread.join(SECONDS)
        assert wrong == []


@contextlib.contextmanager
def live(end: DriverEnd, features: int, queues: Sequence[int]) -> Iterator[list[Ring]]:
    """Take a device to DRIVER_OK with some queues."""
    negotiate(end, features)
    rings = [Ring(end, index, features) for index in queues]
    try:
        for ring in rings:
            ring.start()
        end.set_status(READY | S.DRIVER_OK)
        yield rings
    finally:
        for ring in rings:
            ring.close()


def negotiate(end: DriverEnd, features: int) -> None:
    """Walk 3.1.1 up to FEATURES_OK."""
    end.reset()
    end.set_status(S.ACKNOWLEDGE)
    end.set_status(S.ACKNOWLEDGE | S.DRIVER)
    end.accept(features)
    end.set_status(READY)
    assert end.status & S.FEATURES_OK


def break_rules(ring: Ring) -> None:
    """Let the available index jump further than the ring is long (2.7.13.3)."""
    address = ring.model.addresses["available"] + 2
    ring.end.memory.native.write(address, (0x7000).to_bytes(2, "little"))
    ring.kick()


def calls(end: DriverEnd) -> list[Callable[[], object]]:
    """Everything that speaks with the device."""
    return [
        lambda: end.status,
        lambda: end.set_status(S.ACKNOWLEDGE),
        lambda: end.accept(BASIC),
        end.reset,
        lambda: end.read_config(0, 8),
        lambda: end.write_config(32, b"\0"),
        lambda: end.stop_queue(0),
        lambda: end.start_queue(1, size=16, descriptors=0, available=0, used=0),
    ]


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
