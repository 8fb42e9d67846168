"""hvc0 in a real guest: bytes both ways, through what stands behind a console."""

import os
import queue
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtio
from virtio.device.console_line import PtyLine, UnixLine
from virtio.errors import ConfigurationError
from virtio.vm import Guest, Monitor, boot
from virtio.vm.qemu import can_attach

pytestmark = [pytest.mark.guest, pytest.mark.timeout(90)]

#: Somebody has to keep it open, since the last to close it resets its modes.
HOLD = "exec 3<>/dev/{0}; stty raw -echo <&3; sleep 1000 <&3 >/dev/null 2>&1 &"


def skip_without_front_end(monitor: Monitor) -> None:
    if monitor == "qemu" and not can_attach(3):
        pytest.skip("QEMU before 11.1 has no vhost-user device for consoles")


@pytest.fixture(scope="module")
def heard() -> "queue.SimpleQueue[bytes]":
    return queue.SimpleQueue()


@pytest.fixture(scope="module")
def console(monitor: Monitor, heard: "queue.SimpleQueue[bytes]") -> Iterator[virtio.ConsoleDevice]:
    """A new one for each monitor, like what stands behind the others: they end with their guest."""
    console = virtio.ConsoleDevice(heard.put, size=(97, 31))
    yield console
    console.close()


@pytest.fixture(scope="module")
def socket_path(monitor: Monitor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("console") / "line.sock"


@pytest.fixture(scope="module")
def pty(monitor: Monitor) -> PtyLine:
    return PtyLine()


@pytest.fixture(scope="module")
def guest(
    monitor: Monitor, console: virtio.ConsoleDevice, socket_path: Path, pty: PtyLine
) -> Iterator[Guest]:
    """One guest with three consoles: a function, a socket and a pseudoterminal behind them."""
    skip_without_front_end(monitor)
    others = [virtio.ConsoleDevice(UnixLine(socket_path)), virtio.ConsoleDevice(pty)]
    try:
        with boot([console, *others], monitor=monitor, timeout=80) as guest:
            for index in range(3):
                guest.check(HOLD.format(f"hvc{index}"))
            yield guest
    finally:
        for device in others:
            device.close()


def test_output_reaches_a_function_byte_for_byte(
    guest: Guest, console: virtio.ConsoleDevice, heard: "queue.SimpleQueue[bytes]"
) -> None:
    guest.check(r"printf 'a\r\nb\000\377' >/dev/hvc0")
    said = b""
    while len(said) < 6:
        said += heard.get(timeout=10)
    assert said == b"a\r\nb\0\xff"


def test_input_reaches_the_guest(guest: Guest, console: virtio.ConsoleDevice) -> None:
    console.send(b"one line\n", timeout=10)
    assert guest.check("timeout 10 head -n 1 </dev/hvc0") == "one line\n"


def test_much_input_is_neither_lost_nor_reordered(guest: Guest, console: virtio.ConsoleDevice) -> None:
    # More than its buffers: a terminal takes 4096 bytes at a time, so the device has to wait for it.
    lines = "".join(f"line {index}\n" for index in range(3000))
    guest.check(f"timeout 30 head -c {len(lines)} </dev/hvc0 >/tmp/heard & sleep 0.2")
    console.send(lines.encode(), timeout=30)
    guest.check(
        f"for i in $(seq 100); do [ $(stat -c %s /tmp/heard) = {len(lines)} ] && exit; sleep 0.1; done; false"
    )
    assert guest.check("cat /tmp/heard") == lines


def test_a_change_of_size_is_seen(guest: Guest, console: virtio.ConsoleDevice) -> None:
    # Linux with one port looks at the size only when it is told of a change, not at the start.
    console.resize(120, 40)
    deadline = time.monotonic() + 10
    while guest.run("stty size </dev/hvc0").output.split() != ["40", "120"]:
        assert time.monotonic() < deadline, "the guest does not see the new size"


def test_a_socket_behind_it(guest: Guest, socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(socket_path))
        client.sendall(b"to the guest\n")
        assert guest.check("timeout 10 head -n 1 </dev/hvc1") == "to the guest\n"
        guest.check("echo from the guest >/dev/hvc1")
        received = b""
        while not received.endswith(b"\n"):
            received += client.recv(100)
        assert received == b"from the guest\n"


def test_a_pseudoterminal_behind_it(guest: Guest, pty: PtyLine) -> None:
    terminal = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(terminal, b"to the guest\n")
        assert guest.check("timeout 10 head -n 1 </dev/hvc2") == "to the guest\n"
        guest.check("echo from the guest >/dev/hvc2")
        received = b""
        while not received.endswith(b"\n"):
            assert select.select([terminal], [], [], 10)[0]
            received += os.read(terminal, 100)
        assert received == b"from the guest\n"
    finally:
        os.close(terminal)


def test_what_cannot_be_attached_is_said(needs: object) -> None:
    assert callable(needs)
    needs("qemu")
    if can_attach(3):
        pytest.skip("this QEMU attaches anything")
    console = virtio.ConsoleDevice(print)
    expected = pytest.raises(ConfigurationError, match="no vhost-user device for virtio device type 3")
    with expected, boot([console], monitor="qemu"):
        pass
    console.close()
