"""Sockets: who may connect, what becomes of files and descriptors, and that nobody can hold up others."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
from tests.transport.disk import Disk
from tests.transport.frontend import (
    DisconnectedError,
    FrontEnd,
    GuestMemory,
)
from tests.transport.peers import PEERS, Guest, Peer, Qemu, guest
from tests.transport.test_peers import FEATURES, QUEUES, SIZE, Driver, transfer

import virtio
from virtio.errors import ConfigurationError, TransportError
from virtio.queue import Chain
from virtio.transport import address
from virtio.transport.vhost_user.codec import encode_request
from virtio.transport.vhost_user.messages import FRONT_END


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.sock"


# --- addresses


@pytest.mark.parametrize(
    "text", ["", "disk.sock", ":/run/disk.sock", "no-such:/run/disk.sock", "vhost-user:"]
)
def test_what_is_no_address_is_said_so(text: str) -> None:
    with pytest.raises(ConfigurationError):
        virtio.start(Disk(), text)


def test_transports_come_from_entry_points_too(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("mine", "tests.transport.test_server:start_mine", address.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [point])
    assert {"mem", "mine", "vhost-user"} <= set(address.schemes())
    with pytest.raises(NotImplementedError, match="there"):
        virtio.start(Disk(), "mine:there")


def start_mine(_: object, rest: str) -> None:
    """What an entry point of another package would name."""
    raise NotImplementedError(rest)


@pytest.mark.parametrize(
    "spec", ["/nowhere/disk.sock", "/" + "x" * 200, "fd=x", "fd=987", "systemd", "/tmp/a?colour=red"]
)
def test_a_place_that_cannot_be_is_said_so(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        virtio.start(Disk(), f"vhost-user:{spec}")


# --- files


def test_the_file_is_there_while_the_server_is(path: Path) -> None:
    with virtio.start(Disk(), f"vhost-user:{path}") as server:
        assert path.is_socket()
        assert server.address == f"vhost-user:{path}"
        assert not server.connected
    assert not path.exists()
    server.stop()  # again: harmless


def test_a_dead_servers_file_is_replaced(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
        dead.listen()
    with virtio.start(Disk(), f"vhost-user:{path}"), FrontEnd.connect(path) as front_end:
        front_end.barrier()


def test_a_living_servers_file_is_not(path: Path) -> None:
    with virtio.start(Disk(), f"vhost-user:{path}"):
        with pytest.raises(TransportError, match="another server"):
            virtio.start(Disk(), f"vhost-user:{path}")
        with FrontEnd.connect(path) as front_end:
            front_end.barrier()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"):
        virtio.start(Disk(), f"vhost-user:{path}")
    assert path.read_text() == "precious"


def test_somebody_elses_file_is_not_removed(path: Path) -> None:
    with virtio.start(Disk(), f"vhost-user:{path}"):
        path.unlink()
        path.write_text("somebody else's")
    assert path.exists()


def test_the_abstract_namespace(tmp_path: Path) -> None:
    name = f"@pyvirtio-{os.getpid()}"
    with virtio.start(Disk(), f"vhost-user:{name}"), FrontEnd.connect("\0" + name[1:]) as front_end:
        front_end.barrier()


# --- sockets that are passed in


def test_a_listening_socket_may_be_passed_in(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with virtio.start(Disk(), f"vhost-user:fd={listening.detach()}"):
        for _ in range(2):
            with FrontEnd.connect(path) as front_end:
                front_end.barrier()
    assert path.exists()  # made by somebody else, left to them


def test_a_connection_may_be_passed_in_and_is_served_once() -> None:
    ours, theirs = socket.socketpair()
    with virtio.start(Disk(), f"vhost-user:fd={theirs.detach()}") as server:
        with FrontEnd(ours) as front_end:
            front_end.barrier()
            assert not server.wait(0.01)
        assert server.wait(5)


SYSTEMD = """
import os, socket, sys
import virtio
from tests.transport.disk import Disk
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="one:two")
virtio.serve(Disk(), "vhost-user:systemd=two")
"""


def test_systemd_passes_sockets_by_name(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with listening:
        shell = f"exec {sys.executable} -c '{SYSTEMD}' 3</dev/null 4<&{listening.fileno()}"
        server = subprocess.Popen(["bash", "-c", shell], pass_fds=[listening.fileno()])
    try:
        with FrontEnd.connect(path) as front_end:
            front_end.barrier()
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


# --- front ends, one after another and at the same time


def test_a_second_front_end_waits_for_its_turn(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with virtio.start(Disk(), f"vhost-user:{path}"):
        first = FrontEnd.connect(path)
        first.barrier()
        second = FrontEnd.connect(path)
        second.send("GET_FEATURES")
        second.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            second.receive()
        assert "waits" in caplog.text
        second.socket.settimeout(10)
        first.close()
        second.receive()
        second.close()


def test_several_devices_at_the_same_time(tmp_path: Path) -> None:
    devices = [Disk() for _ in range(4)]
    with contextlib.ExitStack() as stack:
        driven = []
        for number, device in enumerate(devices):
            path = tmp_path / f"{number}.sock"
            stack.enter_context(virtio.start(device, f"vhost-user:{path}"))
            driven.append(_drive(stack, path, device))
        for sector in range(3):
            for number, (peer, there, driver) in enumerate(driven):
                transfer(peer, there, driver, 0, sector, bytes([number]) * 512)
    for number, device in enumerate(devices):
        assert device.contents[: 3 * 512] == bytes([number]) * 3 * 512


def test_a_device_may_be_served_again_elsewhere(tmp_path: Path) -> None:
    device = Disk()
    for number in range(3):
        path = tmp_path / f"{number}.sock"
        with contextlib.ExitStack() as stack:
            stack.enter_context(virtio.start(device, f"vhost-user:{path}"))
            peer, there, driver = _drive(stack, path, device)
            transfer(peer, there, driver, 1, 0, b"x" * 512)


def test_a_slow_device_holds_up_no_other(tmp_path: Path) -> None:
    release = threading.Event()

    class Slow(Disk):
        def on_requests(self, chain: Chain) -> None:
            release.wait(10)
            chain.write(b"\0")

    slow, quick = Slow(), Disk()
    with contextlib.ExitStack() as stack:
        stack.enter_context(virtio.start(slow, f"vhost-user:{tmp_path / 'slow'}"))
        stack.enter_context(virtio.start(quick, f"vhost-user:{tmp_path / 'quick'}"))
        peer, there, driver = _drive(stack, tmp_path / "slow", slow)
        driver.queues[0].add([bytes(16)], [1])
        driver.queues[0].publish()
        os.eventfd_write(there.rings[0].kick, 1)
        time.sleep(0.05)
        peer.front_end.send("SET_STATUS", 0)  # waits for the request
        begin = time.monotonic()
        peer, there, driver = _drive(stack, tmp_path / "quick", quick)
        transfer(peer, there, driver, 0, 0, b"x" * 512)
        assert time.monotonic() - begin < 4
        release.set()


def test_a_front_end_that_does_not_read_is_let_go(path: Path) -> None:
    with virtio.start(Disk(), f"vhost-user:{path}") as server, FrontEnd.connect(path) as front_end:
        question = encode_request(FRONT_END["GET_FEATURES"]) * 500
        with contextlib.suppress(DisconnectedError):
            for _ in range(10000):
                front_end.raw(question)
        deadline = time.monotonic() + 5
        while server.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server.connected
        with FrontEnd.connect(path) as another:
            another.barrier()


def test_a_front_end_that_finds_no_room_is_served_when_there_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with virtio.start(Disk(), f"vhost-user:{path}"), FrontEnd(socket.socket(socket.AF_UNIX)) as front_end:
        free = os.dup(0)
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            front_end.socket.connect(str(path))
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        front_end.barrier()
        assert "cannot connect" in caplog.text


def test_a_server_stops_with_its_front_end_connected(path: Path) -> None:
    device = Disk()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(virtio.start(device, f"vhost-user:{path}"))
        peer, there, driver = _drive(stack, path, device)
        transfer(peer, there, driver, 0, 0, b"x" * 512)
        server.stop()
        assert peer.front_end.is_closed()
        assert not device.attached


# --- the connection ends, anywhere


class EndError(Exception):
    """The front end has said as much as it was to say."""


class Cut(FrontEnd):
    """Hangs up after so many bytes."""

    left = 0

    def raw(self, data: bytes, fds: object = ()) -> None:
        part = data[: self.left]
        if part:
            super().raw(part, fds)  # type: ignore[arg-type]
        self.left -= len(data)
        if self.left <= 0:
            raise EndError


@pytest.mark.parametrize("kind", PEERS, ids=[kind.name for kind in PEERS])
def test_a_front_end_may_go_at_any_point(kind: type[Peer], path: Path) -> None:
    device = Disk()
    with virtio.start(device, f"vhost-user:{path}?notifications=in-band"):
        ended = False
        length = 1
        while not ended:
            with Cut.connect(path) as front_end, GuestMemory() as memory:
                front_end.left = length
                peer = kind(front_end)
                driver = Driver(memory)
                with guest(memory, driver.addresses, SIZE, FEATURES) as there:
                    try:
                        peer.connect(QUEUES, device.config_size)
                        peer.start(there)
                        peer.stop(there)
                        ended = True
                    except EndError:
                        pass
                driver.close()
            length += 13  # sometimes between messages, mostly within one
        with FrontEnd.connect(path) as front_end:
            front_end.barrier()


@pytest.mark.parametrize("size", [1, 5, 12, 13])
def test_messages_may_come_in_crumbs(size: int, path: Path) -> None:
    class Crumbs(FrontEnd):
        def raw(self, data: bytes, fds: object = ()) -> None:
            for start in range(0, len(data), size):
                super().raw(data[start : start + size], fds if start == 0 else ())  # type: ignore[arg-type]

    device = Disk()
    with contextlib.ExitStack() as stack:
        stack.enter_context(virtio.start(device, f"vhost-user:{path}"))
        front_end = stack.enter_context(Crumbs.connect(path))
        peer, there, driver = _drive(stack, path, device, front_end)
        transfer(peer, there, driver, 0, 0, b"x" * 512)


def test_messages_may_come_all_at_once(path: Path) -> None:
    """Without descriptors among them the kernel glues them together."""
    with virtio.start(Disk(), f"vhost-user:{path}"), FrontEnd.connect(path) as front_end:
        front_end.raw(encode_request(FRONT_END["SET_OWNER"]) + encode_request(FRONT_END["GET_FEATURES"]) * 50)
        for _ in range(50):
            assert front_end.receive().number == 1


# --- serving in the foreground

FOREGROUND = """
import sys, virtio
from tests.transport.disk import Disk
class Closing(Disk):
    def close(self):
        super().close()
        print("closed", flush=True)
virtio.serve(Closing(), sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_a_signal_and_leaves_nothing(number: signal.Signals, path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, f"vhost-user:{path}"], stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with FrontEnd.connect(path) as front_end:
            peer = Qemu(front_end)
            peer.connect(QUEUES, 60)
            server.send_signal(number)
            output, _ = server.communicate(timeout=20)
        assert (server.returncode, output) == (0, "closed\n")
        assert not path.exists()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _drive(
    stack: contextlib.ExitStack, path: Path, device: Disk, front_end: FrontEnd | None = None
) -> tuple[Peer, Guest, Driver]:
    if front_end is None:
        front_end = stack.enter_context(FrontEnd.connect(path))
    memory = stack.enter_context(GuestMemory())
    driver = Driver(memory)
    stack.callback(driver.close)
    there = stack.enter_context(guest(memory, driver.addresses, SIZE, FEATURES | 0xFFFFFF))
    peer = Qemu(front_end)
    peer.connect(QUEUES, device.config_size)
    peer.start(there)
    return peer, there, driver
