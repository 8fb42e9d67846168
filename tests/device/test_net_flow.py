"""Flow filters (VIRTIO 1.4, 5.1.9.6): what the device offers, takes and refuses."""

import struct
from collections.abc import Mapping, Sequence
from itertools import count

import pytest

import virtio
from virtio.device.net_flow import GROUPS, RULES
from virtio.spec import admin, core, net_flow
from virtio.spec.admin_data import bits_of, numbers_of
from virtio.spec.net import F

OP, STATUS, Q = admin.OPCODE, admin.STATUS, admin.QUALIFIER
TYPE, CAP, OBJ = net_flow.MASK_TYPE, net_flow.CAPABILITY, net_flow.RESOURCE_OBJ
GROUP, CLASSIFIER, RULE = OBJ.FF_GROUP, OBJ.FF_CLASSIFIER, OBJ.FF_RULE
DROP, DIRECT = net_flow.ACTION.DROP, net_flow.ACTION.DIRECT_RX_VQ
OK = (STATUS.OK, Q.OK)
FIELD = (STATUS.EINVAL, Q.INVALID_FIELD)
OPCODE = (STATUS.EINVAL, Q.INVALID_OPCODE)
ENXIO, EBUSY, ENOSPC, EEXIST = ((number, Q.INVALID_COMMAND) for number in (6, 16, 28, 17))
COMMANDS = (0, 1, *range(OP.CAP_ID_LIST_QUERY, OP.RESOURCE_OBJ_DESTROY + 1))

Answer = tuple[int, int]
Masks = Sequence[tuple[int, bytes]]

ETH, V4, V6, TCP, UDP = (net_flow.HEADERS[kind].size for kind in net_flow.HEADERS)
ETHERTYPE = bytes(12) + b"\xff\xff"
PROTOCOL_4 = bytes(9) + b"\xff" + bytes(10)
NEXT_6 = bytes(6) + b"\xff" + bytes(33)
TCP4 = ((TYPE.ETH, ETHERTYPE), (TYPE.IPV4, PROTOCOL_4), (TYPE.TCP, b"\0\0\xff\xff" + bytes(16)))
TCP4_KEYS = bytes(12) + b"\x08\0" + bytes(9) + b"\x06" + bytes(10) + b"\0\0\x13\x88" + bytes(16)


class Bench:
    """A device whose driver is a few calls."""

    def __init__(self, pairs: int = 4, *, mask: int | str = 0, enable: bool = True) -> None:
        self.device = virtio.NetworkDevice(mac="02:00:00:00:00:01", pairs=pairs, flow_filters=True, mask=mask)
        self.begin(enable)

    def begin(self, enable: bool = True) -> None:
        for status in (0, 1, 3):
            self.device.set_status(status)
        self.device.negotiate(self.device.offered_features)
        self.device.set_status(core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER | core.STATUS.FEATURES_OK)
        assert self.run(OP.LIST_USE, bits_of(COMMANDS)) == OK
        if enable:
            for number in self.capabilities():
                assert self.take(number, self.capability(number)) == OK

    def command(self, opcode: int, data: bytes = b"", room: int = 1 << 12) -> tuple[Answer, bytes]:
        assert self.device.administration is not None
        answer = self.device.administration.execute(struct.pack("<HH12xQ", opcode, 0, 0) + data, 8 + room)
        status, qualifier = struct.unpack("<HH4x", answer[:8])
        return (status, qualifier), answer[8:]

    def run(self, opcode: int, data: bytes = b"") -> Answer:
        return self.command(opcode, data)[0]

    def capabilities(self) -> frozenset[int]:
        return numbers_of(self.command(OP.CAP_ID_LIST_QUERY)[1])

    def capability(self, number: int) -> bytes:
        answer, data = self.command(OP.DEVICE_CAP_GET, admin.CAP_GET.pack(id=number))
        assert answer == OK
        return data

    def take(self, number: int, value: bytes) -> Answer:
        return self.run(OP.DRIVER_CAP_SET, admin.CAP_SET.pack(id=number, cap_specific_data=value))

    def limits(self, **limits: int) -> Answer:
        found = net_flow.CAP_DATA.unpack(self.capability(CAP.FF_RESOURCE_CAP))
        values = {field.name: found[field.name] for field in net_flow.CAP_DATA.fields} | limits
        return self.take(CAP.FF_RESOURCE_CAP, net_flow.CAP_DATA.pack(**values))

    def object(self, opcode: int, kind: int, number: int, value: bytes = b"") -> Answer:
        header = {"type": kind, "id": number}
        return self.run(opcode, admin.OBJ_CREATE.pack(hdr=header, resource_obj_specific_data=value))

    def create(self, kind: int, number: int, value: bytes) -> Answer:
        return self.object(OP.RESOURCE_OBJ_CREATE, kind, number, value)

    def modify(self, kind: int, number: int, value: bytes) -> Answer:
        return self.object(OP.RESOURCE_OBJ_MODIFY, kind, number, value)

    def query(self, kind: int, number: int) -> tuple[Answer, bytes]:
        return self.command(OP.RESOURCE_OBJ_QUERY, admin.OBJ_QUERY.pack(hdr={"type": kind, "id": number}))

    def destroy(self, kind: int, number: int) -> Answer:
        return self.run(OP.RESOURCE_OBJ_DESTROY, admin.OBJ_HDR.pack(type=kind, id=number))

    def three(self, *, queue: int | None = None) -> None:
        """A group, a classifier and a rule, each with number 0."""
        assert self.create(GROUP, 0, group(5)) == OK
        assert self.create(CLASSIFIER, 0, classifier(TCP4)) == OK
        assert self.create(RULE, 0, rule(queue=queue)) == OK


def group(priority: int) -> bytes:
    return net_flow.GROUP.pack(group_priority=priority)


def selector(kind: int, mask: bytes, flags: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<BBxxB3x", kind, flags, len(mask) if length is None else length) + mask


def classifier(masks: Masks, number: int | None = None) -> bytes:
    packed = b"".join(selector(kind, mask) for kind, mask in masks)
    return struct.pack("<B7x", len(masks) if number is None else number) + packed


def rule(
    keys: bytes = TCP4_KEYS,
    *,
    queue: int | None = None,
    group: int = 0,
    classifier: int = 0,
    priority: int = 0,
    length: int | None = None,
    action: int | None = None,
    vq_index: int | None = None,
) -> bytes:
    if action is None:
        action = DROP if queue is None else DIRECT
    if vq_index is None:
        vq_index = 2 * (queue or 0)
    length = len(keys) if length is None else length
    return struct.pack("<IIBBBxHxx", group, classifier, priority, length, action, vq_index) + keys


def actions(*numbers: int) -> bytes:
    return struct.pack("<B7x", len(numbers)) + bytes(numbers)


# --- capabilities (5.1.9.6.2)


def test_three_capabilities_are_offered() -> None:
    bench = Bench(enable=False)
    assert bench.device.offered_features & core.F.ADMIN_VQ
    assert bench.capabilities() == {CAP.FF_RESOURCE_CAP, CAP.FF_SELECTOR_CAP, CAP.FF_ACTION_CAP}
    limits = net_flow.CAP_DATA.unpack(bench.capability(CAP.FF_RESOURCE_CAP))
    assert (limits.groups_limit, limits.rules_limit, limits.selectors_per_classifier_limit) == (
        GROUPS,
        RULES,
        3,
    )
    found = net_flow.CAP_MASK_DATA.unpack(bench.capability(CAP.FF_SELECTOR_CAP)).selectors
    assert [(one.type, one.length) for one in found] == [(1, 14), (2, 20), (3, 40), (4, 20), (5, 8)]
    assert all(one.mask == b"\xff" * one.length and one.flags == 1 for one in found)
    assert bench.capability(CAP.FF_ACTION_CAP) == actions(DROP, DIRECT)
    assert not virtio.NetworkDevice().offered_features & core.F.ADMIN_VQ


@pytest.mark.parametrize("missing", [CAP.FF_RESOURCE_CAP, CAP.FF_SELECTOR_CAP, CAP.FF_ACTION_CAP])
def test_objects_need_all_capabilities(missing: int) -> None:
    """5.1.9.6.4: INVALID_OPCODE while one of them is disabled, of each command and type."""
    bench = Bench(enable=False)
    for number in bench.capabilities() - {missing}:
        assert bench.take(number, bench.capability(number)) == OK
    for kind in (GROUP, CLASSIFIER, RULE):
        for opcode in range(OP.RESOURCE_OBJ_CREATE, OP.RESOURCE_OBJ_DESTROY + 1):
            assert bench.object(opcode, kind, 0) == OPCODE
    value = bench.capability(missing)
    assert bench.take(missing, value) == OK
    bench.three()
    # To disable it is refused while there are objects (2.12.1.2.4), and possible without.
    assert bench.take(missing, bytes(len(value))) == EBUSY
    for kind in (RULE, CLASSIFIER, GROUP):
        assert bench.destroy(kind, 0) == OK
    assert bench.take(missing, bytes(len(value))) == OK
    assert bench.create(GROUP, 0, group(1)) == OPCODE


NARROW = selector(TYPE.ETH, ETHERTYPE)


@pytest.mark.parametrize(
    ("number", "value", "expected"),
    [
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 1, 1, 1, 1, 1), OK),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 1, 1, 1, 1, 1) + bytes(8), OK),
        (CAP.FF_RESOURCE_CAP, b"", OK),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 65, 1, 1, 1, 1, 1), FIELD),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 65, 1, 1, 1, 1), FIELD),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 1, 1025, 1, 1, 1), FIELD),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 1, 1, 0xFFFFFFFF, 1, 1), FIELD),
        (CAP.FF_RESOURCE_CAP, struct.pack("<IIIIBB2x", 1, 1, 1, 1, 1, 4), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + NARROW, OK),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + NARROW + bytes(7), OK),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + NARROW[:-1], FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + NARROW[:5], FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\xff" + bytes(7) + 3 * NARROW, FIELD),
        (CAP.FF_SELECTOR_CAP, b"\2" + bytes(7) + 2 * NARROW, FIELD),
        (CAP.FF_SELECTOR_CAP, b"\2" + bytes(7) + selector(TYPE.UDP, bytes(8)) + NARROW, FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(TYPE.ETH, bytes(14), flags=2), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(TYPE.ETH, bytes(13)), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(TYPE.ETH, bytes(255)), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(TYPE.ETH, bytes(14), length=15), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(TYPE.ESP, bytes(8)), FIELD),
        (CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + selector(0, b""), FIELD),
        (CAP.FF_ACTION_CAP, actions(DIRECT), OK),
        (CAP.FF_ACTION_CAP, actions(DROP, DIRECT, 3), FIELD),
        (CAP.FF_ACTION_CAP, actions(DIRECT, DROP), FIELD),
        (CAP.FF_ACTION_CAP, actions(DROP, DROP), FIELD),
        (CAP.FF_ACTION_CAP, actions(0), FIELD),
        (CAP.FF_ACTION_CAP, b"\3" + bytes(7) + b"\1\2", FIELD),
        (CAP.FF_ACTION_CAP + 1, b"", ENXIO),
    ],
    ids=map(str, count()),
)
def test_a_driver_takes_what_is_offered(number: int, value: bytes, expected: Answer) -> None:
    """2.12.1.2: less of everything or the same, in the form of 5.1.9.6.2."""
    assert Bench().take(number, value) == expected


def test_what_is_in_use_is_not_given_up() -> None:
    bench = Bench()
    bench.three(queue=1)
    assert bench.limits() == OK, "the same again"
    for name in ("groups_limit", "rules_limit", "last_rule_priority", "selectors_per_classifier_limit"):
        assert bench.limits(**{name: 0}) == EBUSY
    assert bench.take(CAP.FF_ACTION_CAP, actions(DROP)) == EBUSY
    assert bench.take(CAP.FF_SELECTOR_CAP, b"\1" + bytes(7) + NARROW) == EBUSY


def test_a_reset_forgets_all() -> None:
    bench = Bench()
    bench.three()
    bench.begin(enable=False)
    assert bench.create(GROUP, 0, group(5)) == OPCODE
    for number in bench.capabilities():
        bench.take(number, bench.capability(number))
    for kind in (RULE, CLASSIFIER, GROUP):
        assert bench.destroy(kind, 0) == ENXIO
    bench.three()


# --- groups, classifiers and rules (5.1.9.6.3, 5.1.9.6.4)


def test_groups_are_told_apart_by_their_priorities() -> None:
    bench = Bench()
    assert bench.create(GROUP, 0, group(1)) == OK
    assert bench.create(GROUP, 0, group(2)) == EEXIST
    assert bench.create(GROUP, 1, group(1)) == FIELD
    assert bench.create(GROUP, 0xFFFFFFFF, group(2)) == OK, "any number will do (2.12.1.3.5)"
    assert bench.modify(GROUP, 0, group(2)) == FIELD
    assert bench.query(GROUP, 0) == (OK, group(1)), "what fails changes nothing"
    assert bench.modify(GROUP, 0, group(1)) == OK
    assert bench.modify(GROUP, 0, group(0xFFFF)) == OK
    assert bench.query(GROUP, 0) == (OK, group(0xFFFF))
    assert bench.modify(GROUP, 7, group(9)) == ENXIO
    assert bench.query(GROUP, 7)[0] == ENXIO
    assert bench.destroy(GROUP, 7) == ENXIO


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"groups_limit": 3}, 3), ({"groups_limit": 4, "rules_per_group_limit": 2}, 2), ({}, GROUPS)],
)
def test_groups_are_as_many_as_the_driver_uses(limits: Mapping[str, int], most: int) -> None:
    bench = Bench()
    assert bench.limits(**limits) == OK
    answers = [bench.create(GROUP, number, group(number)) for number in range(most + 1)]
    assert answers == [OK] * most + [ENOSPC]
    assert bench.destroy(GROUP, 0) == OK
    assert bench.create(GROUP, 0, group(0)) == OK


def test_classifiers_are_as_many_as_the_driver_uses() -> None:
    bench = Bench()
    assert bench.limits(classifiers_limit=2) == OK
    answers = [bench.create(CLASSIFIER, number, classifier(TCP4)) for number in (5, 0, 1)]
    assert answers == [OK, OK, ENOSPC]
    assert bench.create(CLASSIFIER, 5, classifier(TCP4)) == EEXIST
    assert bench.query(CLASSIFIER, 5) == (OK, classifier(TCP4))
    assert bench.modify(CLASSIFIER, 5, classifier(TCP4[:1])) == OK
    assert bench.query(CLASSIFIER, 5) == (OK, classifier(TCP4[:1]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (classifier([(TYPE.ETH, bytes(14))]), OK),
        (classifier([(TYPE.ETH, b"\1" + bytes(13))]), OK),
        (classifier(TCP4) + bytes(6), OK),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV6, NEXT_6), (TYPE.UDP, bytes(8))]), OK),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, bytes(20))]), OK),
        (b"", FIELD),
        (classifier([]), FIELD),
        (classifier(TCP4, number=4), FIELD),
        (classifier(TCP4, number=255), FIELD),
        (classifier(TCP4)[:-1], FIELD),
        (classifier(TCP4)[:20], FIELD),
        (classifier([*TCP4, (TYPE.TCP, bytes(20))]), FIELD),
        (classifier([(TYPE.IPV4, bytes(20))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.TCP, bytes(20))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, PROTOCOL_4), (TYPE.IPV6, bytes(40))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, PROTOCOL_4), (TYPE.ESP, bytes(8))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.ETH, ETHERTYPE)]), FIELD),
        (classifier([(TYPE.ETH, bytes(14)), (TYPE.IPV4, bytes(20))]), FIELD),
        (classifier([(TYPE.ETH, bytes(12) + b"\xff\xfe"), (TYPE.IPV4, bytes(20))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, bytes(20)), (TYPE.UDP, bytes(8))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV6, bytes(40)), (TYPE.UDP, bytes(8))]), FIELD),
        (classifier([(TYPE.ETH, bytes(13))]), FIELD),
        (classifier([(TYPE.ETH, bytes(15))]), FIELD),
        (classifier([(TYPE.ETH, bytes(0))]), FIELD),
        (classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, bytes(255))]), FIELD),
        (b"\1" + bytes(7) + selector(TYPE.ETH, bytes(14), length=255), FIELD),
        (classifier([(7, bytes(14))]), FIELD),
        (classifier([(0, b"")]), FIELD),
        (b"\1" + bytes(7) + selector(TYPE.ETH, bytes(14), flags=0x80), FIELD),
        (b"\1" + bytes(7) + selector(TYPE.ETH, bytes(14), flags=1), OK),
    ],
    ids=map(str, count()),
)
def test_classifiers_are_checked(value: bytes, expected: Answer) -> None:
    """5.1.9.6.3.2: headers in their order, with masks of their lengths."""
    bench = Bench()
    assert bench.create(CLASSIFIER, 0, value) == expected
    if expected != OK:
        assert bench.query(CLASSIFIER, 0)[0] == ENXIO
        assert bench.create(CLASSIFIER, 0, classifier(TCP4)) == OK
        assert bench.modify(CLASSIFIER, 0, value) == expected
        assert bench.query(CLASSIFIER, 0) == (OK, classifier(TCP4))


def test_masks_are_within_what_the_driver_uses() -> None:
    """5.1.9.6.2.2: only fields that were taken, and without PARTIAL_MASK only as a whole."""
    bench = Bench()
    taken = selector(TYPE.ETH, b"\xff" * 6 + bytes(6) + b"\xff\xff") + selector(TYPE.IPV4, b"\xff" * 20)
    assert bench.take(CAP.FF_SELECTOR_CAP, b"\2" + bytes(7) + taken) == OK
    ethernet = (
        (b"\xff" * 6 + bytes(8), OK),
        (bytes(14), OK),
        (b"\1" + bytes(13), FIELD),
        (bytes(6) + b"\xff" * 6 + bytes(2), FIELD),
    )
    for mask, expected in ethernet:
        assert bench.create(CLASSIFIER, 0, classifier([(TYPE.ETH, mask)])) == expected
        bench.destroy(CLASSIFIER, 0)
    for mask, expected in (
        (b"\xf0" + bytes(19), OK),
        (b"\x80" + bytes(19), FIELD),
        # The first three bits of this word are flags, the others an offset: each is a field.
        (bytes(6) + b"\xe0" + bytes(13), OK),
        (bytes(6) + b"\x80" + bytes(13), FIELD),
        (bytes(6) + b"\xff\xff" + bytes(12), OK),
        (bytes(12) + b"\xff\xff\xff\0" + bytes(4), FIELD),
    ):
        value = classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV4, mask)])
        assert bench.create(CLASSIFIER, 0, value) == expected, mask.hex()
        bench.destroy(CLASSIFIER, 0)
    assert bench.create(CLASSIFIER, 0, classifier([(TYPE.ETH, ETHERTYPE), (TYPE.IPV6, bytes(40))])) == FIELD


def test_each_control_bit_of_tcp_is_a_field() -> None:
    """5.1.9.6.2.2: they need no PARTIAL_MASK."""
    bench = Bench()
    kinds = [(TYPE.ETH, b"\xff" * 14), (TYPE.IPV4, b"\xff" * 20), (TYPE.TCP, b"\xff" * 20)]
    taken = b"".join(selector(kind, mask) for kind, mask in kinds)
    assert bench.take(CAP.FF_SELECTOR_CAP, b"\3" + bytes(7) + taken) == OK
    for bit in range(8):
        flags = bytes(13) + bytes([1 << bit]) + bytes(6)
        assert bench.create(CLASSIFIER, bit, classifier([*TCP4[:2], (TYPE.TCP, flags)])) == OK
    window = bytes(14) + b"\x0f" + bytes(5)
    assert bench.create(CLASSIFIER, 9, classifier([*TCP4[:2], (TYPE.TCP, window)])) == FIELD


WRONG_TYPE = TCP4_KEYS[:12] + b"\x86\xdd" + TCP4_KEYS[14:]
WRONG_PROTOCOL = TCP4_KEYS[:23] + b"\x11" + TCP4_KEYS[24:]


@pytest.mark.parametrize(
    ("number", "value", "expected"),
    [
        (0, rule(), OK),
        (RULES - 1, rule(queue=3, priority=254), OK),
        (0, rule() + bytes(7), OK),
        (0, rule(vq_index=0xFFFF), OK),
        (RULES, rule(), ENOSPC),
        (0xFFFFFFFF, rule(), ENOSPC),
        (0, b"", FIELD),
        (0, rule(group=1), FIELD),
        (0, rule(classifier=1), FIELD),
        (0, rule(priority=255), FIELD),
        (0, rule(action=0), FIELD),
        (0, rule(action=3), FIELD),
        (0, rule(action=DIRECT, vq_index=1), FIELD),
        (0, rule(action=DIRECT, vq_index=8), FIELD),
        (0, rule(action=DIRECT, vq_index=0xFFFF), FIELD),
        (0, rule(length=53), FIELD),
        (0, rule(length=255), FIELD),
        (0, rule(length=0), FIELD),
        (0, rule(b""), FIELD),
        (0, rule(TCP4_KEYS + b"\0"), FIELD),
        (0, rule(TCP4_KEYS)[:-1], FIELD),
        (0, rule(TCP4_KEYS)[:12], FIELD),
        (0, rule(WRONG_TYPE), FIELD),
        (0, rule(WRONG_PROTOCOL), FIELD),
    ],
    ids=map(str, count()),
)
def test_rules_are_checked(number: int, value: bytes, expected: Answer) -> None:
    """5.1.9.6.4: what the device fails to create a rule for; with the other clauses about its fields."""
    bench = Bench()
    assert bench.create(GROUP, 0, group(5)) == OK
    assert bench.create(CLASSIFIER, 0, classifier(TCP4)) == OK
    assert bench.create(RULE, number, value) == expected
    if expected != OK:
        assert bench.query(RULE, number)[0] == ENXIO
        assert bench.create(RULE, 1, rule(priority=9)) == OK
        if number == 0:
            assert bench.modify(RULE, 1, value) == expected
        assert bench.query(RULE, 1) == (OK, rule(priority=9))


def test_rules_are_as_many_as_the_driver_uses() -> None:
    bench = Bench()
    assert bench.limits(rules_limit=5, rules_per_group_limit=3, last_rule_priority=2) == OK
    bench.three()
    assert [bench.create(RULE, number, rule()) for number in (0, 1, 2, 3)] == [EEXIST, OK, OK, ENOSPC]
    assert bench.create(RULE, 2, rule(priority=2)) == EEXIST
    assert bench.modify(RULE, 2, rule(priority=2)) == FIELD
    assert bench.modify(RULE, 2, rule(priority=1)) == OK


def test_without_an_action_rules_cannot_have_it() -> None:
    bench = Bench()
    assert bench.take(CAP.FF_ACTION_CAP, actions(DROP)) == OK
    bench.three()
    assert bench.create(RULE, 1, rule(queue=1)) == FIELD


def test_what_rules_depend_on_stays() -> None:
    """5.1.9.6.4 and 2.12.1.3.5: EBUSY."""
    bench = Bench()
    bench.three()
    for kind, value in ((GROUP, group(9)), (CLASSIFIER, classifier(TCP4))):
        assert bench.destroy(kind, 0) == EBUSY
        assert bench.modify(kind, 0, value) == EBUSY
    assert bench.destroy(RULE, 0) == OK
    assert bench.destroy(RULE, 0) == ENXIO
    assert bench.destroy(CLASSIFIER, 0) == bench.destroy(GROUP, 0) == OK
    bench.three()


def test_a_driver_with_one_pair_has_one_receive_queue() -> None:
    bench = Bench(mask=F.MQ | F.RSS)
    bench.three(queue=0)
    assert bench.create(RULE, 1, rule(queue=1)) == FIELD


def test_other_objects_do_not_exist() -> None:
    bench = Bench()
    for kind in (0, OBJ.IPSEC_INB_SA, 0xFFFF):
        for opcode in range(OP.RESOURCE_OBJ_CREATE, OP.RESOURCE_OBJ_DESTROY + 1):
            assert bench.object(opcode, kind, 0) == ENXIO


def test_a_result_is_never_cut_short() -> None:
    bench = Bench()
    bench.three()
    data = admin.OBJ_QUERY.pack(hdr={"type": RULE, "id": 0})
    assert bench.command(OP.RESOURCE_OBJ_QUERY, data, room=69) == ((STATUS.ENOMEM, Q.INVALID_COMMAND), b"")
    assert bench.command(OP.RESOURCE_OBJ_QUERY, data, room=70) == (OK, rule())
