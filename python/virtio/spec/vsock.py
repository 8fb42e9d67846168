"""Socket device (5.10)."""

from __future__ import annotations

from virtio.spec.model import (
    V1_1,
    V1_2,
    V1_3,
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
    le64,
    rest,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_VSOCK_F_",
    Feature(0, "VIRTIO_VSOCK_F_STREAM", V1_2, "5.10.3", "streams"),
    Feature(1, "VIRTIO_VSOCK_F_SEQPACKET", V1_2, "5.10.3", "streams with message boundaries"),
    Feature(2, "VIRTIO_VSOCK_F_NO_IMPLIED_STREAM", V1_3, "5.10.3", "streams only if STREAM says so"),
)

CONFIG = Struct("virtio_vsock_config", "5.10.4", (
    Field("guest_cid", le64, "the guest's address; its upper half is zero"),
), since=V1_1)
HDR = Struct("virtio_vsock_hdr", "5.10.6", (
    Field("src_cid", le64),
    Field("dst_cid", le64),
    Field("src_port", le32),
    Field("dst_port", le32),
    Field("len", le32, "bytes of payload"),
    Field("type", le16, "socket type"),
    Field("op", le16, "operation"),
    Field("flags", le32, "flags of the operation"),
    Field("buf_alloc", le32, "bytes of the sender's receive buffer"),
    Field("fwd_cnt", le32, "bytes that have left it, free running"),
), since=V1_1)
PACKET = Struct("virtio_vsock_packet", "5.10.6.4", (
    Field("hdr", HDR),
    Field("data", u8[rest]),
), since=V1_1)
EVENT = Struct("virtio_vsock_event", "5.10.6.7", (Field("id", le32, "event", access=W),), since=V1_1)

OP = Codes(
    "operation", "VIRTIO_VSOCK_OP_", "5.10.6",
    Code(0, "VIRTIO_VSOCK_OP_INVALID"),
    Code(1, "VIRTIO_VSOCK_OP_REQUEST", "connect"),
    Code(2, "VIRTIO_VSOCK_OP_RESPONSE", "accepted"),
    Code(3, "VIRTIO_VSOCK_OP_RST", "refused, or closed for good"),
    Code(4, "VIRTIO_VSOCK_OP_SHUTDOWN", "one direction, or both, will close"),
    Code(5, "VIRTIO_VSOCK_OP_RW", "payload"),
    Code(6, "VIRTIO_VSOCK_OP_CREDIT_UPDATE", "my buffer"),
    Code(7, "VIRTIO_VSOCK_OP_CREDIT_REQUEST", "what of your buffer?"),
    since=V1_1,
)
TYPE = Codes(
    "socket type", "VIRTIO_VSOCK_TYPE_", "5.10.6.2",
    Code(1, "VIRTIO_VSOCK_TYPE_STREAM"),
    Code(2, "VIRTIO_VSOCK_TYPE_SEQPACKET"),
    since=V1_2,
)
# These two are bit numbers in the standard, unlike its other flags; as masks they are 1 and 2.
SHUTDOWN_BIT = Codes(
    "shutdown bit numbers", "VIRTIO_VSOCK_SHUTDOWN_F_", "5.10.6.5",
    Code(0, "VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE", "receives no more"),
    Code(1, "VIRTIO_VSOCK_SHUTDOWN_F_SEND", "sends no more"),
    since=V1_2,
)
SEQ = Codes(
    "flags of RW", "VIRTIO_VSOCK_SEQ_", "5.10.6.6.1",
    Code(1, "VIRTIO_VSOCK_SEQ_EOM", "the message ends here"),
    Code(2, "VIRTIO_VSOCK_SEQ_EOR", "the record ends here"),
    since=V1_2, flags=True,
)
EVENT_ID = Codes(
    "event", "VIRTIO_VSOCK_EVENT_", "5.10.6.7",
    Code(0, "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET", "all connections are gone; read guest_cid again"),
    since=V1_1,
)
QUEUES = (
    Queue(0, "rx", "receive", "5.10.2", "packets for the guest", since=V1_1),
    Queue(1, "tx", "transmit", "5.10.2", "packets from the guest", since=V1_1),
    Queue(2, "event", "events", "5.10.2", "buffers for events", since=V1_1),
)
# fmt: on

DEVICE = DeviceType(
    id=19,
    name="vsock",
    title="Socket Device",
    section="5.10",
    since=V1_1,
    doc="sockets between guest and host",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(HDR, PACKET, EVENT),
    codes=(OP, TYPE, SHUTDOWN_BIT, SEQ, EVENT_ID),
)
