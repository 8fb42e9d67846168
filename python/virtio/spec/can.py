"""CAN Device (5.20)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_4,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    W,
    le16,
    le32,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_CAN_F_",
    Feature(0, "VIRTIO_CAN_F_CAN_CLASSIC", V1_4, "5.20.3", "classic frames, up to 8 bytes"),
    Feature(1, "VIRTIO_CAN_F_CAN_FD", V1_4, "5.20.3", "CAN FD frames, up to 64 bytes"),
    Feature(2, "VIRTIO_CAN_F_RTR_FRAMES", V1_4, "5.20.3", "remote transmission requests", requires=("VIRTIO_CAN_F_CAN_CLASSIC",)),
    Feature(3, "VIRTIO_CAN_F_LATE_TX_ACK", V1_4, "5.20.3", "a frame is used only once it has been on the bus, not when it is scheduled"),
)

CONFIG = Struct("virtio_can_config", "5.20.4", (
    Field("status", le16, "VIRTIO_CAN_S_*"),
), since=V1_4, doc="state of the controller")
CONTROL_OUT = Struct("virtio_can_control_out", "5.20.5.1", (
    Field("msg_type", le16, "VIRTIO_CAN_SET_CTRL_MODE_*"),
), since=V1_4, doc="a request of the control queue")
CONTROL_IN = Struct("virtio_can_control_in", "5.20.5.1", (
    Field("result", u8, "VIRTIO_CAN_RESULT_*; unknown values are failures", access=W),
), since=V1_4, doc="its answer")
TX_OUT = Struct("virtio_can_tx_out", "5.20.5.2", (
    Field("msg_type", le16, "VIRTIO_CAN_TX"),
    Field("length", le16, "length of sdu"),
    Field("reserved_classic_dlc", u8, "kept for the DLC of classic frames of 8 bytes"),
    Field("padding", u8, "unused"),
    Field("reserved_xl_priority", le16, "kept for the priority of CAN XL"),
    Field("flags", le32, "VIRTIO_CAN_FLAGS_*"),
    Field("can_id", le32, "identifier, 11 or 29 bits; the top 3 bits are zero"),
    Field("sdu", u8["length"], "payload"),
), since=V1_4, doc="a frame to send")
TX_IN = Struct("virtio_can_tx_in", "5.20.5.2", (
    Field("result", u8, "VIRTIO_CAN_RESULT_*", access=W),
), since=V1_4, doc="what became of it")
RX = Struct("virtio_can_rx", "5.20.5.3", (
    Field("msg_type", le16, "VIRTIO_CAN_RX", access=W),
    Field("length", le16, "length of sdu", access=W),
    Field("reserved_classic_dlc", u8, "kept for the DLC of classic frames of 8 bytes", access=W),
    Field("padding", u8, "unused", access=W),
    Field("reserved_xl_priority", le16, "kept for the priority of CAN XL", access=W),
    Field("flags", le32, "VIRTIO_CAN_FLAGS_*", access=W),
    Field("can_id", le32, "identifier, 11 or 29 bits; the top 3 bits are zero", access=W),
    Field("sdu", u8["length"], "payload", access=W),
), since=V1_4, doc="a received frame")
STATUS = Codes(
    "controller status", "VIRTIO_CAN_S_", "5.20.4",
    Code(1, "VIRTIO_CAN_S_CTRL_BUSOFF", "bus off: the controller has stopped by itself"),
    since=V1_4, flags=True,
)
MSG = Codes(
    "message type", "VIRTIO_CAN_", "5.20.5",
    Code(0x0001, "VIRTIO_CAN_TX", "a frame to send"),
    Code(0x0101, "VIRTIO_CAN_RX", "a received frame"),
    Code(0x0201, "VIRTIO_CAN_SET_CTRL_MODE_START", "start taking part on the bus"),
    Code(0x0202, "VIRTIO_CAN_SET_CTRL_MODE_STOP", "stop; what waits to be sent fails"),
    since=V1_4,
)
RESULT = Codes(
    "result", "VIRTIO_CAN_RESULT_", "5.20.5",
    Code(0, "VIRTIO_CAN_RESULT_OK", "done"),
    Code(1, "VIRTIO_CAN_RESULT_NOT_OK", "failed"),
    since=V1_4,
)
FLAGS = Codes(
    "frame flag", "VIRTIO_CAN_FLAGS_", "5.20.5.2",
    Code(0x2000, "VIRTIO_CAN_FLAGS_RTR", "remote transmission request"),
    Code(0x4000, "VIRTIO_CAN_FLAGS_FD", "CAN FD"),
    Code(0x8000, "VIRTIO_CAN_FLAGS_EXTENDED", "the identifier has 29 bits"),
    since=V1_4, flags=True,
)
# fmt: on

DEVICE = DeviceType(
    id=36,
    name="can",
    title="CAN Device",
    section="5.20",
    since=V1_4,
    doc="gives the guest a CAN bus",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "txq", "transmit", "5.20.5.2", "frames to send", since=V1_4),
        Queue(1, "rxq", "receive", "5.20.5.3", "buffers that the device fills with frames", since=V1_4),
        Queue(
            2, "controlq", "control", "5.20.5.1", "starting and stopping the controller, in order", since=V1_4
        ),
    ),
    structs=(CONTROL_OUT, CONTROL_IN, TX_OUT, TX_IN, RX),
    codes=(STATUS, MSG, RESULT, FLAGS),
    mandatory=(("VIRTIO_CAN_F_CAN_CLASSIC", "VIRTIO_CAN_F_CAN_FD"),),
)
