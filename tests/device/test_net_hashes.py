"""Hashes of packets in tunnels against an independent computation, and RSS contexts."""

import struct
from collections.abc import Iterator

import pytest
from tests.device.test_net import ERR, LONG_HEADERS, MAC, OK, PEER, Card, rss

from virtio.device.net import NetworkDevice
from virtio.spec import net, net_control
from virtio.spec.net import F

pytestmark = pytest.mark.usefixtures("layout")

KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
TUNNEL = net.TUNNEL_TYPE
V4, V6 = (
    (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])),
    (b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"),
)


def toeplitz(data: bytes) -> int:
    """The hash, bit by bit, as the algorithm is published."""
    window, result = int.from_bytes(KEY, "big"), 0
    for number in range(8 * len(data)):
        if data[number // 8] >> (7 - number % 8) & 1:
            result ^= window >> (8 * len(KEY) - 32 - number) & 0xFFFFFFFF
    return result


def ip(addresses: tuple[bytes, bytes], protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    if len(addresses[0]) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return head + addresses[0] + addresses[1] + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def ethernet(packet: bytes, vlan: bool = False) -> bytes:
    kind = {4: b"\x08\0", 6: b"\x86\xdd"}.get(packet[0] >> 4, b"\x88\xb5")
    return MAC + PEER + (b"\x81\0\0\5" if vlan else b"") + kind + packet


INNER_PORTS = (3000, 4000)
INNER_4 = ip((b"\xc0\xa8\0\1", b"\xc0\xa8\0\2"), 17, udp(*INNER_PORTS, b"inner"))
INNER_6 = ip((b"\x20\1" + bytes(13) + b"\3", b"\x20\1" + bytes(13) + b"\4"), 17, udp(*INNER_PORTS, b"inner"))
PORTS = struct.pack(">HH", *INNER_PORTS)
INSIDE_4 = (3, toeplitz(INNER_4[12:20] + PORTS))
INSIDE_6 = (6, toeplitz(INNER_6[8:40] + PORTS))
NOTHING = (0, 0)


def outside(packet: bytes) -> tuple[int, int]:
    """Report and hash of the outer header."""
    four = packet[0] >> 4 == 4
    protocol, addresses, rest = (
        (packet[9], packet[12:20], packet[20:]) if four else (packet[6], packet[8:40], packet[40:])
    )
    if protocol == 17 and not (four and packet[6] & 0x3F):
        return 3 if four else 6, toeplitz(addresses + rest[:4])
    return 1 if four else 4, toeplitz(addresses)


def gre(protocol: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HH", flags, protocol) + b"\1\2\3\4" * (flags >> 12).bit_count() + payload


def vxlan(payload: bytes, first: int = 0x08, protocol: int = 0) -> bytes:
    return bytes([first, 0, 0, protocol, 0, 0, 7, 0]) + payload


def geneve(protocol: int, payload: bytes, options: int = 0, first: int = 0, second: int = 0) -> bytes:
    return struct.pack(">BBHI", first | options, second, protocol, 0x700) + bytes(4 * options) + payload


FOUR, SIX, FRAME = 0x0800, 0x86DD, 0x6558
ENCAPSULATED = {
    # name: outer IP packet, the encapsulations that it is, what is inside
    "gre": (ip(V4, 47, gre(FOUR, INNER_4)), TUNNEL.GRE_2784, INSIDE_4),
    "gre checksum": (ip(V4, 47, gre(FOUR, INNER_4, 0x8000)), TUNNEL.GRE_2784, INSIDE_4),
    "gre key": (ip(V4, 47, gre(FOUR, INNER_4, 0x2000)), TUNNEL.GRE_2890, INSIDE_4),
    "gre sequence": (ip(V4, 47, gre(FOUR, INNER_4, 0x1000)), TUNNEL.GRE_2890, INSIDE_4),
    "gre all": (ip(V4, 47, gre(FOUR, INNER_4, 0xB000)), TUNNEL.GRE_2890, INSIDE_4),
    "gre with 6": (ip(V4, 47, gre(SIX, INNER_6)), TUNNEL.GRE_2784 | TUNNEL.GRE_7676, INSIDE_6),
    "gre over 6": (ip(V6, 47, gre(FOUR, INNER_4)), TUNNEL.GRE_2784 | TUNNEL.GRE_7676, INSIDE_4),
    "nvgre": (ip(V4, 47, gre(FRAME, ethernet(INNER_6), 0x2000)), TUNNEL.NVGRE | TUNNEL.GRE_2890, INSIDE_6),
    "gre frame": (ip(V4, 47, gre(FRAME, ethernet(INNER_4))), TUNNEL.GRE_2784, INSIDE_4),
    "gre udp": (ip(V4, 17, udp(50000, 4754, gre(FOUR, INNER_4))), TUNNEL.GRE_UDP, INSIDE_4),
    "gre udp over 6": (ip(V6, 17, udp(50000, 4754, gre(SIX, INNER_6, 0x2000))), TUNNEL.GRE_UDP, INSIDE_6),
    "vxlan": (ip(V4, 17, udp(50000, 4789, vxlan(ethernet(INNER_4)))), TUNNEL.VXLAN, INSIDE_4),
    "vxlan vlan": (ip(V6, 17, udp(50000, 4789, vxlan(ethernet(INNER_6, True)))), TUNNEL.VXLAN, INSIDE_6),
    "vxlan gpe": (ip(V4, 17, udp(50000, 4790, vxlan(INNER_4, 0x0C, 1))), TUNNEL.VXLAN_GPE, INSIDE_4),
    "vxlan gpe 6": (ip(V4, 17, udp(50000, 4790, vxlan(INNER_6, 0x0C, 2))), TUNNEL.VXLAN_GPE, INSIDE_6),
    "vxlan gpe frame": (
        ip(V4, 17, udp(50000, 4790, vxlan(ethernet(INNER_4), 0x0C, 3))),
        TUNNEL.VXLAN_GPE,
        INSIDE_4,
    ),
    "geneve": (ip(V4, 17, udp(50000, 6081, geneve(FRAME, ethernet(INNER_6)))), TUNNEL.GENEVE, INSIDE_6),
    "geneve options": (ip(V4, 17, udp(50000, 6081, geneve(FOUR, INNER_4, 5))), TUNNEL.GENEVE, INSIDE_4),
    "ipip": (ip(V4, 4, INNER_4), TUNNEL.IPIP, INSIDE_4),
    # What is inside is no IP packet, or less than one: then there is nothing to hash.
    "arp": (ip(V4, 17, udp(50000, 4789, vxlan(ethernet(b"\0" * 28)))), TUNNEL.VXLAN, NOTHING),
    "cut": (ip(V4, 47, gre(FOUR, INNER_4[:19])), TUNNEL.GRE_2784, NOTHING),
    "empty": (ip(V4, 17, udp(50000, 4789, vxlan(b""))), TUNNEL.VXLAN, NOTHING),
    "nsh": (ip(V4, 17, udp(50000, 4790, vxlan(INNER_4, 0x0C, 4))), TUNNEL.VXLAN_GPE, NOTHING),
    "not what it says": (ip(V4, 47, gre(SIX, INNER_4)), TUNNEL.GRE_2784 | TUNNEL.GRE_7676, NOTHING),
    # Two levels: only the first counts.
    "twice": (
        ip(V4, 4, ip((b"\xc0\0\0\1", b"\xc0\0\0\2"), 4, INNER_4)),
        TUNNEL.IPIP,
        (1, toeplitz(b"\xc0\0\0\1\xc0\0\0\2")),
    ),
}  # fmt: skip
PLAIN = {
    "udp": ip(V4, 17, udp(4789, 53, vxlan(ethernet(INNER_4)))),
    "fragment": ip(V4, 17, udp(50000, 4789, vxlan(ethernet(INNER_4))), fragment=0x2000),
    "gre fragment": ip(V4, 47, gre(FOUR, INNER_4), fragment=1),
    "gre routing": ip(V4, 47, gre(FOUR, INNER_4, 0x4000)),
    "gre version 1": ip(V4, 47, gre(FOUR, INNER_4, 0x0001)),
    "gre cut": ip(V4, 47, gre(FOUR, b"", 0xB000)[:-1]),
    "gre empty": ip(V4, 47, b""),
    "vxlan without number": ip(V4, 17, udp(50000, 4789, vxlan(ethernet(INNER_4), 0))),
    "vxlan cut": ip(V4, 17, udp(50000, 4789, vxlan(b"")[:7])),
    "gpe version": ip(V4, 17, udp(50000, 4790, vxlan(INNER_4, 0x1C, 1))),
    "gpe maintenance": ip(V4, 17, udp(50000, 4790, vxlan(INNER_4, 0x0D, 1))),
    "geneve version": ip(V4, 17, udp(50000, 6081, geneve(FOUR, INNER_4, first=0x40))),
    "geneve control": ip(V4, 17, udp(50000, 6081, geneve(FOUR, INNER_4, second=0x80))),
    "geneve options cut": ip(V4, 17, udp(50000, 6081, geneve(FOUR, b"", 3)[:-1])),
    "ip in ip6": ip(V6, 4, INNER_4),
    "ip6 in ip": ip(V4, 41, INNER_6),
}
"""Packets that are in none of the tunnels, though nearly."""


@pytest.fixture
def card() -> Iterator[Card]:
    """One pair, with hash reports."""
    device = NetworkDevice(mac=MAC)
    with Card(device, without=LONG_HEADERS & ~(F.HASH_REPORT | F.HASH_TUNNEL)) as card:
        card.device = device
        config = (0x1FF).to_bytes(4, "little") + bytes(8) + bytes([40]) + KEY
        assert card.command("MQ", 2, config) == OK
        yield card
    device.close()


def reports(card: Card, packets: list[bytes]) -> list[tuple[int, int]]:
    card.buffers(len(packets))
    for packet in packets:
        assert card.device.send(ethernet(packet))
    layout = net.HDR.until(("VIRTIO_NET_F_HASH_REPORT",))
    headers = [layout.unpack(data[:20]) for data in card.received(len(packets))]
    return [(header["hash_report"], header["hash_value"]) for header in headers]


def enable(card: Card, types: int) -> bytes:
    return card.command("HASH_TUNNEL", 0, types.to_bytes(4, "little"))


def test_the_independent_hash_is_the_published_one() -> None:
    assert toeplitz(bytes.fromhex("420995bb a18e6450 0aea 06e6")) == 0x51CCC178


def test_inner_headers_are_hashed_of_tunnels_that_are_enabled(card: Card) -> None:
    packets = [packet for packet, _, _ in ENCAPSULATED.values()]
    outer = [outside(packet) for packet in packets]
    assert card.device.config.supported_tunnel_types == 0x1FF
    # At first none is enabled; then each alone, all, and none again.
    assert reports(card, packets) == outer
    for enabled in (*(code.value for code in TUNNEL), 0x1FF, 0):
        assert enable(card, enabled) == OK
        expected = [
            inside if kinds & enabled else outer[number]
            for number, (_, kinds, inside) in enumerate(ENCAPSULATED.values())
        ]
        found = dict(zip(ENCAPSULATED, reports(card, packets), strict=True))
        assert found == dict(zip(ENCAPSULATED, expected, strict=True)), hex(enabled)


def test_what_is_in_no_tunnel_is_hashed_outside(card: Card) -> None:
    assert enable(card, 0x1FF) == OK
    found = dict(zip(PLAIN, reports(card, list(PLAIN.values())), strict=True))
    assert found == {name: outside(packet) for name, packet in PLAIN.items()}


def test_tunnels_that_are_cut_anywhere_do_no_harm(card: Card) -> None:
    assert enable(card, 0x1FF) == OK
    whole = [packet for packet, _, _ in ENCAPSULATED.values()]
    cut = [packet[:size] for packet in whole for size in range(20, len(packet), 7)]
    for at in range(0, len(cut), 32):
        some = cut[at : at + 32]
        assert len(reports(card, some)) == len(some)


def test_tunnels_that_do_not_exist_are_refused(card: Card) -> None:
    assert enable(card, 0x10) == OK
    for types in (0x200, 0x80000000, 0xFFFFFFFF):
        assert enable(card, types) == ERR
    for command, data in ((0, b""), (0, b"\1\0\0"), (0, bytes(5)), (1, bytes(4)), (255, bytes(4))):
        assert card.command("HASH_TUNNEL", command, data) == ERR
    # What was set before still holds, until the device is reset.
    packet, _, inside = ENCAPSULATED["vxlan"]
    assert reports(card, [packet]) == [inside]


def test_tunnels_move_and_a_new_key_leaves_them(card: Card) -> None:
    assert enable(card, TUNNEL.VXLAN) == OK
    packet, _, inside = ENCAPSULATED["vxlan"]
    config = (0x1FF).to_bytes(4, "little") + bytes(8) + bytes([40]) + KEY
    assert card.command("MQ", 2, config) == OK
    assert reports(card, [packet]) == [inside]
    for queue in card.device.queues:
        queue.stop()
    saved = card.device.save_state()
    other = NetworkDevice(mac=MAC)
    with Card(other, features=card.features, live=False) as moved:
        moved.device = other
        other.load_state(saved)
        moved.go_live()
        assert reports(moved, [packet]) == [inside]
        other.driver_reset()
        other.negotiated(moved.features)
        assert moved.command("MQ", 2, config) == OK
        assert reports(moved, [packet]) == [outside(packet)]


def test_rss_spreads_packets_by_what_is_in_a_tunnel() -> None:
    device = NetworkDevice(mac=MAC, pairs=4)
    with Card(device, without=LONG_HEADERS & ~F.HASH_TUNNEL, room=1 << 17) as card:
        card.device = device
        for pair in range(4):
            card.buffers(32, queue=2 * pair)
        assert card.command("MQ", 1, rss(key=KEY)) == OK
        assert enable(card, TUNNEL.VXLAN) == OK
        expected = [0] * 4
        for number in range(24):
            inner = ip(V4, 17, udp(number, 7, b""))
            assert device.send(ethernet(ip(V4, 17, udp(1, 4789, vxlan(ethernet(inner))))))
            expected[toeplitz(V4[0] + V4[1] + struct.pack(">HH", number, 7)) & 3] += 1
        for pair, count in enumerate(expected):
            assert len(card.received(count, queue=2 * pair)) == count
        assert min(expected) > 0
    device.close()


# --- RSS contexts


@pytest.fixture
def wide() -> Iterator[Card]:
    """Four pairs."""
    device = NetworkDevice(mac=MAC, pairs=4)
    with Card(device, without=LONG_HEADERS, room=1 << 17) as card:
        card.device = device
        yield card
    device.close()


CAP_GET, ADD, MOD, DEL = range(4)
CONTEXTS = net_control.CLASS["VIRTNET_RSS_CTX_CTRL"].value


def context(number: int, config: bytes | None = None, reserved: bytes = b"\xff" * 6) -> bytes:
    return number.to_bytes(2, "little") + reserved + (rss() if config is None else config)


def test_rss_contexts_come_and_go(wide: Card) -> None:
    answer = wide.command(CONTEXTS, CAP_GET, room=3)
    most = int.from_bytes(answer[1:], "little")
    assert answer[:1] == OK
    assert most >= 1
    for number in range(1, most + 1):
        assert wide.command(CONTEXTS, MOD, context(number)) == ERR
        assert wide.command(CONTEXTS, ADD, context(number)) == OK
        assert wide.command(CONTEXTS, ADD, context(number)) == ERR
        assert wide.command(CONTEXTS, MOD, context(number, rss(unclassified=2))) == OK
    # With a context the number of pairs stays (5.1.9.5.8.4).
    assert wide.command("MQ", 0, b"\1\0") == ERR
    for number in range(1, most + 1):
        assert wide.command(CONTEXTS, DEL, number.to_bytes(2, "little")) == OK
        assert wide.command(CONTEXTS, DEL, number.to_bytes(2, "little")) == ERR
    assert wide.command("MQ", 0, b"\1\0") == OK
    assert wide.command(CONTEXTS, ADD, context(1)) == OK
    wide.device.driver_reset()
    assert wide.command(CONTEXTS, DEL, b"\1\0") == ERR


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (CAP_GET, b"\0"),
        (ADD, b""),
        (ADD, b"\1"),
        (ADD, b"\1\0"),
        (ADD, context(1)[:7]),
        (ADD, context(1)[:-1]),
        (ADD, context(1) + bytes(2)),
        (ADD, context(0)),
        (ADD, context(17)),
        (ADD, context(0xFFFF)),
        (ADD, context(1, rss(table=(0, 1, 2, 4)))),
        (ADD, context(1, rss(table=range(3)))),
        (ADD, context(1, rss(types=0x200))),
        (MOD, context(5, rss(transmit=5))),
        (MOD, context(5)[:-1]),
        (DEL, b""),
        (DEL, b"\5"),
        (DEL, b"\5\0\0"),
        (DEL, b"\0\0"),
        (4, context(5)),
        (255, b"\5\0"),
    ],
    ids=range(21),
)
def test_rss_contexts_that_make_no_sense_are_refused(wide: Card, command: int, data: bytes) -> None:
    assert wide.command(CONTEXTS, ADD, context(5)) == OK
    assert wide.command(CONTEXTS, command, data) == ERR
    assert wide.command(CONTEXTS, MOD, context(5)) == OK
    assert not wide.device.needs_reset


def test_rss_contexts_move_to_another_device(wide: Card) -> None:
    for command, number in ((ADD, 1), (ADD, 2), (MOD, 1), (DEL, 2), (ADD, 3)):
        data = number.to_bytes(2, "little") if command == DEL else context(number)
        assert wide.command(CONTEXTS, command, data) == OK
    for queue in wide.device.queues:
        queue.stop()
    saved = wide.device.save_state()
    other = NetworkDevice(mac=MAC, pairs=4)
    with Card(other, features=wide.features, room=1 << 17, live=False) as card:
        card.device = other
        other.load_state(saved)
        card.go_live()
        found = [card.command(CONTEXTS, DEL, number.to_bytes(2, "little")) for number in (1, 2, 3, 4)]
        assert found == [OK, ERR, OK, ERR]
