"""The console driver, with a socket behind the device."""

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio.device.console_line import UnixLine
from virtio.errors import ConfigurationError


@pytest.fixture
def pair(drive: Drive, layout: str, tmp_path: Path) -> Any:
    line = UnixLine(str(tmp_path / "line.sock"))
    driver = drive(virtio.ConsoleDevice(line, size=(80, 25)), mask=layout)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(tmp_path / "line.sock"))
        peer.sendall(b"?")
        assert driver.receive(timeout=10) == b"?", "the device has accepted the connection"
        yield driver, peer


def test_both_ways(pair: Any) -> None:
    driver, peer = pair
    driver.send(b"hello")
    assert peer.recv(100) == b"hello"
    peer.sendall(b"world")
    assert driver.receive(timeout=10) == b"world"
    peer.sendall(b"abcdef")
    assert driver.receive(2, timeout=10) == b"ab"
    assert driver.receive(timeout=10) == b"cdef"
    with pytest.raises(TimeoutError):
        driver.receive(timeout=0.02)
    assert driver.size == (80, 25)


def test_much(pair: Any) -> None:
    driver, peer = pair
    data = bytes(range(256)) * 200
    driver.send(data[:20_000])
    found = b""
    while len(found) < 20_000:
        found += peer.recv(1 << 16)
    assert found == data[:20_000]
    driver.drain(timeout=10)
    peer.sendall(data)
    found = b""
    while len(found) < len(data):
        found += driver.receive(timeout=10)
    assert found == data


def test_emergency(pair: Any) -> None:
    driver, peer = pair
    if "VIRTIO_CONSOLE_F_EMERG_WRITE" in driver.feature_names:
        driver.emergency_write(ord("!"))
        assert peer.recv(10) == b"!"
    else:
        with pytest.raises(ConfigurationError, match="EMERG_WRITE"):
            driver.emergency_write(33)
