"""Traditional memory balloon device (5.5)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_0,
    V1_1,
    V1_2,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    le16,
    le32,
    le64,
    rest,
)

# The unit of all page counts and page numbers, whatever the guest's own page size is.
PAGE_SIZE = 4096

# fmt: off
F = Features(
    "VIRTIO_BALLOON_F_",
    Feature(0, "VIRTIO_BALLOON_F_MUST_TELL_HOST", V1_0, "5.5.3", "pages are used only after the device was told"),
    Feature(1, "VIRTIO_BALLOON_F_STATS_VQ", V1_0, "5.5.3", "memory statistics"),
    Feature(2, "VIRTIO_BALLOON_F_DEFLATE_ON_OOM", V1_0, "5.5.3", "a guest short of memory may deflate"),
    Feature(3, "VIRTIO_BALLOON_F_FREE_PAGE_HINT", V1_2, "5.5.3", "hints of free pages, on request"),
    Feature(4, "VIRTIO_BALLOON_F_PAGE_POISON", V1_2, "5.5.3", "the driver fills pages with poison_val"),
    Feature(5, "VIRTIO_BALLOON_F_PAGE_REPORTING", V1_2, "5.5.3", "free pages are reported"),
)

CONFIG = Struct("virtio_balloon_config", "5.5.4", (
    Field("num_pages", le32, "pages that the device wants"),
    Field("actual", le32, "pages that it has", access=RW),
    Field("free_page_hint_cmd_id", le32, "hinting command", "VIRTIO_BALLOON_F_FREE_PAGE_HINT", since=V1_2),
    Field("poison_val", le32, "what the driver fills pages with", "VIRTIO_BALLOON_F_PAGE_POISON", RW, V1_2),
))
PFNS = Struct("virtio_balloon_pfns", "5.5.6", (
    Field("pfns", le32[rest], "page numbers, in units of 4096 bytes"),
), doc="a buffer of inflateq and deflateq; the standard gives it no name")
STAT = Struct("virtio_balloon_stat", "5.5.6.3", (
    Field("tag", le16, "statistic"),
    Field("val", le64),
))
STATS = Struct("virtio_balloon_stats", "5.5.6.3", (Field("stats", STAT[rest]),),
               doc="a buffer of statsq; the standard gives it no name")

S = Codes(
    "statistic", "VIRTIO_BALLOON_S_", "5.5.6.4",
    Code(0, "VIRTIO_BALLOON_S_SWAP_IN", "bytes swapped in"),
    Code(1, "VIRTIO_BALLOON_S_SWAP_OUT", "bytes swapped out"),
    Code(2, "VIRTIO_BALLOON_S_MAJFLT", "major page faults"),
    Code(3, "VIRTIO_BALLOON_S_MINFLT", "minor page faults"),
    Code(4, "VIRTIO_BALLOON_S_MEMFREE", "bytes used for nothing"),
    Code(5, "VIRTIO_BALLOON_S_MEMTOT", "bytes in all"),
    Code(6, "VIRTIO_BALLOON_S_AVAIL", "bytes to be had without swapping", V1_1),
    Code(7, "VIRTIO_BALLOON_S_CACHES", "bytes that can be taken back at once", V1_1),
    Code(8, "VIRTIO_BALLOON_S_HTLB_PGALLOC", "huge pages given out", V1_1),
    Code(9, "VIRTIO_BALLOON_S_HTLB_PGFAIL", "huge pages refused", V1_1),
)
CMD_ID = Codes(
    "hinting command", "VIRTIO_BALLOON_CMD_ID_", "5.5.6.5",
    Code(0, "VIRTIO_BALLOON_CMD_ID_STOP", "hints are no longer of use"),
    Code(1, "VIRTIO_BALLOON_CMD_ID_DONE", "hinted pages may be used again"),
    since=V1_2,
)
# The numbers are fixed by the standard, but Linux and QEMU number only the queues that exist.
QUEUES = (
    Queue(0, "inflateq", "inflate", "5.5.2", "pages for the device"),
    Queue(1, "deflateq", "deflate", "5.5.2", "pages back to the guest"),
    Queue(2, "statsq", "stats", "5.5.2", "statistics; the device returns the buffer to ask for more", "VIRTIO_BALLOON_F_STATS_VQ"),
    Queue(3, "free_page_vq", "free_page_hints", "5.5.2", "hints of free pages", "VIRTIO_BALLOON_F_FREE_PAGE_HINT", since=V1_2),
    Queue(4, "reporting_vq", "reports", "5.5.2", "free pages, as buffers", "VIRTIO_BALLOON_F_PAGE_REPORTING", since=V1_2),
)
# fmt: on

DEVICE = DeviceType(
    id=5,
    name="balloon",
    title="Traditional Memory Balloon Device",
    section="5.5",
    since=V1_0,
    doc="takes memory from the guest and gives it back",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(PFNS, STAT, STATS),
    codes=(S, CMD_ID),
)
