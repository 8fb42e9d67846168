"""Block device (5.2)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    LEGACY,
    RW,
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    Bits,
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

SECTOR_SIZE = 512
ID_LENGTH = 20
SENSE_LENGTH = 96

# fmt: off
F = Features(
    "VIRTIO_BLK_F_",
    Feature(0, "VIRTIO_BLK_F_BARRIER", LEGACY, "5.2.3.1", "requests can be barriers", legacy=True),
    Feature(1, "VIRTIO_BLK_F_SIZE_MAX", V1_0, "5.2.3", "size_max bounds the bytes of a segment"),
    Feature(2, "VIRTIO_BLK_F_SEG_MAX", V1_0, "5.2.3", "seg_max bounds the segments of a request"),
    Feature(4, "VIRTIO_BLK_F_GEOMETRY", V1_0, "5.2.3", "cylinders, heads and sectors are in geometry"),
    Feature(5, "VIRTIO_BLK_F_RO", V1_0, "5.2.3", "the disk cannot be written"),
    Feature(6, "VIRTIO_BLK_F_BLK_SIZE", V1_0, "5.2.3", "blk_size holds the best block size"),
    Feature(7, "VIRTIO_BLK_F_SCSI", LEGACY, "5.2.3.1", "SCSI commands can be passed through", legacy=True),
    Feature(9, "VIRTIO_BLK_F_FLUSH", V1_0, "5.2.3", "the cache can be flushed"),
    Feature(10, "VIRTIO_BLK_F_TOPOLOGY", V1_0, "5.2.3", "topology says how to align requests"),
    Feature(11, "VIRTIO_BLK_F_CONFIG_WCE", V1_0, "5.2.3", "the driver switches between write-back and write-through"),
    Feature(12, "VIRTIO_BLK_F_MQ", V1_2, "5.2.3", "several request queues"),
    Feature(13, "VIRTIO_BLK_F_DISCARD", V1_1, "5.2.3", "sectors can be discarded"),
    Feature(14, "VIRTIO_BLK_F_WRITE_ZEROES", V1_1, "5.2.3", "zeros can be written without sending them"),
    Feature(15, "VIRTIO_BLK_F_LIFETIME", V1_2, "5.2.3", "tells how worn the storage is"),
    Feature(16, "VIRTIO_BLK_F_SECURE_ERASE", V1_2, "5.2.3", "sectors can be erased for good"),
    Feature(17, "VIRTIO_BLK_F_ZONED", V1_3, "5.2.3", "zones, written in sequence", requires=("VIRTIO_F_VERSION_1",)),
)

SIZE_MAX, SEG_MAX = "VIRTIO_BLK_F_SIZE_MAX", "VIRTIO_BLK_F_SEG_MAX"
TOPOLOGY_F, DISCARD = "VIRTIO_BLK_F_TOPOLOGY", "VIRTIO_BLK_F_DISCARD"
ZEROES, ERASE, ZONED_F = "VIRTIO_BLK_F_WRITE_ZEROES", "VIRTIO_BLK_F_SECURE_ERASE", "VIRTIO_BLK_F_ZONED"

GEOMETRY = Struct("virtio_blk_geometry", "5.2.4", (
    Field("cylinders", le16),
    Field("heads", u8),
    Field("sectors", u8),
))
TOPOLOGY = Struct("virtio_blk_topology", "5.2.4", (
    Field("physical_block_exp", u8, "logical blocks in a physical one, as a power of two"),
    Field("alignment_offset", u8, "the first aligned logical block"),
    Field("min_io_size", le16, "suggested minimum, in blocks"),
    Field("opt_io_size", le32, "suggested maximum, in blocks"),
))
ZONED = Struct("virtio_blk_zoned_characteristics", "5.2.4", (
    Field("zone_sectors", le32, "sectors of a zone"),
    Field("max_open_zones", le32, "0: no limit"),
    Field("max_active_zones", le32, "0: no limit"),
    Field("max_append_sectors", le32, "0: zones cannot be appended to"),
    Field("write_granularity", le32, "bytes"),
    Field("model", u8, "zone model"),
    Field("unused2", u8[3]),
), since=V1_3)
CONFIG = Struct("virtio_blk_config", "5.2.4", (
    Field("capacity", le64, "sectors of 512 bytes"),
    Field("size_max", le32, "bytes of a segment", SIZE_MAX),
    Field("seg_max", le32, "segments of a request", SEG_MAX),
    Field("geometry", GEOMETRY, "", "VIRTIO_BLK_F_GEOMETRY"),
    Field("blk_size", le32, "bytes of the best block", "VIRTIO_BLK_F_BLK_SIZE"),
    Field("topology", TOPOLOGY, "", TOPOLOGY_F),
    Field("writeback", u8, "0: write-through, 1: write-back", "VIRTIO_BLK_F_CONFIG_WCE", RW),
    Field("unused0", u8, since=V1_1),
    Field("num_queues", le16, "request queues", "VIRTIO_BLK_F_MQ", since=V1_2),
    Field("max_discard_sectors", le32, "sectors of a discard segment", DISCARD, since=V1_1),
    Field("max_discard_seg", le32, "segments of a discard", DISCARD, since=V1_1),
    Field("discard_sector_alignment", le32, "where to split a discard, in sectors", DISCARD, since=V1_1),
    Field("max_write_zeroes_sectors", le32, "sectors of a write-zeroes segment", ZEROES, since=V1_1),
    Field("max_write_zeroes_seg", le32, "segments of a write-zeroes", ZEROES, since=V1_1),
    Field("write_zeroes_may_unmap", u8, "1: unmap may free the sectors", ZEROES, since=V1_1),
    Field("unused1", u8[3], since=V1_1),
    Field("max_secure_erase_sectors", le32, "sectors of an erase segment", ERASE, since=V1_2),
    Field("max_secure_erase_seg", le32, "segments of an erase", ERASE, since=V1_2),
    Field("secure_erase_sector_alignment", le32, "where to split an erase, in sectors", ERASE, since=V1_2),
    Field("zoned", ZONED, "", ZONED_F, since=V1_3),
))

# The header of every request; in REQ and REQ_ZA data is device-writable for the types that read.
HEADER = Struct("virtio_blk_outhdr", "5.2.6", (
    Field("type", le32, "request type"),
    Field("reserved", le32, "legacy: ioprio, a hint of priority"),
    Field("sector", le64, "where, in units of 512 bytes"),
), doc="the device-readable start of a request (the name is the kernel's)")
REQ = Struct("virtio_blk_req", "5.2.6", (
    *HEADER.fields,
    Field("data", u8[rest], "read, written, or the segments of the request"),
    Field("status", u8, "request status", access=W),
))
REQ_ZA = Struct("virtio_blk_req_za", "5.2.6", (
    *HEADER.fields,
    Field("data", u8[rest], "what to append"),
    Field("append_sector", le64, "where it was appended", access=W),
    Field("status", u8, "request status", access=W),
), since=V1_3, doc="the request ZONE_APPEND")
SEGMENT = Struct("virtio_blk_discard_write_zeroes", "5.2.6", (
    Field("sector", le64, "first sector"),
    Field("num_sectors", le32, "sectors"),
    Field("flags", Bits(le32, (("unmap", 1), ("reserved", 31))), "unmap: write-zeroes may free the sectors"),
), since=V1_1, doc="a segment of a discard, write-zeroes or secure-erase request")
LIFETIME = Struct("virtio_blk_lifetime", "5.2.6", (
    Field("pre_eol_info", le16, "use of the reserved blocks", access=W),
    Field("device_lifetime_est_typ_a", le16, "wear of the SLC cells in steps of 10 %", access=W),
    Field("device_lifetime_est_typ_b", le16, "wear of the MLC cells in steps of 10 %", access=W),
), since=V1_2, doc="the data of GET_LIFETIME")
ZONE_DESCRIPTOR = Struct("virtio_blk_zone_descriptor", "5.2.6", (
    Field("z_cap", le64, "sectors that can be written when it is empty", access=W),
    Field("z_start", le64, "its first sector", access=W),
    Field("z_wp", le64, "where the next write goes", access=W),
    Field("z_type", u8, "zone type", access=W),
    Field("z_state", u8, "zone state", access=W),
    Field("reserved", u8[38], access=W),
), since=V1_3)
ZONE_REPORT = Struct("virtio_blk_zone_report", "5.2.6", (
    Field("nr_zones", le64, "descriptors that follow", access=W),
    Field("reserved", u8[56], access=W),
    Field("zones", ZONE_DESCRIPTOR[rest], access=W),
), since=V1_3, doc="the data of ZONE_REPORT")
SCSI_REQ = Struct("virtio_scsi_pc_req", "5.2.6.3", (
    *HEADER.fields,
    Field("cmd", u8["cmd_length"], "the SCSI command; its descriptor says how long"),
    Field("data", u8[rest]),
    Field("sense", u8[SENSE_LENGTH], access=W),
    Field("errors", le32, access=W),
    Field("data_len", le32, "to be ignored", access=W),
    Field("sense_len", le32, "bytes of sense that count", access=W),
    Field("residual", le32, "bytes not transferred", access=W),
    Field("status", u8, "request status", access=W),
), since=LEGACY, doc="a SCSI command; in the guest's byte order, here shown as little-endian")

T = Codes(
    "request type", "VIRTIO_BLK_T_", "5.2.6",
    Code(0, "VIRTIO_BLK_T_IN", "read"),
    Code(1, "VIRTIO_BLK_T_OUT", "write"),
    Code(2, "VIRTIO_BLK_T_SCSI_CMD", "SCSI command", LEGACY, legacy=True),
    Code(3, "VIRTIO_BLK_T_SCSI_CMD_OUT", "SCSI command", LEGACY, legacy=True),
    Code(4, "VIRTIO_BLK_T_FLUSH", "flush the cache"),
    Code(5, "VIRTIO_BLK_T_FLUSH_OUT", "flush the cache", LEGACY, legacy=True),
    Code(8, "VIRTIO_BLK_T_GET_ID", "the device's name, 20 bytes", V1_2),
    Code(10, "VIRTIO_BLK_T_GET_LIFETIME", "how worn the storage is", V1_2),
    Code(11, "VIRTIO_BLK_T_DISCARD", "the sectors' contents are no longer needed", V1_1),
    Code(13, "VIRTIO_BLK_T_WRITE_ZEROES", "fill with zeros", V1_1),
    Code(14, "VIRTIO_BLK_T_SECURE_ERASE", "erase for good", V1_2),
    Code(15, "VIRTIO_BLK_T_ZONE_APPEND", "write at the zone's write pointer", V1_3),
    Code(16, "VIRTIO_BLK_T_ZONE_REPORT", "list zones", V1_3),
    Code(18, "VIRTIO_BLK_T_ZONE_OPEN", "open a zone", V1_3),
    Code(20, "VIRTIO_BLK_T_ZONE_CLOSE", "close a zone", V1_3),
    Code(22, "VIRTIO_BLK_T_ZONE_FINISH", "make a zone full", V1_3),
    Code(24, "VIRTIO_BLK_T_ZONE_RESET", "make a zone empty", V1_3),
    Code(26, "VIRTIO_BLK_T_ZONE_RESET_ALL", "make all zones empty", V1_3),
    Code(0x80000000, "VIRTIO_BLK_T_BARRIER", "a flag: this request is a barrier", LEGACY, legacy=True),
)
S = Codes(
    "request status", "VIRTIO_BLK_S_", "5.2.6",
    Code(0, "VIRTIO_BLK_S_OK", "done"),
    Code(1, "VIRTIO_BLK_S_IOERR", "the device or the driver failed"),
    Code(2, "VIRTIO_BLK_S_UNSUPP", "no such request"),
    Code(3, "VIRTIO_BLK_S_ZONE_INVALID_CMD", "not possible for this zone", V1_3),
    Code(4, "VIRTIO_BLK_S_ZONE_UNALIGNED_WP", "not at the write pointer", V1_3),
    Code(5, "VIRTIO_BLK_S_ZONE_OPEN_RESOURCE", "too many open zones", V1_3),
    Code(6, "VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE", "too many active zones", V1_3),
)
SEGMENT_F = Codes(
    "segment flags", "VIRTIO_BLK_WRITE_ZEROES_FLAG_", "5.2.6",
    Code(1, "VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP", "write-zeroes may free the sectors (the name is the kernel's)"),
    since=V1_1, flags=True,
)
PRE_EOL = Codes(
    "use of the reserved blocks", "VIRTIO_BLK_PRE_EOL_INFO_", "5.2.6",
    Code(0, "VIRTIO_BLK_PRE_EOL_INFO_UNDEFINED", "not known"),
    Code(1, "VIRTIO_BLK_PRE_EOL_INFO_NORMAL", "less than 80 %"),
    Code(2, "VIRTIO_BLK_PRE_EOL_INFO_WARNING", "80 %"),
    Code(3, "VIRTIO_BLK_PRE_EOL_INFO_URGENT", "90 %"),
    since=V1_2,
)
Z = Codes(
    "zone model", "VIRTIO_BLK_Z_", "5.2.4",
    Code(0, "VIRTIO_BLK_Z_NONE", "no zones, or managed by the device"),
    Code(1, "VIRTIO_BLK_Z_HM", "managed by the host"),
    Code(2, "VIRTIO_BLK_Z_HA", "the host knows, but need not care"),
    since=V1_3,
)
ZT = Codes(
    "zone type", "VIRTIO_BLK_ZT_", "5.2.6",
    Code(1, "VIRTIO_BLK_ZT_CONV", "conventional"),
    Code(2, "VIRTIO_BLK_ZT_SWR", "sequential writes required"),
    Code(3, "VIRTIO_BLK_ZT_SWP", "sequential writes preferred"),
    since=V1_3,
)
ZS = Codes(
    "zone state", "VIRTIO_BLK_ZS_", "5.2.6",
    Code(0, "VIRTIO_BLK_ZS_NOT_WP", "has no write pointer"),
    Code(1, "VIRTIO_BLK_ZS_EMPTY"),
    Code(2, "VIRTIO_BLK_ZS_IOPEN", "opened by a write"),
    Code(3, "VIRTIO_BLK_ZS_EOPEN", "opened by request"),
    Code(4, "VIRTIO_BLK_ZS_CLOSED"),
    Code(13, "VIRTIO_BLK_ZS_RDONLY", "can only be read"),
    Code(14, "VIRTIO_BLK_ZS_FULL"),
    Code(15, "VIRTIO_BLK_ZS_OFFLINE", "cannot be used"),
    since=V1_3,
)
# fmt: on

DEVICE = DeviceType(
    id=2,
    name="block",
    title="Block Device",
    section="5.2",
    since=V1_0,
    doc="a disk: sectors are read and written",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "requestq", "requests", "5.2.2", "requests", repeat=Repeat("num_queues", "VIRTIO_BLK_F_MQ")),
    ),
    structs=(HEADER, REQ, REQ_ZA, SEGMENT, LIFETIME, ZONE_REPORT, ZONE_DESCRIPTOR, SCSI_REQ),
    codes=(T, S, SEGMENT_F, PRE_EOL, Z, ZT, ZS),
)
