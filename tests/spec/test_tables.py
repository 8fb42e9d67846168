"""The tables themselves: complete, without contradictions, with sections that exist."""

from __future__ import annotations

import pytest
from tests.spec.tables import MODULES, PARTS, SECTIONS, codes, every_struct, features, module, structs

from virtio.spec import CHAPTERS, core, device_type
from virtio.spec.layout import Array
from virtio.spec.model import DeviceType

DEVICES = [pytest.param(name, id=name) for name in CHAPTERS]


def test_ids_are_1_to_49() -> None:
    assert [row.id for row in core.DEVICE_IDS] == list(range(1, 50))
    assert {row.id for row in core.DEVICE_IDS if not row.assigned} == {14, 15, 37}
    assert len([row for row in core.DEVICE_IDS if row.chapter]) == len(CHAPTERS) == 23


@pytest.mark.parametrize("name", DEVICES)
def test_device_agrees_with_the_table_of_ids(name: str) -> None:
    device = device_type(name)
    (row,) = [row for row in core.DEVICE_IDS if row.name == name]
    assert (device.id, device.name, device.section) == (row.id, name, row.chapter)
    assert device_type(row.id) is device
    # A chapter can come later than the reservation of the id, not earlier.
    assert device.since >= row.since


@pytest.mark.parametrize("name", MODULES)
def test_sections_exist(name: str) -> None:
    quoted = {feature.section for feature in features(name)}
    quoted |= {group.section for group in codes(name)}
    for struct in every_struct(name):
        quoted |= {struct.section_of(field) for field in struct.fields} | {struct.section}
    if name not in PARTS:
        device = device_type(name)
        quoted |= {queue.section for queue in device.queues} | {device.section}
        assert all(
            section.startswith((f"{device.section}.", "2.12")) or section == device.section
            for section in quoted
        )
    assert quoted <= SECTIONS


@pytest.mark.parametrize("name", DEVICES)
def test_feature_bits_are_the_device_types_own(name: str) -> None:
    for feature in features(name):
        assert feature.bit in core.DEVICE_FEATURE_BITS
        # Bits 41 and 42 once were anyone's.
        assert feature.legacy or core.F.get(feature.bit) is None


def test_reserved_feature_bits() -> None:
    for feature in core.F:
        # ADMIN_VQ has bit 41 although 2.2 leaves that one to device types.
        assert feature.bit in core.QUEUE_FEATURE_BITS or feature.name == "VIRTIO_F_ADMIN_VQ"
    assert not core.DEVICE_FEATURE_BITS & core.QUEUE_FEATURE_BITS


@pytest.mark.parametrize("name", DEVICES)
def test_requirements_are_known_and_acyclic(name: str) -> None:
    table = device_type(name).features
    needs = {}
    for feature in table:
        wanted = [other for group in feature.needs for other in group]
        assert all(other in table or other in core.F for other in wanted), feature.name
        needs[feature.name] = set(wanted)

    def visit(feature: str, above: tuple[str, ...]) -> None:
        assert feature not in above, f"{feature} requires itself"
        for other in needs.get(feature, ()):
            visit(other, (*above, feature))

    for feature in table:
        visit(feature.name, ())


@pytest.mark.parametrize("name", MODULES)
def test_names_are_unique(name: str) -> None:
    assert len({struct.name for struct in structs(name)}) == len(structs(name))
    assert len({group.title for group in codes(name)}) == len(codes(name))
    for struct in every_struct(name):
        assert len({field.name for field in struct.fields}) == len(struct.fields), struct.name
    for group in codes(name):
        if group.flags:
            values = [code.value for code in group]
            assert sum(values) == _union(values), f"{group.title} overlap"


def _union(values: list[int]) -> int:
    whole = 0
    for value in values:
        whole |= value
    return whole


@pytest.mark.parametrize("name", MODULES)
def test_fields_do_not_overlap(name: str) -> None:
    for struct in every_struct(name):
        end = 0
        for field in struct.fields:
            start = struct.offsets[field.name]
            if start is None:
                break
            assert start == end, f"{struct.name}.{field.name}"
            end = start + (field.type.size or 0)
        if struct.size is not None:
            assert struct.size == end == struct.minimum


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_older_than_what_it_belongs_to(name: str) -> None:
    found = getattr(module(name), "DEVICE", None)
    for struct in every_struct(name):
        for field in struct.fields:
            assert field.since is None or field.since >= struct.since
            if isinstance(field.type, Array) and isinstance(field.type.count, str):
                assert field.type.count.isidentifier()
    if isinstance(found, DeviceType):
        for row in (*found.features, *found.queues):
            assert row.since >= found.since or getattr(row, "legacy", False)


@pytest.mark.parametrize("name", DEVICES)
def test_conditions_name_features(name: str) -> None:
    device = device_type(name)
    conditions = [queue.when for queue in device.queues]
    conditions += [queue.repeat.when for queue in device.queues if queue.repeat]
    conditions += [field.when for struct in every_struct(name) for field in struct.fields]
    for condition in conditions:
        for wanted in (condition,) if isinstance(condition, str) else condition:
            assert wanted in device.features or wanted in core.F, wanted
    for queue in device.queues:
        assert queue.method.isidentifier()
        if queue.repeat is not None:
            assert device.config is not None
            assert queue.repeat.count in device.config.offsets


@pytest.mark.parametrize("name", DEVICES)
def test_config_is_naturally_aligned(name: str) -> None:
    """Drivers read fields with accesses as wide as the field (4.2.2.2), so none may cross its own width."""
    config = device_type(name).config
    if config is None:
        return
    for field in config.fields:
        start = config.offsets[field.name]
        width = min(field.type.size or 1, 8)
        if start is not None and field.type.name.startswith(("le", "be")) and "[" not in field.type.name:
            assert start % min(width, 4) == 0, field.name


def test_queue_slots() -> None:
    net, console, block = map(device_type, ("net", "console", "block"))
    pairs = net.slots(net.features.MQ | net.features.CTRL_VQ, {"max_virtqueue_pairs": 2})
    assert [slot.name for slot in pairs] == ["receiveq1", "transmitq1", "receiveq2", "transmitq2", "controlq"]
    assert [slot.index for slot in net.slots(net.features.CTRL_VQ)] == [0, 1, 2]
    ports = console.slots(console.features.MULTIPORT, {"max_nr_ports": 3})
    assert [slot.index for slot in ports] == list(range(8))
    assert (ports[6].name, ports[6].number, ports[6].queue.method) == ("receiveq(port2)", 2, "receive")
    assert len(console.slots(0)) == 2
    assert [slot.name for slot in block.slots(block.features.MQ, {"num_queues": 2})] == [
        "requestq1",
        "requestq2",
    ]
    crypto = device_type("crypto").slots(0, {"max_dataqueues": 3})
    assert [(slot.index, slot.name) for slot in crypto][-1] == (3, "controlq")
