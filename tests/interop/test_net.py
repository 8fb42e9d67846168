"""Real guests joined by our switch: Linux as the driver of our network device."""

import hashlib
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from tests.conftest import Needs
from tests.interop import newer
from tests.interop.newer import newer_peers as newer_peers

import virtio
from virtio.device.net_backends import Tap
from virtio.spec.core import F as CORE
from virtio.spec.net import F
from virtio.vm import Guest, Monitor, boot
from virtio.vm.attachment import Transport

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

NOTHING = "CSUM,GUEST_CSUM,MRG_RXBUF"
"""Without checksums there are no offloads at all."""


@contextmanager
def guests(
    devices: Sequence[virtio.NetworkDevice],
    monitors: Sequence[Monitor],
    timeout: float = 100,
    modules: Sequence[str] = (),
    functions: bool = False,
) -> Iterator[list[Guest]]:
    """Boot a guest with each device, at addresses 10.0.0.1 and so on.

    ``functions``: QEMU's guests drive our PCI functions themselves, and are newer.
    """
    with ExitStack() as stack:
        found = []
        for number, (device, monitor) in enumerate(zip(devices, monitors, strict=True), 1):
            options: dict[str, Any] = {"monitor": monitor, "timeout": timeout, "modules": modules}
            if functions and monitor == "qemu":
                options |= {"transport": "vfio-user", "kernel": newer.kernel()}
            guest = stack.enter_context(boot([device], **options))
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


@pytest.mark.parametrize(
    ("masks", "layout"),
    [
        pytest.param(("", ""), "packed", id="offloads-packed"),
        pytest.param(("", NOTHING), "split", id="mixed-split"),
        pytest.param(("", ""), "split", id="offloads-split", marks=pytest.mark.slow),
        pytest.param(("", NOTHING), "packed", id="mixed-packed", marks=pytest.mark.slow),
        pytest.param((NOTHING, NOTHING), "split", id="plain-split", marks=pytest.mark.slow),
        pytest.param((NOTHING, NOTHING), "packed", id="plain-packed", marks=pytest.mark.slow),
    ],
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


def test_jumbo_frames_and_the_mtu() -> None:
    """Frames of 9000 bytes in mergeable buffers; a guest keeps to the MTU that it is told."""
    switch = virtio.Switch()
    mask = "GUEST_TSO4,GUEST_TSO6,GUEST_UFO,HOST_TSO4,HOST_TSO6,HOST_UFO,HOST_USO,GUEST_USO4,GUEST_USO6"
    devices = [virtio.NetworkDevice(switch.port(), mtu=9000, mask=mask) for _ in range(2)]
    with guests(devices, ["uml", "uml"]) as (one, two):
        assert one.check("cat /sys/class/net/eth0/mtu") == "9000\n"
        two.check("ip link set eth0 mtu 9000")
        before = devices[0].statistics()["tx_bytes"]
        assert "0% packet loss" in one.check("ping -c 3 -i 0.1 -s 8900 10.0.0.2")
        assert devices[0].statistics()["tx_bytes"] - before > 3 * 8900
        transfer(one, two, "10.0.0.2", 8)
        transfer(two, one, "10.0.0.1", 8)
        assert one.run("ip link set eth0 mtu 9001").status != 0
    for device in devices:
        healthy(device)
        device.close()


@pytest.mark.usefixtures("newer_peers")
@pytest.mark.parametrize(
    ("transport", "layout"),
    [
        ("vhost-user", "packed"),
        pytest.param("vhost-user", "split", marks=pytest.mark.slow),
        pytest.param("vfio-user", "packed", marks=pytest.mark.slow),
        pytest.param("vfio-user", "split", marks=pytest.mark.slow),
    ],
)
def test_user_mode_linux_and_qemu_talk(transport: Transport, layout: str) -> None:
    """By vhost-user the card is QEMU's, and only its frames ours; by vfio-user all of it is."""
    switch = virtio.Switch()
    mask = "" if layout == "packed" else "RING_PACKED"
    devices = [virtio.NetworkDevice(switch.port(), mask=mask) for _ in range(2)]
    with (
        guests(devices[:1], ["uml"]) as (one,),
        boot(devices[1:], transport=transport, monitor="qemu", kernel=newer.kernel(), timeout=100) as two,
    ):
        two.check("ip link set eth0 up && ip addr add 10.0.0.2/24 dev eth0")
        assert bool(devices[1].negotiated_features & CORE.RING_PACKED) == (layout == "packed")
        assert bool(devices[1].negotiated_features & F.CTRL_VQ) == (transport == "vfio-user")
        assert "0% packet loss" in one.check("ping -c 3 -i 0.1 10.0.0.2")
        transfer(one, two, "10.0.0.2", 8)
        transfer(two, one, "10.0.0.1", 8)
    for device in devices:
        healthy(device)
        device.close()


def test_the_installed_qemus_own_card(needs: Needs) -> None:
    """Without newer peers. QEMU 7.2 would crash with MSI-X where there is no KVM; see ``docs/network.md``."""
    needs("qemu")
    switch = virtio.Switch()
    devices = [virtio.NetworkDevice(switch.port(), mac=bytes([2, 0, 0, 0, 0, number])) for number in (1, 2)]
    with guests(devices, ["uml", "qemu"]) as (one, two):
        assert devices[1].negotiated_features & CORE.RING_PACKED
        assert "0% packet loss" in one.check("ping -c 3 -i 0.1 10.0.0.2")
        transfer(one, two, "10.0.0.2", 2)
        transfer(two, one, "10.0.0.1", 2)
    for device in devices:
        healthy(device)
        device.close()


@pytest.mark.parametrize("monitor", ["uml", pytest.param("qemu", marks=pytest.mark.slow)])
def test_what_a_guest_sees_and_sets(monitor: Monitor, request: pytest.FixtureRequest) -> None:
    """Link, speed, announcements, and filters of addresses, of one guest that stays up."""
    if monitor == "qemu":
        request.getfixturevalue("newer_peers")
    switch = virtio.Switch()
    plug = switch.port()
    devices = [
        virtio.NetworkDevice(switch.port(), mac="02:00:00:00:00:01", speed=25000, duplex="full"),
        virtio.NetworkDevice(plug, mac="02:00:00:00:00:02"),
    ]
    card = devices[0]

    def received() -> int:
        return card.statistics()["rx_packets"]

    with guests(devices, [monitor, "uml"], functions=True) as (one, two):
        assert one.check("cat /sys/class/net/eth0/speed /sys/class/net/eth0/duplex") == "25000\nfull\n"
        # The link.
        card.link = False
        one.check(until("[ $(cat /sys/class/net/eth0/carrier) = 0 ]"))
        assert one.run("ping -c 1 -W 1 10.0.0.2").status != 0
        card.link = True
        one.check(until("[ $(cat /sys/class/net/eth0/carrier) = 1 ]"))
        assert "0% packet loss" in one.check("ping -c 2 -i 0.1 10.0.0.2")
        # Announcements: the guest sends ARP of its own accord, then acknowledges.
        sent = card.statistics()["tx_packets"]
        assert card.announce()
        one.check(until("[ $(cat /sys/class/net/eth0/statistics/tx_packets) -gt 0 ]"))
        assert eventually(lambda: not card.config.status & 2)
        assert eventually(lambda: card.statistics()["tx_packets"] > sent)
        # Frames to another address do not come in, until the guest wants all.
        two.check("arp -s 10.0.0.9 02:00:00:00:00:99 -i eth0")
        before = received()
        two.run("ping -c 3 -i 0.1 -W 1 10.0.0.9")
        assert received() == before
        one.check("ip link set eth0 promisc on")
        two.run("ping -c 3 -i 0.1 -W 1 10.0.0.9")
        assert received() >= before + 3
        one.check("ip link set eth0 promisc off")
        # Its own new address counts, in the configuration too.
        one.check("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up")
        one.check("ip addr add 10.0.0.9/24 dev eth0")
        assert bytes(card.config.mac) == bytes.fromhex("020000000099")
        assert "0% packet loss" in two.check("ping -c 2 -i 0.1 10.0.0.9")
    for device in devices:
        healthy(device)
        device.close()


@pytest.mark.parametrize("monitor", ["uml", pytest.param("qemu", marks=pytest.mark.slow)])
def test_only_the_vlans_that_a_guest_has_come_in(monitor: Monitor, request: pytest.FixtureRequest) -> None:
    if monitor == "qemu":
        request.getfixturevalue("newer_peers")
    switch = virtio.Switch()
    devices = [virtio.NetworkDevice(switch.port(), mac=bytes([2, 0, 0, 0, 0, number])) for number in (1, 2)]
    with guests(devices, [monitor, "uml"], modules=["8021q"], functions=True) as (one, two):
        assert devices[0].negotiated_features & F.CTRL_VLAN

        def join(guest: Guest, vlan: int, number: int) -> None:
            guest.check(
                f"ip link add link eth0 name v{vlan} type vlan id {vlan} && ip link set v{vlan} up &&"
                f"ip addr add 10.{vlan}.0.{number}/24 dev v{vlan}"
            )

        for vlan in (5, 6):
            join(two, vlan, 2)
            # No ARP, whose broadcasts would be filtered, too.
            two.check(f"arp -s 10.{vlan}.0.1 02:00:00:00:00:01 -i v{vlan}")
        before = devices[0].statistics()["rx_packets"]
        two.run("ping -c 3 -i 0.1 -W 1 10.5.0.1")
        assert devices[0].statistics()["rx_packets"] == before
        join(one, 5, 1)
        assert "0% packet loss" in two.check("ping -c 3 -i 0.1 10.5.0.1")
        before = devices[0].statistics()["rx_packets"]
        two.run("ping -c 3 -i 0.1 -W 1 10.6.0.1")
        assert devices[0].statistics()["rx_packets"] == before
        one.check("ip link del v5")
        two.run("ping -c 3 -i 0.1 -W 1 10.5.0.1")
        assert devices[0].statistics()["rx_packets"] == before
        # And all of them, if that is what it wants.
        one.check("ip link set eth0 promisc on")
        two.run("ping -c 3 -i 0.1 -W 1 10.6.0.1")
        assert "0% packet loss" in one.check("ping -c 3 -i 0.1 10.0.0.2")
    for device in devices:
        healthy(device)
        device.close()


OFFLOADS = (
    "CSUM", "GUEST_CSUM", "MRG_RXBUF", "HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "HOST_USO",
    "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO", "GUEST_USO4", "GUEST_USO6",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["split", "packed"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_one_end_does_without_an_offload(offload: str, layout: str) -> None:
    """The other has it: streams of IPv4 and IPv6, both ways, with ECN."""
    switch = virtio.Switch()
    packed = "" if layout == "packed" else ",RING_PACKED"
    devices = [
        virtio.NetworkDevice(switch.port(), mac=bytes([2, 0, 0, 0, 0, number]), mask=mask + packed)
        for number, mask in ((1, offload), (2, ""))
    ]
    with guests(devices, ["uml", "uml"], modules=["ipv6"]) as (one, two):
        assert not devices[0].negotiated_features & F[offload].mask
        for number, guest in enumerate((one, two), 1):
            guest.check("echo 1 >/proc/sys/net/ipv4/tcp_ecn")
            guest.check("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
            guest.check(f"ip -6 addr add fd00::{number}/64 dev eth0")
        fetch(one, two, "10.0.0.1", "[fd00::1]")
        fetch(two, one, "10.0.0.2", "[fd00::2]")
        statistics = [device.statistics() for device in devices]
        large = devices[0].negotiated_features & (F.HOST_TSO4 | F.HOST_TSO6)
        assert bool(statistics[0]["tx_gso_packets"]) == bool(large)
        assert statistics[1]["tx_gso_packets"] > 0
    for device in devices:
        healthy(device)
        device.close()


def fetch(server: Guest, client: Guest, *hosts: str) -> None:
    """Get a file by HTTP, which is sent in large pieces, and compare checksums."""
    sent = server.check(
        "mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/data bs=1M count=4 2>/dev/null;"
        "httpd -h /tmp/www; sha256sum </tmp/www/data"
    )
    for host in hosts:
        assert client.check(f"wget -q -O - http://{host}/data | sha256sum") == sent


def test_a_bad_wire_delivers_a_stream_intact() -> None:
    switch = virtio.Switch()
    plugs = [switch.port(), switch.port()]
    devices = [virtio.NetworkDevice(plug) for plug in plugs]
    with guests(devices, ["uml", "uml"]) as (one, two):
        for plug in plugs:
            plug.wire(loss=0.05, reordering=0.05, duplication=0.02)
        transfer(one, two, "10.0.0.2", 1, timeout=90)
    for device in devices:
        healthy(device)
        device.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_much_data_both_ways() -> None:
    switch = virtio.Switch()
    devices = [virtio.NetworkDevice(switch.port()) for _ in range(2)]
    with guests(devices, ["uml", "uml"], timeout=580) as (one, two):
        for _ in range(4):
            transfer(one, two, "10.0.0.2", 64, timeout=200)
            transfer(two, one, "10.0.0.1", 64, timeout=200)
    for device in devices:
        healthy(device)
        device.close()


def until(condition: str) -> str:
    return f"for i in $(seq 100); do {condition} && exit 0; sleep 0.05; done; false"


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_guest_reaches_its_host_over_a_tap_device() -> None:
    """Offloads are handed through to the kernel, and from it."""
    try:
        tap = Tap("pyvirtio%d")
    except virtio.ConfigurationError as error:
        pytest.skip(str(error))
    device = virtio.NetworkDevice(tap)
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    with ExitStack() as stack:
        stack.callback(device.close)
        run(["ip", "addr", "add", "10.213.7.1/24", "dev", tap.name])
        run(["ip", "link", "set", tap.name, "up"])
        guest = stack.enter_context(boot([device], monitor="uml", timeout=80))
        guest.check("ip link set eth0 up && ip addr add 10.213.7.2/24 dev eth0")
        assert "0% packet loss" in guest.check("ping -c 2 -i 0.1 10.213.7.1")
        data = random.Random(5).randbytes(8 << 20)
        guest.check("(tail -f /dev/null | nc -l -p 9 | sha256sum >/tmp/sum) & sleep 0.2")
        with socket.create_connection(("10.213.7.2", 9), timeout=20) as connection:
            connection.sendall(data)
        guest.check(until("[ -s /tmp/sum ]"))
        assert guest.check("cat /tmp/sum").split()[0] == hashlib.sha256(data).hexdigest()
        assert device.statistics()["rx_gso_packets"] > 10
        # Not nc: it writes 1 KiB at a time, which leaves in large frames only if the host is slow.
        guest.check("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null; httpd -h /tmp")
        with urllib.request.urlopen("http://10.213.7.2/data", timeout=20) as got:
            assert hashlib.sha256(got.read()).hexdigest() == guest.check("sha256sum /tmp/data").split()[0]
        statistics = device.statistics()
        assert statistics["tx_gso_packets_noseg"] == statistics["tx_gso_packets"] > 10
    healthy(device)
