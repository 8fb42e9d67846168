"""DEVICE_STATE: a device's state through a descriptor, and devices that move while they are used."""

import array
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.transport.contract import BASIC, Mirror, Ring, live
from tests.transport.frontend import FrontEnd
from tests.transport.harness import Harness, answer
from tests.transport.rogue import Deed, Rogue, silence

import virtio
from virtio.errors import ConfigurationError, Error, RefusedError, TransportError
from virtio.spec import block, core
from virtio.transport.vhost_user import VhostUserDriverEnd, open_driver_end
from virtio.transport.vhost_user.actions import WatchTransfer
from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES
from virtio.transport.vhost_user.codec import Message, encode_reply
from virtio.transport.vhost_user.exchange import ViolationError
from virtio.transport.vhost_user.messages import (
    FRONT_END,
    NO_DESCRIPTOR,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import StateTransfer as Parameters
from virtio.transport.vhost_user.payloads import VringState
from virtio.transport.vhost_user.state_transfer import MAX_STATE

P = ProtocolFeature
SAVE, LOAD = Parameters(0, 0), Parameters(1, 0)
REFUSED = NO_DESCRIPTOR | 1
WRITEBACK = block.CONFIG.offset("writeback")


# --- the back end, message by message


def payload(actions: list[Any]) -> int:
    """The answer among what is to be done."""
    found = answer([action for action in actions if not isinstance(action, WatchTransfer)])
    assert isinstance(found.payload, int)
    return found.payload


def begin(harness: Harness, parameters: Parameters, fd: int) -> int:
    return payload(harness.say("SET_DEVICE_STATE_FD", parameters, (fd,)))


def check(harness: Harness) -> int:
    return payload(harness.say("CHECK_DEVICE_STATE"))


@pytest.fixture
def stopped(harness: Harness) -> Harness:
    """A device that was live and is stopped."""
    harness.negotiate(P.DEVICE_STATE, P.STATUS, P.REPLY_ACK)
    harness.ring()
    harness.ask("GET_VRING_BASE", VringState(0, 0))
    return harness


def drain(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_the_state_is_saved_into_a_pipe(stopped: Harness) -> None:
    ours, theirs = os.pipe()
    assert begin(stopped, SAVE, theirs) == NO_DESCRIPTOR
    assert drain(ours) == b"fake state"
    assert check(stopped) == 0
    assert check(stopped) == 1, "it was asked about already"


def test_the_state_is_loaded_with_the_features(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.DEVICE_STATE.mask)
    theirs, ours = os.pipe()
    os.write(ours, b"fake one")
    os.close(ours)
    assert begin(harness, LOAD, theirs) == NO_DESCRIPTOR
    assert check(harness) == 0
    assert harness.device.loads == [(0, b"fake one")], "so that the answer is true"
    harness.negotiate()
    assert harness.device.loads == [(0, b"fake one")] * 2
    harness.ring()
    assert harness.device.queues[0].running
    harness.say("SET_STATUS", 0)
    harness.negotiate()
    assert len(harness.device.loads) == 2, "a second driver starts afresh"


def test_a_state_that_is_none_is_refused(harness: Harness) -> None:
    harness.say("SET_PROTOCOL_FEATURES", P.DEVICE_STATE.mask)
    theirs, ours = os.pipe()
    os.write(ours, b"foul")
    os.close(ours)
    begin(harness, LOAD, theirs)
    assert check(harness) == 1
    harness.negotiate()
    assert harness.device.loads == []


@pytest.mark.parametrize(("direction", "phase"), [(2, 0), (0, 1), (1, 7), (2**32 - 1, 2**32 - 1)])
def test_transfers_that_are_none_are_refused(stopped: Harness, direction: int, phase: int) -> None:
    ours, theirs = os.pipe()
    assert begin(stopped, Parameters(direction, phase), theirs) == REFUSED
    assert drain(ours) == b""
    assert check(stopped) == 1


def test_rings_have_to_be_stopped(harness: Harness) -> None:
    harness.negotiate(P.DEVICE_STATE)
    harness.ring()
    for parameters in (SAVE, LOAD):
        ours, theirs = os.pipe()
        assert begin(harness, parameters, theirs) == REFUSED
        os.close(ours)
    assert check(harness) == 1
    assert harness.device.queues[0].running


@pytest.mark.parametrize("make", [lambda: os.eventfd(0), lambda: os.open("/dev/zero", os.O_RDWR)])
def test_descriptors_that_carry_no_bytes_are_refused(stopped: Harness, make: Callable[[], int]) -> None:
    for parameters in (SAVE, LOAD):
        assert begin(stopped, parameters, make()) == REFUSED
        assert check(stopped) == 1


def test_the_wrong_end_of_a_pipe_is_refused_or_fails(stopped: Harness) -> None:
    ours, theirs = os.pipe()
    begin(stopped, LOAD, theirs)  # opened anew for reading: it is the same pipe
    assert check(stopped) == 1
    os.close(ours)
    ours, theirs = os.pipe()
    begin(stopped, SAVE, ours)
    assert drain_now(theirs) == b""
    os.close(theirs)


def drain_now(fd: int) -> bytes:
    with contextlib.suppress(OSError):
        os.set_blocking(fd, False)
        return os.read(fd, 100)
    return b""


def test_a_pipe_that_nobody_reads_is_asked_about_too_early(stopped: Harness) -> None:
    stopped.device.state = bytes(1 << 20)
    ours, theirs = os.pipe()
    assert begin(stopped, SAVE, theirs) == NO_DESCRIPTOR
    assert check(stopped) == 1
    assert len(drain(ours)) < 1 << 20


def test_a_pipe_whose_reader_is_gone_fails(stopped: Harness) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    stopped.say("SET_DEVICE_STATE_FD", SAVE, (theirs,))
    assert check(stopped) == 1


@pytest.mark.parametrize("data", [b"", b"fake"])
def test_a_pipe_that_is_not_closed_is_asked_about_too_early(stopped: Harness, data: bytes) -> None:
    theirs, ours = os.pipe()
    os.write(ours, data)
    begin(stopped, LOAD, theirs)
    assert check(stopped) == 1
    os.close(ours)
    assert stopped.device.loads == []


def test_a_state_without_end_is_refused(stopped: Harness, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, MAX_STATE + (4 << 30))
    begin(stopped, LOAD, os.open(big, os.O_RDONLY))
    assert check(stopped) == 1


def test_a_second_transfer_takes_the_place_of_the_first(stopped: Harness) -> None:
    stopped.device.state = bytes(1 << 20)
    first, theirs = os.pipe()
    begin(stopped, SAVE, theirs)
    stopped.device.state = b"fake state"
    second, theirs = os.pipe()
    begin(stopped, SAVE, theirs)
    assert len(drain(first)) < 1 << 20
    assert drain(second) == b"fake state"
    assert check(stopped) == 0


def test_it_also_goes_through_sockets_and_files(stopped: Harness, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    begin(stopped, SAVE, theirs.detach())
    assert ours.recv(100) == b"fake state"
    assert ours.recv(100) == b""
    ours.close()
    assert check(stopped) == 0
    file = tmp_path / "state"
    begin(stopped, SAVE, os.open(file, os.O_RDWR | os.O_CREAT))
    assert check(stopped) == 0
    assert file.read_bytes() == b"fake state"
    begin(stopped, LOAD, os.open(file, os.O_RDONLY))
    assert check(stopped) == 0


# --- the back end, in one piece


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Mirror, FrontEnd]]:
    device = Mirror()
    with (
        virtio.start(device, f"vhost-user:{tmp_path}/s.sock"),
        FrontEnd.connect(tmp_path / "s.sock") as front_end,
    ):
        front_end.send("SET_PROTOCOL_FEATURES", PROTOCOL_FEATURES)
        yield device, front_end
    device.close()


def ask(front_end: FrontEnd, name: str, payload: Any = None, fds: tuple[int, ...] = ()) -> Any:
    front_end.send(name, payload, fds)
    return front_end.receive().payload


def test_a_state_that_does_not_fit_into_the_pipe_goes_through(served: tuple[Mirror, FrontEnd]) -> None:
    device, front_end = served
    huge = bytes(range(256)) * 4096
    device.saved = lambda: huge  # type: ignore[method-assign]
    ours, theirs = os.pipe()
    assert ask(front_end, "SET_DEVICE_STATE_FD", SAVE, (theirs,)) == NO_DESCRIPTOR
    os.close(theirs)
    data = drain(ours)
    assert ask(front_end, "CHECK_DEVICE_STATE") == 0
    assert huge in data
    device.check_saved = lambda own, config: None  # type: ignore[method-assign]
    theirs, ours = os.pipe()
    assert ask(front_end, "SET_DEVICE_STATE_FD", LOAD, (theirs,)) == NO_DESCRIPTOR
    os.close(theirs)
    with os.fdopen(ours, "wb") as file:
        file.write(data)
    assert ask(front_end, "CHECK_DEVICE_STATE") == 0


def test_the_connection_goes_on_while_a_pipe_stands_still(served: tuple[Mirror, FrontEnd]) -> None:
    device, front_end = served
    device.saved = lambda: bytes(1 << 20)  # type: ignore[method-assign]
    ours, theirs = os.pipe()
    for parameters, fd in ((SAVE, theirs), (LOAD, ours)):
        assert ask(front_end, "SET_DEVICE_STATE_FD", parameters, (fd,)) == NO_DESCRIPTOR
        for _ in range(3):
            assert ask(front_end, "GET_QUEUE_NUM") == 2
    os.set_blocking(ours, True)  # whoever shares the pipe cannot make the back end wait
    os.set_blocking(theirs, True)
    assert ask(front_end, "CHECK_DEVICE_STATE") == 1
    os.close(ours)
    os.close(theirs)


def pour(fd: int, data: bytes) -> None:
    """Write without end."""
    with os.fdopen(fd, "wb", buffering=0) as file:
        while True:
            file.write(data)


def test_gigabytes_are_cut_off(served: tuple[Mirror, FrontEnd]) -> None:
    _, front_end = served
    theirs, ours = os.pipe()
    assert ask(front_end, "SET_DEVICE_STATE_FD", LOAD, (theirs,)) == NO_DESCRIPTOR
    os.close(theirs)
    with pytest.raises(BrokenPipeError):
        pour(ours, bytes(1 << 20))
    assert ask(front_end, "CHECK_DEVICE_STATE") == 1
    assert ask(front_end, "GET_QUEUE_NUM") == 2


def test_a_front_end_that_leaves_takes_the_transfer_with_it(tmp_path: Path) -> None:
    device = Mirror()
    with virtio.start(device, f"vhost-user:{tmp_path}/s.sock") as server:
        for _ in range(3):
            with FrontEnd.connect(tmp_path / "s.sock") as front_end:
                front_end.send("SET_PROTOCOL_FEATURES", PROTOCOL_FEATURES)
                theirs, ours = os.pipe()
                assert ask(front_end, "SET_DEVICE_STATE_FD", LOAD, (theirs,)) == NO_DESCRIPTOR
                os.close(theirs)
            with pytest.raises(BrokenPipeError):
                pour(ours, b"x")
        assert not server.wait(0)
    device.close()


# --- moving


class Homes:
    """Two back ends for the same device."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.devices = [Mirror(), Mirror()]
        self.addresses = [f"vhost-user:{folder}/{index}.sock" for index in range(2)]
        self.servers = []
        for device, address in zip(self.devices, self.addresses, strict=True):
            stack.callback(device.close)
            self.servers.append(stack.enter_context(virtio.start(device, address)))


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    with contextlib.ExitStack() as stack:
        yield Homes(tmp_path, stack)


def connect(address: str, **options: Any) -> contextlib.closing[VhostUserDriverEnd]:
    return contextlib.closing(open_driver_end(address.removeprefix("vhost-user:"), **options))


@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
def test_a_device_moves_and_its_rings_go_on(homes: Homes, layout: int) -> None:
    features = BASIC | layout | block.F.CONFIG_WCE
    with connect(homes.addresses[0]) as end, live(end, features, [0, 1]) as rings:
        end.write_config(WRITEBACK, b"\0")
        for round_ in range(6):
            for ring in rings:
                for number in range(round_ + 3):
                    ring.mirror(b"round %d, %d" % (round_, number))
            away, here = homes.devices[round_ % 2], homes.devices[1 - round_ % 2]
            end.move(homes.addresses[1 - round_ % 2])
            assert end.address == homes.addresses[1 - round_ % 2]
            assert end.read_config(WRITEBACK, 1) == b"\0"
            assert end.status & core.STATUS.DRIVER_OK
            assert here.queues[0].running
            assert not away.queues[0].running
        end.stop_queue(1)
        rings[1].start()
        rings[0].mirror(b"and all else works")
        end.reset()
        assert end.status == 0


def test_a_device_that_no_driver_uses_yet_moves(homes: Homes) -> None:
    with connect(homes.addresses[0]) as end:
        end.move(homes.addresses[1])
        with live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"hello")
            assert homes.devices[1].queues[0].running


def test_a_ring_that_does_not_run_yet_moves(homes: Homes) -> None:
    with connect(homes.addresses[0]) as end, live(end, BASIC, [0]) as (ring,):
        end.reset()
        with contextlib.closing(Ring(end, 0, BASIC)) as ring:
            end.set_status(core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER)
            end.accept(BASIC)
            ready = core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER | core.STATUS.FEATURES_OK
            end.set_status(ready)
            ring.start()
            end.move(homes.addresses[1])
            end.set_status(ready | core.STATUS.DRIVER_OK)
            ring.mirror(b"hello")
            end.reset()


def test_a_move_that_fails_changes_nothing(homes: Homes, tmp_path: Path) -> None:
    other = Mirror()
    other.config.capacity = 7
    with (
        virtio.start(other, f"vhost-user:{tmp_path}/other.sock"),
        connect(homes.addresses[0], timeout=2) as end,
        live(end, BASIC | core.F.RING_PACKED, [0, 1]) as rings,
        connect(homes.addresses[1]),
    ):
        for address, error in (
            ("mem:nowhere", ConfigurationError),
            (f"{homes.addresses[1]}?notifications=in-band", ConfigurationError),
            (f"vhost-user:{tmp_path}/none.sock", TransportError),  # nobody is there
            (f"vhost-user:{tmp_path}/other.sock", RefusedError),  # it is another device
            (homes.addresses[1], TransportError),  # somebody else uses it
            (homes.addresses[0], ConfigurationError),  # this is where it is
        ):
            with pytest.raises(error):
                end.move(address)
            assert end.address == homes.addresses[0]
            for ring in rings:
                ring.mirror(b"undisturbed")
    other.close()


def test_a_device_whose_writes_are_logged_stays(homes: Homes) -> None:
    with connect(homes.addresses[0]) as end, live(end, BASIC, [0]) as (ring,):
        fd = os.memfd_create("log")
        os.ftruncate(fd, 1 << 16)
        end.log_to(fd, 1 << 16)
        with pytest.raises(ConfigurationError, match="dirty log"):
            end.move(homes.addresses[1])
        end.stop_logging()
        os.close(fd)
        end.move(homes.addresses[1])
        ring.mirror(b"hello")


def test_without_the_protocol_feature_only_a_device_without_state_moves(homes: Homes) -> None:
    deed: Deed = silence
    with (
        Rogue("GET_INFLIGHT_FD", deed, protocol=PROTOCOL_FEATURES & ~P.DEVICE_STATE.mask) as rogue,
        contextlib.closing(open_driver_end(rogue.place)) as end,
        live(end, BASIC, [0]),
    ):
        with pytest.raises(RefusedError, match="DEVICE_STATE"):
            end.move(homes.addresses[0])
        end.move(homes.addresses[0], state=False)
        assert homes.devices[0].queues[0].running
        end.reset()


# --- back ends that do wrong while a device moves


def say(number: int) -> Deed:
    def deed(rogue: Rogue, message: Message, _answer: bytes) -> None:
        assert message.kind is not None
        rogue.send(encode_reply(message.kind, number))

    return deed


def say_with_descriptor(number: int) -> Deed:
    def deed(rogue: Rogue, _message: Message, _answer: bytes) -> None:
        ours, theirs = os.pipe()
        rogue.send(encode_reply(FRONT_END["SET_DEVICE_STATE_FD"], number), (theirs,))
        os.close(theirs)
        os.close(ours)

    return deed


def with_an_eventfd(rogue: Rogue, _message: Message, _answer: bytes) -> None:
    fd = os.eventfd(0)
    rogue.send(encode_reply(FRONT_END["SET_DEVICE_STATE_FD"], 0), (fd,))
    os.close(fd)


HOSTILE: dict[str, tuple[str, Deed, type[Error]]] = {
    "no answer": ("SET_DEVICE_STATE_FD", silence, TransportError),
    "it refuses": ("SET_DEVICE_STATE_FD", say(REFUSED), RefusedError),
    "neither descriptor nor the flag": ("SET_DEVICE_STATE_FD", say(0), ViolationError),
    "unknown bits": ("SET_DEVICE_STATE_FD", say(1 << 9 | NO_DESCRIPTOR), ViolationError),
    "descriptor and the flag": ("SET_DEVICE_STATE_FD", say_with_descriptor(NO_DESCRIPTOR), ViolationError),
    "descriptor and an error": ("SET_DEVICE_STATE_FD", say_with_descriptor(1), RefusedError),
    "a descriptor that carries nothing": ("SET_DEVICE_STATE_FD", with_an_eventfd, ViolationError),
    "the check has no answer": ("CHECK_DEVICE_STATE", silence, TransportError),
    "the check fails": ("CHECK_DEVICE_STATE", say(1), RefusedError),
    "the base has no answer": ("GET_VRING_BASE", silence, TransportError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_source_that_does_wrong_is_an_error_in_time(homes: Homes, name: str) -> None:
    at, deed, error = HOSTILE[name]
    with (
        Rogue(at, deed) as rogue,
        contextlib.closing(open_driver_end(rogue.place, timeout=1)) as end,
        live(end, BASIC, [0]),
    ):
        began = time.monotonic()
        with pytest.raises(error):
            end.move(homes.addresses[0])
        assert time.monotonic() - began < 5
        assert homes.devices[0].status == 0


class Keeper(Rogue):
    """It does with the descriptor for the state what a test wants."""

    def __init__(self, use: Callable[[int], object]) -> None:
        self._use = use
        super().__init__("SET_DEVICE_STATE_FD", say(NO_DESCRIPTOR))

    def _take(self, message: Message) -> None:
        if message.kind is not None and message.kind.name == "SET_DEVICE_STATE_FD":
            fd = message.take_fd()
            self.memory_fds.append(fd)
            self._use(fd)
        super()._take(message)


def flood(fd: int) -> None:
    def write() -> None:
        with contextlib.suppress(OSError), os.fdopen(os.dup(fd), "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    threading.Thread(target=write, daemon=True).start()


@pytest.mark.parametrize(
    ("use", "why"),
    [(lambda _fd: None, "not through"), (flood, "more than")],
    ids=["never closed", "without end"],
)
def test_a_state_that_does_not_end_is_an_error_in_time(
    homes: Homes, use: Callable[[int], object], why: str
) -> None:
    with (
        Keeper(use) as rogue,
        contextlib.closing(open_driver_end(rogue.place, timeout=1)) as end,
        live(end, BASIC, [0]),
        pytest.raises(TransportError, match=why),
    ):
        end.move(homes.addresses[0])


class Target:
    """Listens where a device is to move to, and leaves the rest to a rogue."""

    def __init__(self, path: Path, at: str, deed: Deed) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._rogue = Rogue(at, deed)
        # The rogue's own pair is bridged, byte for byte and with descriptors, by handing over its end.
        self._theirs = socket.socket(fileno=int(self._rogue.place.removeprefix("fd=")))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._bridge, daemon=True)
        self._thread.start()

    def _bridge(self) -> None:
        with contextlib.suppress(OSError):
            caller, _ = self._listener.accept()
            back = threading.Thread(target=pump, args=(self._theirs, caller), daemon=True)
            back.start()
            pump(caller, self._theirs)
            back.join()
            caller.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._rogue.__exit__()
        self._thread.join(10)
        self._theirs.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, until it ends."""
    with contextlib.suppress(OSError):
        while True:
            data, ancillary, _, _ = source.recvmsg(4096, 4096)
            if not data:
                break
            fds = array.array("i")
            for _level, _kind, content in ancillary:
                fds.frombytes(content)
            target.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
            for fd in fds:
                os.close(fd)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def hang_up(rogue: Rogue, _message: Message, _answer: bytes) -> None:
    rogue.hang_up()


@pytest.mark.parametrize(
    "at",
    [
        "GET_FEATURES",
        "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE",
        "SET_FEATURES",
        "ADD_MEM_REG",
        "SET_VRING_BASE",
        "SET_VRING_ENABLE",
        "SET_STATUS",
    ],
)
@pytest.mark.parametrize("deed", [hang_up, silence], ids=["hangs up", "is silent"])
def test_a_target_that_fails_leaves_the_device_where_it_was(
    homes: Homes, tmp_path: Path, at: str, deed: Deed
) -> None:
    target = Target(tmp_path / "target.sock", at, deed)
    try:
        with connect(homes.addresses[0], timeout=1) as end, live(end, BASIC, [0, 1]) as rings:
            rings[0].mirror(b"before")
            with pytest.raises(TransportError):
                end.move(f"vhost-user:{tmp_path}/target.sock")
            for ring in rings:
                ring.mirror(b"afterwards")
    finally:
        target.close()


# --- under load, from one process to another


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two processes that serve the same disk."""
    folder = tmp_path_factory.mktemp("homes")
    image = folder / "disk.img"
    image.touch()
    os.truncate(image, 16 << 20)
    serve = (
        "import sys, virtio; from virtio.spec.core import F; "
        "device = virtio.BlockDevice(sys.argv[1], queues=2); "
        "device.offered_features |= F.IN_ORDER; "
        "virtio.serve(device, sys.argv[2])"
    )
    with contextlib.ExitStack() as stack:
        addresses = []
        for index in range(2):
            path = folder / f"{index}.sock"
            process = subprocess.Popen([sys.executable, "-c", serve, str(image), f"vhost-user:{path}"])
            stack.callback(process.wait)
            stack.callback(process.terminate)
            deadline = time.monotonic() + 20
            while not path.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            addresses.append(f"vhost-user:{path}")
        yield addresses


@pytest.mark.parametrize("mask", ["RING_PACKED,IN_ORDER", "RING_PACKED", "IN_ORDER", ""])
@pytest.mark.parametrize("reconnect", [0.0, 10.0], ids=["", "tracked"])
def test_a_disk_moves_twenty_times_under_verified_load(
    processes: list[str], mask: str, reconnect: float
) -> None:
    with virtio.connect(processes[0], "block", mask=mask, queues=2, reconnect=reconnect) as disk:
        buffer = disk.allocate(64 * 4096)
        results: list[Any] = []

        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                results.append(disk.load("verify", buffer, depth=64, requests=2000))

        loading = threading.Thread(target=load)
        loading.start()
        for number in range(1, 21):
            disk.move(processes[number % 2])
        over.set()
        loading.join()
        assert all((result.failed, result.mismatches) == (0, 0) for result in results)
        assert sum(result.requests for result in results) == 2000 * len(results) > 0
