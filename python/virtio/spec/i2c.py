"""I2C Adapter Device (5.16)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
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
    rest,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_I2C_F_",
    Feature(0, "VIRTIO_I2C_F_ZERO_LENGTH_REQUEST", V1_2, "5.16.3", "requests without data, and the read flag; mandatory for both sides"),
)

OUT_HDR = Struct("virtio_i2c_out_hdr", "5.16.6.1", (
    Field("addr", le16, "address on the bus as it goes over the wire, 7 or 10 bits, shifted"),
    Field("padding", le16, "unused"),
    Field("flags", le32, "VIRTIO_I2C_FLAGS_*"),
), since=V1_2, doc="starts every request")
IN_HDR = Struct("virtio_i2c_in_hdr", "5.16.6.1", (
    Field("status", u8, "VIRTIO_I2C_MSG_*", access=W),
), since=V1_2, doc="ends every request")
WRITE_REQ = Struct("virtio_i2c_write_req", "5.16.6.1", (
    Field("out_hdr", OUT_HDR, "header"),
    Field("buf", u8[rest], "what to write; nothing in a zero-length request"),
    Field("in_hdr", IN_HDR, "status", access=W),
), since=V1_2, doc="a write (virtio_i2c_req without VIRTIO_I2C_FLAGS_M_RD)")
READ_REQ = Struct("virtio_i2c_read_req", "5.16.6.1", (
    Field("out_hdr", OUT_HDR, "header"),
    Field("buf", u8[rest], "what was read", access=W),
    Field("in_hdr", IN_HDR, "status", access=W),
), since=V1_2, doc="a read (virtio_i2c_req with VIRTIO_I2C_FLAGS_M_RD)")
FLAGS = Codes(
    "request flag", "VIRTIO_I2C_FLAGS_", "5.16.6.1",
    Code(1, "VIRTIO_I2C_FLAGS_FAIL_NEXT", "more of the group follows; if this one fails, the next fails too"),
    Code(2, "VIRTIO_I2C_FLAGS_M_RD", "a read; otherwise a write"),
    since=V1_2, flags=True,
)
MSG = Codes(
    "request status", "VIRTIO_I2C_MSG_", "5.16.6.1",
    Code(0, "VIRTIO_I2C_MSG_OK", "done"),
    Code(1, "VIRTIO_I2C_MSG_ERR", "failed"),
    since=V1_2,
)
# fmt: on

DEVICE = DeviceType(
    id=34,
    name="i2c",
    title="I2C Adapter Device",
    section="5.16",
    since=V1_2,
    doc="gives the guest devices on an I2C bus",
    features=F,
    queues=(
        Queue(
            0,
            "requestq",
            "requests",
            "5.16.6.1",
            "segments of I2C transactions, processed in order",
            since=V1_2,
        ),
    ),
    structs=(OUT_HDR, IN_HDR, WRITE_REQ, READ_REQ),
    codes=(FLAGS, MSG),
    mandatory=("VIRTIO_I2C_F_ZERO_LENGTH_REQUEST",),
)
