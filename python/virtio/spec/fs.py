"""File System Device (5.11)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Repeat,
    SharedMemory,
    Struct,
    W,
    le16,
    le32,
    le64,
    rest,
    sle32,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_FS_F_",
    Feature(0, "VIRTIO_FS_F_NOTIFICATION", V1_2, "5.11.3", "the device sends FUSE notify messages, on a queue of their own"),
)

CONFIG = Struct("virtio_fs_config", "5.11.4", (
    Field("tag", u8[36], "name of the file system in UTF-8, padded with NUL"),
    Field("num_request_queues", le32, "number of request queues, at least one"),
    Field("notify_buf_size", le32, "smallest buffer that the notification queue takes, in bytes", "VIRTIO_FS_F_NOTIFICATION"),
), since=V1_2, doc="what a driver reads before it mounts")
FUSE_IN_HEADER = Struct("fuse_in_header", "5.11.6.1", (
    Field("len", le32, "length of the request, this header included"),
    Field("opcode", le32, "the FUSE operation"),
    Field("unique", le64, "identifies the request in its reply"),
    Field("nodeid", le64, "the inode that it is about"),
    Field("uid", le32, "user who asks"),
    Field("gid", le32, "group who asks"),
    Field("pid", le32, "process which asks"),
    Field("total_extlen", le16, "length of the extensions, in units of 8 bytes"),
    Field("padding", le16, "unused"),
), since=V1_2, doc="FUSE's header of every request, here of a little-endian session")
FUSE_OUT_HEADER = Struct("fuse_out_header", "5.11.6.1", (
    Field("len", le32, "length of the reply, this header included", access=W),
    Field("error", sle32, "0, or the negated errno", access=W),
    Field("unique", le64, "identifies the request; 0 in a notify message", access=W),
), since=V1_2, doc="FUSE's header of every reply and notify message, here of a little-endian session")
REQ = Struct("virtio_fs_req", "5.11.6.1", (
    Field("in", FUSE_IN_HEADER, "FUSE's header"),
    Field("datain", u8[rest], "what the operation takes"),
    Field("out", FUSE_OUT_HEADER, "FUSE's header", access=W),
    Field("dataout", u8[rest], "what the operation gives", access=W),
), since=V1_2, doc="a request")
NOTIFY = Struct("virtio_fs_notify", "5.11.6.3", (
    Field("out_hdr", FUSE_OUT_HEADER, "FUSE's header, with the kind of message in error", access=W),
    Field("outarg", u8[rest], "what the message says", access=W),
), since=V1_2, doc="a buffer of the notification queue, once used")
# fmt: on

DEVICE = DeviceType(
    id=26,
    name="fs",
    title="File System Device",
    section="5.11",
    since=V1_2,
    doc="files of the host, by the FUSE protocol",
    features=F,
    config=CONFIG,
    queues=(
        Queue(
            0,
            "hiprio",
            "hiprio",
            "5.11.6.2",
            "FUSE_INTERRUPT, FUSE_FORGET and FUSE_BATCH_FORGET, served while other queues are full",
            since=V1_2,
        ),
        Queue(
            1,
            "notification",
            "notification",
            "5.11.6.3",
            "buffers that the device fills with FUSE notify messages",
            "VIRTIO_FS_F_NOTIFICATION",
            since=V1_2,
        ),
        Queue(
            None,
            "request queue",
            "requests",
            "5.11.6.1",
            "all other FUSE requests; no order between queues",
            repeat=Repeat("num_request_queues"),
            label="{name} {number}",
            since=V1_2,
        ),
    ),
    structs=(FUSE_IN_HEADER, FUSE_OUT_HEADER, REQ, NOTIFY),
    shared_memory=(
        SharedMemory(
            0, "cache", "5.11.6.4", "the DAX window: file contents, mapped by FUSE_SETUPMAPPING", since=V1_2
        ),
    ),
)
