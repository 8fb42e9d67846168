"""Kicks that say how much is available, and by which value a queue goes (2.9, 4.1.4.3)."""

import pytest

import virtio
from virtio.spec.core import F

DATA = F.NOTIFICATION_DATA | F.NOTIF_CONFIG_DATA


@pytest.mark.parametrize("layout", ["", "RING_PACKED"])
@pytest.mark.parametrize(
    ("place", "carried"),
    [("mem:kicks", F.NOTIFICATION_DATA), ("mmio:kicks", F.NOTIFICATION_DATA), ("pci:kicks", DATA)],
)
def test_a_device_that_offers_it_is_driven_by_it(place: str, carried: int, layout: str) -> None:
    device = virtio.EntropyDevice(features=DATA, mask=layout)
    with virtio.start(device, place), virtio.connect(place, "entropy") as driver:
        assert driver.features & DATA == carried
        for size in (1, 64, 4096) * 20:
            assert len(driver.read(size, timeout=10)) == size
        counters = device.queues[0].counters
        assert counters is not None
        assert counters.kicks > 0
        assert not counters.errors


def test_nobody_offers_it_unasked() -> None:
    assert not virtio.EntropyDevice().offered_features & DATA
