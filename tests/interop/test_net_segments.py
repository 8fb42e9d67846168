"""Linux guests and large UDP packets: many datagrams in one (USO), and one of many fragments (UFO).

They arrive whole, or are cut by us. Linux sends no UFO any more; it takes it.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.interop import newer
from tests.interop.newer import newer_peers as newer_peers

import virtio
from virtio.spec.net import GSO, HDR_F, F
from virtio.vm import Guest, boot

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

SEGMENT, TOTAL = 1400, 60000
FRAGMENT = 1480
SIZES = [SEGMENT] * (TOTAL // SEGMENT) + [TOTAL % SEGMENT]
GUEST_USO = F.GUEST_USO4 | F.GUEST_USO6


@pytest.fixture
def program(newer_peers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build the guests' program, and return its name."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    name = "udp_segments"
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        ["gcc", "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-O", "-static", "-o", tmp_path / name, source],
        check=True,
        timeout=60,
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return name


@pytest.mark.slow
def test_datagrams_in_one_packet_arrive_whole_and_cut(program: str) -> None:
    switch = virtio.Switch()
    # Addresses 1 to 4. Who masks HOST_USO has its kernel cut what it sends.
    cards = [
        virtio.NetworkDevice(switch.port()),
        virtio.NetworkDevice(switch.port()),
        virtio.NetworkDevice(switch.port(), mask="GUEST_USO4"),
        virtio.NetworkDevice(switch.port(), mask="HOST_USO,GUEST_USO4,GUEST_USO6,GUEST_UFO"),
    ]
    options = {
        "transport": "vfio-user",
        "monitor": "qemu",
        "kernel": newer.kernel(),
        "programs": [program],
        "timeout": 280,
    }
    with ExitStack() as stack:
        guests = [stack.enter_context(boot([card], **options)) for card in cards]  # type: ignore[arg-type]
        for number, guest in enumerate(guests, 1):
            guest.check(
                "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && ip link set eth0 up"
                f" && ip addr add 10.0.0.{number}/24 dev eth0 && ip addr add fd00::{number}/64 dev eth0"
            )
            # The hash reports of a card with one pair are configured like RSS.
            assert "RSS disabled" not in guest.check("dmesg")
        assert [bool(card.negotiated_features & F.HOST_USO) for card in cards] == [True, True, True, False]
        assert [card.negotiated_features & GUEST_USO for card in cards[:2]] == [GUEST_USO] * 2
        assert cards[2].negotiated_features & GUEST_USO == F.GUEST_USO6
        datagrams = [(size, 0) for size in SIZES]
        for address in ("10.0.0.{}", "fd00::{}"):
            for source, target, how, expected in (
                # The driver takes the packet as it is; so does a program that asks for that.
                (0, 1, "together", ([(TOTAL, SEGMENT)], 1, 1)),
                # To one that does not, the kernel gives datagrams.
                (0, 1, "alone", (datagrams, 1, 1)),
                # A driver that takes half of it, or nothing, gets datagrams from us.
                (0, 2, "alone", (datagrams, 1, 0)),
                (0, 3, "alone", (datagrams, 1, 0)),
                # One that may not give us large packets.
                (3, 1, "alone", (datagrams, 0, 0)),
            ):
                place = address.format(target + 1)
                # Neighbours are found before: who waits for an address keeps few packets.
                guests[source].check(f"ping -c 1 {place}")
                before = [card.statistics() for card in cards]
                command = f"udp_segments send {place} 9 {SEGMENT} {TOTAL}"
                messages = received(guests[target], place, how, partial(guests[source].check, command))
                after = [card.statistics() for card in cards]
                out = after[source]["tx_gso_packets"] - before[source]["tx_gso_packets"]
                into = after[target]["rx_gso_packets"] - before[target]["rx_gso_packets"]
                assert (messages, out, into) == expected
        for target, taken in ((1, (1, 1)), (3, (-(-(TOTAL + 8) // FRAGMENT), 0))):
            card = cards[target]
            assert bool(card.negotiated_features & F.GUEST_UFO) == (taken == (1, 1))
            first = card.statistics()
            messages = received(
                guests[target], f"10.0.0.{target + 1}", "alone", partial(send, card, target + 1)
            )
            last = card.statistics()
            assert messages == [(TOTAL, 0)]
            names = ("rx_packets", "rx_gso_packets")
            assert tuple(last[name] - first[name] for name in names) == taken
    for card in cards:
        assert card.statistics()["tx_drop_malformed"] == 0
        assert not card.needs_reset
        card.close()


def received(guest: Guest, address: str, how: str, send: Callable[[], object]) -> list[tuple[int, int]]:
    """Have a guest listen, then ``send``; return the length of each message and of its parts."""
    output = bytearray()
    ready = threading.Event()

    def sink(data: bytes) -> None:
        output.extend(data)
        if b"ready\n" in output:
            ready.set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(guest.run, f"udp_segments receive {address} 9 {TOTAL} {how}", sink=sink)
        assert ready.wait(60)
        send()
        status = result.result().status
    lines = output.decode().splitlines()
    assert (status, lines[0], lines[-1]) == (0, "ready", "all")
    found = [line.split() for line in lines[1:-1]]
    return [(int(length), int(segment)) for length, segment in found]


def send(card: virtio.NetworkDevice, number: int) -> None:
    """Give a guest one datagram of many fragments."""
    ends = bytes([10, 0, 0, 9, 10, 0, 0, number])
    length = 8 + TOTAL
    ip = bytes.fromhex("4500") + (20 + length).to_bytes(2, "big") + bytes.fromhex("1234 0000 4011")
    ip += (~folded(ip + ends) & 0xFFFF).to_bytes(2, "big") + ends
    partial_sum = folded(ends + (17).to_bytes(2, "big") + length.to_bytes(2, "big"))
    udp = bytes.fromhex("1234 0009") + length.to_bytes(2, "big") + partial_sum.to_bytes(2, "big")
    data = bytes((at * 7 + at // 251) & 0xFF for at in range(TOTAL))
    assert card.send(
        bytes(card.config.mac) + bytes.fromhex("020000000009 0800") + ip + udp + data,
        flags=HDR_F.NEEDS_CSUM,
        gso_type=GSO.UDP,
        hdr_len=42,
        gso_size=FRAGMENT,
        csum_start=34,
        csum_offset=6,
    )


def folded(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
