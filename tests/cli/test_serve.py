"""``virtio serve``, as a process, with a front end that drives what it serves."""

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.machine import Machine

import virtio
from virtio.cli import run
from virtio.spec import block, core

Process = subprocess.Popen[bytes]


@contextmanager
def serve(*arguments: object, **settings: Any) -> Iterator[tuple[Process, str]]:
    """Start ``virtio serve``; give its process and its ready line."""
    command = [sys.executable, "-m", "virtio", "serve", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        source = process.stderr if "--stdio" in arguments else process.stdout
        line = source.readline().decode().strip()
        if not line.startswith("ready: "):
            pytest.fail(f"not ready: {line!r} {process.communicate(timeout=10)}")
        yield process, line
    finally:
        process.kill()
        process.communicate()


def end(process: Process, number: int = signal.SIGTERM) -> None:
    """Send a signal, which must end it well and without a word."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(number.to_bytes(4, "little") * 128 for number in range(2048)))
    return path


def io(machine: Machine, kind: int, sector: int, size: int = 0, data: bytes = b"") -> tuple[int, bytes]:
    header = block.HEADER.pack(type=kind, sector=sector)
    written = machine.ask(0, [header, data] if data else [header], [size, 1] if size else [1])
    return written[-1], written[:-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_entropy(tmp_path: Path, number: int) -> None:
    path = tmp_path / "rng.sock"
    with serve("entropy", "--socket", path) as (process, line):
        assert line == f"ready: entropy on {path}"
        with Machine(path) as machine:
            assert len(set(machine.ask(0, writable=[256]))) > 60
            end(process, number)
    assert not path.exists()


def test_block(tmp_path: Path, image: Path) -> None:
    path = tmp_path / "disk.sock"
    with serve("block", image, "--socket", path, "--serial", "S-1", "--mask", "CONFIG_WCE") as (
        process,
        line,
    ):
        assert line == f"ready: block {image} on {path}"
        with Machine(path) as machine:
            assert not machine.features & block.F.CONFIG_WCE
            assert int.from_bytes(machine.end.get_config(0, 8), "little") == 2048
            assert io(machine, block.T.IN, 1000, 512) == (0, (1000).to_bytes(4, "little") * 128)
            assert io(machine, block.T.OUT, 7, data=b"w" * 1024) == (0, b"")
            assert io(machine, block.T.FLUSH, 0) == (0, b"")
            assert io(machine, block.T.GET_ID, 0, 20) == (0, b"S-1".ljust(20, b"\0"))
        end(process)
    assert image.read_bytes()[7 * 512 : 9 * 512] == b"w" * 1024


def test_features_that_are_offered_on_demand(tmp_path: Path, image: Path) -> None:
    path = tmp_path / "disk.sock"
    with serve("block", image, "--socket", path, "--features", "IN_ORDER,RING_RESET") as (process, _):
        with virtio.connect(f"vhost-user:{path}", "block") as disk:
            assert {"VIRTIO_F_IN_ORDER", "VIRTIO_F_RING_RESET"} <= set(disk.feature_names)
            disk.queues[0].reset(size=8)
            assert disk.read(1000, 1) == (1000).to_bytes(4, "little") * 128
        end(process)


def test_a_read_only_disk(tmp_path: Path, image: Path) -> None:
    image.chmod(0o444)
    path = tmp_path / "disk.sock"
    with serve("block", image, "--socket", path, "--read-only") as (process, _), Machine(path) as machine:
        assert machine.features & block.F.RO
        assert io(machine, block.T.OUT, 0, data=bytes(512))[0] == block.S.IOERR
        end(process)


def test_requests_under_way_are_answered_before_the_end(tmp_path: Path, image: Path) -> None:
    path = tmp_path / "disk.sock"
    with serve("block", image, "--socket", path) as (process, _), Machine(path) as machine:
        driver = machine.drivers[0]
        count = 20
        for number in range(count):
            header = block.HEADER.pack(type=block.T.OUT, sector=number)
            driver.add([header, bytes([number]) * 512], [1])
        driver.publish()
        os.eventfd_write(machine.kicks[0], 1)
        end(process)
        used = driver.poll_used()
        assert [driver.data(one.head) for one in used] == [b"\0"] * len(used)
        assert driver.outstanding == count - len(used)
        for one in used:  # whatever was confirmed is in the image
            assert one.written == 1
    stored = image.read_bytes()
    assert sum(stored[n * 512 : n * 512 + 512] == bytes([n]) * 512 for n in range(count)) >= len(used)


def test_a_grown_image(tmp_path: Path, image: Path) -> None:
    path = tmp_path / "disk.sock"
    with serve("block", image, "--socket", path) as (process, _), Machine(path) as machine:
        os.truncate(image, 2 << 20)
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while int.from_bytes(machine.end.get_config(0, 8), "little") != 4096:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert io(machine, block.T.IN, 4095, 512) == (0, bytes(512))
        end(process)


def test_a_listening_socket_is_passed_in(tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        fd = listening.fileno()
        with serve("entropy", "--fd", fd, pass_fds=[fd]) as (process, line):
            assert line == f"ready: entropy on fd={fd}"
            with Machine(path) as machine:
                assert len(machine.ask(0, writable=[8])) == 8
            end(process)


def test_systemd_passes_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    script = 'exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", sys.executable, "-m", "virtio", "serve", "entropy"],
            stdin=listening.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready: entropy on systemd\n"
            with Machine(path) as machine:
                assert len(machine.ask(0, writable=[8])) == 8
            end(process)
        finally:
            process.kill()
            process.communicate()


AUTHOR = """
    import virtio
    from virtio.spec import entropy

    class Constant(virtio.Device):
        spec = entropy

        def __init__(self, byte, times=1):
            super().__init__()
            self.answer = bytes([byte]) * times

        def on_requests(self, chain):
            chain.write(self.answer)
"""


@pytest.mark.parametrize("form", ["constant.py:Constant", "constant:Constant", "constant"])
def test_a_device_of_one_s_own(tmp_path: Path, form: str) -> None:
    (tmp_path / "constant.py").write_text(textwrap.dedent(AUTHOR))
    path = tmp_path / "own.sock"
    arguments = ["--python", form, "--arg", "65", "-a", "times=3", "--socket", path]
    with serve(*arguments, cwd=tmp_path) as (process, line):
        assert line == f"ready: entropy {form} on {path}"
        with Machine(path) as machine:
            assert machine.ask(0, writable=[16]) == b"AAA"
        end(process)


def test_a_console_behind_a_socket(tmp_path: Path) -> None:
    path, line_path = tmp_path / "vhost.sock", tmp_path / "line.sock"
    arguments = ["console", "--socket", path, "--unix", line_path, "--size", "132x43"]
    with serve(*arguments) as (process, line):
        assert line == f"ready: console ({line_path}) on {path}"
        with Machine(path, queues=2) as machine, socket.socket(socket.AF_UNIX) as client:
            assert machine.end.get_config(0, 4) == bytes([132, 0, 43, 0])
            client.connect(str(line_path))
            client.sendall(b"ls\n")
            assert machine.ask(0, writable=[64]) == b"ls\n"
            machine.ask(1, [b"bin etc usr\n"])
            assert client.recv(100) == b"bin etc usr\n"
        end(process)
    assert not line_path.exists()


def test_a_console_behind_a_pseudoterminal(tmp_path: Path) -> None:
    path = tmp_path / "vhost.sock"
    with serve("console", "--socket", path, "--pty") as (process, line):
        terminal = os.open(line.split("(")[1].split(")")[0], os.O_RDWR | os.O_NOCTTY)
        with Machine(path, queues=2) as machine:
            os.write(terminal, b"id\r")
            assert machine.ask(0, writable=[64]) == b"id\r"
            machine.ask(1, [b"uid=0\r\n"])
            assert os.read(terminal, 64) == b"uid=0\r\n"
        end(process)
        os.close(terminal)


def test_a_console_on_standard_input_and_output(tmp_path: Path) -> None:
    path = tmp_path / "vhost.sock"
    with serve("console", "--stdio", "--socket", path, stdin=subprocess.PIPE) as (process, line):
        assert line == f"ready: console (standard input and output) on {path}"
        assert process.stdin is not None
        assert process.stdout is not None
        with Machine(path, queues=2) as machine:
            process.stdin.write(b"whoami\n")
            process.stdin.flush()
            assert machine.ask(0, writable=[64]) == b"whoami\n"
            machine.ask(1, [b"root\n"])
            assert process.stdout.readline() == b"root\n"
        end(process)


def test_a_counter_line_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "virtio", "serve", "entropy", "--socket", str(path)],
        stdout=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "150"},
    )
    os.close(slave)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        limit = time.monotonic() + 20
        while text not in shown:
            assert select.select([master], [], [], limit - time.monotonic())[0], shown
            shown += os.read(master, 4096)

    try:
        until(b"ready: entropy")
        with Machine(path) as machine:
            for _ in range(3):
                machine.ask(0, writable=[1024])
            until(b"3 requests")
            until(b"3.0 KiB to it")
        until(b"no driver")
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_two_devices_at_once(tmp_path: Path) -> None:
    first, second = tmp_path / "1.sock", tmp_path / "2.sock"
    with serve("entropy", "--socket", first) as (one, _), serve("entropy", "--socket", second) as (two, _):
        with Machine(first) as a, Machine(second) as b:
            assert a.ask(0, writable=[16]) != b.ask(0, writable=[16])
            assert a.features & core.F.VERSION_1
        end(one)
        end(two)


def test_flow_filters_go_with_vfio_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    socket = str(tmp_path / "net.sock")
    assert run(["serve", "net", "sink", "--flow-filters", "--socket", socket]) == 2
    assert "serve the card with --vfio-user" in capsys.readouterr().err
    with (
        serve("net", "sink", "--flow-filters", "--vfio-user", socket),
        virtio.connect(f"vfio-user:{socket}", "net") as card,
    ):
        card.flow_filters.add({"udp.dst_port": 53}, queue=None)


def test_a_network_card(tmp_path: Path) -> None:
    """Its frames come back."""
    path = tmp_path / "net.sock"
    with serve("net", "loop", "--mac", "02:00:00:00:00:05", "--socket", path) as (process, line):
        assert line == f"ready: net loop on {path}"
        with Machine(path, queues=2) as machine:
            frame = bytes(range(60))
            head = machine.add(0, writable=[2000])
            machine.ask(1, [bytes(12), frame])
            assert machine.used(0, head)[12:] == frame
            end(process)


def test_a_function_for_vfio_user(image: Path, tmp_path: Path) -> None:
    place = tmp_path / "function.sock"
    with serve("block", image, "--vfio-user", place) as (process, line):
        assert line == f"ready: block {image} on {place}"
        with virtio.connect(f"vfio-user:{place}") as disk:
            assert disk.read(7, 1) == (7).to_bytes(4, "little") * 128
        told = subprocess.run(
            [sys.executable, "-m", "virtio", "lspci", f"vfio-user:{place}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert "Virtio 1.0 block device (rev 01)" in told.stdout
        end(process)
    assert not place.exists()
