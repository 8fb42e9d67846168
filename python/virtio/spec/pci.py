"""Virtio over PCI (4.1): ids, capabilities, common configuration, MSI-X."""

from __future__ import annotations

from virtio.spec.model import (
    LEGACY,
    RW,
    V1_0,
    V1_2,
    V1_3,
    Code,
    Codes,
    Field,
    Struct,
    le16,
    le32,
    le64,
    rest,
    u8,
)

# fmt: off
VENDOR_ID = 0x1AF4
# A non-transitional device has PCI device id 0x1040 + its virtio device id, and a PCI revision of 1 or more.
DEVICE_ID_BASE = 0x1040
DEVICE_IDS = range(0x1000, 0x1080)
# PCI device ids of transitional devices, which have revision 0, by virtio device id.
TRANSITIONAL_IDS = {1: 0x1000, 2: 0x1001, 5: 0x1002, 3: 0x1003, 8: 0x1004, 4: 0x1005, 9: 0x1009}
CAP_ID_VENDOR = 0x09

CAP = Struct("virtio_pci_cap", "4.1.4", (
    Field("cap_vndr", u8, "0x09"),
    Field("cap_next", u8, "where the next capability is"),
    Field("cap_len", u8, "bytes of this one"),
    Field("cfg_type", u8, "capability type"),
    Field("bar", u8, "base address register, 0 to 5"),
    Field("id", u8, "tells capabilities of one type apart", since=V1_2),
    Field("padding", u8[2]),
    Field("offset", le32, "where in the BAR the structure starts"),
    Field("length", le32, "bytes of the structure"),
))
CAP64 = Struct("virtio_pci_cap64", "4.1.4", (
    Field("cap", CAP),
    Field("offset_hi", le32, "upper half of the offset"),
    Field("length_hi", le32, "upper half of the length"),
), since=V1_2, doc="a capability for a shared memory region")
NOTIFY_CAP = Struct("virtio_pci_notify_cap", "4.1.4.4", (
    Field("cap", CAP),
    Field("notify_off_multiplier", le32, "bytes per queue_notify_off"),
))
CFG_CAP = Struct("virtio_pci_cfg_cap", "4.1.4.9", (
    Field("cap", CAP),
    Field("pci_cfg_data", u8[4], "a window to the BARs", access=RW),
), doc="its bar, offset and length may be written too")
VNDR_DATA = Struct("virtio_pci_vndr_data", "4.1.4.8", (
    Field("cap_vndr", u8, "0x09"),
    Field("cap_next", u8, "where the next capability is"),
    Field("cap_len", u8, "bytes of this one, a multiple of 4"),
    Field("cfg_type", u8, "capability type"),
    Field("vendor_id", le16, "whose data it is"),
    Field("data", u8[rest]),
), since=V1_2)

COMMON_CFG = Struct("virtio_pci_common_cfg", "4.1.4.3", (
    Field("device_feature_select", le32, "which 32 bits device_feature shows", access=RW),
    Field("device_feature", le32, "bits that the device offers"),
    Field("driver_feature_select", le32, "which 32 bits driver_feature holds", access=RW),
    Field("driver_feature", le32, "bits that the driver accepts", access=RW),
    Field("config_msix_vector", le16, "vector for configuration changes", access=RW),
    Field("num_queues", le16, "most virtqueues, without the administration ones"),
    Field("device_status", u8, "device status; 0 resets", access=RW),
    Field("config_generation", u8, "changes with the configuration"),
    Field("queue_select", le16, "which queue the fields below are about", access=RW),
    Field("queue_size", le16, "entries; 0: there is no such queue", access=RW),
    Field("queue_msix_vector", le16, "vector for used buffers", access=RW),
    Field("queue_enable", le16, "1 starts the queue", access=RW),
    Field("queue_notify_off", le16, "where to notify, in units of notify_off_multiplier"),
    Field("queue_desc", le64, "address of the descriptor area", access=RW),
    Field("queue_driver", le64, "address of the driver area", access=RW),
    Field("queue_device", le64, "address of the device area", access=RW),
    # 1.2 called it queue_notify_data.
    Field("queue_notif_config_data", le16, "value to notify with", "VIRTIO_F_NOTIF_CONFIG_DATA", since=V1_2),
    Field("queue_reset", le16, "1 resets the queue", "VIRTIO_F_RING_RESET", RW, V1_2),
    Field("admin_queue_index", le16, "first administration queue", "VIRTIO_F_ADMIN_VQ", since=V1_3),
    Field("admin_queue_num", le16, "administration queues", "VIRTIO_F_ADMIN_VQ", since=V1_3),
))
LEGACY_CFG = Struct("virtio_pci_legacy_cfg", "4.1.4.10", (
    Field("device_features", le32),
    Field("driver_features", le32, access=RW),
    Field("queue_address", le32, "page number of the queue", access=RW),
    Field("queue_size", le16),
    Field("queue_select", le16, access=RW),
    Field("queue_notify", le16, access=RW),
    Field("device_status", u8, access=RW),
    Field("isr_status", u8, "reading clears it"),
    Field("config_msix_vector", le16, "only while MSI-X is enabled", access=RW),
    Field("queue_msix_vector", le16, "only while MSI-X is enabled", access=RW),
), since=LEGACY, doc="the start of BAR 0 of a transitional device; the standard gives it no name")

CAP_TYPE = Codes(
    "capability type", "VIRTIO_PCI_CAP_", "4.1.4",
    Code(1, "VIRTIO_PCI_CAP_COMMON_CFG", "common configuration"),
    Code(2, "VIRTIO_PCI_CAP_NOTIFY_CFG", "notifications"),
    Code(3, "VIRTIO_PCI_CAP_ISR_CFG", "interrupt status"),
    Code(4, "VIRTIO_PCI_CAP_DEVICE_CFG", "configuration of the device type"),
    Code(5, "VIRTIO_PCI_CAP_PCI_CFG", "window to the BARs"),
    Code(8, "VIRTIO_PCI_CAP_SHARED_MEMORY_CFG", "shared memory region", V1_2),
    Code(9, "VIRTIO_PCI_CAP_VENDOR_CFG", "vendor's data", V1_2),
)
ISR = Codes(
    "interrupt status", "", "4.1.4.5",
    Code(1, "QUEUE_INTERRUPT", "a buffer was used"),
    Code(2, "DEVICE_CONFIGURATION_INTERRUPT", "the configuration has changed"),
    flags=True,
)
MSI = Codes(
    "MSI-X vector", "VIRTIO_MSI_", "4.1.5.1.2",
    Code(0xFFFF, "VIRTIO_MSI_NO_VECTOR", "no interrupt, or none could be had"),
    since=V1_0,
)
# fmt: on

STRUCTS = (CAP, CAP64, NOTIFY_CAP, CFG_CAP, VNDR_DATA, COMMON_CFG, LEGACY_CFG)
CODES = (CAP_TYPE, ISR, MSI)
