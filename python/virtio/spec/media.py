"""Media Device (5.22)."""

from __future__ import annotations

from virtio.spec.model import (
    V1_4,
    Code,
    Codes,
    DeviceType,
    Features,
    Field,
    Queue,
    SharedMemory,
    Struct,
    W,
    le32,
    le64,
    rest,
    u8,
)

# fmt: off
F = Features("VIRTIO_MEDIA_F_")

CONFIG = Struct("virtio_media_config", "5.22.4", (
    Field("device_caps", le32, "V4L2 capabilities of the node"),
    Field("device_type", le32, "kind of V4L2 node"),
    Field("card", u8[32], "name of the device in UTF-8, padded with NUL"),
), since=V1_4, doc="what V4L2 tells about a device node")
CMD_HEADER = Struct("virtio_media_cmd_header", "5.22.6.1.1", (
    Field("cmd", le32, "VIRTIO_MEDIA_CMD_*"),
    Field("__reserved", le32, "unused"),
), since=V1_4, doc="starts every command")
RESP_HEADER = Struct("virtio_media_resp_header", "5.22.6.1.1", (
    Field("status", le32, "0, or a Linux error number", access=W),
    Field("__reserved", le32, "unused", access=W),
), since=V1_4, doc="starts every response")
CMD_OPEN = Struct("virtio_media_cmd_open", "5.22.6.1.3", (
    Field("hdr", CMD_HEADER, "header"),
), since=V1_4, doc="open a session")
RESP_OPEN = Struct("virtio_media_resp_open", "5.22.6.1.3", (
    Field("hdr", RESP_HEADER, "header", access=W),
    Field("session_id", le32, "number of the session, used by no other open one", access=W),
    Field("__reserved", le32, "unused", access=W),
), since=V1_4, doc="a session was opened")
CMD_CLOSE = Struct("virtio_media_cmd_close", "5.22.6.1.4", (
    Field("hdr", CMD_HEADER, "header"),
    Field("session_id", le32, "the session"),
    Field("__reserved", le32, "unused"),
), since=V1_4, doc="close a session; has no response")
CMD_IOCTL = Struct("virtio_media_cmd_ioctl", "5.22.6.1.5", (
    Field("hdr", CMD_HEADER, "header"),
    Field("session_id", le32, "the session"),
    Field("code", le32, "number of the ioctl (the second argument of the _IO macro that defines it)"),
    Field("payload", u8[rest], "what the ioctl takes, in its 64-bit little-endian form"),
), since=V1_4, doc="run a V4L2 ioctl")
RESP_IOCTL = Struct("virtio_media_resp_ioctl", "5.22.6.1.5", (
    Field("hdr", RESP_HEADER, "header", access=W),
    Field("payload", u8[rest], "what the ioctl gives, in its 64-bit little-endian form", access=W),
), since=V1_4, doc="outcome of an ioctl")
SG_ENTRY = Struct("virtio_media_sg_entry", "5.22.6.1.5.6", (
    Field("start", le64, "guest address"),
    Field("len", le32, "length in bytes"),
    Field("__reserved", le32, "unused"),
), since=V1_4, doc="a piece of the driver's memory, standing for a userspace pointer")
CMD_MMAP = Struct("virtio_media_cmd_mmap", "5.22.6.1.6", (
    Field("hdr", CMD_HEADER, "header"),
    Field("session_id", le32, "the session that the buffer belongs to"),
    Field("flags", le32, "VIRTIO_MEDIA_MMAP_FLAG_*"),
    Field("offset", le32, "the plane, as VIDIOC_QUERYBUF names it"),
), since=V1_4, doc="map a buffer of the device into the shared memory region")
RESP_MMAP = Struct("virtio_media_resp_mmap", "5.22.6.1.6", (
    Field("hdr", RESP_HEADER, "header", access=W),
    Field("driver_addr", le64, "offset in the shared memory region", access=W),
    Field("len", le64, "length of the buffer", access=W),
), since=V1_4, doc="a buffer was mapped")
CMD_MUNMAP = Struct("virtio_media_cmd_munmap", "5.22.6.1.7", (
    Field("hdr", CMD_HEADER, "header"),
    Field("driver_addr", le64, "offset in the shared memory region"),
), since=V1_4, doc="unmap a buffer")
RESP_MUNMAP = Struct("virtio_media_resp_munmap", "5.22.6.1.7", (
    Field("hdr", RESP_HEADER, "header", access=W),
), since=V1_4, doc="a buffer was unmapped")
EVENT_HEADER = Struct("virtio_media_event_header", "5.22.6.2.1", (
    Field("event", le32, "VIRTIO_MEDIA_EVT_*", access=W),
    Field("session_id", le32, "the session", access=W),
), since=V1_4, doc="starts every event")
EVENT_ERROR = Struct("virtio_media_event_error", "5.22.6.2.2", (
    Field("hdr", EVENT_HEADER, "header", access=W),
    Field("errno", le32, "Linux error number", access=W),
    Field("__reserved", le32, "unused", access=W),
), since=V1_4, doc="a session is lost; the driver closes it")
EVENT_DQBUF = Struct("virtio_media_event_dqbuf", "5.22.6.2.3", (
    Field("hdr", EVENT_HEADER, "header", access=W),
    Field("buffer", u8[88], "struct v4l2_buffer; its pointers mean nothing", access=W),
    Field("planes", u8[64][8], "VIRTIO_MEDIA_MAX_PLANES times struct v4l2_plane", access=W),
), since=V1_4, doc="a buffer comes back, as by VIDIOC_DQBUF")
EVENT_EVENT = Struct("virtio_media_event_event", "5.22.6.2.4", (
    Field("hdr", EVENT_HEADER, "header", access=W),
    Field("event", u8[136], "struct v4l2_event", access=W),
), since=V1_4, doc="a V4L2 event, as by VIDIOC_DQEVENT")
CMD = Codes(
    "command", "VIRTIO_MEDIA_CMD_", "5.22.6.1.1",
    Code(1, "VIRTIO_MEDIA_CMD_OPEN", "open a session"),
    Code(2, "VIRTIO_MEDIA_CMD_CLOSE", "close a session"),
    Code(3, "VIRTIO_MEDIA_CMD_IOCTL", "run an ioctl"),
    Code(4, "VIRTIO_MEDIA_CMD_MMAP", "map a buffer"),
    Code(5, "VIRTIO_MEDIA_CMD_MUNMAP", "unmap a buffer"),
    since=V1_4,
)
MMAP_FLAGS = Codes(
    "flag of a mapping", "VIRTIO_MEDIA_MMAP_FLAG_", "5.22.6.1.6",
    Code(1, "VIRTIO_MEDIA_MMAP_FLAG_RW", "may be written too"),
    since=V1_4, flags=True,
)
# The values are those of V4L2.
MEMORY = Codes(
    "memory type", "VIRTIO_MEDIA_", "5.22.6.1.8",
    Code(1, "VIRTIO_MEDIA_MMAP", "the device's memory (V4L2_MEMORY_MMAP)"),
    Code(2, "VIRTIO_MEDIA_SHARED_PAGES", "the driver's memory (V4L2_MEMORY_USERPTR)"),
    Code(4, "VIRTIO_MEDIA_OBJECT", "a virtio object, named by its UUID (V4L2_MEMORY_DMABUF)"),
    since=V1_4,
)
EVT = Codes(
    "event", "VIRTIO_MEDIA_EVT_", "5.22.6.2.1",
    Code(0, "VIRTIO_MEDIA_EVT_ERROR", "a session is lost"),
    Code(1, "VIRTIO_MEDIA_EVT_DQBUF", "a buffer comes back"),
    Code(2, "VIRTIO_MEDIA_EVT_EVENT", "a V4L2 event"),
    since=V1_4,
)
LIMITS = Codes(
    "limit", "VIRTIO_MEDIA_MAX_", "5.22.6.2.3",
    Code(8, "VIRTIO_MEDIA_MAX_PLANES", "planes in a buffer"),
    since=V1_4,
)
# fmt: on

DEVICE = DeviceType(
    id=48,
    name="media",
    title="Media Device",
    section="5.22",
    since=V1_4,
    doc="cameras and codecs, by the V4L2 interface of Linux",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "commandq", "commands", "5.22.6.1", "commands of the driver", since=V1_4),
        Queue(1, "eventq", "events", "5.22.6.2", "buffers that the device fills with events", since=V1_4),
    ),
    structs=(
        CMD_HEADER,
        RESP_HEADER,
        CMD_OPEN,
        RESP_OPEN,
        CMD_CLOSE,
        CMD_IOCTL,
        RESP_IOCTL,
        SG_ENTRY,
        CMD_MMAP,
        RESP_MMAP,
        CMD_MUNMAP,
        RESP_MUNMAP,
        EVENT_HEADER,
        EVENT_ERROR,
        EVENT_DQBUF,
        EVENT_EVENT,
    ),
    codes=(CMD, MMAP_FLAGS, MEMORY, EVT, LIMITS),
    shared_memory=(
        SharedMemory(
            0, "mmap", "5.22.6.1.6", "buffers of the device, mapped by VIRTIO_MEDIA_CMD_MMAP", since=V1_4
        ),
    ),
)
