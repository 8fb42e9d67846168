"""What the network benchmark measures does what it says; figures are not looked at."""

from pathlib import Path

import pytest

import virtio
from virtio.bench.net import Throughput, mergeable_costs
from virtio.bench.net_coalescing import measure_coalescing
from virtio.bench.net_swap import PerBatch, PerFrame

TO, BY = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


@pytest.mark.parametrize("device", [PerFrame, PerBatch])
@pytest.mark.parametrize("sizes", [[50] * 40, [50, 50, 47, 60, 1500], [46]], ids=["same", "unlike", "one"])
def test_addresses_come_back_swapped(
    device: type[PerFrame | PerBatch], sizes: list[int], tmp_path: Path
) -> None:
    address = f"vhost-user:{tmp_path}/net.sock"
    rest = [bytes([number]) * size for number, size in enumerate(sizes)]
    with virtio.start(device(mac=BY), address), virtio.connect(address, "net") as card:
        assert card.send_batch([TO + BY + data for data in rest], timeout=10) == len(rest)
        found: list[bytes] = []
        while len(found) < len(rest):
            found += [frame.data for frame in card.receive_batch(timeout=10)]
    assert found == [BY + TO + data for data in rest]


def test_notifications_put_off_are_fewer() -> None:
    at_once, later = measure_coalescing([(0, 0), (32, 100_000)], packets=64)
    assert (at_once.packets, later.packets) == (64, 64)
    # Late or not: what waits for 32 packets or 0.1 s is not notified of each.
    assert later.interrupts < 1
    assert later.median >= 0


def test_mergeable_buffers_cost_what_they_take_away() -> None:
    plain = Throughput("packed", "device to driver", 20e6, 25e6, 1.25)
    merged = Throughput("packed, mergeable", "device to driver", 15e6, 24e6, 1.6)
    other = Throughput("split", "device to driver", 15e6, 24e6, 1.6)
    (cost,) = mergeable_costs([plain, other, merged])
    assert (cost.layout, cost.direction) == ("packed", "device to driver")
    assert (cost.peer, cost.ours) == pytest.approx((0.25, 0.04))
