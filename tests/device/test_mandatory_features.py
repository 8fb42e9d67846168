"""Features without which a device type is of no use."""

import pytest

from virtio.device.features import check_accepted, check_offer
from virtio.errors import ConfigurationError, FeatureNegotiationError
from virtio.spec import can, core, i2c

VERSION_1 = core.F.VERSION_1


def test_a_device_must_offer_them() -> None:
    check_offer(i2c.DEVICE, VERSION_1 | i2c.F.ZERO_LENGTH_REQUEST)
    check_offer(can.DEVICE, VERSION_1 | can.F.CAN_FD)
    with pytest.raises(ConfigurationError, match="VIRTIO_I2C_F_ZERO_LENGTH_REQUEST"):
        check_offer(i2c.DEVICE, VERSION_1)
    with pytest.raises(ConfigurationError, match="CAN_CLASSIC or VIRTIO_CAN_F_CAN_FD"):
        check_offer(can.DEVICE, VERSION_1 | can.F.LATE_TX_ACK)


def test_a_driver_must_accept_one_of_them() -> None:
    offered = VERSION_1 | can.F.CAN_FD | can.F.CAN_CLASSIC
    check_accepted(can.DEVICE, offered, VERSION_1 | can.F.CAN_FD)
    with pytest.raises(FeatureNegotiationError) as caught:
        check_accepted(can.DEVICE, offered, VERSION_1)
    assert caught.value.missing == can.F.CAN_FD | can.F.CAN_CLASSIC
    assert caught.value.clause == "5.20"
