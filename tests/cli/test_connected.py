"""``virtio info``, ``block``, ``entropy`` and ``console`` on devices that are served."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import virtio
from virtio.cli import run
from virtio.device.block import BlockDevice
from virtio.device.console_line import UnixLine

SIZE = 3 << 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def disk(stack: ExitStack, tmp_path: Path) -> tuple[str, Path]:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(SIZE))
    device = BlockDevice(image, serial="abc")
    stack.callback(device.close)
    address = f"vhost-user:{tmp_path}/disk.sock"
    stack.enter_context(virtio.start(device, address))
    return address, image


def test_info(disk: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    address, _ = disk
    assert run(["info", address, "--type", "block"]) == 0
    out = capsys.readouterr().out
    assert "Block Device, device id 2" in out
    assert "VIRTIO_BLK_F_FLUSH" in out
    assert "capacity" in out
    assert str(SIZE // 512) in out
    assert "requestq1" in out
    assert run(["info", address, "--type", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["capacity"] == SIZE // 512
    assert found["queues"][0] == {"index": 0, "name": "requestq1", "max_size": 1024}
    assert "VIRTIO_F_VERSION_1" in found["features"]


def test_info_by_itself(stack: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    device = virtio.EntropyDevice()
    stack.callback(device.close)
    stack.enter_context(virtio.start(device, "mem:info"))
    assert run(["info", "mem:info"]) == 0
    assert "Entropy Device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["info", "vhost-user:{disk}"], "add --type block"),
        (["info", "vhost-user:{disk}", "--type", "nosuch"], "no device type"),
        (["info", "vhost-user:/nonexistent/x.sock", "--type", "block"], "nonexistent"),
        (["info", "nonsense"], "not an address"),
        (["block", "vhost-user:{disk}", "read", "/nonexistent/file"], "No such file"),
        (["block", "vhost-user:{disk}", "read", "-", "--offset", "1"], "multiples of 512"),
        (["block", "vhost-user:{disk}", "read", "-", "--offset", "9G"], "of a disk of"),
        (["block", "vhost-user:{disk}", "read", "-", "--size", "x"], "a size is"),
        (["entropy", "vhost-user:/nonexistent/x.sock"], "nonexistent"),
    ],
)
def test_failures_are_one_line(
    disk: tuple[str, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    place = disk[0].removeprefix("vhost-user:")
    assert run([argument.format(disk=place) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert len(captured.err.splitlines()) == 1, captured.err


def test_a_disk_is_read_and_written(
    disk: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, image = disk
    out, new = tmp_path / "out", tmp_path / "new"
    assert run(["block", address, "read", str(out)]) == 0
    assert out.read_bytes() == image.read_bytes()
    assert run(["block", address, "read", str(out), "--offset", "1M", "--size", "1536"]) == 0
    assert out.read_bytes() == image.read_bytes()[1 << 20 :][:1536]
    data = os.urandom((2 << 20) + 100)
    new.write_bytes(data)
    after = image.read_bytes()[512 + len(data) :]
    assert run(["block", address, "write", str(new), "--offset", "512"]) == 0
    assert image.read_bytes()[512:] == data + after
    assert run(["block", address, "discard", "--zero", "--size", "1M"]) == 0
    assert image.read_bytes()[: 1 << 20] == bytes(1 << 20)
    assert run(["block", address, "info"]) == 0
    text = capsys.readouterr().out
    assert f"{SIZE} bytes, {SIZE // 512} sectors" in text
    assert "abc" in text
    new.write_bytes(bytes(SIZE + 1))
    assert run(["block", address, "write", str(new)]) == 2


def test_copy(disk: tuple[str, Path], stack: ExitStack, tmp_path: Path) -> None:
    address, image = disk
    device = BlockDevice(size=SIZE)
    stack.callback(device.close)
    target = f"vhost-user:{tmp_path}/target.sock"
    stack.enter_context(virtio.start(device, target))
    assert run(["block", address, "copy", target]) == 0
    back = bytearray(SIZE)
    device.target.read(0, back)
    assert back == image.read_bytes()
    assert run(["block", address, "copy", address]) == 2


def test_through_pipes(disk: tuple[str, Path]) -> None:
    address, image = disk
    command = [sys.executable, "-m", "virtio", "block", address]
    result = subprocess.run([*command, "read", "-", "--size", "64K"], capture_output=True, check=True)
    assert result.stdout == image.read_bytes()[: 64 << 10]
    subprocess.run([*command, "write", "-"], input=b"hello", check=True)
    assert image.read_bytes()[:8] == b"hello" + result.stdout[5:8]


def test_entropy(stack: ExitStack, tmp_path: Path) -> None:
    device = virtio.EntropyDevice()
    stack.callback(device.close)
    address = f"vhost-user:{tmp_path}/rng.sock"
    stack.enter_context(virtio.start(device, address))
    command = [sys.executable, "-m", "virtio", "entropy", address]
    raw = subprocess.run([*command, "-n", "5000", "--raw"], capture_output=True, check=True)
    assert len(raw.stdout) == 5000
    digits = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    assert len(bytes.fromhex(digits)) == 32


def test_console(stack: ExitStack, tmp_path: Path) -> None:
    import socket

    device: Any = virtio.ConsoleDevice(UnixLine(str(tmp_path / "line.sock")))
    stack.callback(device.close)
    address = f"vhost-user:{tmp_path}/console.sock"
    stack.enter_context(virtio.start(device, address))
    peer = stack.enter_context(socket.socket(socket.AF_UNIX))
    peer.settimeout(20)
    peer.connect(str(tmp_path / "line.sock"))
    heard = io.BytesIO()

    def answer() -> None:
        peer.sendall(b"welcome\n")
        heard.write(peer.recv(100))
        peer.sendall(b"bye\n")

    thread = threading.Thread(target=answer)
    thread.start()
    command = [sys.executable, "-m", "virtio", "console", address, "--linger", "2"]
    result = subprocess.run(command, input=b"hi\n", capture_output=True, check=True, timeout=30)
    thread.join()
    assert heard.getvalue() == b"hi\n"
    assert result.stdout == b"welcome\nbye\n"
