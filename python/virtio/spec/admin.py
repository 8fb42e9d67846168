"""Device groups and administration commands (2.12), administration virtqueues (2.13), device parts (2.14)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import V1_3, V1_4, Code, Codes, Field, Struct, Union, W, le16, le32, le64, rest, u8

# fmt: off
CMD = Struct("virtio_admin_cmd", "2.12.1", (
    Field("opcode", le16, "administration command"),
    Field("group_type", le16, "group type"),
    Field("reserved1", u8[12]),
    Field("group_member_id", le64, "which member of the group"),
    Field("command_specific_data", u8["data_length"]),
    Field("status", le16, "status", access=W),
    Field("status_qualifier", le16, "status qualifier", access=W),
    Field("reserved2", u8[4], access=W),
    Field("command_specific_result", u8[rest], access=W),
), since=V1_3)
CMD_LIST = Struct("virtio_admin_cmd_list", "2.12.1", (
    Field("device_admin_cmd_opcodes", le64[rest], "one bit per opcode"),
), since=V1_3)

# --- legacy interface of members (2.12.1.1) ---
LEGACY_COMMON_WR = Struct("virtio_admin_cmd_legacy_common_cfg_wr_data", "2.12.1.1.1", (
    Field("offset", u8), Field("reserved", u8[7]), Field("data", u8[rest]),
), since=V1_3)
LEGACY_COMMON_RD = Struct("virtio_admin_cmd_legacy_common_cfg_rd_data", "2.12.1.1.2", (Field("offset", u8),), since=V1_3)
LEGACY_COMMON_RD_RESULT = Struct("virtio_admin_cmd_legacy_common_cfg_rd_result", "2.12.1.1.2", (
    Field("data", u8[rest], access=W),
), since=V1_3)
LEGACY_DEV_WR = Struct("virtio_admin_cmd_legacy_dev_reg_wr_data", "2.12.1.1.3", (
    Field("offset", u8), Field("reserved", u8[7]), Field("data", u8[rest]),
), since=V1_3)
LEGACY_DEV_RD = Struct("virtio_admin_cmd_legacy_dev_cfg_rd_data", "2.12.1.1.4", (Field("offset", u8),), since=V1_3)
LEGACY_DEV_RD_RESULT = Struct("virtio_admin_cmd_legacy_dev_reg_rd_result", "2.12.1.1.4", (
    Field("data", u8[rest], access=W),
), since=V1_3)
LEGACY_NOTIFY = Struct("virtio_pci_legacy_notify_info", "2.12.1.1.5", (
    Field("flags", u8, "whose BAR", access=W),
    Field("bar", u8, access=W),
    Field("padding", u8[6], access=W),
    Field("offset", le64, "where in the BAR", access=W),
), since=V1_3)
LEGACY_NOTIFY_RESULT = Struct("virtio_admin_cmd_legacy_notify_info_result", "2.12.1.1.5", (
    Field("entries", LEGACY_NOTIFY[4], access=W),
), since=V1_3)

# --- capabilities (2.12.1.2) ---
CAP_ID_RESULT = Struct("virtio_admin_cmd_query_cap_id_result", "2.12.1.2.1", (
    Field("supported_caps", le64[rest], "one bit per capability", access=W),
), since=V1_4)
CAP_GET = Struct("virtio_admin_cmd_cap_get_data", "2.12.1.2.2", (
    Field("id", le16, "capability"), Field("reserved", u8[6]),
), since=V1_4)
CAP_GET_RESULT = Struct("virtio_admin_cmd_cap_get_result", "2.12.1.2.2", (
    Field("cap_specific_data", u8[rest], access=W),
), since=V1_4)
CAP_SET = Struct("virtio_admin_cmd_cap_set_data", "2.12.1.2.3", (
    Field("id", le16, "capability"), Field("reserved", u8[6]), Field("cap_specific_data", u8[rest]),
), since=V1_4)

# --- resource objects (2.12.1.3) ---
OBJ_HDR = Struct("virtio_admin_cmd_resource_obj_cmd_hdr", "2.12.1.3", (
    Field("type", le16, "resource object type"),
    Field("reserved", u8[2]),
    Field("id", le32, "unique per type"),
), since=V1_4)
OBJ_CREATE = Struct("virtio_admin_cmd_resource_obj_create_data", "2.12.1.3.1", (
    Field("hdr", OBJ_HDR), Field("flags", le64), Field("resource_obj_specific_data", u8[rest]),
), since=V1_4)
OBJ_MODIFY = Struct("virtio_admin_cmd_resource_modify_data", "2.12.1.3.2", (
    Field("hdr", OBJ_HDR), Field("flags", le64), Field("resource_obj_specific_data", u8[rest]),
), since=V1_4)
OBJ_QUERY = Struct("virtio_admin_cmd_resource_obj_query_data", "2.12.1.3.3", (
    Field("hdr", OBJ_HDR), Field("flags", le64),
), since=V1_4)
OBJ_QUERY_RESULT = Struct("virtio_admin_cmd_resource_obj_query_result", "2.12.1.3.3", (
    Field("resource_obj_specific_result", u8[rest], access=W),
), since=V1_4)

# --- device parts (2.14) and the commands about them (2.12.1.4) ---
PART_HDR = Struct("virtio_dev_part_hdr", "2.14", (
    Field("part_type", le16, "part type"),
    Field("flags", u8, "part flags"),
    Field("reserved", u8),
    Field("selector", Union("selector", (
        Field("pci_common_cfg", Struct("pci_common_cfg", "2.14", (Field("offset", le32), Field("reserved", le32)), since=V1_4)),
        Field("vq_index", Struct("vq_index", "2.14", (Field("index", le16), Field("reserved", u8[6])), since=V1_4)),
        Field("device_type_raw", u8[8]),
    )), "which one of several parts"),
    Field("length", le32, "bytes of the value"),
), since=V1_4)
PART = Struct("virtio_dev_part", "2.14", (
    Field("hdr", PART_HDR),
    Field("value", u8["length"], "hdr.length bytes"),
), since=V1_4, doc="to be read with counts={'length': hdr.length}")
PART_FEATURES = Struct("virtio_dev_part_features", "2.14.1.1", (Field("feature_bits", le64[rest]),), since=V1_4)
PART_VQ_CFG = Struct("virtio_dev_part_vq_cfg", "2.14.1.5", (
    Field("queue_size", le16),
    Field("vector", le16),
    Field("enabled", le16),
    Field("reserved", le16),
    Field("queue_desc", le64),
    Field("queue_driver", le64),
    Field("queue_device", le64),
), since=V1_4)
PART_VQ_NOTIFY = Struct("virtio_dev_part_vq_notify_data", "2.14.1.6", (
    Field("queue_notify_off", le16),
    Field("queue_notif_config_data", le16),
    Field("reserved", u8[4]),
), since=V1_4)
PARTS_CAP = Struct("virtio_dev_parts_cap", "2.12.1.4.1", (
    Field("get_parts_resource_objects_limit", u8),
    Field("set_parts_resource_objects_limit", u8),
), since=V1_4)
PARTS_OBJ = Struct("virtio_resource_obj_dev_parts", "2.12.1.4.2", (
    Field("type", u8, "use of the object"), Field("reserved", u8[7]),
), since=V1_4)
METADATA = Struct("virtio_admin_cmd_dev_parts_metadata_data", "2.12.1.4.3.1", (
    Field("hdr", OBJ_HDR), Field("type", u8, "metadata"), Field("reserved", u8[7]),
), since=V1_4)
METADATA_SIZE = Struct("parts_size", "2.12.1.4.3.1", (
    Field("size", le32, access=W), Field("reserved", le32, access=W),
), since=V1_4)
METADATA_COUNT = Struct("hdr_list_count", "2.12.1.4.3.1", (
    Field("count", le32, access=W), Field("reserved", le32, access=W),
), since=V1_4)
METADATA_LIST = Struct("hdr_list", "2.12.1.4.3.1", (
    Field("count", le32, access=W), Field("reserved", le32, access=W), Field("hdrs", PART_HDR["count"], access=W),
), since=V1_4)
METADATA_RESULT = Struct("virtio_admin_cmd_dev_parts_metadata_result", "2.12.1.4.3.1", (
    Field("u", Union("", (
        Field("parts_size", METADATA_SIZE),
        Field("hdr_list_count", METADATA_COUNT),
        Field("hdr_list", METADATA_LIST),
    )), access=W),
), since=V1_4)
PARTS_GET = Struct("virtio_admin_cmd_dev_parts_get_data", "2.12.1.4.3.2", (
    Field("hdr", OBJ_HDR),
    Field("type", u8, "which parts"),
    Field("reserved", u8[7]),
    Field("hdr_list", PART_HDR[rest]),
), since=V1_4)
# A part is as long as its own header says, so what holds several is read part by part.
PARTS_GET_RESULT = Struct("virtio_admin_cmd_dev_parts_get_result", "2.12.1.4.3.2", (
    Field("parts", u8[rest], "struct virtio_dev_part, one after another", access=W),
), since=V1_4)
PARTS_SET = Struct("virtio_admin_cmd_dev_parts_set_data", "2.12.1.4.3.3", (
    Field("hdr", OBJ_HDR), Field("parts", u8[rest], "struct virtio_dev_part, one after another"),
), since=V1_4)
MODE_SET = Struct("virtio_admin_cmd_dev_mode_set_data", "2.12.1.4.3.4", (Field("flags", u8, "mode flag bits"),), since=V1_4)

OPCODE = Codes(
    "administration command", "VIRTIO_ADMIN_CMD_", "2.12.1",
    Code(0x0000, "VIRTIO_ADMIN_CMD_LIST_QUERY", "which commands there are"),
    Code(0x0001, "VIRTIO_ADMIN_CMD_LIST_USE", "which commands will be used"),
    Code(0x0002, "VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE"),
    Code(0x0003, "VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ"),
    Code(0x0004, "VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE"),
    Code(0x0005, "VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ"),
    Code(0x0006, "VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO", "where to notify a member"),
    Code(0x0007, "VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY", "which capabilities there are", V1_4),
    Code(0x0008, "VIRTIO_ADMIN_CMD_DEVICE_CAP_GET", "a capability of the device", V1_4),
    Code(0x0009, "VIRTIO_ADMIN_CMD_DRIVER_CAP_SET", "what of it the driver uses", V1_4),
    Code(0x000A, "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE", since=V1_4),
    Code(0x000B, "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY", since=V1_4),
    Code(0x000C, "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY", since=V1_4),
    Code(0x000D, "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY", since=V1_4),
    Code(0x000E, "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET", since=V1_4),
    Code(0x000F, "VIRTIO_ADMIN_CMD_DEV_PARTS_GET", since=V1_4),
    Code(0x0010, "VIRTIO_ADMIN_CMD_DEV_PARTS_SET", since=V1_4),
    Code(0x0011, "VIRTIO_ADMIN_CMD_DEV_MODE_SET", "stop or resume", V1_4),
    since=V1_3,
)
GROUP = Codes(
    "group type", "GROUP_", "2.12",
    Code(0, "GROUP_SELF", "the device itself", V1_4),
    Code(1, "GROUP_SR_IOV", "the virtual functions of a PCI device"),
    since=V1_3,
)
STATUS = Codes(
    "status", "VIRTIO_ADMIN_STATUS_", "2.12.1",
    Code(0, "VIRTIO_ADMIN_STATUS_OK", "done"),
    Code(6, "VIRTIO_ADMIN_STATUS_ENXIO", "no such capability or object", V1_4),
    Code(11, "VIRTIO_ADMIN_STATUS_EAGAIN", "try again"),
    Code(12, "VIRTIO_ADMIN_STATUS_ENOMEM", "not enough resources"),
    Code(16, "VIRTIO_ADMIN_STATUS_EBUSY", "busy", V1_4),
    Code(22, "VIRTIO_ADMIN_STATUS_EINVAL", "not valid"),
    Code(28, "VIRTIO_ADMIN_STATUS_ENOSPC", "the device has no more", V1_4),
    since=V1_3,
)
QUALIFIER = Codes(
    "status qualifier", "VIRTIO_ADMIN_STATUS_Q_", "2.12.1",
    Code(0, "VIRTIO_ADMIN_STATUS_Q_OK"),
    Code(1, "VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND", "nothing more is known"),
    Code(2, "VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE"),
    Code(3, "VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD"),
    Code(4, "VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP"),
    Code(5, "VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER"),
    Code(6, "VIRTIO_ADMIN_STATUS_Q_NORESOURCE", "may be tried again"),
    Code(7, "VIRTIO_ADMIN_STATUS_Q_TRYAGAIN", "should be tried again"),
    since=V1_3,
)
NOTIFY_FLAGS = Codes(
    "whose BAR", "NOTIFY_INFO_", "2.12.1.1.5",
    Code(0, "NOTIFY_INFO_END", "the list ends"),
    Code(1, "NOTIFY_INFO_OWNER"),
    Code(2, "NOTIFY_INFO_MEMBER"),
    since=V1_3,
)
CAPABILITY = Codes(
    "capability", "VIRTIO_DEV_PARTS_", "2.12.1.2",
    Code(0x0000, "VIRTIO_DEV_PARTS_CAP", "device parts"),
    since=V1_4,
)
RESOURCE_OBJ = Codes(
    "resource object type", "VIRTIO_RESOURCE_OBJ_", "2.12.1.3",
    Code(0x000, "VIRTIO_RESOURCE_OBJ_DEV_PARTS", "device parts"),
    since=V1_4,
)
PARTS_OBJ_TYPE = Codes(
    "use of the object", "VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_", "2.12.1.4.2",
    Code(0, "VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_GET"),
    Code(1, "VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_SET"),
    since=V1_4,
)
METADATA_TYPE = Codes(
    "metadata", "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_", "2.12.1.4.3.1",
    Code(0, "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_SIZE"),
    Code(1, "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_COUNT"),
    Code(2, "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_LIST"),
    since=V1_4,
)
PARTS_GET_TYPE = Codes(
    "which parts", "VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_", "2.12.1.4.3.2",
    Code(0, "VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_SELECTED"),
    Code(1, "VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_ALL"),
    since=V1_4,
)
# Both flags are bit numbers in the standard.
MODE_BIT = Codes("mode flag bits", "VIRTIO_ADMIN_CMD_DEV_MODE_F_", "2.12.1.4.3.4", Code(0, "VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED"), since=V1_4)
PART_BIT = Codes("part flag bits", "VIRTIO_DEV_PART_F_", "2.14", Code(0, "VIRTIO_DEV_PART_F_OPTIONAL"), since=V1_4)
PART_TYPE = Codes(
    "part type", "VIRTIO_DEV_PART_", "2.14.1",
    Code(0x100, "VIRTIO_DEV_PART_DEV_FEATURES", "features offered"),
    Code(0x101, "VIRTIO_DEV_PART_DRV_FEATURES", "features accepted"),
    Code(0x102, "VIRTIO_DEV_PART_PCI_COMMON_CFG", "a field of the common configuration"),
    Code(0x103, "VIRTIO_DEV_PART_DEVICE_STATUS", "device status"),
    Code(0x104, "VIRTIO_DEV_PART_VQ_CFG", "configuration of a queue"),
    Code(0x105, "VIRTIO_DEV_PART_VQ_NOTIFY_CFG", "notifications of a queue"),
    since=V1_4,
)
# fmt: on

STRUCTS = tuple(value for value in list(globals().values()) if isinstance(value, Struct))
CODES = tuple(value for value in list(globals().values()) if isinstance(value, Codes))
