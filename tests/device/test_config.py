"""The configuration space, 2.5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtio import ConfigurationError, ProtocolError
from virtio.device.config import ConfigSpace
from virtio.spec import block, console, entropy
from virtio.spec.model import Field


def space(changes: list[int] | None = None) -> ConfigSpace:
    return ConfigSpace(block.CONFIG, lambda: changes.append(1) if changes is not None else None)


def writable(field: Field) -> bool:
    return "W" in field.access


def test_fields_by_name() -> None:
    changes: list[int] = []
    config = space(changes)
    config.capacity = 0x1122334455667788
    config["geometry.heads"] = 16
    config.topology = {"opt_io_size": 9}
    config.update({"blk_size": 4096}, num_queues=3)
    assert (config.capacity, config["geometry.heads"], config.geometry.heads) == (0x1122334455667788, 16, 16)
    assert (config["topology.opt_io_size"], config.blk_size, config.num_queues) == (9, 4096, 3)
    assert config.read(0, 8) == bytes.fromhex("8877665544332211")
    assert config.read(16, 4) == b"\0\0\x10\0"
    assert len(changes) == config.generation == 4


def test_equal_values_are_no_change() -> None:
    changes: list[int] = []
    config = space(changes)
    config.capacity = 0
    config.update(blk_size=0, seg_max=0)
    assert (changes, config.generation) == ([], 0)


def test_all_of_an_update_or_nothing() -> None:
    changes: list[int] = []
    config = space(changes)
    with pytest.raises(ConfigurationError, match="does not fit"):
        config.update(capacity=5, seg_max=1 << 32)
    assert (config.capacity, changes) == (0, [])


def test_names_that_do_not_exist() -> None:
    config = space()
    with pytest.raises(AttributeError, match="no field 'capacities'; it has capacity, "):
        config.capacities = 1
    with pytest.raises(AttributeError):
        config.capacities  # noqa: B018
    with pytest.raises(KeyError):
        config["geometry.tails"]
    assert "capacity" in dir(config)
    assert "geometry.heads" in list(config)


@given(st.integers(0, 200), st.integers(0, 300), st.binary(min_size=96, max_size=96))
def test_reads_of_any_offset_and_width(offset: int, size: int, contents: bytes) -> None:
    config = space()
    config._data[:] = contents
    assert config.size == 96
    assert config.read(offset, size) == (contents + bytes(1000))[offset : offset + size]


@given(st.integers(0, 110), st.binary(min_size=1, max_size=20))
def test_drivers_write_only_where_they_may(offset: int, data: bytes) -> None:
    config = space()
    before = config.read(0, 96)
    where = block.CONFIG.offset("writeback")
    if offset == where and len(data) == 1:
        assert config.write(offset, data, writable=writable) == ("writeback",)
        assert config.writeback == data[0]
        assert config.generation == 0
    else:
        with pytest.raises(ProtocolError) as caught:
            config.write(offset, data, writable=writable)
        assert caught.value.clause == "5.2.4"
        assert config.read(0, 96) == before


@given(st.integers(8, 11), st.integers(1, 4))
def test_parts_of_a_field_may_be_written(offset: int, size: int) -> None:
    config = ConfigSpace(console.CONFIG, lambda: None)
    data = b"\xaa" * min(size, 12 - offset)
    assert config.write(offset, data, writable=writable) == ("emerg_wr",)
    assert config.read(8, 4)[offset - 8 :][: len(data)] == data


def test_a_device_without_configuration() -> None:
    config = ConfigSpace(entropy.DEVICE.config, lambda: None)
    assert (config.size, config.read(0, 4), list(config)) == (0, bytes(4), [])
    with pytest.raises(ProtocolError):
        config.write(0, b"x", writable=writable)
    with pytest.raises(ConfigurationError):
        config.read(-1, 4)
