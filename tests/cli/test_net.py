"""``virtio net`` on a card whose frames come back."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtio
from virtio._native import NetBackend
from virtio.cli import run

FRAMES = [bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xB5]) + bytes([size]) * size for size in (46, 99)]


@pytest.fixture
def card(tmp_path: Path) -> Iterator[str]:
    device = virtio.NetworkDevice(NetBackend.source(FRAMES[1]))
    assert isinstance(device.backend, NetBackend)
    device.backend.run(True)
    address = f"vhost-user:{tmp_path}/net.sock"
    with virtio.start(device, address):
        yield address
    device.close()


def pcap(order: str, frames: list[bytes], link: int = 1) -> bytes:
    head = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    return head + b"".join(struct.pack(f"{order}IIII", 1, 2, len(f), len(f)) + f for f in frames)


def test_captured_frames_can_be_read(card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frames.pcap"
    assert run(["net", card, "capture", str(file), "--count", "5"]) == 0
    data = file.read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1"
    assert len(data) == 24 + 5 * (16 + len(FRAMES[1]))
    assert data.endswith(FRAMES[1])
    assert "5 frames" in capsys.readouterr().err


@pytest.mark.parametrize("order", "<>")
def test_a_file_is_sent(card: str, order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frames.pcap"
    file.write_bytes(pcap(order, FRAMES))
    assert run(["net", card, "send", str(file)]) == 0
    assert "2 frames" in capsys.readouterr().err
    assert run(["net", card, "stats"]) == 0
    assert "tx_packets" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data", [b"", b"x" * 24, pcap("<", FRAMES, link=105), pcap("<", FRAMES)[:-1]], ids=range(4)
)
def test_what_is_no_file_of_frames_is_refused(card: str, data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "frames.pcap"
    file.write_bytes(data)
    assert run(["net", card, "send", str(file)]) != 0
