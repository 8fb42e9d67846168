"""The network device under a driver in the same process: control, steering, links, frames in Python."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.device.rig import Rig

import virtio
from virtio._native import NetBackend, NetFrame, NetFrames
from virtio.device.net import OFFERED, NetworkDevice
from virtio.errors import ConfigurationError
from virtio.spec import net, net_control
from virtio.spec.core import F as CORE
from virtio.spec.net import F, S

pytestmark = pytest.mark.usefixtures("layout")

MAC = bytes.fromhex("020000000001")
PEER = bytes.fromhex("020000000002")
GROUP = bytes.fromhex("01005e000001")
PLAIN = F.MAC | F.STATUS | F.MRG_RXBUF
LONG_HEADERS = F.HASH_REPORT | F.HOST_UDP_TUNNEL_GSO | F.HOST_UDP_TUNNEL_GSO_CSUM
LONG_HEADERS |= F.GUEST_UDP_TUNNEL_GSO | F.GUEST_UDP_TUNNEL_GSO_CSUM
LONG_HEADERS |= F.HASH_TUNNEL  # which needs HASH_REPORT on a card with one pair
FRAME = MAC + PEER + bytes.fromhex("88b5") + bytes(range(46))
OK, ERR = b"\0", b"\1"
CLASS = {code.name.removeprefix("VIRTIO_NET_CTRL_"): code.value for code in net_control.CLASS}


class Card(Rig):
    """A rig that speaks to a network device."""

    device: NetworkDevice

    @property
    def control_queue(self) -> int:
        """Where the control queue is, as this driver has negotiated (5.1.2)."""
        return 2 * self.device.pairs if self.features & (F.MQ | F.RSS) else 2

    def command(self, kind: str | int, command: int, data: bytes = b"", room: int = 1) -> bytes:
        number = kind if isinstance(kind, int) else CLASS[kind]
        pieces = [piece for piece in (bytes([number, command]), data) if piece]
        return self.ask(self.control_queue, pieces, [room])

    def buffers(self, count: int, size: int = 2048, queue: int = 0) -> None:
        for _ in range(count):
            self.add(queue, writable=[size])

    def received(self, count: int, queue: int = 0) -> list[bytes]:
        """What came in the next buffers, with headers."""
        driver = self.drivers[queue]
        return [driver.data(used.head)[: used.written] for used in self.used(queue, count)]

    def send(self, frame: bytes, header: bytes = bytes(12), queue: int = 1) -> None:
        self.ask(queue, [header, frame])


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture
def card() -> Iterator[Card]:
    """One pair, everything negotiated but hash reports, and tunnels, which make the header longer."""
    device = NetworkDevice(mac=MAC)
    with Card(device, without=LONG_HEADERS) as card:
        card.device = device
        yield card
    device.close()


@pytest.fixture
def wide() -> Iterator[Card]:
    """Four pairs."""
    device = NetworkDevice(mac=MAC, pairs=4)
    with Card(device, without=LONG_HEADERS, room=1 << 17) as card:
        card.device = device
        for pair in range(4):
            card.buffers(16, queue=2 * pair)
        yield card
    device.close()


# --- what is offered, and the configuration


def test_each_device_offers_what_it_has() -> None:
    assert NetworkDevice().offered_features & net.F.mask == OFFERED
    assert NetworkDevice(pairs=2).offered_features & (F.MQ | F.RSS) == F.MQ | F.RSS
    device = NetworkDevice(mtu=9000, speed=10000, duplex="half", standby=True, coalescing=True)
    extra = F.MTU | F.SPEED_DUPLEX | F.STANDBY | F.RSC_EXT
    assert device.offered_features & extra == extra
    assert (device.config.mtu, device.config.speed, device.config.duplex) == (9000, 10000, 0)
    assert device.config.rss_max_key_size >= 40
    assert device.config.rss_max_indirection_table_length >= 128


def test_without_a_feature_those_that_need_it_go_too() -> None:
    device = NetworkDevice(mask="CSUM,CTRL_VQ")
    assert not device.offered_features & (F.HOST_TSO4 | F.HOST_USO | F.CTRL_RX | F.GUEST_ANNOUNCE)
    assert len(device.queues) == 2


@pytest.mark.parametrize(
    "options",
    [{"pairs": 0}, {"mtu": 67}, {"mtu": 65536}, {"mac": "01:00:5e:00:00:01"}, {"mac": "02:00"}, {"mac": "x"}],
    ids=str,
)
def test_nonsense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        NetworkDevice(**options)  # type: ignore[arg-type]


def test_the_link_goes_down_and_up(card: Card) -> None:
    device = card.device
    card.buffers(4)
    assert device.send(FRAME)
    changes = card.events.config_changes
    device.link = False
    assert device.config.status == 0
    assert not device.send(FRAME)
    card.send(FRAME)
    assert device.statistics()["tx_drops"] == 1
    device.link = True
    assert device.config.status == S.LINK_UP
    assert card.events.config_changes == changes + 2
    assert device.send(FRAME)
    assert len(card.received(2)) == 2


def test_speed_changes_while_the_link_is_down() -> None:
    device = NetworkDevice(speed=1000)
    with Card(device, without=LONG_HEADERS):
        with pytest.raises(ConfigurationError):
            device.set_speed(10000)
        device.link = False
        device.set_speed(10000)
        assert device.config.speed == 10000
        device.set_speed(None, "unknown")
        assert (device.config.speed, device.config.duplex) == (0xFFFFFFFF, 0xFF)


def test_an_announcement_is_asked_for_and_acknowledged(card: Card) -> None:
    assert card.device.announce()
    assert card.device.config.status == S.LINK_UP | S.ANNOUNCE
    assert card.command("ANNOUNCE", 0) == OK
    assert card.device.config.status == S.LINK_UP
    assert card.command("ANNOUNCE", 1) == ERR


# --- filters


def passes(card: Card, frame: bytes) -> bool:
    card.buffers(1)
    if not card.device.send(frame):
        return False
    card.received(1)
    return True


def to(address: bytes, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2, "big")
    return address + PEER + tag + FRAME[12:]


def test_receive_modes_are_obeyed(card: Card) -> None:
    addresses = (MAC, PEER, GROUP, b"\xff" * 6)

    def pattern() -> list[bool]:
        return [passes(card, to(address)) for address in addresses]

    assert pattern() == [True] * 4
    for command, value, expected in (
        (0, 0, [True, False, False, True]),
        (1, 1, [True, False, True, True]),
        (2, 1, [True, True, True, True]),
        (3, 1, [True, True, False, True]),
        (4, 1, [False, False, False, True]),
        (5, 1, [False] * 4),
        (0, 1, [True] * 4),
        (0, 0, [False] * 4),
        (5, 0, [False, False, False, True]),
    ):
        assert card.command("RX", command, bytes([value])) == OK
        assert pattern() == expected, (command, value)
    for command, data in ((6, b"\0"), (0, b"\2"), (0, b""), (0, b"\0\0"), (255, b"\1")):
        assert card.command("RX", command, data) == ERR


def macs(*addresses: bytes) -> bytes:
    return len(addresses).to_bytes(4, "little") + b"".join(addresses)


def test_tables_of_addresses_are_obeyed(card: Card) -> None:
    assert card.command("RX", 0, b"\0") == OK
    assert card.command("MAC", 0, macs(PEER) + macs(GROUP)) == OK
    assert passes(card, to(PEER))
    assert passes(card, to(GROUP))
    assert card.command("MAC", 0, macs() + macs()) == OK
    assert not passes(card, to(PEER))
    assert not passes(card, to(GROUP))
    many = [bytes([2, 0, 0, 1]) + number.to_bytes(2, "big") for number in range(2000)]
    assert card.command("MAC", 0, macs(*many) + macs()) == OK
    assert passes(card, to(many[-1]))
    assert not passes(card, to(GROUP))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        macs(),
        macs(PEER)[:-1] + macs(),
        macs() + macs() + b"\0",
        macs(GROUP) + macs(),
        macs() + macs(PEER),
        b"\xff\xff\xff\xff" + PEER,
        b"\xff\xff\xff\x7f" + macs(),
        macs(*[PEER] * 12000) + macs(),
    ],
    ids=range(10),
)
def test_tables_that_are_no_tables_are_refused(card: Card, data: bytes) -> None:
    assert card.command("MAC", 0, data) == ERR


def test_the_address_is_set(card: Card) -> None:
    assert card.command("RX", 0, b"\0") == OK
    assert card.command("MAC", 1, PEER) == OK
    assert card.device.config.mac == PEER
    assert passes(card, to(PEER))
    assert not passes(card, to(MAC))
    for data in (GROUP, PEER[:5], PEER + b"\0", b""):
        assert card.command("MAC", 1, data) == ERR
    assert card.command("MAC", 2, PEER) == ERR
    card.device.reset()
    assert card.device.config.mac == MAC


def test_vlans_are_filtered(card: Card) -> None:
    assert passes(card, to(MAC, 5))  # no command has come yet: somebody else may have the control queue
    assert card.command("VLAN", 0, b"\x07\0") == OK
    assert [passes(card, to(MAC, vlan)) for vlan in (5, 7, None)] == [False, True, True]
    assert card.command("VLAN", 0, b"\x05\0") == OK
    assert card.command("VLAN", 1, b"\x07\0") == OK
    assert [passes(card, to(MAC, vlan)) for vlan in (5, 7, None)] == [True, False, True]
    for command, data in ((0, b"\0\x10"), (0, b"\1"), (0, b"\1\0\0"), (2, b"\1\0")):
        assert card.command("VLAN", command, data) == ERR


# --- the rest of the control queue


@pytest.mark.parametrize("kind", [*range(11), 128, 255])
def test_classes_that_were_not_negotiated_are_refused(kind: int) -> None:
    device = NetworkDevice(mac=MAC, pairs=2)
    with Card(device, features=CORE.VERSION_1 | F.CTRL_VQ) as card:
        card.device = device
        for command in (0, 1, 2, 3, 255):
            assert card.command(kind, command, bytes(8)) == ERR


def test_commands_cut_short_and_too_long(card: Card) -> None:
    queue = card.control_queue
    assert card.ask(queue, [b"\0"], [1]) == ERR
    assert card.ask(queue, [], [1]) == ERR
    assert card.ask(queue, [b"\1\0" + bytes(70000)], [1]) == ERR
    # Pieces of one byte each, and more room than the answer needs.
    assert card.ask(queue, [b"\0", b"\0", b"\1"], [1, 1, 1]) == OK
    assert not card.device.needs_reset
    card.add(queue, [b"\0\0\1"])
    card.used(queue)
    assert card.device.needs_reset
    assert card.events.faults[0].clause == "5.1.9.5"


def test_offloads_are_switched(card: Card) -> None:
    all_of_them = sum(code.value for code in net_control.OFFLOADS if code.value >> 46 not in (1, 2))
    for offloads in (0, all_of_them, F.GUEST_CSUM, F.GUEST_CSUM | F.GUEST_HDRLEN):
        assert card.command("GUEST_OFFLOADS", 0, offloads.to_bytes(8, "little")) == OK
    for offloads in (1, 1 << 46, 1 << 63, F.MAC):
        assert card.command("GUEST_OFFLOADS", 0, offloads.to_bytes(8, "little")) == ERR
    assert card.command("GUEST_OFFLOADS", 0, bytes(7)) == ERR
    assert card.command("GUEST_OFFLOADS", 1, bytes(8)) == ERR


def test_offloads_of_tunnels_have_other_numbers_in_the_command() -> None:
    """5.1.9.5.9.1: bits 46 and 47 stand for features 65 and 66."""
    device = NetworkDevice(mac=MAC)
    with Card(device) as card:
        card.device = device
        tunnels = net_control.OFFLOADS.GUEST_UDP_TUNNEL_GSO | net_control.OFFLOADS.GUEST_UDP_TUNNEL_GSO_CSUM
        assert tunnels == 3 << 46
        all_of_them = sum(code.value for code in net_control.OFFLOADS)
        for offloads in (all_of_them, 0, tunnels):
            assert card.command("GUEST_OFFLOADS", 0, offloads.to_bytes(8, "little")) == OK
        assert card.command("GUEST_OFFLOADS", 0, (1 << 45).to_bytes(8, "little")) == ERR


def test_pairs_are_chosen(wide: Card) -> None:
    for pairs, expected in ((1, OK), (4, OK), (0, ERR), (5, ERR), (0x8000, ERR)):
        assert wide.command("MQ", 0, pairs.to_bytes(2, "little")) == expected
    assert wide.command("MQ", 0, b"\2") == ERR
    assert wide.command("MQ", 3, b"\2\0") == ERR


def rss(
    *,
    types: int = 0x1FF,
    table: Sequence[int] = (0, 1, 2, 3),
    mask: int | None = None,
    unclassified: int = 0,
    transmit: int = 4,
    key: bytes = bytes(range(40)),
    key_size: int | None = None,
) -> bytes:
    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "little") for value in values)

    return (
        types.to_bytes(4, "little")
        + words(len(table) - 1 if mask is None else mask, unclassified, *table, transmit)
        + bytes([len(key) if key_size is None else key_size])
        + key
    )


def test_rss_spreads_flows_and_what_has_no_hash_goes_elsewhere(wide: Card) -> None:
    assert wide.command("MQ", 1, rss(unclassified=3)) == OK
    assert wide.device.send(FRAME)
    wide.received(1, queue=6)
    header = bytes.fromhex("0800 4500 0028 0000 4000 40 06 0000")
    for number in range(40):
        packet = (
            header + bytes([10, 0, 0, number]) + bytes([10, 0, 1, 1]) + bytes([4, number, 0, 80]) + bytes(20)
        )
        assert wide.device.send(MAC + PEER + packet)
    assert eventually(lambda: wide.device.statistics()["rx_packets"] == 41)
    counts = [wide.device.port.statistics(pair)["rx_packets"] for pair in range(4)]
    assert all(count > 2 for count in counts)
    assert wide.command("MQ", 0, b"\1\0") == OK
    assert wide.device.send(FRAME)
    wide.received(counts[0] + 1)


def test_a_byte_of_padding_behind_the_key_is_ignored(wide: Card) -> None:
    """Linux sends it since 6.15."""
    assert wide.command("MQ", 1, rss() + b"\0") == OK


@pytest.mark.parametrize(
    "data",
    [
        rss(types=0x200),
        rss(table=range(3)),
        rss(table=[0] * 256),
        rss(mask=7),
        rss(table=(0, 1, 2, 4)),
        rss(table=(0, 1, 2, 0x8000)),
        rss(unclassified=4),
        rss(unclassified=0xFFFF),
        rss(transmit=0),
        rss(transmit=5),
        rss(key=bytes(41)),
        rss(key_size=38),
        rss(key_size=255),
        rss()[:-1],
        rss() + b"\0\0",
        rss()[:7],
        b"",
        rss(mask=0xFFFF),
    ],
    ids=range(18),
)
def test_rss_that_makes_no_sense_is_refused(wide: Card, data: bytes) -> None:
    assert wide.command("MQ", 1, data) == ERR
    assert not wide.device.needs_reset


def hash_config(types: int = 0x3F, reserved: bytes = bytes(8), key: bytes = bytes(range(40))) -> bytes:
    return types.to_bytes(4, "little") + reserved + bytes([len(key)]) + key


def test_hashes_are_reported() -> None:
    device = NetworkDevice(mac=MAC)
    with Card(device, without=LONG_HEADERS & ~F.HASH_REPORT) as card:
        card.device = device
        key = bytes.fromhex(
            "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
        )
        # Of the published vectors: 66.9.149.187:2794 to 161.142.100.80:1766.
        packet = bytes.fromhex("0800 4500 0028 0000 4000 40 06 0000 420995bb a18e6450 0aea 06e6")
        frame = MAC + PEER + packet + bytes(8) + b"\x50" + bytes(7)
        card.buffers(4)
        device.send(frame)
        assert card.command("MQ", 2, hash_config(key=key)) == OK
        device.send(frame)
        assert card.command("MQ", 2, hash_config(types=1, key=key)) == OK
        device.send(frame)
        device.send(FRAME)
        found = [net.HDR.until(("VIRTIO_NET_F_HASH_REPORT",)).unpack(data[:20]) for data in card.received(4)]
        reports = [(header["hash_report"], header["hash_value"]) for header in found]
        assert reports == [(0, 0), (2, 0x51CCC178), (1, 0x323E8FC2), (0, 0)]
        # As Linux sends it since 6.15.
        assert card.command("MQ", 2, hash_config(reserved=bytes(6) + b"\1\0") + b"\0") == OK
        for data in (
            hash_config(types=0x8000),
            *(hash_config(reserved=bytes(place) + b"\1" + bytes(7 - place)) for place in range(6)),
            hash_config(key=bytes(41)),
            hash_config()[:-1],
            hash_config() + b"\0\0",
            b"",
        ):
            assert card.command("MQ", 2, data) == ERR


def coalescing(packets: int, microseconds: int) -> bytes:
    return packets.to_bytes(4, "little") + microseconds.to_bytes(4, "little")


def test_coalescing_parameters_follow_the_last_command(wide: Card) -> None:
    def of(queue: int) -> bytes:
        return wide.command("NOTF_COAL", 3, queue.to_bytes(2, "little") + bytes(2), room=9)

    def set_one(queue: int, packets: int) -> bytes:
        index = queue.to_bytes(2, "little") + b"\xff\xff"
        return wide.command("NOTF_COAL", 2, index + coalescing(packets, 7))

    assert of(0) == OK + coalescing(0, 0)
    assert wide.command("NOTF_COAL", 1, coalescing(15, 10)) == OK
    assert [of(queue) for queue in (0, 2, 1)] == [OK + coalescing(15, 10)] * 2 + [OK + coalescing(0, 0)]
    assert set_one(0, 3) == OK
    assert of(0) == OK + coalescing(3, 7)
    assert of(2) == OK + coalescing(15, 10)
    assert set_one(1, 4) == OK
    assert wide.command("NOTF_COAL", 0, coalescing(9, 9)) == OK
    assert [of(queue) for queue in (1, 3)] == [OK + coalescing(9, 9)] * 2
    # Disabled and enabled again, a queue has what all queues of its kind were given (5.1.9.5.10.6).
    queue = wide.device.queues[0]
    queue.reset()
    assert of(0) == ERR
    queue.configure(size=64, **wide.drivers[0].addresses)
    queue.start()
    assert of(0) == OK + coalescing(15, 10)
    for index in (8, 9, 0xFFFF):
        assert set_one(index, 1) == ERR
        assert of(index) == ERR
    for command, data in ((0, bytes(7)), (1, bytes(9)), (2, bytes(11)), (3, bytes(12)), (4, bytes(8))):
        assert wide.command("NOTF_COAL", command, data) == ERR
    wide.device.reset()
    assert [queue.coalescing for queue in wide.device.queues] == [(0, 0)] * 9


def test_notifications_are_put_off_until_there_are_enough(card: Card) -> None:
    """A long time, so that only the number of packets can be what brings the notification."""
    card.buffers(8)
    assert card.command("NOTF_COAL", 1, coalescing(4, 10_000_000)) == OK
    queue = card.device.queues[0]

    def interrupts() -> int:
        assert queue.counters is not None
        return queue.counters.interrupts

    before = interrupts()
    for _ in range(3):
        card.device.send(FRAME)
    assert eventually(lambda: card.device.statistics()["rx_packets"] == 3)
    assert interrupts() == before
    card.device.send(FRAME)
    assert eventually(lambda: interrupts() == before + 1)
    card.drivers[0].poll_used()
    card.drivers[0].enable_interrupts()
    card.device.send(FRAME)
    assert eventually(lambda: card.device.statistics()["rx_packets"] == 5)
    assert interrupts() == before + 1
    # The condition is looked at again when it changes (5.1.9.5.10.4).
    assert card.command("NOTF_COAL", 1, coalescing(1, 10_000_000)) == OK
    assert eventually(lambda: interrupts() == before + 2)


def test_notifications_are_put_off_for_a_while_only(card: Card) -> None:
    card.buffers(4)
    assert card.command("NOTF_COAL", 1, coalescing(1000, 2000)) == OK
    card.device.send(FRAME)
    assert len(card.received(1)) == 1


def test_statistics(wide: Card) -> None:
    assert wide.command("STATS", 0, room=9) == OK + (0x1_000F_000F).to_bytes(8, "little")
    wide.device.send(FRAME)
    wide.received(1)
    wide.send(FRAME)
    wide.send(FRAME[:5])

    def get(*wanted: tuple[int, int], room: int = 1000) -> bytes:
        data = b"".join(queue.to_bytes(8, "little") + types.to_bytes(8, "little") for queue, types in wanted)
        return wide.command("STATS", 1, data, room=room)

    layouts = {struct.name: struct for struct in net_control.STATS}
    answer = get((0, 7))
    assert answer[:1] == OK
    basic = layouts["virtio_net_stats_rx_basic"].unpack(answer[1:57])
    assert (basic["rx_packets"], basic["rx_bytes"], basic["rx_drops"]) == (1, len(FRAME), 0)
    assert basic["rx_interrupts"] == 1
    assert (basic["hdr"]["type"], basic["hdr"]["vq_index"], basic["hdr"]["size"]) == (0, 0, 56)
    assert len(answer) == 1 + 56 + 40 + 40
    basic = layouts["virtio_net_stats_tx_basic"].unpack(get((1, 1 << 16))[1:])
    assert (basic["tx_packets"], basic["tx_drops"], basic["tx_drop_malformed"]) == (1, 1, 1)
    control = layouts["virtio_net_stats_cvq"].unpack(get((8, 1 << 32))[1:])
    assert control["command_num"] == 4
    assert control["ok_num"] == 4
    assert len(get((0, 7), (1, 7 << 16), (8, 1 << 32))) == 1 + 136 + 56 + 24 + 56 + 24
    assert len(get((0, 7), room=30)) == 30
    for wanted in ((9, 1), (0, 16), (0, 1 << 16), (1, 1), (8, 1), (0, 1 << 63), (0xFFFF, 1)):
        assert get(wanted) == ERR
        assert get((0, 1), wanted) == ERR
    for data in (b"", bytes(15), bytes(17)):
        assert wide.command("STATS", 1, data, room=100) == ERR
    assert wide.command("STATS", 0, b"\0", room=9) == ERR
    assert wide.command("STATS", 2, room=9) == ERR


def test_statistics_need_the_features_that_they_are_about() -> None:
    device = NetworkDevice()
    with Card(device, features=CORE.VERSION_1 | F.CTRL_VQ | F.DEVICE_STATS) as card:
        card.device = device
        for queue, types in ((0, 2), (0, 4), (1, 2 << 16), (1, 4 << 16)):
            data = queue.to_bytes(8, "little") + types.to_bytes(8, "little")
            assert card.command("STATS", 1, data, room=100) == ERR


def test_no_packet_exceeds_the_speed(card: Card) -> None:
    layouts = {struct.name: struct for struct in net_control.STATS}
    card.buffers(30)
    for _ in range(30):
        assert card.device.send(FRAME)
    card.received(30)
    for queue, kind, side in ((0, 8, "rx"), (1, 8 << 16, "tx")):
        data = queue.to_bytes(8, "little") + kind.to_bytes(8, "little")
        answer = card.command("STATS", 1, data, room=100)
        layout = layouts[f"virtio_net_stats_{side}_speed"]
        assert answer[:1] == OK
        assert len(answer[1:]) == layout.size
        found = layout.unpack(answer[1:])
        assert found["hdr"]["type"] == kind.bit_length() - 1
        assert found[f"{side}_packets_allowance_exceeded"] == 0
        assert found[f"{side}_bytes_allowance_exceeded"] == 0
    # All kinds of a queue come in the order of their bits.
    answer = card.command("STATS", 1, bytes(8) + (0xF).to_bytes(8, "little"), room=300)[1:]
    types = []
    while answer:
        types.append(answer[0])
        answer = answer[int.from_bytes(answer[6:8], "little") :]
    assert types == [0, 1, 2, 3]


# --- state


def test_what_commands_have_set_moves_to_another_device(wide: Card) -> None:
    assert wide.command("RX", 0, b"\0") == OK
    assert wide.command("MAC", 1, PEER) == OK
    assert wide.command("VLAN", 0, b"\5\0") == OK
    assert wide.command("VLAN", 0, b"\6\0") == OK
    assert wide.command("VLAN", 1, b"\6\0") == OK
    assert wide.command("MQ", 1, rss(unclassified=2)) == OK
    for queue in wide.device.queues:
        queue.stop()
    saved = wide.device.save_state()
    other = NetworkDevice(mac=MAC, pairs=4)
    with Card(other, features=wide.features, room=1 << 17, live=False) as card:
        card.device = other
        other.load_state(saved)
        card.go_live()
        assert other.config.mac == PEER
        card.buffers(4, queue=4)
        assert not other.send(to(MAC))
        assert other.send(to(PEER, 5))
        assert not other.send(to(PEER, 6))
        card.received(1, queue=4)


@pytest.mark.parametrize("commands", [(), ((0, b"\5\0"), (1, b"\5\0")), ((1, b"\5\0"),)], ids=range(3))
def test_that_no_vlan_is_wanted_moves_too(card: Card, commands: Sequence[tuple[int, bytes]]) -> None:
    for command, data in commands:
        assert card.command("VLAN", command, data) == OK
    wanted = not commands
    assert passes(card, to(MAC, 5)) == wanted
    for queue in card.device.queues:
        queue.stop()
    saved = card.device.save_state()
    other = NetworkDevice(mac=MAC)
    with Card(other, features=card.features, live=False) as moved:
        moved.device = other
        other.load_state(saved)
        moved.go_live()
        assert passes(moved, to(MAC, 5)) == wanted


# --- frames in Python


class Mirror(NetworkDevice):
    """Sends each frame back, addresses exchanged."""

    def on_frame(self, frame: NetFrame) -> None:
        data = frame.data
        data[:6], data[6:12] = bytes(data[6:12]), bytes(data[:6])
        self.send(data)


class Batches(NetworkDevice):
    """Changes frames where they are and sends all back at once."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.kept: list[NetFrames] = []
        super().__init__(mac=MAC)

    def on_frames(self, frames: NetFrames) -> None:
        self.seen.append(len(frames))
        self.kept.append(frames)
        data = frames.data
        for start in frames.starts:
            data[start + 14] = 0xAA
        assert self.send_frames(frames) == len(frames)


def test_frames_come_to_python_one_by_one() -> None:
    with Card(device := Mirror(mac=MAC), without=LONG_HEADERS) as card:
        card.device = device
        card.buffers(2)
        card.send(PEER + FRAME[6:])
        (data,) = card.received(1)
        assert data[12:] == PEER + PEER + FRAME[12:]
        assert data[10:12] == b"\1\0"


def test_frames_come_to_python_together_and_can_be_kept() -> None:
    with Card(device := Batches(), without=LONG_HEADERS) as card:
        card.buffers(40)
        driver = card.drivers[1]
        for number in range(30):
            driver.add([bytes(12), FRAME[:15] + bytes([number]) * (20 + number)])
        driver.publish()
        device.queues[1].notify()
        found = card.received(30)
        assert [data[27:] for data in found] == [bytes([number]) * (20 + number) for number in range(30)]
        assert {data[26] for data in found} == {0xAA}
        assert sum(device.seen) == 30
        sizes = list(itertools.chain.from_iterable(frames.sizes for frames in device.kept))
        assert sizes == [35 + number for number in range(30)]
        first = device.kept[0][0]
        assert bytes(first)[14:16] == b"\xaa\0"
        assert len(first) == 35


def test_offloads_are_done_before_python_sees_a_frame_unless_it_takes_them() -> None:
    payload = bytes(3000)
    header = bytes.fromhex("0800 4500 0be0 0000 4000 40 06 0000 0a000001 0a000002")
    tcp = bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000")
    frame = MAC + PEER + header + tcp + payload
    large = net.HDR.until(()).pack(
        flags=1, gso_type=1, hdr_len=54, gso_size=1000, csum_start=34, csum_offset=16, num_buffers=0
    )
    seen: list[tuple[int, int, int]] = []
    arrived = threading.Event()

    class Look(NetworkDevice):
        def on_frame(self, frame: NetFrame) -> None:
            seen.append((len(frame), frame.gso_type, frame.gso_size))
            arrived.set()

    class Takes(Look):
        frame_offloads = F.CSUM | F.HOST_TSO4

    for kind, expected in ((Look, [(1054, 0, 0)] * 3), (Takes, [(3054, 1, 1000)])):
        seen.clear()
        with Card(device := kind(mac=MAC), without=LONG_HEADERS) as card:
            card.device = device
            card.send(frame, large)
            assert arrived.wait(10)
        assert seen == expected


GENEVE = bytes.fromhex(
    # An outer frame without a checksum, Geneve, and the inner frame's headers; the inner checksum is partial.
    "020000000009 020000000001 0800"
    "4500 0420 1234 0000 4011 0000 0a000001 0a000002"
    "c000 17c1 040c 0000"
    "0000 6558 00000500"
    "020000000001 020000000002 0800"
    "4500 03f0 0001 4000 4006 0000 c0a80001 c0a80002"
    "0001 0002 00000001 00000000 5010 ffff 8536 0000"
)
GENEVE_FIELDS = {
    "flags": 1,
    "gso_type": 0x21,
    "hdr_len": len(GENEVE),
    "gso_size": 400,
    "csum_start": 84,
    "csum_offset": 16,
    "outer_th_offset": 34,
    "inner_nh_offset": 64,
}
"""The fields of the packet that 5.1.9.2 has as an example."""


def test_tunnels_go_through_python_whole_or_in_segments() -> None:
    frame = GENEVE + bytes(968)
    header = net.HDR.until(net.TUNNEL_GSO)
    assert header.size == 24
    seen: list[tuple[int, int]] = []
    arrived = threading.Event()

    class Look(NetworkDevice):
        def on_frame(self, frame: NetFrame) -> None:
            seen.append((len(frame), frame.gso_type))
            assert self.send(
                bytes(frame),
                **({name: getattr(frame, name) for name in GENEVE_FIELDS} if frame.flags else {}),
            )
            arrived.set()

    class Takes(Look):
        frame_offloads = F.CSUM | F.HOST_TSO4 | F.HOST_UDP_TUNNEL_GSO

    fields = dict.fromkeys(("num_buffers", "hash_value", "hash_report", "padding_reserved"), 0)
    segments = [len(GENEVE) + size for size in (400, 400, 168)]
    for kind, expected in ((Look, [(size, 0) for size in segments]), (Takes, [(len(frame), 0x21)])):
        seen.clear()
        arrived.clear()
        with Card(device := kind(mac=MAC)) as card:
            card.device = device
            card.buffers(4)
            card.send(frame, header.pack(**fields | GENEVE_FIELDS))
            assert arrived.wait(10)
            got = card.received(len(expected))
            assert seen == expected
            assert [len(data) - 24 for data in got] == [size for size, _ in expected]
            if kind is Takes:
                found = header.unpack(got[0][:24])
                assert {name: found[name] for name in GENEVE_FIELDS} == GENEVE_FIELDS
            # Nobody is asked to take what cannot be.
            for wrong in ({"gso_type": 0x61}, {"outer_th_offset": 35}, {"flags": 3}, {"flags": 8}):
                with pytest.raises(ConfigurationError):
                    device.send(frame, **GENEVE_FIELDS | wrong)
        device.close()


def test_frames_from_python_are_checked() -> None:
    with Card(device := NetworkDevice(mac=MAC), without=LONG_HEADERS):
        for options in ({"flags": 1, "csum_start": 60}, {"gso_type": 1}, {"flags": 1, "gso_type": 9}):
            with pytest.raises(ConfigurationError):
                device.send(FRAME, **options)
        with pytest.raises(ConfigurationError):
            device.send(bytes(13))


def test_a_loop_gives_back_what_is_sent() -> None:
    device = NetworkDevice(NetBackend.loop(), mac=MAC)
    with Card(device, without=LONG_HEADERS) as card:
        card.device = device
        card.buffers(1)
        card.send(FRAME)
        assert card.received(1)[0][12:] == FRAME


def test_a_switch_joins_devices() -> None:
    switch = virtio.Switch()
    devices = [NetworkDevice(switch.port(), mac=bytes([2, 0, 0, 0, 0, number])) for number in range(3)]
    with (
        Card(devices[0], without=LONG_HEADERS) as a,
        Card(devices[1], without=LONG_HEADERS) as b,
        Card(devices[2], without=LONG_HEADERS) as c,
    ):
        for card in (a, b, c):
            card.buffers(4)
        everybody = b"\xff" * 6 + devices[0].mac + FRAME[12:]
        a.send(everybody)
        assert b.received(1)[0][12:] == c.received(1)[0][12:] == everybody
        b.send(devices[0].mac + devices[1].mac + FRAME[12:])
        assert len(a.received(1)) == 1
        assert c.none_used(0)
        assert [(vlan, mac) for vlan, mac, _ in sorted(switch.learnt)] == [
            (0, devices[0].mac),
            (0, devices[1].mac),
        ]
    for device in devices:
        device.close()
