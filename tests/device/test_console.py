"""The console device, 5.3, both ways, with each kind of line."""

import os
import pty
import select
import socket
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.device.rig import Rig

from virtio import ConfigurationError, ConsoleDevice, TransportError
from virtio.device.console_line import PtyLine, UnixLine
from virtio.device.console_port import LIMIT
from virtio.spec import console

pytestmark = pytest.mark.usefixtures("layout")

RECEIVE, TRANSMIT = 0, 1


def eventually(what: Callable[[], bool], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def read_from(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count and select.select([fd], [], [], 5)[0]:
        if not (more := os.read(fd, count - len(data))):
            break
        data += more
    return data


def test_output_to_a_function() -> None:
    heard = bytearray()
    with Rig(ConsoleDevice(heard.extend)) as rig:
        rig.add(TRANSMIT, [b"hello ", b"world"])
        assert rig.used(TRANSMIT)[0].written == 0
    assert heard == b"hello world"


def test_input_waits_for_buffers() -> None:
    device = ConsoleDevice()
    with Rig(device) as rig:
        device.send(b"before any buffer ")
        head = rig.add(RECEIVE, writable=[4, 4])
        (used,) = rig.used(RECEIVE)
        assert rig.drivers[RECEIVE].data(head)[: used.written] == b"before a"
        assert rig.ask(RECEIVE, writable=[100]) == b"ny buffer "
        head = rig.add(RECEIVE, writable=[100])  # a buffer that waits for input
        assert rig.none_used(RECEIVE)
        device.send(b"at once")
        (used,) = rig.used(RECEIVE)
        assert rig.drivers[RECEIVE].data(head)[: used.written] == b"at once"


def test_input_is_bounded() -> None:
    device = ConsoleDevice()
    with Rig(device) as rig:
        device.send(bytes(LIMIT))
        with pytest.raises(TransportError, match="3 bytes of input unread"):
            device.send(b"abc", timeout=0.05)
        rig.ask(RECEIVE, writable=[1000])
        device.send(b"abc", timeout=10)


def test_waiting_buffers_do_not_delay_a_stop() -> None:
    device = ConsoleDevice()
    with Rig(device) as rig:
        for _ in range(8):
            rig.add(RECEIVE, writable=[64])
        begin = time.monotonic()
        device.set_status(0)
        assert time.monotonic() - begin < 4
        device.send(b"kept for the next driver")
    with Rig(device) as rig:
        assert rig.ask(RECEIVE, writable=[64]) == b"kept for the next driver"


def test_size_changes_while_running() -> None:
    device = ConsoleDevice(size=(80, 25))
    with Rig(device) as rig:
        assert rig.features & console.F.SIZE
        before = device.config_generation
        device.resize(132, 43)
        assert rig.events.config_changes == 1
        assert device.config_generation == before + 1
        assert device.read_config(0, 4) == bytes([132, 0, 43, 0])
        device.resize(132, 43)  # no change, no interrupt
        assert rig.events.config_changes == 1
    plain = ConsoleDevice()
    assert not plain.offered_features & console.F.SIZE
    with pytest.raises(ConfigurationError, match="without a size"):
        plain.resize(1, 1)


def test_emergency_write_needs_no_driver() -> None:
    heard = bytearray()
    device = ConsoleDevice(heard.extend)
    for character in b"panic":
        device.write_config(8, bytes([character, 0, 0, 0]))
    assert heard == b"panic"


def test_clients_of_a_socket_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "console"
    device = ConsoleDevice(UnixLine(path))
    try:
        with Rig(device) as rig:
            rig.ask(TRANSMIT, [b"nobody hears this"])  # and nobody hangs
            for round_ in range(3):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    assert eventually(lambda: device.port.connected)
                    rig.ask(TRANSMIT, [b"round %d" % round_])
                    assert read_from(client.fileno(), 7) == b"round %d" % round_
                    client.sendall(b"ok")
                    assert rig.ask(RECEIVE, writable=[16]) == b"ok"
                assert eventually(lambda: not device.port.connected)
            assert device.port.dropped == len(b"nobody hears this")
    finally:
        device.close()
    assert not path.exists()


def test_a_client_that_does_not_read_makes_the_guest_wait(tmp_path: Path) -> None:
    path = tmp_path / "console"
    device = ConsoleDevice(UnixLine(path))
    with Rig(device, queue_size=32) as rig, socket.socket(socket.AF_UNIX) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(str(path))
        assert eventually(lambda: device.port.connected)
        sent = back = 0
        for number in range(32):
            rig.add(TRANSMIT, [bytes([number]) * 16384])
            sent += 1
        time.sleep(0.2)
        back += len(rig.drivers[TRANSMIT].poll_used())
        assert 0 < back < sent  # some are buffered, the others wait in the ring
        received = read_from(client.fileno(), 32 * 16384)
        assert received == b"".join(bytes([number]) * 16384 for number in range(32))
        rig.used(TRANSMIT, sent - back)
    device.close()


def test_a_client_that_hangs_up_frees_the_guest(tmp_path: Path) -> None:
    path = tmp_path / "console"
    device = ConsoleDevice(UnixLine(path))
    with Rig(device, queue_size=32) as rig:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert eventually(lambda: device.port.connected)
            for _ in range(32):
                rig.add(TRANSMIT, [bytes(32768)])
            time.sleep(0.1)
        rig.used(TRANSMIT, 32)
    device.close()


def test_a_socket_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "console"
    first = ConsoleDevice(UnixLine(path))
    with pytest.raises(ConfigurationError, match="somebody listens there"):
        ConsoleDevice(UnixLine(path))
    first.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    ConsoleDevice(UnixLine(path)).close()  # left behind by a process that died
    with pytest.raises(ConfigurationError, match="cannot listen"):
        ConsoleDevice(UnixLine(tmp_path / "no" / "where"))


def test_a_pseudoterminal(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    line = PtyLine(link)
    device = ConsoleDevice(line)
    with Rig(device) as rig:
        rig.ask(TRANSMIT, [bytes(100_000)])  # nobody has it open: the guest goes on
        for _ in range(2):
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
            assert eventually(lambda: device.port.connected)
            rig.ask(TRANSMIT, [b"login: \n"])
            assert read_from(fd, 8) == b"login: \n"  # raw: no carriage return added
            os.write(fd, b"root\r\x03")
            head = rig.add(RECEIVE, writable=[16])
            (used,) = rig.used(RECEIVE)
            assert rig.drivers[RECEIVE].data(head)[: used.written] == b"root\r\x03"
            os.close(fd)
            assert eventually(lambda: not device.port.connected)
    device.close()
    assert not link.is_symlink()


STDIO = """
    import sys
    from tests.device.rig import Rig
    from virtio import ConsoleDevice
    from virtio.device.console_line import StdioLine

    device = ConsoleDevice(StdioLine())
    with Rig(device) as rig:
        rig.ask(1, [b"> "])
        heard = b""
        while not heard.endswith(b"."):
            heard += rig.ask(0, writable=[64])
        rig.ask(1, [heard.upper()])
    device.close()
"""


def test_standard_input_and_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STDIO)],
        input=b"a pipe.",
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == b"> A PIPE."


def test_a_terminal_is_raw_and_given_back() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STDIO)], stdin=slave, stdout=slave, start_new_session=True
    )
    try:
        assert read_from(master, 2) == b"> "
        assert termios.tcgetattr(slave)[3] != before[3]
        os.write(master, b"\x03\x04.")  # Ctrl-C and Ctrl-D are the guest's
        assert read_from(master, 3) == b"\x03\x04."
        assert process.wait(20) == 0
        assert termios.tcgetattr(slave) == before
        assert os.get_blocking(slave)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
