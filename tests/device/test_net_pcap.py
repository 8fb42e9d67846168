"""A network device between files of frames."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.device.rig import Rig

from virtio._native import PcapReader, PcapWriter
from virtio.cli import run
from virtio.device.net import NetworkDevice
from virtio.device.net_backends import PcapFile, open_backend
from virtio.errors import ConfigurationError
from virtio.spec.core import F as CORE
from virtio.spec.net import F

pytestmark = pytest.mark.usefixtures("layout")

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
FRAMES = [MAC + PEER + b"\x88\xb5" + bytes([number]) * (46 + number) for number in range(8)]


def write(path: Path, frames: list[bytes], apart: int = 0) -> Path:
    with path.open("wb") as file:
        writer = PcapWriter(file.fileno(), pcapng=path.suffix == ".pcapng")
        for number, frame in enumerate(frames):
            writer.add(frame, 1_700_000_000_000_000_000 + number * apart)
        writer.flush()
    return path


def read(path: Path) -> list[tuple[int, bytes]]:
    with path.open("rb") as file:
        return list(PcapReader(file.fileno()))


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


def card(backend: PcapFile) -> Rig:
    device = NetworkDevice(backend, mac=MAC)
    features = device.offered_features & ~(F.HASH_REPORT | F.CTRL_VQ)
    return Rig(device, features=features & (CORE.VERSION_1 | CORE.RING_PACKED | F.MRG_RXBUF | 0x7FFF))


def received(rig: Rig, count: int) -> list[bytes]:
    driver = rig.drivers[0]
    return [driver.data(used.head)[12 : used.written] for used in rig.used(0, count)]


@pytest.mark.parametrize("name", ["frames.pcap", "frames.pcapng"])
def test_what_is_sent_is_in_the_file_with_its_time(name: str, tmp_path: Path) -> None:
    before = time.time_ns() // 1000 * 1000
    backend = PcapFile(tmp_path / name)
    with card(backend) as rig:
        for frame in FRAMES:
            rig.ask(1, [bytes(12), frame])
    found = read(tmp_path / name)
    assert [frame for _, frame in found] == FRAMES
    assert all(before <= when <= time.time_ns() for when, _ in found)
    assert backend.played
    assert backend.failed is None


def test_large_packets_and_checksums_are_complete_in_the_file(tmp_path: Path) -> None:
    header = bytes.fromhex("0800 4500 0be0 0000 4000 40 06 0000 0a000001 0a000002")
    tcp = bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000")
    large = struct.pack("<BBHHHHH", 1, 1, 54, 1000, 34, 16, 0)
    with card(PcapFile(tmp_path / "out.pcap")) as rig:
        rig.ask(1, [large, PEER + MAC + header + tcp + bytes(3000)])
    found = [frame for _, frame in read(tmp_path / "out.pcap")]
    assert [len(frame) for frame in found] == [1054] * 3
    for frame in found:
        words = struct.unpack(">10H", frame[14:34])
        assert sum(words) % 0xFFFF == 0


@pytest.mark.parametrize("name", ["frames.pcap", "frames.pcapng"])
def test_frames_of_a_file_are_received(name: str, tmp_path: Path) -> None:
    # The times do not matter: an hour lies between the frames.
    source = write(tmp_path / name, FRAMES, apart=3_600_000_000_000)
    backend = PcapFile(source=source)
    with card(backend) as rig:
        for _ in range(20):
            rig.add(0, writable=[2048])
        assert received(rig, 8) == FRAMES
        assert rig.none_used(0, 0.01)
        assert eventually(lambda: backend.played)


def test_frames_come_at_the_pace_of_the_file_and_again(tmp_path: Path) -> None:
    source = write(tmp_path / "in.pcap", FRAMES[:2], apart=10_000_000)
    with card(PcapFile(source=source, timed=True, again=True)) as rig:
        begun = time.monotonic()
        for _ in range(20):
            rig.add(0, writable=[2048])
        assert received(rig, 20) == FRAMES[:2] * 10
        assert time.monotonic() - begun >= 0.1


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pcap:{0}/out.pcap", {"out.pcap"}),
        ("pcap:{0}/in.pcap:", set()),
        ("pcap:{0}/in.pcap:{0}/out.pcapng", {"out.pcapng"}),
        ("pcap:{0}/in.pcap:{0}/out.pcap:again:timed", {"out.pcap"}),
    ],
)
def test_files_have_names_on_the_command_line(name: str, files: set[str], tmp_path: Path) -> None:
    write(tmp_path / "in.pcap", FRAMES)
    NetworkDevice(open_backend(name.format(tmp_path))).close()
    assert {path.name for path in tmp_path.iterdir()} == {"in.pcap"} | files


def test_what_cannot_be_is_refused_and_harms_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "in.pcap", FRAMES)
    before = good.read_bytes()
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"hello" * 10)
    for name in (
        f"pcap:{tmp_path}/no/such.pcap",
        f"pcap:{tmp_path}/missing:{tmp_path}/out",
        f"pcap:{tmp_path}/nonsense:",
        f"pcap:{good}:{good}",
        f"pcap:{good}::quickly",
        "pcap::",
        "pcap:",
        "pcap:/dev/full",
    ):
        with pytest.raises(ConfigurationError):
            open_backend(name)
        assert run(["serve", "net", name, "--socket", str(tmp_path / "net.sock")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert good.read_bytes() == before
    assert not (tmp_path / "out").exists()
