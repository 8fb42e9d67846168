"""The network driver on our own device: frames both ways, offloads as fields, the control queue."""

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio._native import NetBackend, NetFrame
from virtio.errors import ConfigurationError, DeviceError
from virtio.spec.net import F

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
FRAME = MAC + PEER + bytes.fromhex("88b5") + bytes(range(46))


class Kept(virtio.NetworkDevice):
    """Keeps what it is sent, and takes all offloads."""

    frame_offloads = F.CSUM | F.HOST_TSO4

    def __init__(self, **options: object) -> None:
        self.frames: list[tuple[bytes, int, int]] = []
        super().__init__(mac=MAC, **options)  # type: ignore[arg-type]

    def on_frame(self, frame: NetFrame) -> None:
        self.frames.append((bytes(frame), frame.gso_type, frame.gso_size))


def test_frames_go_round(drive: Drive, layout: str) -> None:
    card = drive(virtio.NetworkDevice(NetBackend.loop(), mac=MAC), mask=layout)
    assert (card.mac, card.link) == (MAC, True)
    frames = [FRAME + bytes([number]) * (number * 14) for number in range(100)]
    # Fewer at once than there are receive buffers.
    assert card.send_batch(frames, timeout=10) == 100
    found = card.receive_batch(timeout=10)
    while len(found) < 100:
        found += card.receive_batch(timeout=10)
    assert [frame.data for frame in found] == frames
    with pytest.raises(TimeoutError):
        card.receive(timeout=0.01)
    card.flush(timeout=10)


@pytest.mark.parametrize("mask", ["", "MRG_RXBUF", "HASH_REPORT"])
def test_large_packets_go_round(drive: Drive, mask: str) -> None:
    """In many buffers, or in one that is large enough."""
    card = drive(virtio.NetworkDevice(NetBackend.loop(), mac=MAC), mask=mask)
    header = bytes.fromhex("0800 4500 ea88 0000 4000 40 06 0000 0a000001 0a000002")
    tcp = bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000")
    data = MAC + PEER + header + tcp + bytes(number % 251 for number in range(60000))
    fields = {"flags": 1, "gso_type": 1, "gso_size": 1448, "csum_start": 34, "csum_offset": 16}
    card.send(data, **fields, timeout=10)
    frame = card.receive(timeout=10)
    assert frame.data == data
    assert (frame.gso_type, frame.gso_size, frame.hdr_len, frame.csum_start) == (1, 1448, 54, 34)
    card.set_offloads(0)
    card.send(data, **fields, timeout=10)
    segments = [card.receive(timeout=10) for _ in range(42)]
    assert b"".join(segment.data[54:] for segment in segments) == data[54:]
    assert all(segment.flags == segment.gso_type == 0 for segment in segments)


def test_offload_requests_reach_the_device_and_wrong_ones_do_not(drive: Drive) -> None:
    device = Kept()
    card = drive(device)
    card.send(FRAME, flags=1, csum_start=60, timeout=10)
    card.send(FRAME, gso_type=9, timeout=10)
    card.send(FRAME[:10], timeout=10)
    card.send(FRAME, timeout=10)
    card.flush(timeout=10)
    assert device.frames == [(FRAME, 0, 0)]
    assert device.statistics()["tx_drop_malformed"] == 3
    assert card.statistics()["tx_drop_malformed"] == 3
    with pytest.raises(ConfigurationError):
        card.send(bytes(70000))


def test_the_control_queue(drive: Drive) -> None:
    device = Kept()
    card = drive(device)
    card.set_mode("PROMISC", False)
    assert not device.send(PEER + FRAME[6:])
    card.set_filter(unicast=[PEER])
    assert device.send(PEER + FRAME[6:])
    assert card.receive(timeout=10).data[:6] == PEER
    card.set_mac(PEER)
    assert card.mac == PEER
    tagged = PEER + FRAME[6:12] + b"\x81\0\0\5" + FRAME[12:]
    assert not device.send(tagged)
    card.add_vlan(5)
    assert device.send(tagged)
    assert card.receive(timeout=10).data == tagged
    card.remove_vlan(5)
    assert not device.send(tagged)
    with pytest.raises(DeviceError):
        card.set_mac(b"\1" * 6)
    with pytest.raises(DeviceError):
        card.command(200, 0)
    counts = card.statistics()
    assert counts["rx_packets"] == 2
    assert counts["command_num"] - counts["ok_num"] == 2
    device.link = False
    assert not card.link


def test_hashes_are_reported(drive: Drive) -> None:
    card = drive(virtio.NetworkDevice(NetBackend.loop(), mac=MAC))
    key = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    card.set_hash(0x3F, key)
    packet = bytes.fromhex("0800 4500 0028 0000 4000 40 06 0000 420995bb a18e6450 0aea 06e6")
    card.send(MAC + PEER + packet + bytes(8) + b"\x50" + bytes(7), timeout=10)
    frame = card.receive(timeout=10)
    assert (frame.hash_report, frame.hash_value) == (2, 0x51CCC178)


def test_without_a_control_queue(drive: Drive) -> None:
    card = drive(virtio.NetworkDevice(NetBackend.loop(), mac=MAC), mask="CTRL_VQ")
    with pytest.raises(ConfigurationError):
        card.statistics()
    card.send(FRAME, timeout=10)
    assert card.receive(timeout=10).data == FRAME
