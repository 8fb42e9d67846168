"""Memory Device (5.15)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
    V1_4,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    Union,
    W,
    le16,
    le64,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_MEM_F_",
    Feature(0, "VIRTIO_MEM_F_ACPI_PXM", V1_2, "5.15.3", "node_id is valid, and is an ACPI proximity domain"),
    Feature(1, "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE", V1_2, "5.15.3", "unplugged memory must not be read"),
    Feature(2, "VIRTIO_MEM_F_PERSISTENT_SUSPEND", V1_4, "5.15.3", "plugged memory survives suspend, so the guest may suspend"),
)

CONFIG = Struct("virtio_mem_config", "5.15.4", (
    Field("block_size", le64, "size and alignment of a block, a power of two"),
    Field("node_id", le16, "ACPI proximity domain", "VIRTIO_MEM_F_ACPI_PXM"),
    Field("padding", u8[6], "unused"),
    Field("addr", le64, "guest address of the region"),
    Field("region_size", le64, "size of the region in bytes"),
    Field("usable_region_size", le64, "how much of it may be plugged; can grow"),
    Field("plugged_size", le64, "how much of it is plugged"),
    Field("requested_size", le64, "how much the device wants to be plugged"),
), since=V1_2, doc="the region that the device manages; read-only for the driver")
REQ_PLUG = Struct("virtio_mem_req_plug", "5.15.6.3", (
    Field("addr", le64, "guest address of the first block"),
    Field("nb_blocks", le16, "number of blocks"),
    Field("padding", le16[3], "unused"),
), since=V1_2, doc="what PLUG adds")
REQ_UNPLUG = Struct("virtio_mem_req_unplug", "5.15.6.4", (
    Field("addr", le64, "guest address of the first block"),
    Field("nb_blocks", le16, "number of blocks"),
    Field("padding", le16[3], "unused"),
), since=V1_2, doc="what UNPLUG adds")
REQ_STATE = Struct("virtio_mem_req_state", "5.15.6.6", (
    Field("addr", le64, "guest address of the first block"),
    Field("nb_blocks", le16, "number of blocks"),
    Field("padding", le16[3], "unused"),
), since=V1_2, doc="what STATE adds")
REQ_UNION = Union("virtio_mem_req_u", (
    Field("plug", REQ_PLUG, "for PLUG"),
    Field("unplug", REQ_UNPLUG, "for UNPLUG"),
    Field("state", REQ_STATE, "for STATE"),
))
REQ = Struct("virtio_mem_req", "5.15.6", (
    Field("type", le16, "request type"),
    Field("padding", le16[3], "unused"),
    Field("u", REQ_UNION, "what the type adds"),
), since=V1_2, doc="every request, 24 bytes")
RESP_STATE = Struct("virtio_mem_resp_state", "5.15.6.6", (
    Field("type", le16, "state of the blocks", access=W),
), since=V1_2, doc="what the response to STATE adds")
RESP_UNION = Union("virtio_mem_resp_u", (Field("state", RESP_STATE, "for STATE", access=W),))
RESP = Struct("virtio_mem_resp", "5.15.6", (
    Field("type", le16, "response type", access=W),
    Field("padding", le16[3], "unused", access=W),
    Field("u", RESP_UNION, "what the type adds", access=W),
), since=V1_2, doc="every response, 10 bytes")
REQ_TYPE = Codes(
    "request type", "VIRTIO_MEM_REQ_", "5.15.6",
    Code(0, "VIRTIO_MEM_REQ_PLUG", "plug consecutive blocks"),
    Code(1, "VIRTIO_MEM_REQ_UNPLUG", "unplug consecutive blocks"),
    Code(2, "VIRTIO_MEM_REQ_UNPLUG_ALL", "unplug everything"),
    Code(3, "VIRTIO_MEM_REQ_STATE", "ask for the state of consecutive blocks"),
    since=V1_2,
)
RESP_TYPE = Codes(
    "response type", "VIRTIO_MEM_RESP_", "5.15.6",
    Code(0, "VIRTIO_MEM_RESP_ACK", "done"),
    Code(1, "VIRTIO_MEM_RESP_NACK", "refused"),
    Code(2, "VIRTIO_MEM_RESP_BUSY", "not now; try again"),
    Code(3, "VIRTIO_MEM_RESP_ERROR", "the request was wrong"),
    since=V1_2,
)
STATE = Codes(
    "state of a range", "VIRTIO_MEM_STATE_", "5.15.6.6",
    Code(0, "VIRTIO_MEM_STATE_PLUGGED", "all plugged"),
    Code(1, "VIRTIO_MEM_STATE_UNPLUGGED", "none plugged"),
    Code(2, "VIRTIO_MEM_STATE_MIXED", "some plugged"),
    since=V1_2,
)
# fmt: on

DEVICE = DeviceType(
    id=24,
    name="mem",
    title="Memory Device",
    section="5.15",
    since=V1_2,
    doc="memory that is plugged and unplugged in blocks",
    features=F,
    config=CONFIG,
    queues=(Queue(0, "guest-request", "requests", "5.15.6", "requests of the driver", since=V1_2),),
    structs=(REQ_PLUG, REQ_UNPLUG, REQ_STATE, REQ, RESP_STATE, RESP),
    codes=(REQ_TYPE, RESP_TYPE, STATE),
)
