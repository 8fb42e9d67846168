"""Flow filters, IPsec and device parts of the network device: what administration commands carry (5.1.6 - 5.1.9.7)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from typing import NamedTuple

from virtio.spec.model import V1_4, Code, Codes, Field, Struct, le16, le32, rest, u8

# fmt: off
CAP_DATA = Struct("virtio_net_ff_cap_data", "5.1.9.6.2.1", (
    Field("groups_limit", le32, "most groups"),
    Field("classifiers_limit", le32, "most classifiers"),
    Field("rules_limit", le32, "most rules"),
    Field("rules_per_group_limit", le32, "most rules of a group"),
    Field("last_rule_priority", u8, "highest priority of a rule"),
    Field("selectors_per_classifier_limit", u8, "most selectors of a classifier"),
    Field("reserved", u8[2]),
), since=V1_4)
SELECTOR = Struct("virtio_net_ff_selector", "5.1.9.6.2.2", (
    Field("type", u8, "selector type"),
    Field("flags", u8, "selector flags"),
    Field("reserved", u8[2]),
    Field("length", u8, "bytes of the mask"),
    Field("reserved1", u8[3]),
    Field("mask", u8["length"], "which bits of the header count"),
), since=V1_4)
CAP_MASK_DATA = Struct("virtio_net_ff_cap_mask_data", "5.1.9.6.2.2", (
    Field("count", u8, "selectors"),
    Field("reserved", u8[7]),
    Field("selectors", SELECTOR["count"]),
), since=V1_4)
ACTIONS = Struct("virtio_net_ff_actions", "5.1.9.6.2.3", (
    Field("count", u8, "actions"),
    Field("reserved", u8[7]),
    Field("actions", u8["count"], "actions of a rule"),
), since=V1_4)
GROUP = Struct("virtio_net_resource_obj_ff_group", "5.1.9.6.3.1", (Field("group_priority", le16),), since=V1_4)
CLASSIFIER = Struct("virtio_net_resource_obj_ff_classifier", "5.1.9.6.3.2", (
    Field("count", u8, "selectors"),
    Field("reserved", u8[7]),
    Field("selectors", SELECTOR["count"]),
), since=V1_4)
RULE = Struct("virtio_net_resource_obj_ff_rule", "5.1.9.6.3.3", (
    Field("group_id", le32),
    Field("classifier_id", le32),
    Field("rule_priority", u8),
    Field("key_length", u8, "bytes of all keys"),
    Field("action", u8, "action of a rule"),
    Field("reserved", u8),
    Field("vq_index", le16, "receive queue for DIRECT_RX_VQ"),
    Field("reserved1", u8[2]),
    Field("keys", u8[rest], "one per selector of the classifier"),
), since=V1_4)

CAPABILITY = Codes(
    "capability", "VIRTIO_NET_", "5.1.6",
    Code(0x0800, "VIRTIO_NET_FF_RESOURCE_CAP", "limits of flow filters"),
    Code(0x0801, "VIRTIO_NET_FF_SELECTOR_CAP", "selectors of flow filters"),
    Code(0x0802, "VIRTIO_NET_FF_ACTION_CAP", "actions of flow filters"),
    Code(0x0803, "VIRTIO_NET_IPSEC_RESOURCE_CAP", "limits of IPsec, as in the crypto device"),
    Code(0x0804, "VIRTIO_NET_IPSEC_SA_CAP", "security associations, as in the crypto device"),
    since=V1_4,
)
RESOURCE_OBJ = Codes(
    "resource object type", "VIRTIO_NET_RESOURCE_OBJ_", "5.1.7",
    Code(0x0200, "VIRTIO_NET_RESOURCE_OBJ_FF_GROUP", "group of rules"),
    Code(0x0201, "VIRTIO_NET_RESOURCE_OBJ_FF_CLASSIFIER", "classifier"),
    Code(0x0202, "VIRTIO_NET_RESOURCE_OBJ_FF_RULE", "rule"),
    Code(0x0203, "VIRTIO_NET_RESOURCE_OBJ_IPSEC_OUTB_SA", "outbound security association"),
    Code(0x0204, "VIRTIO_NET_RESOURCE_OBJ_IPSEC_INB_SA", "inbound security association"),
    since=V1_4,
)
DEV_PART = Codes(
    "device part", "VIRTIO_NET_DEV_PART_", "5.1.8",
    Code(0x200, "VIRTIO_NET_DEV_PART_CVQ_CFG_PART", "what a control command has set"),
    since=V1_4,
)
MASK_TYPE = Codes(
    "selector type", "VIRTIO_NET_FF_MASK_TYPE_", "5.1.9.6.2.2",
    Code(1, "VIRTIO_NET_FF_MASK_TYPE_ETH", "14 bytes"),
    Code(2, "VIRTIO_NET_FF_MASK_TYPE_IPV4", "20 bytes"),
    Code(3, "VIRTIO_NET_FF_MASK_TYPE_IPV6", "40 bytes"),
    Code(4, "VIRTIO_NET_FF_MASK_TYPE_TCP", "20 bytes"),
    Code(5, "VIRTIO_NET_FF_MASK_TYPE_UDP", "8 bytes"),
    Code(6, "VIRTIO_NET_FF_MASK_TYPE_ESP", "8 bytes"),
    since=V1_4,
)
MASK_F = Codes(
    "selector flags", "VIRTIO_NET_FF_MASK_F_", "5.1.9.6.2.2",
    Code(1, "VIRTIO_NET_FF_MASK_F_PARTIAL_MASK", "single bits can be masked"),
    since=V1_4, flags=True,
)
ACTION = Codes(
    "action of a rule", "VIRTIO_NET_FF_ACTION_", "5.1.9.6.2.3",
    Code(1, "VIRTIO_NET_FF_ACTION_DROP", "drop the packet"),
    Code(2, "VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ", "to a receive queue"),
    Code(3, "VIRTIO_NET_FF_ACTION_IPSEC", "decrypt it"),
    Code(4, "VIRTIO_NET_FF_ACTION_IPSEC_RECIRCULATE", "decrypt it, then filter again"),
    since=V1_4,
)
# fmt: on


class Header(NamedTuple):
    """The header that a type of selector is about."""

    name: str
    size: int
    fields: dict[str, int]
    """Bits of each field, from the first on: with partial masks not to be split (5.1.9.6.2.2)."""


def _header(name: str, fields: str) -> Header:
    bits = {word.partition(":")[0]: int(word.partition(":")[2]) for word in fields.split()}
    return Header(name, sum(bits.values()) // 8, bits)


HEADERS = {
    MASK_TYPE.ETH: _header("eth", "dst:48 src:48 type:16"),
    MASK_TYPE.IPV4: _header(
        "ipv4",
        "version:4 ihl:4 tos:8 total_length:16 identification:16 flags:3 fragment_offset:13"
        " ttl:8 protocol:8 checksum:16 src:32 dst:32",
    ),
    MASK_TYPE.IPV6: _header(
        "ipv6",
        "version:4 traffic_class:8 flow_label:20 payload_length:16 next_header:8 hop_limit:8 src:128 dst:128",
    ),
    MASK_TYPE.TCP: _header(
        "tcp",
        "src_port:16 dst_port:16 sequence:32 acknowledgment:32 data_offset:4 reserved:4"
        " cwr:1 ece:1 urg:1 ack:1 psh:1 rst:1 syn:1 fin:1 window:16 checksum:16 urgent:16",
    ),
    MASK_TYPE.UDP: _header("udp", "src_port:16 dst_port:16 length:16 checksum:16"),
}
"""Headers by the type of selector, as their own standards have them."""
ETHERTYPE = {MASK_TYPE.IPV4: 0x0800, MASK_TYPE.IPV6: 0x86DD}
"""What an Ethernet header says of the header that follows."""
PROTOCOL = {MASK_TYPE.TCP: 6, MASK_TYPE.UDP: 17}
"""What an IP header says of the header that follows."""

STRUCTS = (CAP_DATA, SELECTOR, CAP_MASK_DATA, ACTIONS, GROUP, CLASSIFIER, RULE)
CODES = (CAPABILITY, RESOURCE_OBJ, DEV_PART, MASK_TYPE, MASK_F, ACTION)
