"""What Linux sets on our card while it is used: ``ethtool`` in a guest whose driver has all of the card."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.interop import newer
from tests.interop.newer import newer_peers as newer_peers

import virtio
from virtio.spec.core import F as CORE
from virtio.spec.net import F
from virtio.vm import Guest, boot
from virtio.vm.initramfs import find_program

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300), pytest.mark.usefixtures("newer_peers")]

PEER = bytes.fromhex("020000000009")
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")


@pytest.fixture(autouse=True)
def ethtool() -> None:
    if find_program("ethtool") is None:
        pytest.skip("no ethtool here: apt-get install ethtool")


@pytest.mark.parametrize("layout", ["packed", pytest.param("split", marks=pytest.mark.slow)])
def test_settings_change_while_traffic_runs(layout: str) -> None:
    switch = virtio.Switch()
    peer = virtio.NetworkDevice(switch.port())
    card = virtio.NetworkDevice(
        switch.port(),
        pairs=4,
        speed=25000,
        flow_filters=True,
        features="RING_RESET",
        mask="" if layout == "packed" else "RING_PACKED",
    )
    with (
        boot(
            [card],
            transport="vfio-user",
            monitor="qemu",
            kernel=newer.kernel(),
            cpus=4,
            programs=["ethtool"],
            timeout=280,
        ) as guest,
    ):
        guest.check("ip link set eth0 up && ip addr add 10.0.0.2/24 dev eth0")
        assert bool(card.negotiated_features & CORE.RING_PACKED) == (layout == "packed")
        wanted = (
            CORE.RING_RESET | CORE.ADMIN_VQ | F.MQ | F.RSS | F.NOTF_COAL | F.VQ_NOTF_COAL | F.DEVICE_STATS
        )
        assert card.negotiated_features & wanted == wanted
        assert "RSS disabled" not in guest.check("dmesg")
        with boot([peer], monitor="uml", timeout=250) as server, downloads(server, guest):
            change_all(guest, card)
        # Nobody but us sends now.
        steer(guest, card)
    assert not card.needs_reset
    assert card.statistics()["tx_drop_malformed"] == 0
    for device in (card, peer):
        device.close()


@contextmanager
def downloads(server: Guest, guest: Guest) -> Iterator[None]:
    """The guest gets a file from the server again and again; each copy has to be right."""
    server.check("ip link set eth0 up && ip addr add 10.0.0.1/24 dev eth0")
    sent = server.check(
        "mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/data bs=1M count=2 2>/dev/null;"
        "httpd -h /tmp/www; sha256sum </tmp/www/data"
    )
    guest.check(
        "(while [ ! -e /tmp/stop ]; do wget -q -O /tmp/data http://10.0.0.1/data || echo failed >>/tmp/sums;"
        " sha256sum </tmp/data >>/tmp/sums; done; touch /tmp/stopped) >/dev/null 2>&1 &"
    )
    one_more(guest)
    yield
    one_more(guest)
    guest.check(
        "touch /tmp/stop; for i in $(seq 600); do [ -e /tmp/stopped ] && exit 0; sleep 0.1; done; false"
    )
    assert set(guest.check("cat /tmp/sums").splitlines()) == set(sent.splitlines())


def one_more(guest: Guest) -> None:
    """Wait for a download that begins now to be over."""
    guest.check(
        "count() { cat /tmp/sums 2>/dev/null | wc -l; }; goal=$(($(count) + 2));"
        "for i in $(seq 1000); do [ $(count) -ge $goal ] && exit 0; sleep 0.1; done; false",
        timeout=150,
    )


def change_all(guest: Guest, card: virtio.NetworkDevice) -> None:
    shown = guest.check("ethtool eth0")
    assert "Speed: 25000Mb/s" in shown
    assert "Duplex: Full" in shown
    assert "Link detected: yes" in shown
    # Rings of other sizes, by resetting one queue after the other.
    for receive, transmit in ((64, 128), (512, 256)):
        guest.check(f"ethtool -G eth0 rx {receive} tx {transmit}")
        assert [queue.size for queue in card.queues[:8]] == [receive, transmit] * 4
        one_more(guest)
    assert re.findall(r"^[RT]X:\s+(\d+)", guest.check("ethtool -g eth0"), re.M)[2:] == ["512", "256"]
    # Fewer pairs of queues, and all.
    for pairs in (1, 3, 4):
        guest.check(f"ethtool -L eth0 combined {pairs}")
        one_more(guest)
    # Notifications that wait for each other.
    guest.check("ethtool -C eth0 rx-usecs 100 rx-frames 20")
    guest.check("ethtool -C eth0 tx-usecs 50 tx-frames 10")
    guest.check("ethtool -Q eth0 queue_mask 4 --coalesce rx-usecs 7 rx-frames 3")
    assert [queue.coalescing for queue in card.queues[:6]] == [
        *[(20, 100), (10, 50)] * 2,
        *[(3, 7), (10, 50)],
    ]
    shown = guest.check("ethtool -c eth0")
    assert re.findall(r"^[rt]x-(?:usecs|frames): (\d+)", shown, re.M) == ["100", "20", "50", "10"]
    one_more(guest)
    guest.check("ethtool -C eth0 rx-usecs 0 rx-frames 0")
    # Large packets that the device puts together, off and on (GUEST_OFFLOADS).
    for state in ("off", "on"):
        guest.check(f"ethtool -K eth0 rx-gro-hw {state}")
        one_more(guest)
    # What the device counts.
    counts = counted(guest)
    assert counts["rx_hw_packets"] > 100
    assert counts["cq_hw_command_num"] == counts["cq_hw_ok_num"] > 10


def counted(guest: Guest) -> dict[str, int]:
    found = re.findall(r"^\s+(\w+): (\d+)$", guest.check("ethtool -S eth0"), re.M)
    return {name: int(value) for name, value in found}


def steer(guest: Guest, card: virtio.NetworkDevice) -> None:
    """RSS: flows go where the guest's table and key say, by a computation of our own."""
    guest.check(f"ethtool -X eth0 hkey {KEY.hex(':')}")
    guest.check("ethtool -N eth0 rx-flow-hash udp4 sdfn")
    for weights in ((1, 1, 1, 1), (0, 2, 1, 1)):
        guest.check(f"ethtool -X eth0 weight {' '.join(map(str, weights))}")
        shown = guest.check("ethtool -x eth0")
        assert KEY.hex(":") in shown
        rows = re.findall(r"^\s+\d+: +([\d ]+)$", shown, re.M)
        table = [int(entry) for row in rows for entry in row.split()]
        assert len(table) == 128
        assert [table.count(queue) for queue in range(4)] == [128 * part // sum(weights) for part in weights]
        before = counted(guest)
        expected = [0] * 4
        for number in range(1000):
            flow = (
                bytes([10, 0, 1, number % 250])
                + bytes([10, 0, 0, 2])
                + (1024 + number).to_bytes(2, "big")
                + b"\0\x09"
            )
            ip = bytes.fromhex("4500 0024 0000 4000 4011 0000") + flow[:8]
            frame = bytes(card.config.mac) + PEER + b"\x08\0" + ip + flow[8:] + b"\0\x10\0\0" + bytes(8)
            while not card.send(frame):  # a guest that is slow
                time.sleep(0.01)
            expected[table[toeplitz(flow) % 128]] += 1
        for _ in range(300):
            after = counted(guest)
            found = [after[f"rx{queue}_hw_packets"] - before[f"rx{queue}_hw_packets"] for queue in range(4)]
            if sum(found) >= sum(expected):
                break
            time.sleep(0.1)
        assert found == expected
        assert all(bool(count) == bool(part) for count, part in zip(found, weights, strict=True))


def toeplitz(data: bytes) -> int:
    """For each bit of the input, the 32 bits of the key that begin there."""
    key = int.from_bytes(KEY, "big")
    found = 0
    for place in range(8 * len(data)):
        if data[place // 8] >> (7 - place % 8) & 1:
            found ^= key >> (8 * len(KEY) - 32 - place) & 0xFFFFFFFF
    return found
