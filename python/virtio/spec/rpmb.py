"""RPMB Device (5.12)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
    Code,
    Codes,
    DeviceType,
    Features,
    Field,
    Queue,
    Struct,
    be16,
    be32,
    u8,
)

# fmt: off
F = Features("VIRTIO_RPMB_F_")

CONFIG = Struct("virtio_rpmb_config", "5.12.4", (
    Field("capacity", u8, "capacity in units of 128 KiB, at most 0x80"),
    Field("max_wr_cnt", u8, "most blocks of 256 bytes in one write; 0: no limit"),
    Field("max_rd_cnt", u8, "most blocks of 256 bytes in one read; 0: no limit"),
), since=V1_2, doc="size and limits")
FRAME = Struct("virtio_rpmb_frame", "5.12.6.1", (
    Field("stuff", u8[196], "padding"),
    Field("key_mac", u8[32], "the key to program, otherwise the HMAC-SHA-256 of all that follows"),
    Field("data", u8[256], "one block"),
    Field("nonce", u8[16], "random number of the asker, copied into the answer"),
    Field("write_counter", be32, "number of successful authenticated writes"),
    Field("address", be16, "first block, counted in units of 256 bytes"),
    Field("block_count", be16, "number of blocks"),
    Field("result", be16, "result, written by the device"),
    Field("req_resp", be16, "type of request or response"),
), since=V1_2, doc="one frame; its integers are big-endian, as in eMMC")
REQ = Codes(
    "request type", "VIRTIO_RPMB_REQ_", "5.12.6",
    Code(0x0001, "VIRTIO_RPMB_REQ_PROGRAM_KEY", "set the authentication key, once"),
    Code(0x0002, "VIRTIO_RPMB_REQ_GET_WRITE_COUNTER", "read the write counter"),
    Code(0x0003, "VIRTIO_RPMB_REQ_DATA_WRITE", "authenticated write"),
    Code(0x0004, "VIRTIO_RPMB_REQ_DATA_READ", "authenticated read"),
    Code(0x0005, "VIRTIO_RPMB_REQ_RESULT_READ", "fetch the result of a key programming or write before it"),
    since=V1_2,
)
RESP = Codes(
    "response type", "VIRTIO_RPMB_RESP_", "5.12.6",
    Code(0x0100, "VIRTIO_RPMB_RESP_PROGRAM_KEY", "answers key programming"),
    Code(0x0200, "VIRTIO_RPMB_RESP_GET_COUNTER", "answers a read of the write counter"),
    Code(0x0300, "VIRTIO_RPMB_RESP_DATA_WRITE", "answers a write"),
    Code(0x0400, "VIRTIO_RPMB_RESP_DATA_READ", "answers a read"),
    since=V1_2,
)
RES = Codes(
    "result", "VIRTIO_RPMB_RES_", "5.12.6.1",
    Code(0x0000, "VIRTIO_RPMB_RES_OK", "done"),
    Code(0x0001, "VIRTIO_RPMB_RES_GENERAL_FAILURE", "bad block count, or an error that has no code of its own"),
    Code(0x0002, "VIRTIO_RPMB_RES_AUTH_FAILURE", "the MAC is not the one that the device computes"),
    Code(0x0003, "VIRTIO_RPMB_RES_COUNT_FAILURE", "the write counter is not the device's"),
    Code(0x0004, "VIRTIO_RPMB_RES_ADDR_FAILURE", "address out of range"),
    Code(0x0005, "VIRTIO_RPMB_RES_WRITE_FAILURE", "writing failed"),
    Code(0x0006, "VIRTIO_RPMB_RES_READ_FAILURE", "reading failed"),
    Code(0x0007, "VIRTIO_RPMB_RES_NO_AUTH_KEY", "no key has been programmed yet"),
    Code(0x0080, "VIRTIO_RPMB_RES_WRITE_COUNTER_EXPIRED", "the write counter has reached its maximum"),
    since=V1_2,
)
# fmt: on

DEVICE = DeviceType(
    id=28,
    name="rpmb",
    title="RPMB Device",
    section="5.12",
    since=V1_2,
    doc="storage that cannot be tampered with or rolled back",
    features=F,
    config=CONFIG,
    queues=(
        Queue(
            0,
            "requestq",
            "requests",
            "5.12.6.1",
            "frames of 512 bytes, and room for the frames that answer them",
            since=V1_2,
        ),
    ),
    structs=(FRAME,),
    codes=(REQ, RESP, RES),
)
