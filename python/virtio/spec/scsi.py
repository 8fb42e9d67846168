"""SCSI host device (5.6)."""

from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_0,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Repeat,
    Struct,
    W,
    le16,
    le32,
    le64,
    rest,
    u8,
)

SENSE_SIZE = 96
CDB_SIZE = 32

# fmt: off
F = Features(
    "VIRTIO_SCSI_F_",
    Feature(0, "VIRTIO_SCSI_F_INOUT", V1_0, "5.6.3", "a request may carry data both ways"),
    Feature(1, "VIRTIO_SCSI_F_HOTPLUG", V1_0, "5.6.3", "events tell of units that come and go"),
    Feature(2, "VIRTIO_SCSI_F_CHANGE", V1_0, "5.6.3", "events tell of units that change"),
    Feature(3, "VIRTIO_SCSI_F_T10_PI", V1_0, "5.6.3", "requests carry T10 protection information"),
)

CONFIG = Struct("virtio_scsi_config", "5.6.4", (
    Field("num_queues", le32, "request queues"),
    Field("seg_max", le32, "most segments of a command"),
    Field("max_sectors", le32, "a hint: largest transfer"),
    Field("cmd_per_lun", le32, "most linked commands for a unit"),
    Field("event_info_size", le32, "most bytes of an event"),
    Field("sense_size", le32, "most bytes of sense data, 96 after reset", access=RW),
    Field("cdb_size", le32, "most bytes of a command, 32 after reset", access=RW),
    Field("max_channel", le16, "a hint for scanning"),
    Field("max_target", le16, "a hint for scanning"),
    Field("max_lun", le32, "a hint for scanning"),
))

PI = "VIRTIO_SCSI_F_T10_PI"
REQ_CMD = Struct("virtio_scsi_req_cmd", "5.6.6.1", (
    Field("lun", u8[8], "1, target, unit in two bytes, zeros"),
    Field("id", le64, "names the command in later ones"),
    Field("task_attr", u8, "task attribute"),
    Field("prio", u8),
    Field("crn", u8),
    Field("cdb", u8["cdb_size"], "the command"),
    Field("pi_bytesout", le32, "", PI),
    Field("pi_bytesin", le32, "", PI),
    Field("pi_out", u8["pi_bytesout"], "protection information to the device", PI),
    Field("dataout", u8["dataout_length"], "data to the device"),
    Field("sense_len", le32, "bytes of sense that count", access=W),
    Field("residual", le32, "bytes not transferred", access=W),
    Field("status_qualifier", le16, access=W),
    Field("status", u8, "SCSI status", access=W),
    Field("response", u8, "response", access=W),
    Field("sense", u8["sense_size"], access=W),
    Field("pi_in", u8["pi_bytesin"], "protection information from the device", PI, W),
    Field("datain", u8[rest], "data from the device", access=W),
))
CTRL_TMF = Struct("virtio_scsi_ctrl_tmf", "5.6.6.2", (
    Field("type", le32, "control request: TMF"),
    Field("subtype", le32, "task management function"),
    Field("lun", u8[8]),
    Field("id", le64, "the command meant"),
    Field("response", u8, "response", access=W),
))
CTRL_AN = Struct("virtio_scsi_ctrl_an", "5.6.6.2", (
    Field("type", le32, "control request: AN_QUERY or AN_SUBSCRIBE"),
    Field("lun", u8[8]),
    Field("event_requested", le32, "asynchronous events"),
    Field("event_actual", le32, "asynchronous events", access=W),
    Field("response", u8, "response", access=W),
))
EVENT = Struct("virtio_scsi_event", "5.6.6.3", (
    Field("event", le32, "event", access=W),
    Field("lun", u8[8], access=W),
    Field("reason", le32, "depends on the event", access=W),
))

S = Codes(
    "response", "VIRTIO_SCSI_S_", "5.6.6.1",
    Code(0, "VIRTIO_SCSI_S_OK", "done; see status"),
    Code(1, "VIRTIO_SCSI_S_OVERRUN", "the command wants more data than there is room for"),
    Code(2, "VIRTIO_SCSI_S_ABORTED", "cancelled on request"),
    Code(3, "VIRTIO_SCSI_S_BAD_TARGET", "no such target"),
    Code(4, "VIRTIO_SCSI_S_RESET", "cancelled by a reset"),
    Code(5, "VIRTIO_SCSI_S_BUSY", "try again"),
    Code(6, "VIRTIO_SCSI_S_TRANSPORT_FAILURE", "on the way to the target"),
    Code(7, "VIRTIO_SCSI_S_TARGET_FAILURE", "do not try other paths"),
    Code(8, "VIRTIO_SCSI_S_NEXUS_FAILURE", "try other paths"),
    Code(9, "VIRTIO_SCSI_S_FAILURE", "anything else"),
    Code(10, "VIRTIO_SCSI_S_FUNCTION_SUCCEEDED", "of a task management function"),
    Code(11, "VIRTIO_SCSI_S_FUNCTION_REJECTED", "of a task management function"),
    Code(12, "VIRTIO_SCSI_S_INCORRECT_LUN", "no such unit"),
    Code(0, "VIRTIO_SCSI_S_FUNCTION_COMPLETE", "of a task management function"),
)
TASK = Codes(
    "task attribute", "VIRTIO_SCSI_S_", "5.6.6.1",
    Code(0, "VIRTIO_SCSI_S_SIMPLE"),
    Code(1, "VIRTIO_SCSI_S_ORDERED"),
    Code(2, "VIRTIO_SCSI_S_HEAD"),
    Code(3, "VIRTIO_SCSI_S_ACA"),
)
T = Codes(
    "control request", "VIRTIO_SCSI_T_", "5.6.6.2",
    Code(0, "VIRTIO_SCSI_T_TMF", "task management function"),
    Code(1, "VIRTIO_SCSI_T_AN_QUERY", "which asynchronous events can be reported"),
    Code(2, "VIRTIO_SCSI_T_AN_SUBSCRIBE", "report these"),
)
TMF = Codes(
    "task management function", "VIRTIO_SCSI_T_TMF_", "5.6.6.2",
    Code(0, "VIRTIO_SCSI_T_TMF_ABORT_TASK"),
    Code(1, "VIRTIO_SCSI_T_TMF_ABORT_TASK_SET"),
    Code(2, "VIRTIO_SCSI_T_TMF_CLEAR_ACA"),
    Code(3, "VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET"),
    Code(4, "VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET"),
    Code(5, "VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET"),
    Code(6, "VIRTIO_SCSI_T_TMF_QUERY_TASK"),
    Code(7, "VIRTIO_SCSI_T_TMF_QUERY_TASK_SET"),
)
ASYNC = Codes(
    "asynchronous events", "VIRTIO_SCSI_EVT_ASYNC_", "5.6.6.2",
    Code(2, "VIRTIO_SCSI_EVT_ASYNC_OPERATIONAL_CHANGE"),
    Code(4, "VIRTIO_SCSI_EVT_ASYNC_POWER_MGMT"),
    Code(8, "VIRTIO_SCSI_EVT_ASYNC_EXTERNAL_REQUEST"),
    Code(16, "VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE"),
    Code(32, "VIRTIO_SCSI_EVT_ASYNC_MULTI_HOST"),
    Code(64, "VIRTIO_SCSI_EVT_ASYNC_DEVICE_BUSY"),
    flags=True,
)
EVENT_T = Codes(
    "event", "VIRTIO_SCSI_T_", "5.6.6.3",
    Code(0, "VIRTIO_SCSI_T_NO_EVENT"),
    Code(1, "VIRTIO_SCSI_T_TRANSPORT_RESET", "a unit came, went or was reset"),
    Code(2, "VIRTIO_SCSI_T_ASYNC_NOTIFY", "an asynchronous event"),
    Code(3, "VIRTIO_SCSI_T_PARAM_CHANGE", "a unit has changed"),
    Code(0x80000000, "VIRTIO_SCSI_T_EVENTS_MISSED", "a flag: there were more"),
)
RESET = Codes(
    "reason of TRANSPORT_RESET", "VIRTIO_SCSI_EVT_RESET_", "5.6.6.3",
    Code(0, "VIRTIO_SCSI_EVT_RESET_HARD", "the unit was reset"),
    Code(1, "VIRTIO_SCSI_EVT_RESET_RESCAN", "a unit came"),
    Code(2, "VIRTIO_SCSI_EVT_RESET_REMOVED", "a unit went"),
)
QUEUES = (
    Queue(0, "controlq", "control", "5.6.2", "task management and subscriptions"),
    Queue(1, "eventq", "events", "5.6.2", "buffers for events"),
    Queue(2, "requestq", "requests", "5.6.2", "commands", repeat=Repeat("num_queues")),
)
# fmt: on

DEVICE = DeviceType(
    id=8,
    name="scsi",
    title="SCSI Host Device",
    section="5.6",
    since=V1_0,
    doc="carries SCSI commands to logical units",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(REQ_CMD, CTRL_TMF, CTRL_AN, EVENT),
    codes=(S, TASK, T, TMF, ASYNC, EVENT_T, RESET),
)
