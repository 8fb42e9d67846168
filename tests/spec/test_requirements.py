"""What a device type says beyond its tables: features that must be there, shared memory."""

import pytest

from virtio.cli import run
from virtio.spec import can, device_type, device_types, fs, i2c, pmem, scmi
from virtio.spec.model import SharedMemory


@pytest.mark.parametrize(
    ("features", "lacking"),
    [
        (0, (("VIRTIO_CAN_F_CAN_CLASSIC", "VIRTIO_CAN_F_CAN_FD"),)),
        (can.F.LATE_TX_ACK, (("VIRTIO_CAN_F_CAN_CLASSIC", "VIRTIO_CAN_F_CAN_FD"),)),
        (can.F.CAN_CLASSIC, ()),
        (can.F.CAN_FD, ()),
        (can.F.CAN_FD | can.F.CAN_CLASSIC, ()),
    ],
)
def test_one_of_several_mandatory_features_is_enough(features: int, lacking: object) -> None:
    assert can.DEVICE.lacking(features) == lacking


def test_a_single_mandatory_feature() -> None:
    assert i2c.DEVICE.lacking(0) == (("VIRTIO_I2C_F_ZERO_LENGTH_REQUEST",),)
    assert i2c.DEVICE.lacking(i2c.F.ZERO_LENGTH_REQUEST) == ()


def test_most_types_demand_nothing() -> None:
    assert device_type("block").lacking(0) == ()


def test_mandatory_features_are_features_of_the_type() -> None:
    for device in device_types():
        for group in device.lacking(0):
            assert all(name in device.features for name in group), device.name


def test_shared_memory_ids_are_unique_and_their_features_exist() -> None:
    seen = 0
    for device in device_types():
        ids = [region.id for region in device.shared_memory]
        assert len(set(ids)) == len(ids), device.name
        for region in device.shared_memory:
            seen += 1
            assert isinstance(region, SharedMemory)
            assert region.section.startswith(device.section + ".")
            device.has(0, region.when)  # an unknown feature is a KeyError
    assert seen


def test_known_regions() -> None:
    assert [region.id for region in fs.DEVICE.shared_memory] == [0]
    assert [region.id for region in scmi.DEVICE.shared_memory] == [1, 2, 3]
    (region,) = pmem.DEVICE.shared_memory
    assert not pmem.DEVICE.has(0, region.when)
    assert pmem.DEVICE.has(pmem.F.SHMEM_REGION, region.when)


def test_the_command_line_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["spec", "can"]) == 0
    assert "Must be negotiated: CAN_CLASSIC or CAN_FD" in capsys.readouterr().out
    assert run(["spec", "scmi"]) == 0
    assert "sensor-values" in capsys.readouterr().out
    assert run(["spec", "scmi", "--since", "1.3"]) == 0
    assert "sensor-values" not in capsys.readouterr().out
