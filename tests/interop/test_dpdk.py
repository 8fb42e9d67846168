"""DPDK's driver, which polls: whatever is stored in the wrong order, or in two steps, it gets to see."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.interop.testpmd import RING_SIZE, Statistics, Testpmd

import virtio
from virtio._native import NetBackend, NetFrames
from virtio.spec import net
from virtio.spec.core import F

HEADER = 12  # struct virtio_net_hdr up to num_buffers
LAYOUTS = {
    "split": (False, False),
    "packed": (True, False),
    "split-in-order": (False, True),
    "packed-in-order": (True, True),
}
IN_LOOP = 128
MAC = "020000000001"
ETHERNET = bytes.fromhex(f"{MAC} 020000000002 88b5")  # an EtherType for local experiments
SMALLEST, LARGEST = 60, 1514
TWO_BUFFERS = 3000


def packet(number: int, size: int = 0) -> bytes:
    """Return packet ``number``: its bytes tell which one it is, all along, and so does its length."""
    size = size or SMALLEST + number * 37 % (LARGEST - SMALLEST + 1)
    mark = number.to_bytes(8, "little")
    return (ETHERNET + mark * (size // 8))[:size]


class Looping(virtio.NetworkDevice):
    """Looks at all that the driver sends; and lets numbered packets go round, if asked to."""

    def __init__(self, *, in_order: bool, mask: str) -> None:
        super().__init__(mac=MAC, in_order=in_order, mask=mask)
        self.wrong: list[str] = []
        """What was not as it had to be: one line for each, up to a few."""
        self.sent = self.back = 0
        self.looping = False

    @property
    def under_way(self) -> int:
        """Packets that have not come back yet."""
        return self.sent - self.back

    def loop(self, packets: int) -> None:
        """Let this many packets go round."""
        self.looping = True
        # Packets that come back are followed by others on the worker's thread: numbers are given out first.
        numbers = range(self.sent, self.sent + packets)
        self.sent += packets
        for number in numbers:
            self.send(packet(number))

    def on_frames(self, frames: NetFrames) -> None:
        if self.under_way:
            for frame in frames:
                self._came_back(bytes(frame))
            return
        data = bytes(frames.data)
        headers = {data[start : start + len(ETHERNET)] for start in frames.starts}
        self._expect(len(headers) == 1, lambda: f"packets begin differently: {headers}")

    def _came_back(self, found: bytes) -> None:
        number = int.from_bytes(found[len(ETHERNET) : len(ETHERNET) + 8], "little")
        self._expect(number < self.sent, lambda: f"packet {number} of {self.sent}")
        self._expect(found == packet(number), lambda: f"packet {number} is {found.hex()}")
        self.back += 1
        if self.looping:
            self.sent += 1
            self._expect(self.send(packet(self.sent - 1)), lambda: f"packet {self.sent - 1} was dropped")

    def _expect(self, right: bool, explain: Callable[[], str]) -> None:
        if not right and len(self.wrong) < 10:
            self.wrong.append(explain())


@pytest.mark.parametrize("mergeable", [False, True], ids=["plain", "mergeable"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "seconds", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(180)])], ids="{}s".format
)
def test_packets_both_ways_and_round(seconds: float, layout: str, mergeable: bool, tmp_path: Path) -> None:
    packed, in_order = LAYOUTS[layout]
    masked = [name for name, there in (("RING_PACKED", packed), ("MRG_RXBUF", mergeable)) if not there]
    device = Looping(in_order=in_order, mask=",".join(masked))
    socket = tmp_path / "net.sock"
    choice = {"packed": packed, "in_order": in_order, "mergeable": mergeable}
    with virtio.start(device, f"vhost-user:{socket}"), Testpmd(socket, **choice, timeout=170) as driver:
        assert bool(device.negotiated_features & F.RING_PACKED) == packed
        assert bool(device.negotiated_features & F.IN_ORDER) == in_order
        assert bool(device.negotiated_features & net.F.MRG_RXBUF) == mergeable
        assert eventually(lambda: chains_taken(device) == RING_SIZE)

        rates = []
        for phase in (from_driver, round_and_round, to_driver):
            before = driver.statistics()
            start = time.monotonic()
            phase(device, driver, seconds / 3)
            took = time.monotonic() - start
            moved = driver.statistics().since(before)
            assert moved.tx_packets + moved.rx_packets > 0
            rates.append(f"{phase.__name__} {max(moved.tx_packets, moved.rx_packets) / took / 1e6:.2f} M/s")
        # Frames that the source had made up may have waited for buffers.
        assert eventually(lambda: not differences(device, driver.statistics())), differences(
            device, driver.statistics()
        )
        assert device.wrong == []
        assert driver.complaints == []
        for queue in device.queues:
            assert queue.counters is not None
            assert queue.counters.errors == {}
            assert queue.counters.handler_errors == 0
            assert not queue.broken
    print(f"{layout}, {'mergeable' if mergeable else 'plain'}: {', '.join(rates)}")


def chains_taken(device: Looping) -> int:
    """How many receive buffers the device has taken."""
    counters = device.queues[0].counters
    return 0 if counters is None else counters.chains


def from_driver(device: Looping, driver: Testpmd, seconds: float) -> None:
    driver.command("set fwd txonly")
    driver.command("start")
    time.sleep(seconds)
    driver.command("stop")
    settle(device, driver)


def round_and_round(device: Looping, driver: Testpmd, seconds: float) -> None:
    driver.command("set fwd io")
    driver.command("start")
    device.loop(IN_LOOP)
    time.sleep(seconds)
    device.looping = False
    assert eventually(lambda: device.under_way == 0), f"{device.under_way} packets got lost"
    settle(device, driver)
    driver.command("stop")
    assert device.back > IN_LOOP


def to_driver(device: Looping, driver: Testpmd, seconds: float) -> None:
    """Fill all its buffers; two of them with each packet where they may be merged. It goes on taking them."""
    merged = device.negotiated_features & net.F.MRG_RXBUF
    source = NetBackend.source(packet(0, TWO_BUFFERS if merged else LARGEST))
    driver.command("set fwd rxonly")
    driver.command("start")
    before = device.statistics()["rx_packets"]
    device.port.set_backend(source)
    source.run(True)
    assert device.send(packet(0))  # a source begins with the next frame that comes
    time.sleep(seconds)
    source.run(False)
    assert device.statistics()["rx_packets"] > before + 1


def settle(device: Looping, driver: Testpmd) -> None:
    """Wait until each side has seen all that the other one did."""

    def settled() -> bool:
        now, own = driver.statistics(), device.statistics()
        return now.tx_packets == own["tx_packets"] and now.rx_packets == own["rx_packets"]

    assert eventually(settled), f"{driver.statistics()}, {device.statistics()}"


def differences(device: Looping, driver: Statistics) -> list[tuple[str, int, int]]:
    """What the driver, the device and its queues count differently: packets and bytes."""
    own = device.statistics()
    receive, transmit = (queue.counters for queue in device.queues[:2])
    assert receive is not None
    assert transmit is not None
    counts = [
        ("sent", driver.tx_packets, own["tx_packets"]),
        ("bytes sent", driver.tx_bytes, own["tx_bytes"]),
        ("received", driver.rx_packets, own["rx_packets"]),
        ("bytes received", driver.rx_bytes, own["rx_bytes"]),
        ("errors", driver.rx_missed + driver.rx_errors + driver.rx_no_buffers + driver.tx_errors, 0),
        ("drops", own["tx_drops"] + own["rx_drops"], 0),
        ("chains", transmit.chains, own["tx_packets"]),
        ("bytes read", transmit.bytes_read, own["tx_bytes"] + HEADER * own["tx_packets"]),
        ("bytes written", receive.bytes_written, own["rx_bytes"] + HEADER * own["rx_packets"]),
        ("the other way", receive.bytes_read + transmit.bytes_written, 0),
    ]
    return [(name, one, other) for name, one, other in counts if one != other]


def eventually(condition: Callable[[], bool], timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
