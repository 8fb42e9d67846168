"""PCI itself, as far as a virtio function shows it: the configuration header and four capabilities.

From the PCI Local Bus specification 3.0 and the PCI Express base specification, not from VIRTIO.
"""

from __future__ import annotations

from virtio.spec.model import RW, Code, Codes, Field, Struct, le16, le32, u8

# fmt: off
CONFIG_SIZE = 256
EXTENDED_CONFIG_SIZE = 4096
CAPABILITIES_START = 0x40
BARS = 6

HEADER = Struct("pci_header", "PCI 6.1", (
    Field("vendor_id", le16),
    Field("device_id", le16),
    Field("command", le16, access=RW),
    Field("status", le16, access=RW),
    Field("revision_id", u8),
    Field("class_code", u8[3], "interface, subclass, base class"),
    Field("cache_line_size", u8, access=RW),
    Field("latency_timer", u8),
    Field("header_type", u8),
    Field("bist", u8),
    Field("bar", le32[BARS], access=RW),
    Field("cardbus_cis", le32),
    Field("subsystem_vendor_id", le16),
    Field("subsystem_id", le16),
    Field("rom", le32),
    Field("capabilities_pointer", u8),
    Field("reserved", u8[7]),
    Field("interrupt_line", u8, access=RW),
    Field("interrupt_pin", u8),
    Field("min_gnt", u8),
    Field("max_lat", u8),
))
COMMAND = Codes(
    "command", "", "PCI 6.2.2",
    Code(0x001, "IO_SPACE"),
    Code(0x002, "MEMORY_SPACE"),
    Code(0x004, "BUS_MASTER"),
    Code(0x040, "PARITY_ERROR_RESPONSE"),
    Code(0x100, "SERR_ENABLE"),
    Code(0x400, "INTERRUPT_DISABLE"),
    flags=True,
)
STATUS = Codes(
    "status", "", "PCI 6.2.3",
    Code(0x0008, "INTERRUPT"),
    Code(0x0010, "CAPABILITIES_LIST"),
    Code(0x0100, "MASTER_DATA_PARITY_ERROR"),
    Code(0x0800, "SIGNALED_TARGET_ABORT"),
    Code(0x1000, "RECEIVED_TARGET_ABORT"),
    Code(0x2000, "RECEIVED_MASTER_ABORT"),
    Code(0x4000, "SIGNALED_SYSTEM_ERROR"),
    Code(0x8000, "DETECTED_PARITY_ERROR"),
    flags=True,
)
STATUS_CLEARABLE = 0xF900
"""Those that writing 1 clears."""

BAR_IO = 0x1
BAR_MEMORY_64 = 0x4
BAR_PREFETCHABLE = 0x8

CAP_ID = Codes(
    "capability", "", "PCI appendix H",
    Code(0x01, "POWER_MANAGEMENT"),
    Code(0x05, "MSI"),
    Code(0x09, "VENDOR"),
    Code(0x10, "EXPRESS"),
    Code(0x11, "MSIX"),
)

POWER_CAP = Struct("pci_pm_cap", "PCI PM 3.2", (
    Field("id", u8),
    Field("next", u8),
    Field("capabilities", le16),
    Field("control", le16, "PMCSR", access=RW),
    Field("bridge", u8),
    Field("data", u8),
))
POWER_VERSION = 3
POWER_STATE = 0x3
POWER_NO_SOFT_RESET = 0x8
D0, D3_HOT = 0, 3

MSIX_CAP = Struct("pci_msix_cap", "PCI 6.8.2", (
    Field("id", u8),
    Field("next", u8),
    Field("control", le16, access=RW),
    Field("table", le32, "offset, and in bits 0-2 the BAR"),
    Field("pending", le32, "offset, and in bits 0-2 the BAR"),
))
MSIX_TABLE_SIZE = 0x07FF
MSIX_MASK_ALL = 0x4000
MSIX_ENABLE = 0x8000
MSIX_VECTORS = 0x800
MSIX_ENTRY = Struct("pci_msix_entry", "PCI 6.8.2", (
    Field("address_low", le32, access=RW),
    Field("address_high", le32, access=RW),
    Field("data", le32, access=RW),
    Field("control", le32, "bit 0 masks", access=RW),
))
MSIX_ENTRY_MASK = 0x1

EXPRESS_CAP = Struct("pci_express_cap", "PCIe 7.8", (
    Field("id", u8),
    Field("next", u8),
    Field("capabilities", le16, "version, port type"),
    Field("device_capabilities", le32),
    Field("device_control", le16, access=RW),
    Field("device_status", le16, access=RW),
    Field("link_capabilities", le32),
    Field("link_control", le16, access=RW),
    Field("link_status", le16),
    Field("slot_and_root", le32[5]),
    Field("device_capabilities_2", le32),
    Field("device_control_2", le16, access=RW),
    Field("device_status_2", le16),
    Field("link_capabilities_2", le32),
    Field("link_control_2", le16, access=RW),
    Field("link_status_2", le16),
    Field("slot_2", le32[2]),
))
EXPRESS_VERSION = 2
EXPRESS_V1_SIZE = 0x14
"""Of version 1, in an endpoint: it ends behind the link's status."""
EXPRESS_ROLE_BASED_ERRORS = 1 << 15
EXPRESS_FLR = 1 << 28
EXPRESS_CONTROL_FLR = 1 << 15
"""Writing it resets the function; it reads as 0."""
EXPRESS_STATUS_CLEARABLE = 0x000F

EXTENDED_CAP_START = 0x100
EXTENDED_CAP = Struct("pci_extended_cap", "PCIe 7.9.3", (
    Field("id", le16),
    Field("version_and_next", le16, "version in bits 0-3, then where the next one is"),
))
EXTENDED_CAP_ID = Codes(
    "extended capability", "", "PCIe 7.9",
    Code(0x0003, "SERIAL_NUMBER"),
    Code(0x0010, "SR_IOV"),
)

SRIOV_CAP = Struct("pci_sriov_cap", "PCIe 9.3.3", (
    Field("header", le32, "that of every extended capability"),
    Field("capabilities", le32),
    Field("control", le16, access=RW),
    Field("status", le16),
    Field("initial_vfs", le16),
    Field("total_vfs", le16),
    Field("num_vfs", le16, access=RW),
    Field("dependency_link", u8),
    Field("reserved", u8),
    Field("first_vf_offset", le16),
    Field("vf_stride", le16),
    Field("reserved_2", le16),
    Field("vf_device_id", le16),
    Field("supported_page_sizes", le32, "bit n: pages of 2^(n+12) bytes"),
    Field("system_page_size", le32, access=RW),
    Field("vf_bar", le32[BARS], access=RW),
    Field("migration_state_array", le32),
))
SRIOV_VF_ENABLE = 0x01
SRIOV_VF_MSE = 0x08
"""The memory space of virtual functions is enabled."""
# fmt: on
