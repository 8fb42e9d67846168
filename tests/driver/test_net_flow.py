"""Flow filters from the driver's side (VIRTIO 1.4, 5.1.9.6): fields by name, and where packets come to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.device.test_net_flow_packets import tcp

import virtio
from virtio._native import NetBackend
from virtio.device.admin import Administrator, Capability, SelfGroup
from virtio.driver.admin import SELF, AdminError
from virtio.driver.net import NetworkDriver
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import net_flow
from virtio.spec.net import F

CAP, OBJ, TYPE = net_flow.CAPABILITY, net_flow.RESOURCE_OBJ, net_flow.MASK_TYPE
UDP = 17


@pytest.fixture
def device() -> Iterator[virtio.NetworkDevice]:
    found = virtio.NetworkDevice(
        NetBackend.sink(), mac="02:00:00:00:00:01", pairs=4, flow_filters=True, features="RING_RESET"
    )
    yield found
    found.close()


@pytest.fixture(params=["mem", "pci", "vfio-user"])
def card(
    device: virtio.NetworkDevice, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[NetworkDriver]:
    address = f"vfio-user:{tmp_path}/card.sock" if request.param == "vfio-user" else f"{request.param}:card"
    with virtio.start(device, address), virtio.connect(address, "net", pairs=4) as found:
        assert isinstance(found, NetworkDriver)
        yield found


def check(device: virtio.NetworkDevice, card: NetworkDriver, *expected: tuple[bytes, int | None]) -> None:
    """Send frames: each comes to the queue that is expected, or is dropped: None."""
    for frame, queue in expected:
        assert device.send(frame) == (queue is not None)
        if queue is not None:
            assert card.receive(10, queue=queue).data == frame


def test_rules_direct_and_drop(device: virtio.NetworkDevice, card: NetworkDriver) -> None:
    flows = card.flow_filters
    assert flows is card.flow_filters
    assert flows.limits.selectors_per_classifier_limit == 3
    card.set_rss([3])
    check(device, card, (tcp(4), 3), (tcp(6), 3))
    web = flows.add({"ipv4.dst": "10.0.0.0/8", "tcp.dst_port": 5000}, queue=1)
    lookups = flows.add({"udp.dst_port": 53}, queue=None, group=7)
    six = flows.add({"ipv6.src": "fd00::", "tcp.src_port": (40000, 0xFF00)}, queue=2)
    assert flows.rules == [lookups, web, six]
    check(
        device, card, (tcp(4), 1), (tcp(4, 80), 3), (tcp(6), 2), (tcp(4, 53, UDP), None), (tcp(4, 54, UDP), 3)
    )
    read = flows.query(web)
    assert (read.vq_index, read.action, read.rule_priority) == (2, net_flow.ACTION.DIRECT_RX_VQ, 254)
    flows.remove(web)
    check(device, card, (tcp(4), 3))
    # A queue that is being reset is its driver's own affair: afterwards rules lead there again.
    card.queues[4].reset(64)
    check(device, card, (tcp(6), 2))
    card.use_pairs(1)
    check(device, card, (tcp(6), 2), (tcp(4), 0))
    flows.clear()
    assert flows.rules == []
    check(device, card, (tcp(6), 0), (tcp(4, 53, UDP), 0))


def test_objects_are_shared_and_go_with_the_last_rule(card: NetworkDriver) -> None:
    """5.1.9.6.5: groups and classifiers are destroyed when no rule depends on them."""
    assert card.administration is not None
    flows, admin = card.flow_filters, card.administration.group(SELF)
    first = flows.add({"tcp.dst_port": 1}, queue=1)
    second = flows.add({"tcp.dst_port": 2}, queue=1)
    third = flows.add({"tcp.dst_port": 3}, queue=1, group=1, priority=9)
    assert (first.priority, second.priority, third.priority) == (254, 253, 9)
    assert flows.rules == [third, first, second]
    assert admin.query(OBJ.FF_CLASSIFIER, 0)[0] == 3
    for kind, number in ((OBJ.FF_CLASSIFIER, 1), (OBJ.FF_GROUP, 2)):
        with pytest.raises(AdminError):
            admin.query(kind, number)
    flows.remove(third)
    with pytest.raises(AdminError):
        admin.query(OBJ.FF_GROUP, 1)
    flows.remove(first)
    assert admin.query(OBJ.FF_GROUP, 0) == b"\0\0"
    flows.remove(second)
    for kind in (OBJ.FF_GROUP, OBJ.FF_CLASSIFIER, OBJ.FF_RULE):
        with pytest.raises(AdminError):
            admin.query(kind, 0)
    with pytest.raises(ConfigurationError, match="not among the rules"):
        flows.remove(second)


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ({"sctp.port": 1}, "no header 'sctp'"),
        ({"tcp": 1}, "no field '' of tcp"),
        ({"tcp.port": 1}, "no field 'port' of tcp"),
        ({"tcp.dst_port": 1, "udp.dst_port": 1}, "no packet has all these"),
        ({"ipv4.src": "::1"}, "no value of 32 bits"),
        ({"ipv4.src": "10.0.0.0/33"}, "no prefix of 0 to 32 bits"),
        ({"ipv6.src": "fd00::/x"}, "no prefix"),
        ({"eth.dst": "02:00"}, "no value of 48 bits"),
        ({"eth.dst": "nonsense"}, "no value of 48 bits"),
        ({"tcp.dst_port": 65536}, "no value of 16 bits"),
        ({"tcp.dst_port": -1}, "no value of 16 bits"),
        ({"tcp.dst_port": (1, 65536)}, "no value of 16 bits"),
        ({"tcp.dst_port": b"\1"}, "no value of 16 bits"),
        ({"ipv4.src": "10.0.0.1", "ipv6.src": "fd00::"}, "no packet has all these"),
        ({"eth.type": 0x86DD, "ipv4.src": "10.0.0.1"}, "eth.type .* is 0x800"),
        ({"ipv4.protocol": 17, "tcp.dst_port": 1}, "ipv4.protocol .* is 0x6"),
    ],
    ids=range(16),
)
def test_what_no_packet_has_is_refused(
    device: virtio.NetworkDevice, match: dict[str, Any], message: str
) -> None:
    with virtio.start(device, "mem:card"), virtio.connect("mem:card", "net", pairs=4) as card:
        flows = card.flow_filters
        with pytest.raises(ConfigurationError, match=message):
            flows.add(match, queue=0)
        assert flows.rules == []


def test_rules_that_cannot_be_are_refused(device: virtio.NetworkDevice) -> None:
    with virtio.start(device, "mem:card"), virtio.connect("mem:card", "net", pairs=2) as card:
        flows = card.flow_filters
        match = {"tcp.dst_port": 1}
        for options in (
            {"queue": 2},
            {"queue": -1},
            {"queue": 0, "priority": 255},
            {"queue": 0, "priority": -1},
            {"queue": 0, "group": 1 << 16},
            {"queue": 0, "version": 5},
        ):
            with pytest.raises(ConfigurationError):
                flows.add(match, **options)
        flows.add(match, queue=0, priority=0)
        with pytest.raises(ConfigurationError, match="second rule of priority 0"):
            flows.add(match, queue=0, priority=0)
        with pytest.raises(ConfigurationError, match="rule of priority -1"):
            flows.add(match, queue=0)
        for group in range(1, 64):
            flows.add(match, queue=0, group=group)
        with pytest.raises(ConfigurationError, match="no more groups than 64"):
            flows.add(match, queue=0, group=64)


def test_a_rule_that_the_device_refuses_leaves_nothing(device: virtio.NetworkDevice) -> None:
    with virtio.start(device, "mem:card"), virtio.connect("mem:card", "net", pairs=4) as card:
        flows = card.flow_filters
        assert card.administration is not None
        admin = card.administration.group(SELF)
        # The number of the first rule is taken, behind the driver's back.
        admin.create(OBJ.FF_GROUP, 9, b"\1\0")
        flows.add({"eth.type": 5}, queue=0, group=3)
        admin.create(OBJ.FF_RULE, 1, flows._admin.query(OBJ.FF_RULE, 0))
        with pytest.raises(AdminError, match="17"):
            flows.add({"tcp.dst_port": 5}, queue=0, group=4)
        assert [rule.group for rule in flows.rules] == [3]
        for kind, number in ((OBJ.FF_GROUP, 1), (OBJ.FF_CLASSIFIER, 1)):
            with pytest.raises(AdminError):
                admin.query(kind, number)


def test_without_an_administration_virtqueue_there_are_none(
    device: virtio.NetworkDevice, tmp_path: Path
) -> None:
    for address in (f"vhost-user:{tmp_path}/card.sock", "mmio:card"):
        with (
            virtio.start(device, address),
            virtio.connect(address, "net") as card,
            pytest.raises(ConfigurationError, match="no administration virtqueue"),
        ):
            card.flow_filters.add({"tcp.dst_port": 1}, queue=0)
    plain = virtio.NetworkDevice(NetBackend.sink(), administration=Administrator([SelfGroup()]))
    with (
        virtio.start(plain, "mem:card"),
        virtio.connect("mem:card", "net") as card,
        pytest.raises(ConfigurationError, match="offers no flow filters"),
    ):
        card.flow_filters.clear()
    plain.close()


class Odd(SelfGroup):
    """A device with capabilities as its test wants them."""

    def __init__(self, selectors: list[dict[str, Any]], actions: bytes = b"\1\2") -> None:
        limits = net_flow.CAP_DATA.pack(
            groups_limit=1, classifiers_limit=1, rules_limit=1, rules_per_group_limit=1,
            last_rule_priority=1, selectors_per_classifier_limit=3,
        )  # fmt: skip
        values = (
            (CAP.FF_RESOURCE_CAP, limits),
            (CAP.FF_SELECTOR_CAP, net_flow.CAP_MASK_DATA.pack(count=len(selectors), selectors=selectors)),
            (CAP.FF_ACTION_CAP, net_flow.ACTIONS.pack(count=len(actions), actions=actions)),
        )
        super().__init__([Capability(number, "odd", value, in_use=lambda: b"") for number, value in values])


def selector(kind: int, mask: bytes, flags: int = 0) -> dict[str, Any]:
    return {"type": kind, "flags": flags, "length": len(mask), "mask": mask}


@pytest.mark.parametrize(
    ("owner", "match", "message"),
    [
        (Odd([selector(TYPE.ETH, b"\xff" * 14)]), {"tcp.dst_port": 1}, "does not look at ipv4"),
        (Odd([selector(TYPE.ETH, b"\xff" * 13)]), {"eth.type": 1}, "a mask of 13 bytes"),
        (Odd([selector(TYPE.ETH, b"\xff" * 6 + bytes(8))]), {"eth.type": 1}, "does not compare eth.type"),
        (Odd([selector(TYPE.ETH, b"\xff" * 14)]), {"eth.type": (1, 1)}, "as a whole only"),
        (Odd([selector(TYPE.ETH, b"\xff" * 14)], b"\2"), {"eth.type": 1}, "ACTION_DROP"),
        (Odd([selector(TYPE.ETH, b"\xff" * 14)]), {"eth.type": 1}, "INVALID_OPCODE"),
    ],
    ids=range(6),
)
def test_only_what_the_device_has_is_asked_of_it(owner: Odd, match: dict[str, Any], message: str) -> None:
    device = virtio.NetworkDevice(NetBackend.sink(), administration=Administrator([owner]))
    with (
        virtio.start(device, "mem:card"),
        virtio.connect("mem:card", "net") as card,
        pytest.raises((ConfigurationError, ProtocolError, AdminError), match=message),
    ):
        card.flow_filters.add(match, queue=None)
    device.close()


def test_a_device_with_a_group_of_its_own_has_them_too() -> None:
    device = virtio.NetworkDevice(
        NetBackend.sink(), flow_filters=True, administration=Administrator([SelfGroup()]), mask=F.MQ | F.RSS
    )
    with virtio.start(device, "pci:card"), virtio.connect("pci:card", "net") as card:
        card.flow_filters.add({"eth.type": 0x0806}, queue=None)
        assert not device.send(b"\xff" * 12 + b"\x08\x06" + bytes(46))
        assert device.send(b"\xff" * 12 + b"\x08\x05" + bytes(46))
    device.close()
