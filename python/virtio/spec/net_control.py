"""The control queue of the network device (5.1.9.5): commands, their data, statistics."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_0,
    V1_2,
    V1_3,
    V1_4,
    Bits,
    Code,
    Codes,
    Field,
    Struct,
    W,
    le16,
    le32,
    le64,
    rest,
    u8,
)

# fmt: off
CTRL = Struct("virtio_net_ctrl", "5.1.9.5", (
    Field("class", u8, "command class"),
    Field("command", u8, "command of this class"),
    Field("command_specific_data", u8["data_length"], "what the command needs"),
    Field("ack", u8, "control status", access=W),
    Field("command_specific_result", u8[rest], "what the command answers", access=W, since=V1_4),
))
MAC_TABLE = Struct("virtio_net_ctrl_mac", "5.1.9.5.2", (
    Field("entries", le32, "addresses"),
    Field("macs", u8[6]["entries"], "MAC addresses"),
), doc="MAC_TABLE_SET takes two: unicast, then multicast")
VQ_PAIRS = Struct("virtio_net_ctrl_mq_pairs_set", "5.1.9.5.6", (Field("virtqueue_pairs", le16, "pairs to use"),))
HASH_CONFIG = Struct("virtio_net_hash_config", "5.1.9.5.6.4", (
    Field("hash_types", le32, "hash types"),
    Field("reserved", le16[4]),
    Field("hash_key_length", u8),
    Field("hash_key_data", u8["hash_key_length"]),
), since=V1_2)
RSS_RQ_ID = Bits(le16, (("vq_index_1_16", 15), ("reserved", 1)))
RSS_CONFIG = Struct("virtio_net_rss_config", "5.1.9.5.7.1", (
    Field("hash_types", le32, "hash types"),
    Field("indirection_table_mask", le16, "entries of the table less one"),
    Field("unclassified_queue", RSS_RQ_ID, "for packets without a hash"),
    Field("indirection_table", RSS_RQ_ID["indirection_table_length"], "queue per hash"),
    Field("max_tx_vq", le16, "transmit queues in use"),
    Field("hash_key_length", u8),
    Field("hash_key_data", u8["hash_key_length"]),
), since=V1_2)
RSS_CTX_CAP = Struct("virtnet_rss_ctx_cap", "5.1.9.5.8.1", (Field("max_rss_contexts", le16, access=W),), since=V1_4)
RSS_CTX_ADD_MODIFY = Struct("virtnet_rss_ctx_add_modify", "5.1.9.5.8.2", (
    Field("rss_ctx_id", le16, "from 1"),
    Field("reserved", u8[6]),
    Field("rss", RSS_CONFIG),
), since=V1_4)
RSS_CTX_DEL = Struct("virtnet_rss_ctx_del", "5.1.9.5.8.2", (Field("rss_ctx_id", le16),), since=V1_4)
GUEST_OFFLOADS = Struct("virtio_net_ctrl_guest_offloads", "5.1.9.5.9.1", (Field("offloads", le64, "offloads"),),
                        doc="the data of GUEST_OFFLOADS_SET; the standard gives it no name")
COAL = Struct("virtio_net_ctrl_coal", "5.1.9.5.10", (
    Field("max_packets", le32, "packets before a notification"),
    Field("max_usecs", le32, "microseconds before a notification"),
), since=V1_3)
COAL_VQ = Struct("virtio_net_ctrl_coal_vq", "5.1.9.5.10", (
    Field("vq_index", le16),
    Field("reserved", le16),
    Field("coal", COAL, "device-writable for VQ_GET"),
), since=V1_3)
HASH_TUNNEL = Struct("virtnet_hash_tunnel", "5.1.9.4.4", (Field("enabled_tunnel_types", le32, "tunnel types"),), since=V1_3)
STATS_CAPABILITIES = Struct("virtio_net_stats_capabilities", "5.1.9.5.11.1", (
    Field("supported_stats_types", le64[1], "statistics", access=W),
), since=V1_4)
QUEUE_STATS = Struct("virtio_net_ctrl_queue_stats", "5.1.9.5.11.2", (
    Field("stats", Struct("stats", "5.1.9.5.11.2", (
        Field("vq_index", le16),
        Field("reserved", le16[3]),
        Field("types_bitmap", le64[1], "statistics"),
    ), since=V1_4)[rest], "what is wanted of which queue"),
), since=V1_4)
STATS_REPLY_HDR = Struct("virtio_net_stats_reply_hdr", "5.1.9.5.11.2", (
    Field("type", u8, "statistics reply", access=W),
    Field("reserved", u8, access=W),
    Field("vq_index", le16, access=W),
    Field("reserved1", le16, access=W),
    Field("size", le16, "bytes of this reply with the header", access=W),
), since=V1_4)


def _stats(name: str, section: str, *counters: str) -> Struct:
    hdr = Field("hdr", STATS_REPLY_HDR, access=W)
    fields = (hdr, *(Field(counter, le64, access=W) for counter in counters))
    return Struct(f"virtio_net_stats_{name}", f"5.1.9.5.11.{section}", fields, since=V1_4)


STATS = (
    _stats("cvq", "3", "command_num", "ok_num"),
    _stats("rx_basic", "4", "rx_notifications", "rx_packets", "rx_bytes", "rx_interrupts", "rx_drops", "rx_drop_overruns"),
    _stats("tx_basic", "5", "tx_notifications", "tx_packets", "tx_bytes", "tx_interrupts", "tx_drops", "tx_drop_malformed"),
    _stats("rx_csum", "6", "rx_csum_valid", "rx_needs_csum", "rx_csum_none", "rx_csum_bad"),
    _stats("tx_csum", "7", "tx_csum_none", "tx_needs_csum"),
    _stats("rx_gso", "8", "rx_gso_packets", "rx_gso_bytes", "rx_gso_packets_coalesced", "rx_gso_bytes_coalesced"),
    _stats("tx_gso", "9", "tx_gso_packets", "tx_gso_bytes", "tx_gso_segments", "tx_gso_segments_bytes",
           "tx_gso_packets_noseg", "tx_gso_bytes_noseg"),
    _stats("rx_speed", "10", "rx_packets_allowance_exceeded", "rx_bytes_allowance_exceeded"),
    _stats("tx_speed", "11", "tx_packets_allowance_exceeded", "tx_bytes_allowance_exceeded"),
)
CVQ_SELECTOR = Struct("virtio_net_dev_part_cvq_selector", "5.1.8.1", (
    Field("class", u8, "command class"),
    Field("command", u8),
    Field("reserved", u8[6]),
), since=V1_4)

ACK = Codes(
    "control status", "VIRTIO_NET_", "5.1.9.5",
    Code(0, "VIRTIO_NET_OK", "done"),
    Code(1, "VIRTIO_NET_ERR", "failed"),
)
CLASS = Codes(
    "command class", "VIRT", "5.1.9.5",
    Code(0, "VIRTIO_NET_CTRL_RX", "receive modes"),
    Code(1, "VIRTIO_NET_CTRL_MAC", "MAC addresses"),
    Code(2, "VIRTIO_NET_CTRL_VLAN", "VLANs"),
    Code(3, "VIRTIO_NET_CTRL_ANNOUNCE", "announcement"),
    Code(4, "VIRTIO_NET_CTRL_MQ", "queue pairs, RSS and hashes"),
    Code(5, "VIRTIO_NET_CTRL_GUEST_OFFLOADS", "offloads"),
    Code(6, "VIRTIO_NET_CTRL_NOTF_COAL", "coalescing of notifications", V1_3),
    Code(7, "VIRTIO_NET_CTRL_HASH_TUNNEL", "hashes of inner headers", V1_3),
    Code(8, "VIRTIO_NET_CTRL_STATS", "statistics", V1_4),
    Code(9, "VIRTNET_RSS_CTX_CTRL", "RSS contexts", V1_4),
)
RX = Codes(
    "command of RX", "VIRTIO_NET_CTRL_RX_", "5.1.9.5.1",
    Code(0, "VIRTIO_NET_CTRL_RX_PROMISC", "take all"),
    Code(1, "VIRTIO_NET_CTRL_RX_ALLMULTI", "take all multicast"),
    Code(2, "VIRTIO_NET_CTRL_RX_ALLUNI", "take all unicast"),
    Code(3, "VIRTIO_NET_CTRL_RX_NOMULTI", "take no multicast"),
    Code(4, "VIRTIO_NET_CTRL_RX_NOUNI", "take no unicast"),
    Code(5, "VIRTIO_NET_CTRL_RX_NOBCAST", "take no broadcast"),
)
MAC = Codes(
    "command of MAC", "VIRTIO_NET_CTRL_MAC_", "5.1.9.5.2",
    Code(0, "VIRTIO_NET_CTRL_MAC_TABLE_SET", "filter these addresses"),
    Code(1, "VIRTIO_NET_CTRL_MAC_ADDR_SET", "set the device's address"),
)
VLAN = Codes(
    "command of VLAN", "VIRTIO_NET_CTRL_VLAN_", "5.1.9.5.3",
    Code(0, "VIRTIO_NET_CTRL_VLAN_ADD", "let a VLAN pass"),
    Code(1, "VIRTIO_NET_CTRL_VLAN_DEL", "block it again"),
)
ANNOUNCE = Codes(
    "command of ANNOUNCE", "VIRTIO_NET_CTRL_ANNOUNCE_", "5.1.9.5.4",
    Code(0, "VIRTIO_NET_CTRL_ANNOUNCE_ACK", "the driver has seen the request"),
)
MQ = Codes(
    "command of MQ", "VIRTIO_NET_CTRL_MQ_", "5.1.9.5.5",
    Code(0, "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET", "use so many pairs, steered by the device"),
    Code(1, "VIRTIO_NET_CTRL_MQ_RSS_CONFIG", "steer by hash", V1_2),
    Code(2, "VIRTIO_NET_CTRL_MQ_HASH_CONFIG", "compute hashes", V1_2),
)
VQ_PAIRS_LIMIT = Codes(
    "queue pairs", "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_", "5.1.9.5.6",
    Code(1, "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN"),
    Code(0x8000, "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX"),
)
RSS_CTX = Codes(
    "command of RSS_CTX_CTRL", "VIRTNET_RSS_CTX_CTRL_", "5.1.9.5.8.1",
    Code(0, "VIRTNET_RSS_CTX_CTRL_CAP_GET", "how many contexts there can be"),
    Code(1, "VIRTNET_RSS_CTX_CTRL_ADD"),
    Code(2, "VIRTNET_RSS_CTX_CTRL_MOD"),
    Code(3, "VIRTNET_RSS_CTX_CTRL_DEL"),
    since=V1_4,
)
OFFLOADS_CMD = Codes(
    "command of GUEST_OFFLOADS", "VIRTIO_NET_CTRL_GUEST_OFFLOADS_", "5.1.9.5.9.1",
    Code(0, "VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET", "switch offloads on and off"),
)
# The bit numbers are those of the features, but for the two about tunnels, whose features are past bit 63.
OFFLOADS = Codes(
    "offloads", "VIRTIO_NET_F_", "5.1.9.5.9.1",
    Code(1 << 1, "VIRTIO_NET_F_GUEST_CSUM"),
    Code(1 << 7, "VIRTIO_NET_F_GUEST_TSO4"),
    Code(1 << 8, "VIRTIO_NET_F_GUEST_TSO6"),
    Code(1 << 9, "VIRTIO_NET_F_GUEST_ECN"),
    Code(1 << 10, "VIRTIO_NET_F_GUEST_UFO"),
    Code(1 << 46, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO", since=V1_4),
    Code(1 << 47, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM", since=V1_4),
    Code(1 << 54, "VIRTIO_NET_F_GUEST_USO4", since=V1_3),
    Code(1 << 55, "VIRTIO_NET_F_GUEST_USO6", since=V1_3),
    since=V1_0, flags=True,
)
COALESCE = Codes(
    "command of NOTF_COAL", "VIRTIO_NET_CTRL_NOTF_COAL_", "5.1.9.5.10",
    Code(0, "VIRTIO_NET_CTRL_NOTF_COAL_TX_SET", "for all transmit queues"),
    Code(1, "VIRTIO_NET_CTRL_NOTF_COAL_RX_SET", "for all receive queues"),
    Code(2, "VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET", "for one queue"),
    Code(3, "VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET", "of one queue"),
    since=V1_3,
)
TUNNEL_CMD = Codes(
    "command of HASH_TUNNEL", "VIRTIO_NET_CTRL_HASH_TUNNEL_", "5.1.9.4.4",
    Code(0, "VIRTIO_NET_CTRL_HASH_TUNNEL_SET", "hash inner headers of these tunnels"),
    since=V1_3,
)
STATS_CMD = Codes(
    "command of STATS", "VIRTIO_NET_CTRL_STATS_", "5.1.9.5.11.1",
    Code(0, "VIRTIO_NET_CTRL_STATS_QUERY", "which statistics there are"),
    Code(1, "VIRTIO_NET_CTRL_STATS_GET", "the statistics"),
    since=V1_4,
)
STATS_KINDS = ((32, "CVQ"), (0, "RX_BASIC"), (1, "RX_CSUM"), (2, "RX_GSO"), (3, "RX_SPEED"),
               (16, "TX_BASIC"), (17, "TX_CSUM"), (18, "TX_GSO"), (19, "TX_SPEED"))
STATS_NEEDS = {  # one of these features; the others need none
    "RX_CSUM": ("VIRTIO_NET_F_GUEST_CSUM",),
    "RX_GSO": ("VIRTIO_NET_F_GUEST_TSO4", "VIRTIO_NET_F_GUEST_TSO6"),
    "TX_CSUM": ("VIRTIO_NET_F_CSUM",),
    "TX_GSO": ("VIRTIO_NET_F_HOST_TSO4", "VIRTIO_NET_F_HOST_TSO6", "VIRTIO_NET_F_HOST_USO"),
}
STATS_TYPE = Codes(
    "statistics", "VIRTIO_NET_STATS_TYPE_", "5.1.9.5.11.1",
    *(Code(1 << bit, f"VIRTIO_NET_STATS_TYPE_{kind}") for bit, kind in STATS_KINDS),
    since=V1_4, flags=True,
)
STATS_REPLY = Codes(
    "statistics reply", "VIRTIO_NET_STATS_TYPE_REPLY_", "5.1.9.5.11.2",
    *(Code(bit, f"VIRTIO_NET_STATS_TYPE_REPLY_{kind}") for bit, kind in STATS_KINDS),
    since=V1_4,
)
# fmt: on

STRUCTS = (
    CTRL,
    MAC_TABLE,
    VQ_PAIRS,
    HASH_CONFIG,
    RSS_CONFIG,
    RSS_CTX_CAP,
    RSS_CTX_ADD_MODIFY,
    RSS_CTX_DEL,
    GUEST_OFFLOADS,
    COAL,
    COAL_VQ,
    HASH_TUNNEL,
    STATS_CAPABILITIES,
    QUEUE_STATS,
    STATS_REPLY_HDR,
    *STATS,
    CVQ_SELECTOR,
)
CODES = (
    ACK,
    CLASS,
    RX,
    MAC,
    VLAN,
    ANNOUNCE,
    MQ,
    VQ_PAIRS_LIMIT,
    RSS_CTX,
    OFFLOADS_CMD,
    OFFLOADS,
    COALESCE,
    TUNNEL_CMD,
    STATS_CMD,
    STATS_TYPE,
    STATS_REPLY,
)
