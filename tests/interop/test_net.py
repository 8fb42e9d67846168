"""Real guests joined by our switch: Linux as the driver of our network device."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

import virtio
from virtio.spec.core import F as CORE
from virtio.spec.net import F
from virtio.vm import Guest, Monitor, boot

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

NOTHING = "CSUM,GUEST_CSUM,MRG_RXBUF"
"""Without checksums there are no offloads at all."""


@contextmanager
def guests(
    devices: Sequence[virtio.NetworkDevice], monitors: Sequence[Monitor], timeout: float = 100
) -> Iterator[list[Guest]]:
    """Boot a guest with each device, at addresses 10.0.0.1 and so on."""
    with ExitStack() as stack:
        found = []
        for number, (device, monitor) in enumerate(zip(devices, monitors, strict=True), 1):
            guest = stack.enter_context(boot([device], monitor=monitor, timeout=timeout))
            guest.check(f"ip link set eth0 up && ip addr add 10.0.0.{number}/24 dev eth0")
            found.append(guest)
        yield found


def transfer(sender: Guest, receiver: Guest, address: str, mib: int, timeout: float = 60) -> None:
    """Send random bytes by TCP and compare checksums at both ends."""
    # A listener whose input ends would shut the connection down.
    receiver.check("rm -f /tmp/sum; (tail -f /dev/null | nc -l -p 9 | sha256sum >/tmp/sum) & sleep 0.2")
    sent = sender.check(
        f"dd if=/dev/urandom of=/tmp/data bs=1M count={mib} 2>/dev/null; sha256sum </tmp/data;"
        f"nc {address} 9 </tmp/data >/dev/null; rm /tmp/data",
        timeout=timeout,
    )
    got = receiver.check("for i in $(seq 100); do [ -s /tmp/sum ] && break; sleep 0.1; done; cat /tmp/sum")
    assert got.split()[0] == sent.split()[0]


def healthy(device: virtio.NetworkDevice) -> None:
    assert not device.needs_reset
    assert device.statistics()["tx_drop_malformed"] == 0
    for queue in device.queues:
        if queue.counters is not None:
            assert queue.counters.errors == {}
            assert queue.counters.handler_errors == 0


@pytest.mark.parametrize("layout", ["split", "packed"])
@pytest.mark.parametrize(
    "masks", [("", ""), ("", NOTHING), (NOTHING, NOTHING)], ids=["offloads", "mixed", "plain"]
)
def test_two_guests_talk_over_a_switch(masks: tuple[str, str], layout: str) -> None:
    switch = virtio.Switch()
    packed = "" if layout == "packed" else ",RING_PACKED"
    devices = [
        virtio.NetworkDevice(
            switch.port(), mac=bytes([2, 0, 0, 0, 0, number]), mask=(mask + packed).strip(",")
        )
        for number, mask in enumerate(masks, 1)
    ]
    with guests(devices, ["uml", "uml"]) as (one, two):
        for device, mask in zip(devices, masks, strict=True):
            assert bool(device.negotiated_features & CORE.RING_PACKED) == (layout == "packed")
            assert bool(device.negotiated_features & F.HOST_TSO4) == (mask == "")
        assert "0% packet loss" in one.check("ping -c 3 -i 0.1 10.0.0.2")
        transfer(one, two, "10.0.0.2", 8)
        transfer(two, one, "10.0.0.1", 8)
        large = [device.statistics()["tx_gso_packets"] > 10 for device in devices]
        assert large == [mask == "" for mask in masks]
        assert {mac for _, mac, _ in switch.learnt} == {device.mac for device in devices}
    for device in devices:
        healthy(device)
        device.close()
