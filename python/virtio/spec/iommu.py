"""IOMMU Device (5.13)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_2,
    Bits,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    W,
    le16,
    le32,
    le64,
    rest,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_IOMMU_F_",
    Feature(0, "VIRTIO_IOMMU_F_INPUT_RANGE", V1_2, "5.13.3", "input_range limits the virtual addresses"),
    Feature(1, "VIRTIO_IOMMU_F_DOMAIN_RANGE", V1_2, "5.13.3", "domain_range limits the domain numbers"),
    Feature(2, "VIRTIO_IOMMU_F_MAP_UNMAP", V1_2, "5.13.3", "MAP and UNMAP requests; the only mode of operation so far"),
    Feature(3, "VIRTIO_IOMMU_F_BYPASS", V1_2, "5.13.3", "endpoints outside any domain reach memory untranslated; superseded by BYPASS_CONFIG"),
    Feature(4, "VIRTIO_IOMMU_F_PROBE", V1_2, "5.13.3", "PROBE requests tell the properties of an endpoint"),
    Feature(5, "VIRTIO_IOMMU_F_MMIO", V1_2, "5.13.3", "mappings can be of memory-mapped I/O"),
    Feature(6, "VIRTIO_IOMMU_F_BYPASS_CONFIG", V1_2, "5.13.3", "the driver decides about bypass: globally in bypass, per domain when it attaches"),
)

RANGE_64 = Struct("virtio_iommu_range_64", "5.13.4", (
    Field("start", le64, "first"),
    Field("end", le64, "last"),
), since=V1_2, doc="an inclusive range of addresses")
RANGE_32 = Struct("virtio_iommu_range_32", "5.13.4", (
    Field("start", le32, "first"),
    Field("end", le32, "last"),
), since=V1_2, doc="an inclusive range of numbers")
CONFIG = Struct("virtio_iommu_config", "5.13.4", (
    Field("page_size_mask", le64, "page sizes that can be mapped; the lowest bit is the granularity"),
    Field("input_range", RANGE_64, "virtual addresses that can be translated", "VIRTIO_IOMMU_F_INPUT_RANGE"),
    Field("domain_range", RANGE_32, "valid domain numbers", "VIRTIO_IOMMU_F_DOMAIN_RANGE"),
    Field("probe_size", le32, "size of the property list in a PROBE request", "VIRTIO_IOMMU_F_PROBE"),
    Field("bypass", u8, "1: endpoints outside any domain bypass translation", "VIRTIO_IOMMU_F_BYPASS_CONFIG", access=RW),
    Field("reserved", u8[3], "reserved"),
), since=V1_2, doc="granularity and limits")
REQ_HEAD = Struct("virtio_iommu_req_head", "5.13.6", (
    Field("type", u8, "request type"),
    Field("reserved", u8[3], "zero"),
), since=V1_2, doc="starts every request")
REQ_TAIL = Struct("virtio_iommu_req_tail", "5.13.6", (
    Field("status", u8, "outcome", access=W),
    Field("reserved", u8[3], "zero", access=W),
), since=V1_2, doc="ends every request")
REQ_ATTACH = Struct("virtio_iommu_req_attach", "5.13.6.3", (
    Field("head", REQ_HEAD, "header"),
    Field("domain", le32, "the domain"),
    Field("endpoint", le32, "the endpoint"),
    Field("flags", le32, "VIRTIO_IOMMU_ATTACH_F_*"),
    Field("reserved", u8[4], "zero"),
    Field("tail", REQ_TAIL, "status", access=W),
), since=V1_2, doc="attach an endpoint to a domain, which is created if it is new")
REQ_DETACH = Struct("virtio_iommu_req_detach", "5.13.6.4", (
    Field("head", REQ_HEAD, "header"),
    Field("domain", le32, "the domain"),
    Field("endpoint", le32, "the endpoint"),
    Field("reserved", u8[8], "zero"),
    Field("tail", REQ_TAIL, "status", access=W),
), since=V1_2, doc="detach an endpoint from a domain")
REQ_MAP = Struct("virtio_iommu_req_map", "5.13.6.5", (
    Field("head", REQ_HEAD, "header"),
    Field("domain", le32, "the domain"),
    Field("virt_start", le64, "first virtual address"),
    Field("virt_end", le64, "last virtual address"),
    Field("phys_start", le64, "physical address of the first"),
    Field("flags", le32, "VIRTIO_IOMMU_MAP_F_*"),
    Field("tail", REQ_TAIL, "status", access=W),
), since=V1_2, doc="map a range of virtual addresses of a domain")
REQ_UNMAP = Struct("virtio_iommu_req_unmap", "5.13.6.6", (
    Field("head", REQ_HEAD, "header"),
    Field("domain", le32, "the domain"),
    Field("virt_start", le64, "first virtual address"),
    Field("virt_end", le64, "last virtual address"),
    Field("reserved", u8[4], "zero"),
    Field("tail", REQ_TAIL, "status", access=W),
), since=V1_2, doc="remove all mappings inside a range")
REQ_PROBE = Struct("virtio_iommu_req_probe", "5.13.6.7", (
    Field("head", REQ_HEAD, "header"),
    Field("endpoint", le32, "the endpoint"),
    Field("reserved", u8[64], "zero"),
    Field("properties", u8[rest], "properties, each with its header, in probe_size bytes", access=W),
    Field("tail", REQ_TAIL, "status", access=W),
), since=V1_2, doc="ask for the properties of an endpoint")
PROBE_PROPERTY = Struct("virtio_iommu_probe_property", "5.13.6.7", (
    Field("type", Bits(le16, (("type", 12), ("reserved", 4))), "property type", access=W),
    Field("length", le16, "length of the value that follows", access=W),
), since=V1_2, doc="starts every property")
PROBE_RESV_MEM = Struct("virtio_iommu_probe_resv_mem", "5.13.6.8.1", (
    Field("head", PROBE_PROPERTY, "header", access=W),
    Field("subtype", u8, "VIRTIO_IOMMU_RESV_MEM_T_*", access=W),
    Field("reserved", u8[3], "zero", access=W),
    Field("start", le64, "first address", access=W),
    Field("end", le64, "last address", access=W),
), since=V1_2, doc="property: virtual addresses that cannot be mapped")
FAULT = Struct("virtio_iommu_fault", "5.13.6.9", (
    Field("reason", u8, "VIRTIO_IOMMU_FAULT_R_*", access=W),
    Field("reserved", u8[3], "zero", access=W),
    Field("flags", le32, "VIRTIO_IOMMU_FAULT_F_*", access=W),
    Field("endpoint", le32, "who caused it", access=W),
    Field("reserved1", le32, "zero", access=W),
    Field("address", le64, "the address, if VIRTIO_IOMMU_FAULT_F_ADDRESS is set", access=W),
), since=V1_2, doc="a fault report on the event queue")
TYPE = Codes(
    "request type", "VIRTIO_IOMMU_T_", "5.13.6",
    Code(1, "VIRTIO_IOMMU_T_ATTACH", "attach an endpoint to a domain"),
    Code(2, "VIRTIO_IOMMU_T_DETACH", "detach an endpoint from a domain"),
    Code(3, "VIRTIO_IOMMU_T_MAP", "map a range of addresses"),
    Code(4, "VIRTIO_IOMMU_T_UNMAP", "remove mappings"),
    Code(5, "VIRTIO_IOMMU_T_PROBE", "ask for the properties of an endpoint"),
    since=V1_2,
)
STATUS = Codes(
    "request status", "VIRTIO_IOMMU_S_", "5.13.6",
    Code(0, "VIRTIO_IOMMU_S_OK", "done"),
    Code(1, "VIRTIO_IOMMU_S_IOERR", "error of the communication"),
    Code(2, "VIRTIO_IOMMU_S_UNSUPP", "request not supported"),
    Code(3, "VIRTIO_IOMMU_S_DEVERR", "internal error of the device"),
    Code(4, "VIRTIO_IOMMU_S_INVAL", "parameters that make no sense"),
    Code(5, "VIRTIO_IOMMU_S_RANGE", "parameters out of range"),
    Code(6, "VIRTIO_IOMMU_S_NOENT", "no such domain or endpoint"),
    Code(7, "VIRTIO_IOMMU_S_FAULT", "bad address"),
    Code(8, "VIRTIO_IOMMU_S_NOMEM", "out of resources"),
    since=V1_2,
)
ATTACH_FLAGS = Codes(
    "flag of ATTACH", "VIRTIO_IOMMU_ATTACH_F_", "5.13.6.3",
    Code(1, "VIRTIO_IOMMU_ATTACH_F_BYPASS", "endpoints of this domain bypass translation"),
    since=V1_2, flags=True,
)
MAP_FLAGS = Codes(
    "flag of MAP", "VIRTIO_IOMMU_MAP_F_", "5.13.6.5",
    Code(1, "VIRTIO_IOMMU_MAP_F_READ", "may be read"),
    Code(2, "VIRTIO_IOMMU_MAP_F_WRITE", "may be written"),
    Code(4, "VIRTIO_IOMMU_MAP_F_MMIO", "is memory-mapped I/O"),
    since=V1_2, flags=True,
)
# 0 ends the list of properties.
PROBE_TYPE = Codes(
    "property type", "VIRTIO_IOMMU_PROBE_T_", "5.13.6.8",
    Code(1, "VIRTIO_IOMMU_PROBE_T_RESV_MEM", "reserved virtual addresses"),
    since=V1_2,
)
RESV_MEM_TYPE = Codes(
    "kind of reserved memory", "VIRTIO_IOMMU_RESV_MEM_T_", "5.13.6.8.1",
    Code(0, "VIRTIO_IOMMU_RESV_MEM_T_RESERVED", "not to be used"),
    Code(1, "VIRTIO_IOMMU_RESV_MEM_T_MSI", "doorbell for message-signalled interrupts"),
    since=V1_2,
)
FAULT_REASON = Codes(
    "reason of a fault", "VIRTIO_IOMMU_FAULT_R_", "5.13.6.9",
    Code(0, "VIRTIO_IOMMU_FAULT_R_UNKNOWN", "none of the others"),
    Code(1, "VIRTIO_IOMMU_FAULT_R_DOMAIN", "the endpoint is in no domain"),
    Code(2, "VIRTIO_IOMMU_FAULT_R_MAPPING", "not mapped, or not for that kind of access"),
    since=V1_2,
)
FAULT_FLAGS = Codes(
    "flag of a fault", "VIRTIO_IOMMU_FAULT_F_", "5.13.6.9",
    Code(1, "VIRTIO_IOMMU_FAULT_F_READ", "it was a read"),
    Code(2, "VIRTIO_IOMMU_FAULT_F_WRITE", "it was a write"),
    Code(0x100, "VIRTIO_IOMMU_FAULT_F_ADDRESS", "the address field is valid"),
    since=V1_2, flags=True,
)
# fmt: on

DEVICE = DeviceType(
    id=23,
    name="iommu",
    title="IOMMU Device",
    section="5.13",
    since=V1_2,
    doc="translates the addresses that devices use",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "requestq", "requests", "5.13.6", "requests of the driver", since=V1_2),
        Queue(
            1, "eventq", "events", "5.13.6.9", "buffers that the device fills with fault reports", since=V1_2
        ),
    ),
    structs=(
        RANGE_64,
        RANGE_32,
        REQ_HEAD,
        REQ_TAIL,
        REQ_ATTACH,
        REQ_DETACH,
        REQ_MAP,
        REQ_UNMAP,
        REQ_PROBE,
        PROBE_PROPERTY,
        PROBE_RESV_MEM,
        FAULT,
    ),
    codes=(TYPE, STATUS, ATTACH_FLAGS, MAP_FLAGS, PROBE_TYPE, RESV_MEM_TYPE, FAULT_REASON, FAULT_FLAGS),
)
