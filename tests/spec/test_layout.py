"""Structures as bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.spec.tables import MODULES, every_struct

from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import block, console, core, net, net_control
from virtio.spec.layout import (
    Array,
    Bits,
    Field,
    Scalar,
    Struct,
    Type,
    Union,
    be16,
    le16,
    le32,
    rest,
    sle32,
    u8,
)


def halves(struct: Struct) -> dict[str, Struct]:
    """The structure, or its two directions if each of them has a part that takes all that is left."""
    greedy = [field for field in struct.fields if isinstance(field.type, Array) and field.type.count is rest]
    if len(greedy) < 2:
        return {"": struct}
    return {"-R": struct.part("R"), "-W": struct.part("W")}


STRUCTS = {
    f"{name}-{struct.name}{half}": part
    for name in MODULES
    for struct in every_struct(name)
    for half, part in halves(struct).items()
}


def values(kind: Type, counts: dict[str, int]) -> st.SearchStrategy[Any]:
    """Values that a type can hold; what counts something follows ``counts``."""
    if isinstance(kind, Scalar):
        bits = kind.width * 8
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.signed else (0, (1 << bits) - 1)
        return st.integers(low, high)
    if isinstance(kind, Bits):
        return st.fixed_dictionaries({name: st.integers(0, (1 << width) - 1) for name, width in kind.parts})
    if isinstance(kind, Array):
        number = 3 if kind.count is rest else kind.count
        size = counts.get(number, 2) if isinstance(number, str) else int(number)
        if kind.element is u8:
            return st.binary(min_size=size, max_size=size)
        return st.lists(values(kind.element, counts), min_size=size, max_size=size)
    if isinstance(kind, Union):
        size = 12 if kind.size is None else kind.size
        return st.binary(min_size=size, max_size=size)
    assert isinstance(kind, Struct)
    return records(kind)


def counts_of(struct: Struct) -> dict[str, int]:
    return {
        field.type.count: 2
        for field in struct.fields
        if isinstance(field.type, Array) and isinstance(field.type.count, str)
    }


def records(struct: Struct) -> st.SearchStrategy[dict[str, Any]]:
    counts = counts_of(struct)
    return st.fixed_dictionaries(
        {
            field.name: st.just(counts[field.name]) if field.name in counts else values(field.type, counts)
            for field in struct.fields
        }
    )


def plain(value: Any) -> Any:
    """A record as dictionaries and lists, as it was given."""
    if isinstance(value, bytes | int):
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in (value if isinstance(value, dict) else vars(value)).items()}


@pytest.mark.parametrize("name", STRUCTS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_packed_is_unpacked(name: str, data: st.DataObject) -> None:
    struct = STRUCTS[name]
    record = data.draw(records(struct))
    packed = struct.pack(record)
    assert struct.size in (None, len(packed))
    # Counts that do not stand in the structure itself are told; nested ones all are 2 here.
    found = struct.unpack(packed, dict.fromkeys(all_counts(struct), 2))
    assert plain(found) == plain(record)
    assert struct.pack(found) == packed


def all_counts(struct: Struct) -> set[str]:
    return {count for inner in _inner(struct) for count in counts_of(inner)} - set(struct.offsets)


def _inner(kind: Type) -> list[Struct]:
    if isinstance(kind, Array):
        return _inner(kind.element)
    if isinstance(kind, Struct):
        return [kind, *(inner for field in kind.fields for inner in _inner(field.type))]
    return []


@pytest.mark.parametrize("name", STRUCTS)
def test_too_few_bytes_are_the_other_sides_fault(name: str) -> None:
    struct = STRUCTS[name]
    if not struct.minimum:
        return
    with pytest.raises(ProtocolError) as caught:
        struct.unpack(bytes(struct.minimum - 1), dict.fromkeys(all_counts(struct), 0))
    assert caught.value.clause == struct.section


def test_both_ways_through_struct_agree() -> None:
    """Plain structures take a short way; it must see the same as the general one."""
    data = bytes(range(16))
    assert core.VIRTQ_DESC._codec is not None
    assert core.VIRTQ_DESC.unpack(data) == core.VIRTQ_DESC.take(memoryview(data), {})[0]


def test_offsets_and_sizes() -> None:
    assert block.CONFIG.offset("topology") == 24
    assert block.CONFIG.size == 96
    assert block.REQ.size is None
    assert block.REQ.minimum == 17
    with pytest.raises(ConfigurationError):
        block.REQ.offset("status")


def test_variable_part_in_the_middle() -> None:
    packed = block.REQ.pack(type=block.T.OUT, sector=7, data=b"x" * 512, status=block.S.IOERR)
    request = block.REQ.unpack(packed)
    assert (request.sector, len(request.data), request.status) == (7, 512, 1)
    assert block.REQ.part("W").size == 1


def test_counts_are_filled_in() -> None:
    macs = net_control.MAC_TABLE.pack(macs=[b"\x02" * 6, b"\x04" * 6])
    assert macs[:4] == b"\x02\0\0\0"
    assert net_control.MAC_TABLE.unpack(macs).macs == (b"\x02" * 6, b"\x04" * 6)


def test_header_grows_with_features() -> None:
    """The lengths of 5.1.9.3.1."""
    prefix = "VIRTIO_NET_F_"
    sizes = {
        (): 12,
        ("HASH_REPORT",): 20,
        ("HOST_UDP_TUNNEL_GSO",): 24,
        ("OUT_NET_HEADER",): 32,
        ("IPSEC",): 32,
    }
    for chosen, size in sizes.items():
        assert net.HDR.until([prefix + name for name in chosen]).size == size


def test_fields_of_features_that_are_missing() -> None:
    config = console.CONFIG.only(["VIRTIO_CONSOLE_F_MULTIPORT"])
    assert [field.name for field in config.fields] == ["max_nr_ports"]


def test_byte_order_and_sign() -> None:
    struct = Struct("mixed", "2", (Field("big", be16), Field("little", le16), Field("minus", sle32)))
    packed = struct.pack(big=0x1234, little=0x1234, minus=-2)
    assert packed == bytes.fromhex("12343412feffffff")
    assert struct.unpack(packed).minus == -2


def test_bit_fields_start_at_the_lowest_bit() -> None:
    event = core.PVIRTQ_EVENT_SUPPRESS.pack(desc={"desc_event_off": 5, "desc_event_wrap": 1}, flags=2)
    assert event == bytes.fromhex("05800200")


@pytest.mark.parametrize(
    ("struct", "given"),
    [
        (core.VIRTQ_DESC, {"address": 1}),
        (core.VIRTQ_DESC, {"len": 1 << 32}),
        (core.VIRTQ_DESC, {"len": -1}),
        (net.CONFIG, {"mac": b"1234567"}),
        (core.PVIRTQ_EVENT_SUPPRESS, {"desc": {"desc_event_off": 1 << 15}}),
        (core.PVIRTQ_EVENT_SUPPRESS, {"desc": {"off": 1}}),
    ],
)
def test_values_that_do_not_fit(struct: Struct, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        struct.pack(given)


def test_unions() -> None:
    from virtio.spec import input as virtio_input

    config = virtio_input.CONFIG
    packed = config.pack(select=virtio_input.CFG.ID_DEVIDS, size=8, u={"ids": {"vendor": 0x1AF4}})
    assert len(packed) == config.size == 136
    kind = config.field("u").type
    assert isinstance(kind, Union)
    assert kind.view(config.unpack(packed).u, "ids").vendor == 0x1AF4


def test_short_names_are_checked() -> None:
    assert block.F.RO == 1 << 5
    assert core.STATUS.DRIVER_OK == 4
    with pytest.raises(AttributeError, match="VIRTIO_BLK_F_READONLY"):
        _ = block.F.READONLY
    with pytest.raises(AttributeError):
        _ = block.T.READ
    assert block.T.name(4) == "VIRTIO_BLK_T_FLUSH"
    assert block.T.name(99) is None
    assert le32.size == 4
