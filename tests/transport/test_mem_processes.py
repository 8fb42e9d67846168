"""``mem:`` between two processes: used, killed at either end, and spoken to by those who mean harm."""

import contextlib
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.transport.contract import BASIC, SECONDS, Failures, Mirror, live

import virtio
from virtio.errors import ConfigurationError, Error, TransportError
from virtio.spec import core
from virtio.transport import open_driver_end
from virtio.transport.mem_wire import CALLS, MAX_MESSAGE
from virtio.transport.unix import ancillary

SERVE = "import sys, virtio; virtio.serve(virtio.BlockDevice(size=1 << 20, features={!r}), sys.argv[1])"
USE = (
    "import sys, time, virtio; disk = virtio.connect(sys.argv[1]); disk.write(0, b'x' * 512); "
    "print('used', flush=True); disk.load('write', disk.allocate(1 << 16), depth=16, size=4096, seconds=60)"
)


@contextlib.contextmanager
def process(code: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE)
    try:
        yield found
    finally:
        found.kill()
        found.wait()
        assert found.stdout is not None
        found.stdout.close()


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mask", ["RING_PACKED", "", "NOTIFICATION_DATA"])
def test_a_disk_in_another_process(tmp_path: Path, mask: str) -> None:
    path = tmp_path / "disk.mem"
    with process(SERVE.format("IN_ORDER,SUSPEND,RING_RESET,NOTIFICATION_DATA"), f"mem:{path}"):
        await_file(path)
        with virtio.connect(f"mem:{path}", mask=mask) as disk:
            assert disk.type.name == "block"
            buffer = disk.allocate(32 * 4096)
            for _ in range(3):
                result = disk.load("verify", buffer, depth=32, requests=1000)
                assert (result.requests, result.failed, result.mismatches) == (1000, 0, 0)
                disk.suspend()
                disk.resume()
                disk.queues[0].reset()
            assert (disk.queues[0].wire.kick_fd is None) == (mask != "NOTIFICATION_DATA")


def test_a_device_that_is_killed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.mem"
    for _ in range(2):  # the second takes the place of the first, whose socket is left over
        with process(SERVE.format(0), f"mem:{path}") as server:
            await_file(path)
            lose(server, f"mem:{path}")
        gc.collect()  # errors that a driver keeps refer to where they were raised


def lose(server: subprocess.Popen[bytes], address: str) -> None:
    """Kill the server while its disk is used."""
    with connected(address) as disk:
        raised: list[BaseException] = []

        def load() -> None:
            try:
                disk.load("write", disk.allocate(1 << 16), depth=16, seconds=60)
            except Error as error:
                raised.append(error)

        loading = threading.Thread(target=load)
        loading.start()
        server.send_signal(signal.SIGKILL)
        loading.join(SECONDS)
        assert isinstance(raised[0], TransportError)
        with pytest.raises(TransportError):
            disk.read(0, 1)


def connected(address: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return virtio.connect(address)
        except TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_driver_that_is_killed_leaves_a_device_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "disk.mem"
    device = virtio.BlockDevice(size=1 << 20)
    with virtio.start(device, f"mem:{path}"):
        for _ in range(2):
            with process(USE, f"mem:{path}") as driver:
                assert driver.stdout is not None
                assert driver.stdout.readline() == b"used\n"
                assert device.queues[0].running
                driver.send_signal(signal.SIGKILL)
                deadline = time.monotonic() + SECONDS
                while device.attached:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        with virtio.connect(f"mem:{path}") as disk:
            disk.write(1, b"y" * 512)
            assert disk.read(1, 1) == b"y" * 512
    device.close()


def test_an_abstract_name(tmp_path: Path) -> None:
    name = f"mem:@pyvirtio-{os.getpid()}"
    device = Mirror()
    with (
        virtio.start(device, name),
        contextlib.closing(open_driver_end(name)) as end,
        live(end, BASIC, [0]) as (ring,),
    ):
        ring.mirror(b"hello")
    device.close()


def test_what_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="IOMMU"):
        open_driver_end(f"mem:{tmp_path}/x", iommu=True)
    with pytest.raises(TransportError, match="nobody answers"):
        open_driver_end(f"mem:{tmp_path}/x")
    with pytest.raises(ConfigurationError, match="timeout"):
        open_driver_end(f"mem:{tmp_path}/x", timeout=0)


# --- drivers that mean harm


class Raw:
    """A connection on which anything is said."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))

    def say(self, message: Any, fds: tuple[int, ...] = ()) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        ancillary.send(self.socket, struct.pack("=I", len(text)) + text, fds)

    def hear(self) -> Any:
        """Return the next message; None: it hung up."""
        head = self._exactly(4)
        return None if head is None else json.loads(self._exactly(struct.unpack("=I", head)[0]) or b"null")

    def ask(self, message: Any, fds: tuple[int, ...] = ()) -> Any:
        self.say(message, fds)
        return self.hear()

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                return None
            if not more:
                return None
            data += more
        return data

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    device = Mirror()
    path = tmp_path / "mirror.mem"
    with virtio.start(device, f"mem:{path}"):
        with contextlib.closing(Raw(path)) as connection:
            yield connection
        with contextlib.closing(open_driver_end(f"mem:{path}")) as end, live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"and the next one is served")
    device.close()


START = {"do": "start_queue", "index": 0, "size": 16, "descriptors": 0, "available": 0, "used": 0, "base": -1}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": None},
        {"do": ["hello"]},
        {"do": "nothing"},
        {"do": "__init__"},
        {"do": "hello"},
        {"do": "hello", "timeout": "x"},
        {"do": "hello", "timeout": True},
        {"do": "status", "more": 1},
        {"do": "accept", "features": "all"},
        {"do": "accept", "features": -2},
        {"do": "accept", "features": 1 << 128},
        {"do": "set_status", "status": 0},
        {"do": "set_status", "status": 256},
        {"do": "set_status", "status": -1},
        {"do": "read_config", "offset": -1, "size": 4},
        {"do": "read_config", "offset": 0, "size": 1 << 100},
        {"do": "write_config", "offset": 32, "data": "zz"},
        {"do": "write_config", "offset": 0, "data": "00"},
        {"do": "share", "address": 0, "size": 4096, "user": 0},
        {"do": "start_queue"},
        {**START, "index": 1.5},
        START,
        {"do": "stop_queue", "index": 2},
        {"do": "stop_queue", "index": -1},
        {"do": "reset_queue", "index": 0},
        {"do": "kick", "index": 9, "data": 0},
    ],
    ids=lambda message: json.dumps(message)[:50],
)
def test_what_cannot_be_done_is_refused(raw: Raw, message: Any) -> None:
    assert "error" in raw.ask(message)
    assert raw.ask({"do": "status", "as": 7}) == {"to": 7, "is": 0}


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"{", b"[]", b"1", b"[" * 60000, b'{"do": ' + b"1" * 5000 + b"}", b"\xff" * 10],
    ids=lambda data: repr(data[:10]),
)
def test_what_cannot_be_read_ends_the_connection(raw: Raw, data: bytes) -> None:
    assert raw.ask(data) is None


def test_a_message_without_end_ends_the_connection(raw: Raw) -> None:
    raw.socket.send(struct.pack("=I", MAX_MESSAGE + 1))
    assert raw.hear() is None


def test_descriptors_that_cannot_be_are_refused(raw: Raw) -> None:
    file, event = os.memfd_create("small"), os.eventfd(0)
    share = {"do": "share", "address": 1 << 20, "size": 1 << 20, "user": 0}
    try:
        assert "error" in raw.ask(share)
        assert "error" in raw.ask(share, (file, file))
        assert "error" in raw.ask(share, (event,))
        assert "error" in raw.ask({"do": "status"}, (file,))
        for _ in range(3):
            raw.ask(share, (file,))  # shorter than it says
        ready = core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER | core.STATUS.FEATURES_OK
        raw.ask({"do": "accept", "features": BASIC})
        assert raw.ask({"do": "set_status", "status": ready})["is"] is None
        for size in (0, -1, 3, 1 << 100):
            raw.ask({**START, "size": size}, (event, event))
            raw.ask({"do": "stop_queue", "index": 0})
        assert "error" in raw.ask(START, (file, event))
        assert "error" in raw.ask(START, (event, file))
        raw.ask(START, (event, event))
        raw.ask({"do": "set_status", "status": ready | core.STATUS.DRIVER_OK})
        assert "is" in raw.ask({"do": "status"})
    finally:
        os.close(file)
        os.close(event)


def test_a_driver_that_does_not_read_its_answers_is_left(raw: Raw) -> None:
    with contextlib.suppress(OSError):
        while True:
            raw.say({"do": "read_config", "offset": 0, "size": 60})
            time.sleep(0)


# --- devices that mean harm

HELLO = {
    "device_id": 2,
    "features": BASIC,
    "config_size": 60,
    "queues": [256, 256],
    "admin_queues": [0, 0],
}


def framed(message: Any) -> bytes:
    text = json.dumps(message).encode()
    return struct.pack("=I", len(text)) + text


@contextlib.contextmanager
def rogue(path: Path, answers: dict[str, Any]) -> Iterator[None]:
    """A device that answers properly, but for what is given; bytes are sent as they are, None is silence."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection, contextlib.closing(connection.makefile("rb")) as stream:
                while head := stream.read(4):
                    message = json.loads(stream.read(struct.unpack("=I", head)[0]))
                    asked = message["do"]
                    answer = answers.get(asked, {"is": HELLO if asked == "hello" else 0})
                    if answer == "hang up":
                        return
                    twice = answer == "twice"
                    if twice:
                        answer = {"is": 0}
                    if isinstance(answer, dict):
                        answer = {"to": message["as"], **answer}
                    if isinstance(answer, dict | list):
                        answer = framed(answer) * (1 + twice)
                    if isinstance(answer, tuple):
                        answer = b"".join(framed({"to": message["as"], **part}) for part in answer)
                    if answer is not None:
                        connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(SECONDS)
        assert not thread.is_alive()


WRONG: dict[str, tuple[str, Any]] = {
    **{
        f"{what} to {call}": (call, answer)
        for call in ("hello", "status")
        for what, answer in {
            "nothing": None,
            "a hang-up": "hang up",
            "no JSON": struct.pack("=I", 3) + b"abc",
            "a list": [1],
            "an endless message": struct.pack("=I", 1 << 31),
            "an empty object": {},
            "a text": {"is": "text"},
            "a truth": {"is": True},
            "a negative number": {"is": -1},
            "two answers": "twice",
            "an answer to another": {"to": 99, "is": 0},
        }.items()
    },
    "half a hello": ("hello", {"is": {"device_id": 2}}),
    "queues that are none": ("hello", {"is": {**HELLO, "queues": 2}}),
    "sizes that are none": ("hello", {"is": {**HELLO, "queues": ["x"]}}),
    "admin queues that are none": ("hello", {"is": {**HELLO, "admin_queues": [1, 2, 3, 4]}}),
    "too few bytes": ("read_config", {"is": "00"}),
    "bytes that are none": ("read_config", {"is": "xy"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_device_that_does_wrong_is_an_error_in_time(tmp_path: Path, name: str) -> None:
    call, answer = WRONG[name]
    use: dict[str, Callable[[Any], object]] = {
        "hello": lambda end: end.status,
        "status": lambda end: [end.status, end.status],
        "read_config": lambda end: end.read_config(0, 8),
    }
    began = time.monotonic()
    with (
        rogue(tmp_path / "r.mem", {call: answer}),
        pytest.raises(Error),
        contextlib.closing(open_driver_end(f"mem:{tmp_path}/r.mem", timeout=0.3)) as end,
    ):
        use[call](end)
    assert time.monotonic() - began < 5


def test_events_out_of_thin_air(tmp_path: Path) -> None:
    events = ({"event": "config"}, {"event": "broken"}, {"is": 0})
    failures = Failures()
    with (
        rogue(tmp_path / "r.mem", {"status": events}),
        contextlib.closing(open_driver_end(f"mem:{tmp_path}/r.mem", timeout=1)) as end,
    ):
        end.on_failure(failures.take)
        assert end.status == 0
        assert "needs a reset" in str(failures.wait())


def test_every_call_is_answered_by_the_server() -> None:
    from virtio.transport.mem_server import RemoteDriver

    for name, arguments in CALLS.items():
        code = getattr(RemoteDriver, f"_do_{name}").__code__
        names = code.co_varnames[1 : code.co_argcount]
        assert [word for word in names if word != "fds"] == list(arguments)
