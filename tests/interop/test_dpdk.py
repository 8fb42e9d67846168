"""DPDK's driver, which polls: whatever is stored in the wrong order, or in two steps, it gets to see."""

import time
from pathlib import Path

import pytest
from tests.interop.net_device import HEADER, NetDevice, eventually
from tests.interop.testpmd import RING_SIZE, Statistics, Testpmd

import virtio
from virtio.spec import net
from virtio.spec.core import F

LAYOUTS = {
    "split": (False, False),
    "packed": (True, False),
    "split-in-order": (False, True),
    "packed-in-order": (True, True),
}
IN_LOOP = 128


@pytest.mark.parametrize("mergeable", [False, True], ids=["plain", "mergeable"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "seconds", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(180)])], ids="{}s".format
)
def test_packets_both_ways_and_round(seconds: float, layout: str, mergeable: bool, tmp_path: Path) -> None:
    packed, in_order = LAYOUTS[layout]
    device = NetDevice(mergeable=mergeable, in_order=in_order, mask="" if packed else "RING_PACKED")
    socket = tmp_path / "net.sock"
    choice = {"packed": packed, "in_order": in_order, "mergeable": mergeable}
    with virtio.start(device, f"vhost-user:{socket}"), Testpmd(socket, **choice, timeout=170) as driver:
        assert bool(device.negotiated_features & F.RING_PACKED) == packed
        assert bool(device.negotiated_features & F.IN_ORDER) == in_order
        assert bool(device.negotiated_features & net.F.MRG_RXBUF) == mergeable
        assert eventually(lambda: device.buffers == RING_SIZE)

        rates = []
        for phase in (from_driver, to_driver, round_and_round):
            before = driver.statistics()
            start = time.monotonic()
            phase(device, driver, seconds / 3)
            took = time.monotonic() - start
            moved = driver.statistics().since(before)
            rates.append(f"{phase.__name__} {max(moved.tx_packets, moved.rx_packets) / took / 1e6:.2f} M/s")
        equal(device, driver.statistics())
        assert device.wrong == []
        assert driver.complaints == []
        for queue in device.queues:
            assert queue.counters is not None
            assert queue.counters.errors == {}
            assert queue.counters.handler_errors == 0
            assert not queue.broken
    print(f"{layout}, {'mergeable' if mergeable else 'plain'}: {', '.join(rates)}")


def from_driver(device: NetDevice, driver: Testpmd, seconds: float) -> None:
    driver.command("set fwd txonly")
    forward(driver, seconds)
    settle(device, driver)


def to_driver(device: NetDevice, driver: Testpmd, seconds: float) -> None:
    driver.command("set fwd rxonly")
    driver.command("start")
    device.source()
    time.sleep(seconds)
    device.sink()
    settle(device, driver)
    driver.command("stop")


def round_and_round(device: NetDevice, driver: Testpmd, seconds: float) -> None:
    driver.command("set fwd io")
    driver.command("start")
    device.loop(IN_LOOP)
    time.sleep(seconds)
    device.sink()
    assert eventually(lambda: device.under_way == 0), f"{device.under_way} packets got lost"
    settle(device, driver)
    driver.command("stop")


def forward(driver: Testpmd, seconds: float) -> None:
    driver.command("start")
    time.sleep(seconds)
    driver.command("stop")


def settle(device: NetDevice, driver: Testpmd) -> None:
    """Wait until each side has seen all that the other one did."""

    def settled() -> bool:
        now = driver.statistics()
        return now.tx_packets == device.sent.packets and now.rx_packets == device.received.packets

    assert eventually(settled), f"{driver.statistics()}, {device.sent}, {device.received}"


def equal(device: NetDevice, driver: Statistics) -> None:
    """Packets and bytes, as the driver, the device and its queues count them."""
    assert driver.rx_missed == driver.rx_errors == driver.rx_no_buffers == driver.tx_errors == 0
    assert (driver.tx_packets, driver.tx_bytes) == (device.sent.packets, device.sent.bytes)
    assert (driver.rx_packets, driver.rx_bytes) == (device.received.packets, device.received.bytes)
    receive, transmit = (queue.counters for queue in device.queues)
    assert receive is not None
    assert transmit is not None
    assert transmit.chains == device.sent.packets
    assert transmit.bytes_read == device.sent.bytes + HEADER * device.sent.packets
    assert receive.bytes_written == device.received.bytes + HEADER * device.received.packets
    assert receive.bytes_read == transmit.bytes_written == 0
