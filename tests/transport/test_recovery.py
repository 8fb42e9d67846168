"""Back ends that go away and come back, and those that do not."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.transport.contract import BASIC, SECONDS, Failures, Mirror, Ring, await_, live
from tests.transport.rogue import Rogue, silence
from tests.transport.test_back_ends import programs, read, running

from virtio.errors import ConfigurationError, TransportError
from virtio.queue import Chain
from virtio.spec import block, core
from virtio.transport.interface import Server
from virtio.transport.unix.listener import open_listener
from virtio.transport.vhost_user import VhostUserDriverEnd, VhostUserServer, open_driver_end
from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import Message, encode, encode_reply
from virtio.transport.vhost_user.exchange import UnrecoverableError, ViolationError
from virtio.transport.vhost_user.messages import ProtocolFeature
from virtio.transport.vhost_user.payloads import Inflight


class Home:
    """A device that comes and goes."""

    def __init__(self, path: Path, stack: contextlib.ExitStack, workers: int = 1) -> None:
        self.path = path
        self.device = Mirror(workers)
        stack.callback(self.device.close)
        self._server: Server | None = None
        stack.callback(self.leave)

    def come(self, without: ProtocolFeature | None = None) -> None:
        features = PROTOCOL_FEATURES & ~(without.mask if without is not None else 0)
        listener = open_listener(str(self.path), "vhost-user")
        self._server = VhostUserServer(self.device, listener, protocol_features=features)

    def leave(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with contextlib.ExitStack() as stack:
        made = Home(tmp_path / "mirror.sock", stack)
        made.come()
        yield made


def connect(home: Home, **options: Any) -> contextlib.closing[VhostUserDriverEnd]:
    return contextlib.closing(open_driver_end(str(home.path), reconnect=SECONDS, **options))


def test_rings_go_on_with_the_next_back_end(home: Home) -> None:
    with connect(home) as end, live(end, BASIC, [0, 1]) as rings:
        for round_ in range(5):
            for ring in rings:
                for number in range(round_ + 3):
                    ring.mirror(b"round %d, %d" % (round_, number))
            home.leave()
            await_(lambda: end.away)
            home.come()
        assert end.status & core.STATUS.DRIVER_OK


def test_requests_wait_while_the_back_end_is_away(home: Home) -> None:
    with connect(home) as end, live(end, BASIC, [0]) as (ring,):
        ring.mirror(b"before")
        home.leave()
        await_(lambda: end.away)
        head = ring.offer(b"meanwhile")
        time.sleep(0.05)
        home.come()
        assert ring.wait() == [head]
        assert ring.model.data(head) == b"meanwhile"[::-1]


def test_calls_wait_while_the_back_end_is_away(home: Home) -> None:
    with connect(home) as end:
        home.leave()
        later = threading.Timer(0.1, home.come)
        later.start()
        assert end.read_config(0, 8) == (8).to_bytes(8, "little")
        later.join()


class Holding:
    """Has a device keep the chains that it takes, until it is told to answer."""

    def __init__(self, device: Mirror) -> None:
        self.chains: list[Chain] = []
        self.on = True
        self._device, self._answer = device, device.on_requests
        device.on_requests = self._take  # type: ignore[method-assign]

    def _take(self, chain: Chain) -> None:
        if self.on:
            self.chains.append(chain)
            chain.hold(idle=True)
        else:
            self._answer(chain)

    def wait(self, count: int) -> None:
        queue = self._device.queues[0]
        await_(lambda: (counters := queue.counters) is not None and counters.chains >= count)


LAYOUTS = [
    pytest.param(features, id=name)
    for name, features in {
        "split": 0,
        "split-in-order": core.F.IN_ORDER,
        "packed": core.F.RING_PACKED,
        "packed-in-order": core.F.RING_PACKED | core.F.IN_ORDER,
    }.items()
]


def finish(ring: Ring, heads: Sequence[int]) -> list[int]:
    done: list[int] = []
    while len(done) < len(heads):
        ring.model.enable_interrupts()
        used = ring.wait()
        assert used
        done += used
    return done


@pytest.mark.parametrize("layout", LAYOUTS)
def test_requests_that_were_under_way_are_answered_by_the_next_back_end(home: Home, layout: int) -> None:
    holding = Holding(home.device)
    home.device.offered_features |= core.F.IN_ORDER
    with connect(home) as end, live(end, BASIC | layout, [0]) as (ring,):
        heads = [ring.offer(b"%d" % number) for number in range(5)]
        holding.wait(5)
        if not layout & core.F.IN_ORDER:
            holding.chains.pop(2).complete(0)
            await_(lambda: ring.wait() == [heads.pop(2)])
        home.leave()
        holding.on = False
        home.come()
        assert finish(ring, heads) == heads
        assert [ring.model.data(head) for head in heads[:2]] == [b"0", b"1"]
        for number in range(20):
            ring.mirror(b"after %d" % number)
        holding.chains.clear()  # they keep their memory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_requests_of_several_workers_are_answered_by_the_next_back_end(tmp_path: Path, layout: int) -> None:
    with contextlib.ExitStack() as stack:
        home = Home(tmp_path / "workers.sock", stack, workers=4)
        home.device.offered_features |= core.F.IN_ORDER
        holding = Holding(home.device)
        home.come()
        with connect(home) as end, live(end, BASIC | layout, [0]) as (ring,):
            data = {ring.offer(b"%d" % number): b"%d" % number for number in range(7)}
            holding.wait(7)
            await_(lambda: len(holding.chains) == 7)
            home.leave()
            holding.on = False
            home.come()
            heads = finish(ring, list(data))
            assert sorted(heads) == sorted(data)
            ring.mirror(b"after")
            holding.chains.clear()  # they keep their memory


def test_what_was_offered_without_a_kick_is_taken_after_a_resume(home: Home) -> None:
    """A kick that came while nobody listened does not come again."""
    with connect(home) as end, live(end, BASIC, [0]) as (ring,):
        ring.mirror(b"before")
        base = end.stop_queue(0)
        head = ring.model.add([b"between"], [7])
        ring.model.publish()
        ring.start(base)
        ring.model.enable_interrupts()
        assert ring.wait() == [head]


def test_in_order_rings_go_on_without_in_flight_memory(home: Home) -> None:
    holding = Holding(home.device)
    home.leave()
    home.device.offered_features |= core.F.IN_ORDER
    home.come(ProtocolFeature.INFLIGHT_SHMFD)
    with connect(home) as end, live(end, BASIC | core.F.IN_ORDER, [0]) as (ring,):
        heads = [ring.offer(b"%d" % number) for number in range(5)]
        holding.wait(5)
        home.leave()
        holding.on = False
        home.come(ProtocolFeature.INFLIGHT_SHMFD)
        assert finish(ring, heads) == heads
        holding.chains.clear()  # they keep their memory


def test_requests_that_nobody_knows_of_are_an_error(home: Home) -> None:
    holding = Holding(home.device)
    home.leave()
    home.come(ProtocolFeature.INFLIGHT_SHMFD)
    failures = Failures()
    with connect(home) as end, live(end, BASIC, [0]) as (ring,):
        end.on_failure(failures.take)
        ring.offer(b"lost")
        holding.wait(1)
        home.leave()
        home.come(ProtocolFeature.INFLIGHT_SHMFD)
        assert isinstance(failures.wait(), UnrecoverableError)
        with pytest.raises(TransportError):
            end.reset()
        holding.chains.clear()  # they keep their memory


def test_what_the_driver_had_configured_is_configured_again(home: Home) -> None:
    writeback = 32
    with connect(home) as end, live(end, BASIC | block.F.CONFIG_WCE | block.F.FLUSH, [0]) as (ring,):
        end.write_config(writeback, b"\0")
        home.leave()
        home.device.config.writeback = 1
        home.come()
        ring.mirror(b"after")
        assert home.device.config.writeback == 0
        end.reset()
        home.leave()
        home.device.config.writeback = 1
        home.come()
        assert end.read_config(writeback, 1) == b"\1"  # of a driver that was reset, nothing is left


def test_a_back_end_with_less_features_is_an_error(home: Home) -> None:
    failures = Failures()
    with connect(home) as end, live(end, BASIC, [0]) as (ring,):
        end.on_failure(failures.take)
        ring.mirror(b"before")
        home.leave()
        home.device.offered_features &= ~core.F.EVENT_IDX
        home.come()
        assert isinstance(failures.wait(), UnrecoverableError)


def test_a_back_end_that_stays_away_is_lost_in_time(home: Home) -> None:
    failures = Failures()
    for seconds in (-1, float("nan")):
        with pytest.raises(ConfigurationError, match="seconds to reconnect"):
            open_driver_end(str(home.path), reconnect=seconds)
    with contextlib.closing(open_driver_end(str(home.path), reconnect=0.3, timeout=1)) as end:
        end.on_failure(failures.take)
        home.leave()
        began = time.monotonic()
        assert isinstance(failures.wait(), TransportError)
        assert time.monotonic() - began > 0.25
        with pytest.raises(TransportError):
            end.reset()


def test_closing_does_not_wait_for_who_is_away(home: Home) -> None:
    with connect(home) as end, live(end, BASIC, [0]):
        home.leave()
        await_(lambda: end.away)
        began = time.monotonic()
        end.close()
        assert time.monotonic() - began < SECONDS / 2


def test_a_violation_is_not_come_back_to() -> None:
    failures = Failures()

    def noise(rogue: Rogue, message: Message, _answer: bytes) -> None:
        rogue.send(encode(message.number, 1, b""))

    with (
        Rogue("GET_CONFIG", noise) as rogue,
        contextlib.closing(open_driver_end(rogue.place, reconnect=SECONDS)) as end,
    ):
        end.on_failure(failures.take)
        with pytest.raises(ViolationError):
            end.read_config(0, 8)
        assert isinstance(failures.wait(), ViolationError)


def wait_until_away(end: VhostUserDriverEnd) -> None:
    """What is offered before that, the back end that was killed may have taken."""
    await_(lambda: end.away)


@pytest.mark.parametrize("program", programs("qemu-storage-daemon"), ids=str)
def test_the_storage_daemon_killed_and_started_again(program: Path | None, tmp_path: Path) -> None:
    if program is None:
        pytest.skip("qemu-storage-daemon is not installed (Debian: qemu-system-common)")
    image, socket = tmp_path / "image", tmp_path / "disk.sock"
    image.write_bytes(os.urandom(64 * 512))
    node = f"driver=file,node-name=f0,filename={image}"
    export = f"type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={socket},writable=on"
    arguments: list[str | Path] = [program, "--blockdev", node, "--export", export]
    with contextlib.ExitStack() as stack:
        ring: Ring | None = None
        for round_ in range(3):
            with running(arguments, socket):
                if ring is None:
                    end = stack.enter_context(
                        contextlib.closing(open_driver_end(str(socket), reconnect=SECONDS))
                    )
                    (ring,) = stack.enter_context(live(end, BASIC, [0]))
                for sector in range(round_ + 2):
                    assert read(ring, sector) == image.read_bytes()[sector * 512 :][:512]
            socket.unlink()
            wait_until_away(end)


# --- in-flight memory

INFLIGHT = PROTOCOL_FEATURES | ProtocolFeature.INFLIGHT_SHMFD.mask


def area(reply: Inflight, size: int | None) -> Any:
    """Answer with this area, in a file of that size; None: without a descriptor."""

    def say(rogue: Rogue, message: Message, _answer: bytes) -> None:
        assert message.kind is not None
        data = encode_reply(message.kind, reply)
        if size is None:
            rogue.send(data)
            return
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, size)
        rogue.send(data, (fd,))
        os.close(fd)

    return say


def test_in_flight_memory_is_asked_for_and_handed_back() -> None:
    with (
        Rogue("GET_INFLIGHT_FD", area(Inflight(4096, 0, 2, 16), 4096), protocol=INFLIGHT) as rogue,
        contextlib.closing(open_driver_end(rogue.place, reconnect=SECONDS)) as end,
    ):
        for _ in range(2):
            with live(end, BASIC, [0]):
                assert rogue.done
                end.reset()
        assert rogue.done == 2  # a new one after each reset


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        (Inflight(4096, 0, 2, 16), None),
        (Inflight(4096, 0, 3, 16), 4096),
        (Inflight(4096, 0, 2, 17), 4096),
        (Inflight(0, 0, 2, 16), 4096),
        (Inflight(4097, 0, 2, 16), 4096),
        (Inflight(4096, 1, 2, 16), 4096),
        (Inflight(1 << 63, 1 << 63, 2, 16), 4096),
    ],
)
def test_in_flight_memory_that_cannot_be(reply: Inflight, size: int | None) -> None:
    with (
        Rogue("GET_INFLIGHT_FD", area(reply, size), protocol=INFLIGHT) as rogue,
        contextlib.closing(open_driver_end(rogue.place, reconnect=SECONDS)) as end,
        pytest.raises(ViolationError),
        live(end, BASIC, [0]),
    ):
        pass


def test_no_in_flight_memory_without_need() -> None:
    with (
        Rogue("GET_INFLIGHT_FD", silence, protocol=INFLIGHT) as rogue,
        contextlib.closing(open_driver_end(rogue.place)) as end,
        live(end, BASIC, [0]),
    ):
        end.reset()
