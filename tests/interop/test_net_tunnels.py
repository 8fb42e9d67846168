"""Two Linux guests that speak through UDP tunnels: large packets go whole, or are cut by us."""

import pytest
from tests.interop import newer
from tests.interop.newer import newer_peers as newer_peers

import virtio
from virtio.spec.net import F
from virtio.vm import Guest, boot
from virtio.vm.initramfs import find_program

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400), pytest.mark.usefixtures("newer_peers")]

SIZE = 4 << 20
TUNNELS = F.HOST_UDP_TUNNEL_GSO | F.HOST_UDP_TUNNEL_GSO_CSUM


@pytest.fixture(autouse=True)
def iproute() -> None:
    found = find_program("ip")
    if found is None or "busybox" in str(found.resolve()):
        pytest.skip("no iproute2 here: apt-get install iproute2")


@pytest.mark.slow
def test_large_packets_in_tunnels_arrive_whole_and_cut() -> None:
    switch = virtio.Switch()
    whole = virtio.NetworkDevice(switch.port())
    cut = virtio.NetworkDevice(switch.port(), mask="GUEST_UDP_TUNNEL_GSO")
    options = {
        "transport": "vfio-user",
        "monitor": "qemu",
        "kernel": newer.kernel(),
        "programs": ["ip"],
        "modules": ["vxlan"],
        "timeout": 380,
    }
    with boot([whole], **options) as first, boot([cut], **options) as second:  # type: ignore[arg-type]
        assert whole.negotiated_features & TUNNELS == TUNNELS
        assert whole.negotiated_features & F.GUEST_UDP_TUNNEL_GSO
        assert not cut.negotiated_features & F.GUEST_UDP_TUNNEL_GSO
        for number, guest in ((1, first), (2, second)):
            guest.check(
                f"/sbin/ip link set eth0 up && /sbin/ip addr add 10.0.0.{number}/24 dev eth0"
                f" && /sbin/ip addr add fd00::{number}/64 dev eth0 nodad"
            )
        for name, outer, checksum in (
            ("vx0", "10.0.0.{}", "noudpcsum"),
            ("vx1", "10.0.0.{}", "udpcsum"),
            ("vx2", "fd00::{}", "udp6zerocsumtx udp6zerocsumrx"),
            ("vx3", "fd00::{}", "noudp6zerocsumtx"),
        ):
            place = int(name[-1]) + 1
            for own, other, guest in ((1, 2, first), (2, 1, second)):
                guest.check(
                    f"/sbin/ip link add {name} type vxlan id {place} dstport {4789 + place} {checksum}"
                    f" local {outer.format(own)} remote {outer.format(other)} dev eth0"
                    f" && /sbin/ip link set {name} up && /sbin/ip addr add 10.{place}.0.{own}/24 dev {name}"
                    f" && /sbin/ip addr add fd0{place}::{own}/64 dev {name} nodad"
                )
            for address in (f"10.{place}.0.{{}}", f"[fd0{place}::{{}}]"):
                for sender, receiver, number, card in ((first, second, 1, whole), (second, first, 2, cut)):
                    before = card.statistics()
                    download(sender, receiver, address.format(number))
                    after = card.statistics()
                    # Linux gave us packets larger than the wire takes, in their tunnels.
                    assert after["tx_gso_packets"] - before["tx_gso_packets"] > 10, (name, address)
    for device in (whole, cut):
        assert device.statistics()["tx_drop_malformed"] == 0
        assert not device.needs_reset
        device.close()


def download(server: Guest, client: Guest, address: str) -> None:
    sent = server.check(
        f"[ -e /tmp/www/data ] || {{ mkdir -p /tmp/www; head -c {SIZE} /dev/urandom >/tmp/www/data;"
        " httpd -h /tmp/www; }; sha256sum </tmp/www/data"
    )
    got = client.check(f"wget -q -O /tmp/got http://{address}/data && sha256sum </tmp/got", timeout=120)
    assert got.split()[-2:] == sent.split()[-2:]
