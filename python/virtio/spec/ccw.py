"""Virtio over channel I/O (4.3): channel commands and what they carry."""

from __future__ import annotations

from virtio.spec.model import LEGACY, V1_1, Code, Codes, Field, Struct, be16, be32, be64, le32, rest, u8

CONTROL_UNIT_TYPE = 0x3832
# The function that a diagnose instruction notifies the host with.
NOTIFY_SUBCODE = 3

# fmt: off
REV_INFO = Struct("virtio_rev_info", "4.3.2.1", (
    Field("revision", be16, "revision"),
    Field("length", be16, "bytes of data"),
    Field("data", u8[rest]),
))
VQ_CONFIG = Struct("vq_config_block", "4.3.2.2", (
    Field("index", be16, "queue"),
    Field("max_queue_size", be16, "most entries"),
))
VQ_INFO = Struct("vq_info_block", "4.3.2.2", (
    Field("desc", be64, "address of the descriptor area"),
    Field("res0", be32),
    Field("index", be16, "queue"),
    Field("size", be16, "entries"),
    Field("driver", be64, "address of the driver area"),
    Field("device", be64, "address of the device area"),
))
VQ_INFO_LEGACY = Struct("vq_info_block_legacy", "4.3.2.2.2", (
    Field("queue", be64, "address of the queue"),
    Field("align", be32, "alignment in bytes"),
    Field("index", be16, "queue"),
    Field("size", be16, "entries"),
), since=LEGACY)
FEATURE_DESC = Struct("virtio_feature_desc", "4.3.2.4", (
    Field("features", le32, "32 feature bits"),
    Field("index", u8, "which 32 bits"),
))
THININT_AREA = Struct("virtio_thinint_area", "4.3.2.6.3", (
    Field("summary_indicator", be64, "address"),
    Field("indicator", be64, "address"),
    Field("bit_nr", be64, "first bit of the device there"),
    Field("isc", u8, "interruption subclass"),
))

CMD = Codes(
    "channel command", "CCW_CMD_", "4.3.1.1",
    Code(0x11, "CCW_CMD_WRITE_FEAT", "features that the driver accepts"),
    Code(0x12, "CCW_CMD_READ_FEAT", "features that the device offers"),
    Code(0x13, "CCW_CMD_SET_VQ", "where a queue is"),
    Code(0x21, "CCW_CMD_WRITE_CONF", "write the configuration"),
    Code(0x22, "CCW_CMD_READ_CONF", "read the configuration"),
    Code(0x31, "CCW_CMD_WRITE_STATUS", "set the device status"),
    Code(0x32, "CCW_CMD_READ_VQ_CONF", "size of a queue"),
    Code(0x33, "CCW_CMD_VDEV_RESET", "reset"),
    Code(0x43, "CCW_CMD_SET_IND", "where queue indicators are"),
    Code(0x53, "CCW_CMD_SET_CONF_IND", "where configuration indicators are"),
    Code(0x72, "CCW_CMD_READ_STATUS", "the device status (revision 2)", V1_1),
    Code(0x73, "CCW_CMD_SET_IND_ADAPTER", "where two-stage indicators are"),
    Code(0x83, "CCW_CMD_SET_VIRTIO_REV", "choose a revision"),
)
REVISION = Codes(
    "revision", "REVISION_", "4.3.2.1",
    Code(0, "REVISION_0", "legacy interface"),
    Code(1, "REVISION_1", "virtio 1"),
    Code(2, "REVISION_2", "with CCW_CMD_READ_STATUS", V1_1),
)
# fmt: on

STRUCTS = (REV_INFO, VQ_CONFIG, VQ_INFO, VQ_INFO_LEGACY, FEATURE_DESC, THININT_AREA)
CODES = (CMD, REVISION)
