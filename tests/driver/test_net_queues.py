"""The network driver with several pairs of queues: steering, RSS, coalescing, announcements."""

import threading
import time

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio._native import NetBackend, NetFrame
from virtio.driver.net import Coalescing, NetworkDriver
from virtio.errors import ConfigurationError, DeviceError
from virtio.spec.net import HASH_TYPE, F

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PUBLISHED_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
PUBLISHED = {
    "420995bb a18e6450 0aea 06e6": 0x51CCC178,
    "c75c6f02 41458c53 3796 1283": 0xC626B0EA,
    "1813c65f 0c16cfb8 3262 9488": 0x5C2B394A,
    "261bcd1e d18ea306 bc64 08a9": 0xAFC7327F,
    "9927a3bf cabc7f02 acdb 0517": 0x10E828A2,
}
"""Addresses and ports of TCP packets, and their hashes with that key, as Microsoft published them."""
TCP4 = HASH_TYPE["TCPv4"].value


def tcp(flow: str) -> bytes:
    ip = bytes.fromhex("4500 0028 0000 4000 4006 0000") + bytes.fromhex(flow)
    return MAC + PEER + b"\x08\0" + ip + bytes(8) + b"\x50" + bytes(7)


def flow(number: int) -> bytes:
    return tcp(f"0a000001 0a000002 {number:04x} 0050")


def looped(pairs: int = 4, **options: object) -> virtio.NetworkDevice:
    return virtio.NetworkDevice(NetBackend.loop(), mac=MAC, pairs=pairs, **options)  # type: ignore[arg-type]


def test_a_flow_comes_in_where_it_goes_out(drive: Drive, layout: str) -> None:
    card = drive(looped(), mask=layout, pairs=4)
    assert card.pairs == 4
    for number in range(20):
        card.send(flow(number), queue=number % 4, timeout=10)
    for queue in range(4):
        found = [card.receive(10, queue=queue).data for _ in range(5)]
        assert found == [flow(number) for number in range(queue, 20, 4)]
        assert card.statistics(queue)["rx_packets"] == 5
        assert card.statistics(queue)["tx_packets"] == 5
    assert card.statistics()["rx_packets"] == 20


def test_fewer_pairs_can_be_used(drive: Drive) -> None:
    card = drive(looped(), pairs=4)
    card.send(flow(1), queue=3, timeout=10)
    card.receive(10, queue=3)
    card.use_pairs(2)
    with pytest.raises(ConfigurationError):
        card.send(flow(1), queue=2)
    card.send(flow(1), queue=1, timeout=10)
    assert card.receive(10, queue=1).data == flow(1)
    card.use_pairs(4)
    card.send(flow(1), queue=2, timeout=10)
    assert card.receive(10, queue=2).data == flow(1)


@pytest.mark.parametrize(
    ("pairs", "mask", "expected"), [(8, "", 4), (3, "", 3), (4, "MQ,RSS", 1), (1, "", 1)]
)
def test_no_more_pairs_than_device_and_driver_have(
    drive: Drive, pairs: int, mask: str, expected: int
) -> None:
    """The control queue is where the number of the device's pairs says."""
    card = drive(looped(), pairs=pairs, mask=mask)
    assert card.pairs == expected
    assert bool(card.features & (F.MQ | F.RSS)) == (expected > 1)
    card.send(flow(1), queue=expected - 1, timeout=10)
    assert card.receive(10, queue=expected - 1).data == flow(1)
    assert card.statistics()["tx_packets"] == 1


def test_hashes_choose_the_queue(drive: Drive) -> None:
    card = drive(looped(), pairs=4)
    table = [number * 7 % 4 for number in range(128)]
    card.set_rss(table, types=TCP4, key=PUBLISHED_KEY, unclassified=3)
    for text, value in PUBLISHED.items():
        card.send(tcp(text), timeout=10)
        frame = card.receive(10, queue=table[value % 128])
        assert (frame.data, frame.hash_value, frame.hash_report) == (tcp(text), value, 2)
    other = MAC + PEER + b"\x88\xb5" + bytes(46)
    card.send(other, timeout=10)
    assert card.receive(10, queue=3).data == other
    # The last command says how frames are steered.
    card.use_pairs(4)
    card.send(tcp(text), queue=2, timeout=10)
    assert card.receive(10, queue=2).data == tcp(text)


def test_all_queues_are_used_without_automatic_steering(drive: Drive) -> None:
    """RSS alone: the driver makes a table, and all pairs count."""
    card = drive(looped(pairs=3), pairs=3, mask="MQ")
    assert card.pairs == 3
    for number in range(64):
        card.send(flow(number), queue=number % 3, timeout=10)
        card.flush(10, queue=number % 3)
    # What is sent is on its way back when it is taken: it may come a little later.
    until = time.monotonic() + 10
    while sum(counts := [card.statistics(queue)["rx_packets"] for queue in range(3)]) < 64:
        assert time.monotonic() < until
    assert sum(counts) == 64
    assert min(counts) > 0
    for queue, count in enumerate(counts):
        for _ in range(count):
            card.receive(10, queue=queue)
    card.set_rss([1], transmit=2)
    with pytest.raises(ConfigurationError):
        card.send(flow(1), queue=2)
    card.send(flow(1), queue=1, timeout=10)
    assert card.receive(10, queue=1).data == flow(1)


def test_nonsense_about_queues_is_refused(drive: Drive) -> None:
    card = drive(looped(), pairs=4, mask="VQ_NOTF_COAL")
    for table in ([], [0, 1, 2], [4], [-1], [0] * 256):
        with pytest.raises(ConfigurationError):
            card.set_rss(table)
    for options in ({"types": 1 << 30}, {"key": bytes(41)}, {"unclassified": 4}, {"transmit": 5}):
        with pytest.raises(ConfigurationError):
            card.set_rss([0, 1], **options)
    for pairs in (0, 5):
        with pytest.raises(ConfigurationError):
            card.use_pairs(pairs)
    with pytest.raises(ConfigurationError):
        card.set_hash(1 << 30, PUBLISHED_KEY)
    with pytest.raises(ConfigurationError):
        card.receive(0, queue=4)
    with pytest.raises(ConfigurationError):
        card.send(flow(1), queue=-1)
    with pytest.raises(ConfigurationError):
        card.statistics(4)
    with pytest.raises(ConfigurationError):
        card.coalescing("RX")
    with pytest.raises(ConfigurationError):
        drive(looped(), pairs=0)


def test_offloads_that_were_not_negotiated(drive: Drive) -> None:
    card = drive(looped(), mask="GUEST_TSO6,GUEST_UFO")
    card.set_offloads(F.GUEST_CSUM | F.GUEST_TSO4)
    for offloads in (F.GUEST_CSUM | F.GUEST_TSO6, F.GUEST_UFO, 1 << 63, 1):
        with pytest.raises(ConfigurationError):
            card.set_offloads(offloads)


def test_coalescing_is_set_for_all_queues_or_one(drive: Drive) -> None:
    """The standard's own example (5.1.9.5.10)."""
    card = drive(looped(pairs=2), pairs=2)
    assert card.coalescing("RX") == Coalescing(0, 0)
    card.set_coalescing("RX", 15, 10)
    card.set_coalescing("RX", 8, 20, queue=0)
    assert card.coalescing("RX", queue=0) == Coalescing(8, 20)
    assert card.coalescing("RX", queue=1) == Coalescing(15, 10)
    card.set_coalescing("TX", 4, 30, queue=0)
    assert card.coalescing("TX", queue=1) == Coalescing(0, 0)
    card.set_coalescing("TX", 6, 50)
    assert [card.coalescing("TX", queue=queue) for queue in range(2)] == [Coalescing(6, 50)] * 2
    with pytest.raises(ConfigurationError):
        card.set_coalescing("TX", 1, 1, queue=2)
    # What is put off comes in the end.
    card.set_coalescing("RX", 1000, 20000)
    card.send(flow(1), timeout=10)
    assert card.receive(10).data == flow(1)


def test_a_queue_can_be_reset_with_another_size(drive: Drive) -> None:
    card = drive(looped(pairs=2, features="RING_RESET"), pairs=2)
    for queue in card.queues[2:4]:
        queue.reset(64)
    for number in range(200):
        card.send(flow(number), queue=1, timeout=10)
        assert card.receive(10, queue=1).data == flow(number)
    assert [queue.size for queue in card.queues] == [256, 256, 64, 64, 256]


def test_frames_that_wait_stay_while_a_queue_is_reset(drive: Drive, layout: str) -> None:
    """A large packet is cut into more than there are buffers; only what lies in those is lost."""
    card = drive(looped(pairs=1, features="RING_RESET"), mask=f"GUEST_TSO4,{layout}".strip(","))
    card.queues[0].reset(8)
    header = bytes.fromhex("0800 4500 ea88 0000 4000 40 06 0000 0a000001 0a000002")
    header += bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000")
    data = bytes(number % 251 for number in range(40 * 1448))
    fields = {"flags": 1, "gso_type": 1, "gso_size": 1448, "csum_start": 34, "csum_offset": 16}
    card.send(MAC + PEER + header + data, **fields, timeout=10)
    for size, delivered in ((4, 8), (64, 12)):
        wait_until_received(card, delivered)
        card.queues[0].reset(size)
    segments = [card.receive(10).data[54:] for _ in range(28)]
    assert b"".join(segments) == data[12 * 1448 :]
    assert card.statistics()["rx_drops"] == 0


def wait_until_received(card: NetworkDriver, count: int) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if card.statistics()["rx_packets"] == count:
            return
        pause.wait(0.01)
    raise AssertionError(f"{card.statistics()['rx_packets']} frames were received, not {count}")


def test_the_network_is_told_when_the_device_asks_for_it(drive: Drive) -> None:
    device = Listener()
    card = drive(device)
    assert device.announce()
    assert device.came.wait(10)
    (frame,) = device.frames
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x80\x35"
    assert frame[22:28] == frame[32:38] == MAC
    wait_until_acknowledged(device)
    # Or by what the program knows better.
    device.came.clear()
    card.announcements = [flow(1), flow(2)]
    assert device.announce()
    wait_until_acknowledged(device)
    card.flush(10)
    assert device.frames[1:] == [flow(1), flow(2)]
    card.announcements = []
    assert device.announce()
    wait_until_acknowledged(device)
    assert len(device.frames) == 3


def test_devices_that_cannot_be_asked_for_an_announcement(drive: Drive) -> None:
    device = Listener()
    card = drive(device, mask="GUEST_ANNOUNCE")
    assert not device.announce()
    with pytest.raises(DeviceError):
        card.command("ANNOUNCE", 0)


class Listener(virtio.NetworkDevice):
    """Keeps the frames that it is sent."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.came = threading.Event()
        super().__init__(mac=MAC)

    def on_frame(self, frame: NetFrame) -> None:
        self.frames.append(bytes(frame))
        self.came.set()


def wait_until_acknowledged(device: virtio.NetworkDevice) -> None:
    ended = threading.Event()
    for _ in range(1000):
        if not device.config.status & 2:
            return
        ended.wait(0.01)
    raise AssertionError("the driver has not acknowledged that it was asked to announce itself")
