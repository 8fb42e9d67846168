"""GPU device (5.7)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_1,
    V1_2,
    V1_4,
    Code,
    Codes,
    DeviceType,
    Feature,
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

MAX_SCANOUTS = 16
CONTEXT_INIT_CAPSET_ID_MASK = 0xFF
MAP_CACHE_MASK = 0x0F

# fmt: off
F = Features(
    "VIRTIO_GPU_F_",
    Feature(0, "VIRTIO_GPU_F_VIRGL", V1_1, "5.7.3", "3D commands"),
    Feature(1, "VIRTIO_GPU_F_EDID", V1_1, "5.7.3", "displays have EDID data"),
    Feature(2, "VIRTIO_GPU_F_RESOURCE_UUID", V1_2, "5.7.3", "resources can be exported by UUID"),
    Feature(3, "VIRTIO_GPU_F_RESOURCE_BLOB", V1_2, "5.7.3", "resources with a size but no format"),
    Feature(4, "VIRTIO_GPU_F_CONTEXT_INIT", V1_2, "5.7.3", "kinds of contexts, several timelines", ("VIRTIO_GPU_F_VIRGL",)),
    Feature(5, "VIRTIO_GPU_F_BLOB_ALIGNMENT", V1_4, "5.7.3", "blob_alignment is valid", ("VIRTIO_GPU_F_RESOURCE_BLOB",)),
)

CONFIG = Struct("virtio_gpu_config", "5.7.4", (
    Field("events_read", le32, "pending events"),
    Field("events_clear", le32, "events to clear", access=RW),
    Field("num_scanouts", le32, "most displays, up to 16"),
    Field("num_capsets", le32, "capability sets", since=V1_2),
    Field("blob_alignment", le32, "bytes that blobs are aligned to", "VIRTIO_GPU_F_BLOB_ALIGNMENT", since=V1_4),
), since=V1_1)

HDR = Struct("virtio_gpu_ctrl_hdr", "5.7.6.7", (
    Field("type", le32, "command or response"),
    Field("flags", le32, "header flags"),
    Field("fence_id", le64, "comes back when the command is done"),
    Field("ctx_id", le32, "rendering context"),
    Field("ring_idx", u8, "timeline of the context", "VIRTIO_GPU_F_CONTEXT_INIT", since=V1_2),
    Field("padding", u8[3]),
), since=V1_1)
RECT = Struct("virtio_gpu_rect", "5.7.6.8", (
    Field("x", le32),
    Field("y", le32),
    Field("width", le32),
    Field("height", le32),
), since=V1_1)
REQUEST = Field("hdr", HDR)
RESPONSE = Field("hdr", HDR, access=W)
PADDING = Field("padding", le32)
RESOURCE = Field("resource_id", le32)

DISPLAY_ONE = Struct("virtio_gpu_display_one", "5.7.6.8", (
    Field("r", RECT, access=W),
    Field("enabled", le32, access=W),
    Field("flags", le32, access=W),
), since=V1_1)
RESP_DISPLAY_INFO = Struct("virtio_gpu_resp_display_info", "5.7.6.8", (
    RESPONSE,
    Field("pmodes", DISPLAY_ONE[MAX_SCANOUTS], access=W),
), since=V1_1)
GET_EDID = Struct("virtio_gpu_get_edid", "5.7.6.8", (REQUEST, Field("scanout", le32), PADDING), since=V1_1)
RESP_EDID = Struct("virtio_gpu_resp_edid", "5.7.6.8", (
    RESPONSE,
    Field("size", le32, "bytes of edid that count", access=W),
    Field("padding", le32, access=W),
    Field("edid", u8[1024], access=W),
), since=V1_1)
RESOURCE_CREATE_2D = Struct("virtio_gpu_resource_create_2d", "5.7.6.8", (
    REQUEST,
    RESOURCE,
    Field("format", le32, "pixel format"),
    Field("width", le32),
    Field("height", le32),
), since=V1_1)
RESOURCE_UNREF = Struct("virtio_gpu_resource_unref", "5.7.6.8", (REQUEST, RESOURCE, PADDING), since=V1_1)
SET_SCANOUT = Struct("virtio_gpu_set_scanout", "5.7.6.8", (
    REQUEST,
    Field("r", RECT),
    Field("scanout_id", le32),
    Field("resource_id", le32, "0: switch it off"),
), since=V1_1)
RESOURCE_FLUSH = Struct("virtio_gpu_resource_flush", "5.7.6.8", (
    REQUEST, Field("r", RECT), RESOURCE, PADDING,
), since=V1_1)
TRANSFER_TO_HOST_2D = Struct("virtio_gpu_transfer_to_host_2d", "5.7.6.8", (
    REQUEST,
    Field("r", RECT),
    Field("offset", le64),
    RESOURCE,
    PADDING,
), since=V1_1)
MEM_ENTRY = Struct("virtio_gpu_mem_entry", "5.7.6.8", (
    Field("addr", le64, "guest-physical address"),
    Field("length", le32, "bytes"),
    PADDING,
), since=V1_1)
RESOURCE_ATTACH_BACKING = Struct("virtio_gpu_resource_attach_backing", "5.7.6.8", (
    REQUEST,
    RESOURCE,
    Field("nr_entries", le32, "struct virtio_gpu_mem_entry that follow"),
), since=V1_1)
RESOURCE_DETACH_BACKING = Struct("virtio_gpu_resource_detach_backing", "5.7.6.8", (REQUEST, RESOURCE, PADDING), since=V1_1)
GET_CAPSET_INFO = Struct("virtio_gpu_get_capset_info", "5.7.6.8", (
    REQUEST, Field("capset_index", le32), PADDING,
), since=V1_2)
RESP_CAPSET_INFO = Struct("virtio_gpu_resp_capset_info", "5.7.6.8", (
    RESPONSE,
    Field("capset_id", le32, "capability set", access=W),
    Field("capset_max_version", le32, access=W),
    Field("capset_max_size", le32, access=W),
    Field("padding", le32, access=W),
), since=V1_2)
GET_CAPSET = Struct("virtio_gpu_get_capset", "5.7.6.8", (
    REQUEST, Field("capset_id", le32, "capability set"), Field("capset_version", le32),
), since=V1_2)
RESP_CAPSET = Struct("virtio_gpu_resp_capset", "5.7.6.8", (RESPONSE, Field("capset_data", u8[rest], access=W)), since=V1_2)
RESOURCE_ASSIGN_UUID = Struct("virtio_gpu_resource_assign_uuid", "5.7.6.8", (REQUEST, RESOURCE, PADDING), since=V1_2)
RESP_RESOURCE_UUID = Struct("virtio_gpu_resp_resource_uuid", "5.7.6.8", (RESPONSE, Field("uuid", u8[16], access=W)), since=V1_2)
RESOURCE_CREATE_BLOB = Struct("virtio_gpu_resource_create_blob", "5.7.6.8", (
    REQUEST,
    RESOURCE,
    Field("blob_mem", le32, "memory of a blob"),
    Field("blob_flags", le32, "use of a blob"),
    Field("nr_entries", le32, "struct virtio_gpu_mem_entry that follow"),
    Field("blob_id", le64),
    Field("size", le64, "bytes"),
), since=V1_2)
SET_SCANOUT_BLOB = Struct("virtio_gpu_set_scanout_blob", "5.7.6.8", (
    REQUEST,
    Field("r", RECT),
    Field("scanout_id", le32),
    RESOURCE,
    Field("width", le32),
    Field("height", le32),
    Field("format", le32, "pixel format"),
    PADDING,
    Field("strides", le32[4]),
    Field("offsets", le32[4]),
), since=V1_2)
CTX_CREATE = Struct("virtio_gpu_ctx_create", "5.7.6.9", (
    REQUEST,
    Field("nlen", le32, "bytes of debug_name"),
    Field("context_init", le32, "its lowest 8 bits are a capability set"),
    Field("debug_name", u8[64]),
), since=V1_2)
RESOURCE_MAP_BLOB = Struct("virtio_gpu_resource_map_blob", "5.7.6.9", (
    REQUEST, RESOURCE, PADDING, Field("offset", le64, "in the shared memory region"),
), since=V1_2)
RESP_MAP_INFO = Struct("virtio_gpu_resp_map_info", "5.7.6.9", (
    RESPONSE,
    Field("map_info", le32, "caching", access=W),
    Field("padding", le32, access=W),
), since=V1_2)
RESOURCE_UNMAP_BLOB = Struct("virtio_gpu_resource_unmap_blob", "5.7.6.9", (REQUEST, RESOURCE, PADDING), since=V1_2)
CURSOR_POS = Struct("virtio_gpu_cursor_pos", "5.7.6.10", (
    Field("scanout_id", le32), Field("x", le32), Field("y", le32), PADDING,
), since=V1_1)
UPDATE_CURSOR = Struct("virtio_gpu_update_cursor", "5.7.6.10", (
    REQUEST,
    Field("pos", CURSOR_POS),
    Field("resource_id", le32),
    Field("hot_x", le32),
    Field("hot_y", le32),
    PADDING,
), since=V1_1, doc="MOVE_CURSOR uses only the position")

CMD = Codes(
    "command", "VIRTIO_GPU_CMD_", "5.7.6.7",
    Code(0x0100, "VIRTIO_GPU_CMD_GET_DISPLAY_INFO"),
    Code(0x0101, "VIRTIO_GPU_CMD_RESOURCE_CREATE_2D"),
    Code(0x0102, "VIRTIO_GPU_CMD_RESOURCE_UNREF"),
    Code(0x0103, "VIRTIO_GPU_CMD_SET_SCANOUT"),
    Code(0x0104, "VIRTIO_GPU_CMD_RESOURCE_FLUSH"),
    Code(0x0105, "VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D"),
    Code(0x0106, "VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING"),
    Code(0x0107, "VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING"),
    Code(0x0108, "VIRTIO_GPU_CMD_GET_CAPSET_INFO"),
    Code(0x0109, "VIRTIO_GPU_CMD_GET_CAPSET"),
    Code(0x010A, "VIRTIO_GPU_CMD_GET_EDID"),
    Code(0x010B, "VIRTIO_GPU_CMD_RESOURCE_ASSIGN_UUID", since=V1_2),
    Code(0x010C, "VIRTIO_GPU_CMD_RESOURCE_CREATE_BLOB", since=V1_2),
    Code(0x010D, "VIRTIO_GPU_CMD_SET_SCANOUT_BLOB", since=V1_2),
    Code(0x0200, "VIRTIO_GPU_CMD_CTX_CREATE", since=V1_2),
    Code(0x0201, "VIRTIO_GPU_CMD_CTX_DESTROY", since=V1_2),
    Code(0x0202, "VIRTIO_GPU_CMD_CTX_ATTACH_RESOURCE", since=V1_2),
    Code(0x0203, "VIRTIO_GPU_CMD_CTX_DETACH_RESOURCE", since=V1_2),
    Code(0x0204, "VIRTIO_GPU_CMD_RESOURCE_CREATE_3D", since=V1_2),
    Code(0x0205, "VIRTIO_GPU_CMD_TRANSFER_TO_HOST_3D", since=V1_2),
    Code(0x0206, "VIRTIO_GPU_CMD_TRANSFER_FROM_HOST_3D", since=V1_2),
    Code(0x0207, "VIRTIO_GPU_CMD_SUBMIT_3D", since=V1_2),
    Code(0x0208, "VIRTIO_GPU_CMD_RESOURCE_MAP_BLOB", since=V1_2),
    Code(0x0209, "VIRTIO_GPU_CMD_RESOURCE_UNMAP_BLOB", since=V1_2),
    Code(0x0300, "VIRTIO_GPU_CMD_UPDATE_CURSOR"),
    Code(0x0301, "VIRTIO_GPU_CMD_MOVE_CURSOR"),
    since=V1_1,
)
RESP = Codes(
    "response", "VIRTIO_GPU_RESP_", "5.7.6.7",
    Code(0x1100, "VIRTIO_GPU_RESP_OK_NODATA"),
    Code(0x1101, "VIRTIO_GPU_RESP_OK_DISPLAY_INFO"),
    Code(0x1102, "VIRTIO_GPU_RESP_OK_CAPSET_INFO"),
    Code(0x1103, "VIRTIO_GPU_RESP_OK_CAPSET"),
    Code(0x1104, "VIRTIO_GPU_RESP_OK_EDID"),
    Code(0x1105, "VIRTIO_GPU_RESP_OK_RESOURCE_UUID", since=V1_2),
    Code(0x1106, "VIRTIO_GPU_RESP_OK_MAP_INFO", since=V1_2),
    Code(0x1200, "VIRTIO_GPU_RESP_ERR_UNSPEC"),
    Code(0x1201, "VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY"),
    Code(0x1202, "VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID"),
    Code(0x1203, "VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID"),
    Code(0x1204, "VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID"),
    Code(0x1205, "VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER"),
    since=V1_1,
)
FLAG = Codes(
    "header flags", "VIRTIO_GPU_FLAG_", "5.7.6.7",
    Code(1, "VIRTIO_GPU_FLAG_FENCE", "fence_id is valid"),
    Code(2, "VIRTIO_GPU_FLAG_INFO_RING_IDX", "ring_idx is valid", V1_2),
    since=V1_1, flags=True,
)
EVENT = Codes(
    "pending events", "VIRTIO_GPU_EVENT_", "5.7.4.2",
    Code(1, "VIRTIO_GPU_EVENT_DISPLAY", "displays have changed"),
    since=V1_1, flags=True,
)
SHM_ID = Codes(
    "shared memory region", "VIRTIO_GPU_SHM_ID_", "5.7.5",
    Code(0, "VIRTIO_GPU_SHM_ID_UNDEFINED"),
    Code(1, "VIRTIO_GPU_SHM_ID_HOST_VISIBLE", "blobs are mapped here"),
    since=V1_2,
)
FORMAT = Codes(
    "pixel format", "VIRTIO_GPU_FORMAT_", "5.7.6.8",
    Code(1, "VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM"),
    Code(2, "VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM"),
    Code(3, "VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM"),
    Code(4, "VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM"),
    Code(67, "VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM"),
    Code(68, "VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM"),
    Code(121, "VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM"),
    Code(134, "VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM"),
    since=V1_1,
)
CAPSET = Codes(
    "capability set", "VIRTIO_GPU_CAPSET_", "5.7.6.8",
    Code(1, "VIRTIO_GPU_CAPSET_VIRGL"),
    Code(2, "VIRTIO_GPU_CAPSET_VIRGL2"),
    Code(3, "VIRTIO_GPU_CAPSET_GFXSTREAM"),
    Code(4, "VIRTIO_GPU_CAPSET_VENUS"),
    Code(5, "VIRTIO_GPU_CAPSET_CROSS_DOMAIN"),
    since=V1_2,
)
BLOB_MEM = Codes(
    "memory of a blob", "VIRTIO_GPU_BLOB_MEM_", "5.7.6.8",
    Code(1, "VIRTIO_GPU_BLOB_MEM_GUEST"),
    Code(2, "VIRTIO_GPU_BLOB_MEM_HOST3D"),
    Code(3, "VIRTIO_GPU_BLOB_MEM_HOST3D_GUEST"),
    since=V1_2,
)
BLOB_FLAG = Codes(
    "use of a blob", "VIRTIO_GPU_BLOB_FLAG_", "5.7.6.8",
    Code(1, "VIRTIO_GPU_BLOB_FLAG_USE_MAPPABLE"),
    Code(2, "VIRTIO_GPU_BLOB_FLAG_USE_SHAREABLE"),
    Code(4, "VIRTIO_GPU_BLOB_FLAG_USE_CROSS_DEVICE"),
    since=V1_2, flags=True,
)
MAP_CACHE = Codes(
    "caching", "VIRTIO_GPU_MAP_CACHE_", "5.7.6.9",
    Code(0, "VIRTIO_GPU_MAP_CACHE_NONE"),
    Code(1, "VIRTIO_GPU_MAP_CACHE_CACHED"),
    Code(2, "VIRTIO_GPU_MAP_CACHE_UNCACHED"),
    Code(3, "VIRTIO_GPU_MAP_CACHE_WC", "write combining"),
    since=V1_2,
)
QUEUES = (
    Queue(0, "controlq", "control", "5.7.2", "commands", since=V1_1),
    Queue(1, "cursorq", "cursor", "5.7.2", "cursor updates", since=V1_1),
)
# fmt: on

DEVICE = DeviceType(
    id=16,
    name="gpu",
    title="GPU Device",
    section="5.7",
    since=V1_1,
    doc="displays, and 3D by commands that pass through",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=tuple(value for value in globals().values() if isinstance(value, Struct) and value is not CONFIG),
    codes=(CMD, RESP, FLAG, EVENT, SHM_ID, FORMAT, CAPSET, BLOB_MEM, BLOB_FLAG, MAP_CACHE),
    shared_memory=(SharedMemory(SHM_ID.HOST_VISIBLE, "host-visible", "5.7.5", "blobs are mapped here"),),
)
