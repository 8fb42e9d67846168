"""SCMI Device (5.17)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    SharedMemory,
    Struct,
    W,
    le32,
    rest,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_SCMI_F_",
    Feature(0, "VIRTIO_SCMI_F_P2A_CHANNELS", V1_2, "5.17.3", "notifications and delayed responses, on the event queue"),
    Feature(1, "VIRTIO_SCMI_F_SHARED_MEMORY", V1_2, "5.17.3", "statistics in shared memory regions"),
)

REQUEST = Struct("virtio_scmi_request", "5.17.6.1", (
    Field("hdr", le32, "header of the SCMI message"),
    Field("params", u8[rest], "its parameters"),
), since=V1_2, doc="a command")
RESPONSE = Struct("virtio_scmi_response", "5.17.6.1", (
    Field("hdr", le32, "header of the SCMI message", access=W),
    Field("ret_values", u8[rest], "its return values; the status alone if that is not SUCCESS", access=W),
), since=V1_2, doc="the response to a command")
EVENT_MSG = Struct("virtio_scmi_event_msg", "5.17.6.3", (
    Field("hdr", le32, "header of the SCMI message", access=W),
    Field("payload", u8[rest], "what it carries", access=W),
), since=V1_2, doc="a notification or a delayed response")
# fmt: on

DEVICE = DeviceType(
    id=32,
    name="scmi",
    title="SCMI Device",
    section="5.17",
    since=V1_2,
    doc="Arm's System Control and Management Interface",
    features=F,
    queues=(
        Queue(
            0, "cmdq", "commands", "5.17.6.1", "commands and, in the same buffer, their responses", since=V1_2
        ),
        Queue(
            1,
            "eventq",
            "events",
            "5.17.6.3",
            "buffers that the device fills with notifications and delayed responses",
            "VIRTIO_SCMI_F_P2A_CHANNELS",
            since=V1_2,
        ),
    ),
    structs=(REQUEST, RESPONSE, EVENT_MSG),
    shared_memory=(
        SharedMemory(
            1,
            "power-state-statistics",
            "5.17.6.4.1",
            "power state statistics",
            "VIRTIO_SCMI_F_SHARED_MEMORY",
            since=V1_2,
        ),
        SharedMemory(
            2,
            "performance-statistics",
            "5.17.6.4.1",
            "performance domain statistics",
            "VIRTIO_SCMI_F_SHARED_MEMORY",
            since=V1_2,
        ),
        SharedMemory(
            3, "sensor-values", "5.17.6.4.1", "sensor values", "VIRTIO_SCMI_F_SHARED_MEMORY", since=V1_2
        ),
    ),
)
