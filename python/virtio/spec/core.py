"""What all devices share: ids, status, reserved features, the layouts of the rings."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from dataclasses import dataclass

from virtio.spec.model import (
    LEGACY,
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    V1_4,
    Bits,
    Code,
    Codes,
    Feature,
    Features,
    Field,
    Struct,
    Version,
    le16,
    le32,
    le64,
)


@dataclass(frozen=True)
class DeviceId:
    """A row of the table of device ids; ``chapter`` is the section about the type, if there is one."""

    id: int
    name: str
    title: str
    since: Version
    chapter: str = ""
    assigned: bool = True


# fmt: off
# The versions are those of the table of ids, which often are earlier than those of the chapters.
DEVICE_IDS = (
    DeviceId(1, "net", "Network device", V1_0, "5.1"),
    DeviceId(2, "block", "Block device", V1_0, "5.2"),
    DeviceId(3, "console", "Console", V1_0, "5.3"),
    DeviceId(4, "entropy", "Entropy source", V1_0, "5.4"),
    DeviceId(5, "balloon", "Memory ballooning, traditional", V1_0, "5.5"),
    DeviceId(6, "iomemory", "IO memory", V1_0),
    DeviceId(7, "rpmsg", "Remote processor messaging", V1_0),
    DeviceId(8, "scsi", "SCSI host", V1_0, "5.6"),
    DeviceId(9, "9p", "9P transport", V1_0),
    DeviceId(10, "mac80211-wlan", "Wireless LAN (mac80211)", V1_0),
    DeviceId(11, "rproc-serial", "Remote processor serial line", V1_0),
    DeviceId(12, "caif", "CAIF modem link", V1_0),
    DeviceId(13, "memory-balloon", "Memory balloon, new", V1_0),
    DeviceId(14, "", "not assigned", V1_0, assigned=False),
    DeviceId(15, "", "not assigned", V1_0, assigned=False),
    DeviceId(16, "gpu", "Graphics", V1_0, "5.7"),
    DeviceId(17, "rtc", "Real-time clock", V1_0, "5.23"),
    DeviceId(18, "input", "Input", V1_0, "5.8"),
    DeviceId(19, "vsock", "Sockets between guest and host", V1_1, "5.10"),
    DeviceId(20, "crypto", "Cryptography", V1_1, "5.9"),
    DeviceId(21, "signal-distribution", "Signal distribution module", V1_1),
    DeviceId(22, "pstore", "Persistent store for crash records", V1_1),
    DeviceId(23, "iommu", "IOMMU", V1_1, "5.13"),
    DeviceId(24, "mem", "Memory, resizable", V1_1, "5.15"),
    DeviceId(25, "sound", "Sound", V1_2, "5.14"),
    DeviceId(26, "fs", "File system", V1_2, "5.11"),
    DeviceId(27, "pmem", "Persistent memory", V1_2, "5.19"),
    DeviceId(28, "rpmb", "Replay-protected memory block", V1_2, "5.12"),
    DeviceId(29, "mac80211-hwsim", "Simulated wireless (mac80211)", V1_2),
    DeviceId(30, "video-encoder", "Video encoder", V1_2),
    DeviceId(31, "video-decoder", "Video decoder", V1_2),
    DeviceId(32, "scmi", "System control and management", V1_2, "5.17"),
    DeviceId(33, "nitro-secure-module", "Nitro secure module", V1_2),
    DeviceId(34, "i2c", "I2C adapter", V1_2, "5.16"),
    DeviceId(35, "watchdog", "Watchdog", V1_2),
    DeviceId(36, "can", "CAN bus", V1_2, "5.20"),
    DeviceId(37, "", "not assigned", V1_2, assigned=False),
    DeviceId(38, "parameter-server", "Parameter server", V1_2),
    DeviceId(39, "audio-policy", "Audio policy", V1_2),
    DeviceId(40, "bluetooth", "Bluetooth", V1_2),
    DeviceId(41, "gpio", "General-purpose I/O lines", V1_2, "5.18"),
    DeviceId(42, "rdma", "Remote direct memory access", V1_2),
    DeviceId(43, "camera", "Camera", V1_3),
    DeviceId(44, "ism", "Internal shared memory", V1_3),
    DeviceId(45, "spi", "SPI controller", V1_3, "5.21"),
    DeviceId(46, "tee", "Trusted execution environment", V1_4),
    DeviceId(47, "cpu-balloon", "CPU balloon", V1_4),
    DeviceId(48, "media", "Media (video4linux)", V1_4, "5.22"),
    DeviceId(49, "usb", "USB controller", V1_4),
)

STATUS = Codes(
    "device status", "", "2.1",
    Code(0x01, "ACKNOWLEDGE", "the driver's side has noticed the device"),
    Code(0x02, "DRIVER", "a driver for it was found"),
    Code(0x04, "DRIVER_OK", "the driver is set up; queues may be used"),
    Code(0x08, "FEATURES_OK", "the choice of features stands"),
    Code(0x10, "SUSPEND", "the driver has suspended the device", since=V1_4),
    Code(0x40, "DEVICE_NEEDS_RESET", "the device met an error that only a reset ends"),
    Code(0x80, "FAILED", "the driver has given up"),
    flags=True,
)

# Which bits are whose (2.2): device types have 0-23, 41, 42 and 50-127.
DEVICE_FEATURE_BITS = frozenset((*range(24), 41, 42, *range(50, 128)))
QUEUE_FEATURE_BITS = frozenset((*range(24, 41), 43))
FEATURE_BITS = 128

F = Features(
    "VIRTIO_F_",
    Feature(24, "VIRTIO_F_NOTIFY_ON_EMPTY", LEGACY, "6.3",
            "notify when the available ring runs empty, suppressed or not", legacy=True),
    Feature(27, "VIRTIO_F_ANY_LAYOUT", LEGACY, "6.3", "any split of a request into descriptors is fine", legacy=True),
    Feature(28, "VIRTIO_F_INDIRECT_DESC", V1_0, "6", "descriptors may refer to tables of descriptors"),
    Feature(29, "VIRTIO_F_EVENT_IDX", V1_0, "6", "each end says at which index it wants the next notification"),
    Feature(30, "VIRTIO_F_UNUSED_30", LEGACY, "6.3", "marks broken early drivers; never negotiated", legacy=True),
    Feature(32, "VIRTIO_F_VERSION_1", V1_0, "6", "follows version 1 or later of the standard"),
    Feature(33, "VIRTIO_F_ACCESS_PLATFORM", V1_1, "6", "the platform limits or translates the device's accesses"),
    Feature(34, "VIRTIO_F_RING_PACKED", V1_1, "6", "packed virtqueues"),
    Feature(35, "VIRTIO_F_IN_ORDER", V1_1, "6", "buffers are used in the order they were made available"),
    Feature(36, "VIRTIO_F_ORDER_PLATFORM", V1_1, "6", "memory accesses need the barriers of real hardware"),
    Feature(37, "VIRTIO_F_SR_IOV", V1_1, "6", "single root I/O virtualisation"),
    Feature(38, "VIRTIO_F_NOTIFICATION_DATA", V1_1, "6", "a notification says how much is available"),
    Feature(39, "VIRTIO_F_NOTIF_CONFIG_DATA", V1_2, "6", "the device chooses the value that notifies a queue"),
    Feature(40, "VIRTIO_F_RING_RESET", V1_2, "6", "a single queue can be reset"),
    Feature(41, "VIRTIO_F_ADMIN_VQ", V1_3, "6", "administration virtqueues"),
    Feature(43, "VIRTIO_F_SUSPEND", V1_4, "6", "the device can be suspended"),
)

# --- split virtqueues (2.7) ---

DESC_F = Codes(
    "descriptor flags", "VIRTQ_DESC_F_", "2.7.5",
    Code(1, "VIRTQ_DESC_F_NEXT", "the buffer continues in another descriptor"),
    Code(2, "VIRTQ_DESC_F_WRITE", "the device writes here (else it reads)"),
    Code(4, "VIRTQ_DESC_F_INDIRECT", "the buffer is a table of descriptors"),
    Code(1 << 7, "VIRTQ_DESC_F_AVAIL", "packed: the driver's wrap counter when available", since=V1_1),
    Code(1 << 15, "VIRTQ_DESC_F_USED", "packed: the device's wrap counter when used", since=V1_1),
    flags=True,
)
AVAIL_F = Codes(
    "available ring flags", "VIRTQ_AVAIL_F_", "2.7.6",
    Code(1, "VIRTQ_AVAIL_F_NO_INTERRUPT", "the driver wants no used buffer notifications"),
    flags=True,
)
USED_F = Codes(
    "used ring flags", "VIRTQ_USED_F_", "2.7.8",
    Code(1, "VIRTQ_USED_F_NO_NOTIFY", "the device wants no available buffer notifications"),
    flags=True,
)

VIRTQ_DESC = Struct("virtq_desc", "2.7.5", (
    Field("addr", le64, "guest-physical address"),
    Field("len", le32, "bytes"),
    Field("flags", le16, "descriptor flags"),
    Field("next", le16, "the descriptor that follows, if NEXT is set"),
))
VIRTQ_AVAIL = Struct("virtq_avail", "2.7.6", (
    Field("flags", le16, "available ring flags"),
    Field("idx", le16, "where the driver puts the next head, modulo queue size"),
    Field("ring", le16["queue_size"], "heads of descriptor chains"),
    Field("used_event", le16, "the used index at which the driver wants a notification", "VIRTIO_F_EVENT_IDX"),
))
VIRTQ_USED_ELEM = Struct("virtq_used_elem", "2.7.8", (
    Field("id", le32, "head of the chain that was used"),
    Field("len", le32, "bytes written to its device-writable part"),
))
VIRTQ_USED = Struct("virtq_used", "2.7.8", (
    Field("flags", le16, "used ring flags"),
    Field("idx", le16, "where the device puts the next element, modulo queue size"),
    Field("ring", VIRTQ_USED_ELEM["queue_size"], "what was used"),
    Field("avail_event", le16, "the available index at which the device wants a notification",
          "VIRTIO_F_EVENT_IDX"),
))
SPLIT_QUEUE_SIZE_MAX = 32768
# Alignment of descriptor table, available ring and used ring.
SPLIT_ALIGNMENT = (16, 2, 4)

# --- packed virtqueues (2.8) ---

RING_EVENT_FLAGS = Codes(
    "ring event flags", "RING_EVENT_FLAGS_", "2.8.10",
    Code(0, "RING_EVENT_FLAGS_ENABLE", "notify"),
    Code(1, "RING_EVENT_FLAGS_DISABLE", "do not notify"),
    Code(2, "RING_EVENT_FLAGS_DESC", "notify at one descriptor (needs VIRTIO_F_EVENT_IDX)"),
    since=V1_1,
)
PVIRTQ_DESC = Struct("pvirtq_desc", "2.8.13", (
    Field("addr", le64, "guest-physical address"),
    Field("len", le32, "bytes; in a used descriptor, bytes written"),
    Field("id", le16, "buffer id"),
    Field("flags", le16, "descriptor flags"),
), since=V1_1)
PVIRTQ_EVENT_SUPPRESS = Struct("pvirtq_event_suppress", "2.8.14", (
    Field("desc", Bits(le16, (("desc_event_off", 15), ("desc_event_wrap", 1))), "the descriptor to notify at"),
    Field("flags", Bits(le16, (("desc_event_flags", 2), ("reserved", 14))), "ring event flags"),
), since=V1_1)
PACKED_QUEUE_SIZE_MAX = 32768
# Alignment of descriptor ring, driver and device event suppression.
PACKED_ALIGNMENT = (16, 4, 4)

# --- driver notifications (2.9) ---

NOTIFICATION_DATA = Struct("virtio_notification_data", "2.9", (
    Field("data", Bits(le32, (("vq_index", 16), ("next_off", 15), ("next_wrap", 1))),
          "queue (or the value that the device chose for it) and the next available entry"),
), since=V1_1)
# fmt: on

STRUCTS = (
    VIRTQ_DESC,
    VIRTQ_AVAIL,
    VIRTQ_USED_ELEM,
    VIRTQ_USED,
    PVIRTQ_DESC,
    PVIRTQ_EVENT_SUPPRESS,
    NOTIFICATION_DATA,
)
CODES = (STATUS, DESC_F, AVAIL_F, USED_F, RING_EVENT_FLAGS)
