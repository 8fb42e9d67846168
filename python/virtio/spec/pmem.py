"""PMEM Device (5.19)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
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
    sle32,
)

# fmt: off
F = Features(
    "VIRTIO_PMEM_F_",
    Feature(0, "VIRTIO_PMEM_F_SHMEM_REGION", V1_2, "5.19.3", "the memory is shared memory region 0, not start and size"),
)

CONFIG = Struct("virtio_pmem_config", "5.19.4", (
    Field("start", le64, "physical address of the first byte"),
    Field("size", le64, "length in bytes"),
), since=V1_2, doc="where the memory is, unless it is a shared memory region")
REQ = Struct("virtio_pmem_req", "5.19.6", (
    Field("type", le32, "VIRTIO_PMEM_REQ_TYPE_*"),
), since=V1_2, doc="every request")
RESP = Struct("virtio_pmem_resp", "5.19.7.2", (
    Field("ret", sle32, "0, or -1 for failure", access=W),
), since=V1_2, doc="every response")
REQ_TYPE = Codes(
    "request type", "VIRTIO_PMEM_REQ_TYPE_", "5.19.6",
    Code(0, "VIRTIO_PMEM_REQ_TYPE_FLUSH", "make all completed writes persistent"),
    since=V1_2,
)
# fmt: on

DEVICE = DeviceType(
    id=27,
    name="pmem",
    title="PMEM Device",
    section="5.19",
    since=V1_2,
    doc="persistent memory that the guest maps, and a way to flush it",
    features=F,
    config=CONFIG,
    queues=(Queue(0, "req_vq", "requests", "5.19.6", "flush requests", since=V1_2),),
    structs=(REQ, RESP),
    codes=(REQ_TYPE,),
    shared_memory=(
        SharedMemory(
            0, "memory", "5.19.5.1", "the persistent memory", "VIRTIO_PMEM_F_SHMEM_REGION", since=V1_2
        ),
    ),
)
