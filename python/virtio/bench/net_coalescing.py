"""What putting notifications off costs and saves: interrupts per packet against latency (NOTF_COAL).

Our device sends short frames at a steady pace, each with the time in it; our driver, which sleeps until
it is notified, looks at the clock when it has them. What Python needs for either is in the latency, so that
the rows are to be compared.
"""

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import virtio
from virtio.driver.net import NetworkDriver

ETHERNET = bytes.fromhex("ffffffffffff 020000000002 88b5")
PACE = 100e-6
"""Seconds that the sender sleeps between two frames; with what waking takes, about 6000 frames a second."""


@dataclass(frozen=True)
class Coalesced:
    """One setting. Latencies in microseconds."""

    max_packets: int
    max_usecs: int
    packets: int
    interrupts: float
    """For each packet."""
    median: float
    worst: float
    """99 of 100 are shorter."""


def measure_coalescing(
    settings: Sequence[tuple[int, int]] = ((0, 0), (4, 1000), (16, 1000), (16, 5000), (64, 10_000)),
    *,
    packets: int = 3000,
) -> list[Coalesced]:
    """Measure each pair of ``max_packets`` and ``max_usecs``; zeros: a notification after each packet."""
    found = []
    with tempfile.TemporaryDirectory(prefix="virtio-bench-") as folder:
        address = f"vhost-user:{folder}/net.sock"
        device = virtio.NetworkDevice()
        with virtio.start(device, address), virtio.connect(address, "net") as card:
            for most, longest in settings:
                card.set_coalescing("RX", most, longest)
                found.append(_measure(device, card, most, longest, packets))
    return found


def _measure(
    device: virtio.NetworkDevice, card: NetworkDriver, most: int, longest: int, packets: int
) -> Coalesced:
    def send() -> None:
        for _ in range(packets):
            device.send(ETHERNET + time.monotonic_ns().to_bytes(8, "little") + bytes(42))
            time.sleep(PACE)

    before = _interrupts(device)
    sender = threading.Thread(target=send)
    sender.start()
    latencies: list[float] = []
    while len(latencies) < packets:
        frames = card.receive_batch(timeout=10)
        now = time.monotonic_ns()
        for frame in frames:
            sent = int.from_bytes(frame.data[len(ETHERNET) : len(ETHERNET) + 8], "little")
            latencies.append((now - sent) / 1000)
    sender.join()
    interrupts = (_interrupts(device) - before) / packets
    return Coalesced(most, longest, packets, interrupts, median(latencies), quantiles(latencies, n=100)[-1])


def _interrupts(device: virtio.NetworkDevice) -> int:
    counters = device.queues[0].counters
    return 0 if counters is None else counters.interrupts
