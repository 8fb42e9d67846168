"""Network device (5.1). Its control commands are in :mod:`virtio.spec.net_control`."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec import net_control as control
from virtio.spec import net_flow as flow
from virtio.spec.model import (
    LEGACY,
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    V1_4,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Repeat,
    Struct,
    Union,
    le16,
    le32,
    u8,
)

# fmt: off
CTRL_VQ, CSUM, GUEST_CSUM = "VIRTIO_NET_F_CTRL_VQ", "VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"
GUEST_TSO = ("VIRTIO_NET_F_GUEST_TSO4", "VIRTIO_NET_F_GUEST_TSO6")
HOST_TSO = ("VIRTIO_NET_F_HOST_TSO4", "VIRTIO_NET_F_HOST_TSO6")
HASHING = ("VIRTIO_NET_F_RSS", "VIRTIO_NET_F_HASH_REPORT")
PAIRS = ("VIRTIO_NET_F_MQ", "VIRTIO_NET_F_RSS")
TUNNEL_GSO = ("VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO", "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO")

F = Features(
    "VIRTIO_NET_F_",
    Feature(0, "VIRTIO_NET_F_CSUM", V1_0, "5.1.3", "device completes partial checksums"),
    Feature(1, "VIRTIO_NET_F_GUEST_CSUM", V1_0, "5.1.3", "driver takes packets with partial checksums"),
    Feature(2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS", V1_0, "5.1.3", "driver switches its offloads while running"),
    Feature(3, "VIRTIO_NET_F_MTU", V1_1, "5.1.3", "mtu holds the largest MTU"),
    Feature(5, "VIRTIO_NET_F_MAC", V1_0, "5.1.3", "mac is valid"),
    Feature(6, "VIRTIO_NET_F_GSO", LEGACY, "5.1.3.2", "device segments packets of any kind", legacy=True),
    Feature(7, "VIRTIO_NET_F_GUEST_TSO4", V1_0, "5.1.3", "driver takes large TCP packets over IPv4", (GUEST_CSUM,)),
    Feature(8, "VIRTIO_NET_F_GUEST_TSO6", V1_0, "5.1.3", "driver takes large TCP packets over IPv6", (GUEST_CSUM,)),
    Feature(9, "VIRTIO_NET_F_GUEST_ECN", V1_0, "5.1.3", "driver takes large TCP packets with ECN", (GUEST_TSO,)),
    Feature(10, "VIRTIO_NET_F_GUEST_UFO", V1_0, "5.1.3", "driver takes large UDP packets, to be fragmented", (GUEST_CSUM,)),
    Feature(11, "VIRTIO_NET_F_HOST_TSO4", V1_0, "5.1.3", "device takes large TCP packets over IPv4", (CSUM,)),
    Feature(12, "VIRTIO_NET_F_HOST_TSO6", V1_0, "5.1.3", "device takes large TCP packets over IPv6", (CSUM,)),
    Feature(13, "VIRTIO_NET_F_HOST_ECN", V1_0, "5.1.3", "device takes large TCP packets with ECN", (HOST_TSO,)),
    Feature(14, "VIRTIO_NET_F_HOST_UFO", V1_0, "5.1.3", "device takes large UDP packets, to be fragmented", (CSUM,)),
    Feature(15, "VIRTIO_NET_F_MRG_RXBUF", V1_0, "5.1.3", "a received packet may fill several buffers"),
    Feature(16, "VIRTIO_NET_F_STATUS", V1_0, "5.1.3", "status is valid"),
    Feature(17, "VIRTIO_NET_F_CTRL_VQ", V1_0, "5.1.3", "there is a control queue"),
    Feature(18, "VIRTIO_NET_F_CTRL_RX", V1_0, "5.1.3", "receive modes can be set", (CTRL_VQ,)),
    Feature(19, "VIRTIO_NET_F_CTRL_VLAN", V1_0, "5.1.3", "VLANs can be filtered", (CTRL_VQ,)),
    Feature(20, "VIRTIO_NET_F_CTRL_RX_EXTRA", V1_0, "5.1.3", "more receive modes can be set"),
    Feature(21, "VIRTIO_NET_F_GUEST_ANNOUNCE", V1_0, "5.1.3", "device can ask the driver to announce itself", (CTRL_VQ,)),
    Feature(22, "VIRTIO_NET_F_MQ", V1_0, "5.1.3", "several queue pairs, steered by the device", (CTRL_VQ,)),
    Feature(23, "VIRTIO_NET_F_CTRL_MAC_ADDR", V1_0, "5.1.3", "the MAC address can be set", (CTRL_VQ,)),
    # Bit 41 is VIRTIO_F_ADMIN_VQ since 1.3: what it means depends on VIRTIO_F_VERSION_1.
    Feature(41, "VIRTIO_NET_F_GUEST_RSC4", V1_1, "5.1.3.2", "device coalesces TCP packets over IPv4", legacy=True),
    Feature(42, "VIRTIO_NET_F_GUEST_RSC6", V1_1, "5.1.3.2", "device coalesces TCP packets over IPv6", legacy=True),
    Feature(50, "VIRTIO_NET_F_DEVICE_STATS", V1_4, "5.1.3", "statistics over the control queue"),
    Feature(51, "VIRTIO_NET_F_HASH_TUNNEL", V1_3, "5.1.3", "hashes of the inner header of tunnelled packets", (CTRL_VQ, HASHING)),
    Feature(52, "VIRTIO_NET_F_VQ_NOTF_COAL", V1_3, "5.1.3", "notifications coalesced per queue", (CTRL_VQ,)),
    Feature(53, "VIRTIO_NET_F_NOTF_COAL", V1_3, "5.1.3", "notifications coalesced", (CTRL_VQ,)),
    Feature(54, "VIRTIO_NET_F_GUEST_USO4", V1_3, "5.1.3", "driver takes large UDP packets over IPv4, to be segmented", (GUEST_CSUM,)),
    Feature(55, "VIRTIO_NET_F_GUEST_USO6", V1_3, "5.1.3", "driver takes large UDP packets over IPv6, to be segmented", (GUEST_CSUM,)),
    Feature(56, "VIRTIO_NET_F_HOST_USO", V1_2, "5.1.3", "device takes large UDP packets, to be segmented", (CSUM,)),
    Feature(57, "VIRTIO_NET_F_HASH_REPORT", V1_2, "5.1.3", "a received packet comes with its hash"),
    Feature(59, "VIRTIO_NET_F_GUEST_HDRLEN", V1_2, "5.1.3", "hdr_len is exact"),
    Feature(60, "VIRTIO_NET_F_RSS", V1_2, "5.1.3", "receive-side scaling, configurable", (CTRL_VQ,)),
    Feature(61, "VIRTIO_NET_F_RSC_EXT", V1_1, "5.1.3", "device counts coalesced segments and duplicated ACKs", (HOST_TSO,)),
    Feature(62, "VIRTIO_NET_F_STANDBY", V1_1, "5.1.3", "stands by for another device with the same MAC address"),
    Feature(63, "VIRTIO_NET_F_SPEED_DUPLEX", V1_2, "5.1.3", "speed and duplex are valid"),
    Feature(64, "VIRTIO_NET_F_RSS_CONTEXT", V1_4, "5.1.3", "several RSS contexts", (CTRL_VQ, "VIRTIO_NET_F_RSS")),
    Feature(65, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO", V1_4, "5.1.3", "driver takes large packets in a UDP tunnel",
            (*GUEST_TSO, "VIRTIO_NET_F_GUEST_USO4", "VIRTIO_NET_F_GUEST_USO6")),
    Feature(66, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM", V1_4, "5.1.3", "also with a partial outer checksum",
            ("VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO",)),
    Feature(67, "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO", V1_4, "5.1.3", "device takes large packets in a UDP tunnel",
            (*HOST_TSO, "VIRTIO_NET_F_HOST_USO")),
    Feature(68, "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM", V1_4, "5.1.3", "also with a partial outer checksum",
            ("VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO",)),
    Feature(69, "VIRTIO_NET_F_OUT_NET_HEADER", V1_4, "5.1.3", "driver says where the outer network header starts"),
    Feature(70, "VIRTIO_NET_F_IPSEC", V1_4, "5.1.3", "device encrypts and decrypts IPsec inline"),
)

CONFIG = Struct("virtio_net_config", "5.1.4", (
    # The address is there always, valid only with the feature.
    Field("mac", u8[6], "MAC address", "VIRTIO_NET_F_MAC"),
    Field("status", le16, "link status", "VIRTIO_NET_F_STATUS"),
    Field("max_virtqueue_pairs", le16, "most queue pairs", PAIRS),
    Field("mtu", le16, "largest MTU", "VIRTIO_NET_F_MTU", since=V1_1),
    Field("speed", le32, "in Mbit/s; 0xffffffff: not known", "VIRTIO_NET_F_SPEED_DUPLEX", since=V1_2),
    Field("duplex", u8, "0: half, 1: full, 0xff: not known", "VIRTIO_NET_F_SPEED_DUPLEX", since=V1_2),
    Field("rss_max_key_size", u8, "longest hash key in bytes", HASHING, since=V1_2),
    Field("rss_max_indirection_table_length", le16, "most entries of the table", "VIRTIO_NET_F_RSS", since=V1_2),
    Field("supported_hash_types", le32, "hash types", HASHING, since=V1_2),
    Field("supported_tunnel_types", le32, "tunnel types", "VIRTIO_NET_F_HASH_TUNNEL", since=V1_3),
))

IPSEC_RESOURCE_HDR = Struct("ipsec_resource_hdr", "5.1.9", (
    Field("resource_id", le32, "id of the security association"),
    Field("resource_type", le16, "its resource type"),
), since=V1_4)
# Where a later field exists, so do those before it: HDR.until(features) is the header of a device.
HDR = Struct("virtio_net_hdr", "5.1.9", (
    Field("flags", u8, "header flags"),
    Field("gso_type", u8, "kind of large packet"),
    Field("hdr_len", le16, "bytes of headers to be repeated"),
    Field("gso_size", le16, "bytes of payload of a segment; coalesced segments with RSC_INFO"),
    Field("csum_start", le16, "where the checksum begins; duplicated ACKs with RSC_INFO"),
    Field("csum_offset", le16, "where to put it, from csum_start"),
    Field("num_buffers", le16, "buffers that a received packet fills"),
    Field("hash_value", le32, "hash of the packet", "VIRTIO_NET_F_HASH_REPORT", since=V1_2),
    Field("hash_report", le16, "hash report type", "VIRTIO_NET_F_HASH_REPORT", since=V1_2),
    Field("padding_reserved", le16, "", "VIRTIO_NET_F_HASH_REPORT", since=V1_2),
    Field("outer_th_offset", le16, "where the outer transport header starts", TUNNEL_GSO, since=V1_4),
    Field("inner_nh_offset", le16, "where the inner network header starts", TUNNEL_GSO, since=V1_4),
    Field("outer_nh_offset", le16, "where the outer network header starts", "VIRTIO_NET_F_OUT_NET_HEADER", since=V1_4),
    Field("ipsec", Union("", (
        Field("padding_reserved_2", u8[6]),
        Field("ipsec_resource_hdr", IPSEC_RESOURCE_HDR),
    )), "security association", ("VIRTIO_NET_F_OUT_NET_HEADER", "VIRTIO_NET_F_IPSEC"), since=V1_4),
), doc="stands before every packet; without VIRTIO_F_VERSION_1 num_buffers is there only with MRG_RXBUF")

S = Codes(
    "link status", "VIRTIO_NET_S_", "5.1.4",
    Code(1, "VIRTIO_NET_S_LINK_UP", "the link is up"),
    Code(2, "VIRTIO_NET_S_ANNOUNCE", "the driver shall announce itself"),
    flags=True,
)
HDR_F = Codes(
    "header flags", "VIRTIO_NET_HDR_F_", "5.1.9",
    Code(1, "VIRTIO_NET_HDR_F_NEEDS_CSUM", "the checksum is partial"),
    Code(2, "VIRTIO_NET_HDR_F_DATA_VALID", "the checksum is right"),
    Code(4, "VIRTIO_NET_HDR_F_RSC_INFO", "the packet was coalesced", V1_1),
    Code(8, "VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM", "the outer checksum is partial or right as well", V1_4),
    Code(16, "VIRTIO_NET_HDR_F_SECURITY", "IPsec was or shall be done", V1_4),
    Code(32, "VIRTIO_NET_HDR_F_SECURITY_ERR", "IPsec failed", V1_4),
    Code(64, "VIRTIO_NET_HDR_F_SECURITY_SA_SOFT_EXPIRY_WARN", "the security association ends soon", V1_4),
    flags=True,
)
GSO = Codes(
    "kind of large packet", "VIRTIO_NET_HDR_GSO_", "5.1.9",
    Code(0, "VIRTIO_NET_HDR_GSO_NONE", "not large"),
    Code(1, "VIRTIO_NET_HDR_GSO_TCPV4", "TCP over IPv4"),
    Code(3, "VIRTIO_NET_HDR_GSO_UDP", "UDP, to be fragmented"),
    Code(4, "VIRTIO_NET_HDR_GSO_TCPV6", "TCP over IPv6"),
    Code(5, "VIRTIO_NET_HDR_GSO_UDP_L4", "UDP, to be segmented", V1_2),
    Code(0x20, "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4", "a flag: in a UDP tunnel over IPv4", V1_4),
    Code(0x40, "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6", "a flag: in a UDP tunnel over IPv6", V1_4),
    Code(0x80, "VIRTIO_NET_HDR_GSO_ECN", "a flag: TCP with ECN"),
)
HASH_TYPE = Codes(
    "hash types", "VIRTIO_NET_HASH_TYPE_", "5.1.9.4.3.1",
    Code(1 << 0, "VIRTIO_NET_HASH_TYPE_IPv4"),
    Code(1 << 1, "VIRTIO_NET_HASH_TYPE_TCPv4"),
    Code(1 << 2, "VIRTIO_NET_HASH_TYPE_UDPv4"),
    Code(1 << 3, "VIRTIO_NET_HASH_TYPE_IPv6"),
    Code(1 << 4, "VIRTIO_NET_HASH_TYPE_TCPv6"),
    Code(1 << 5, "VIRTIO_NET_HASH_TYPE_UDPv6"),
    Code(1 << 6, "VIRTIO_NET_HASH_TYPE_IP_EX"),
    Code(1 << 7, "VIRTIO_NET_HASH_TYPE_TCP_EX"),
    Code(1 << 8, "VIRTIO_NET_HASH_TYPE_UDP_EX"),
    since=V1_2, flags=True,
)
TUNNEL_TYPE = Codes(
    "tunnel types", "VIRTIO_NET_HASH_TUNNEL_TYPE_", "5.1.9.4.4.2",
    Code(1 << 0, "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2784"),
    Code(1 << 1, "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2890"),
    Code(1 << 2, "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_7676"),
    Code(1 << 3, "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_UDP"),
    Code(1 << 4, "VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN"),
    Code(1 << 5, "VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN_GPE"),
    Code(1 << 6, "VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE"),
    Code(1 << 7, "VIRTIO_NET_HASH_TUNNEL_TYPE_IPIP"),
    Code(1 << 8, "VIRTIO_NET_HASH_TUNNEL_TYPE_NVGRE"),
    since=V1_3, flags=True,
)
HASH_REPORT = Codes(
    "hash report type", "VIRTIO_NET_HASH_REPORT_", "5.1.9.4.5",
    Code(0, "VIRTIO_NET_HASH_REPORT_NONE"),
    Code(1, "VIRTIO_NET_HASH_REPORT_IPv4"),
    Code(2, "VIRTIO_NET_HASH_REPORT_TCPv4"),
    Code(3, "VIRTIO_NET_HASH_REPORT_UDPv4"),
    Code(4, "VIRTIO_NET_HASH_REPORT_IPv6"),
    Code(5, "VIRTIO_NET_HASH_REPORT_TCPv6"),
    Code(6, "VIRTIO_NET_HASH_REPORT_UDPv6"),
    Code(7, "VIRTIO_NET_HASH_REPORT_IPv6_EX"),
    Code(8, "VIRTIO_NET_HASH_REPORT_TCPv6_EX"),
    Code(9, "VIRTIO_NET_HASH_REPORT_UDPv6_EX"),
    since=V1_2,
)

EACH_PAIR = Repeat("max_virtqueue_pairs", PAIRS)
QUEUES = (
    Queue(0, "receiveq", "receive", "5.1.2", "packets for the guest", repeat=EACH_PAIR),
    Queue(1, "transmitq", "transmit", "5.1.2", "packets from the guest", repeat=EACH_PAIR),
    Queue(None, "controlq", "control", "5.1.2", "control commands, after all pairs", CTRL_VQ),
)
# fmt: on

DEVICE = DeviceType(
    id=1,
    name="net",
    title="Network Device",
    section="5.1",
    since=V1_0,
    doc="packets in and out",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(HDR, IPSEC_RESOURCE_HDR, *control.STRUCTS, *flow.STRUCTS),
    codes=(S, HDR_F, GSO, HASH_TYPE, TUNNEL_TYPE, HASH_REPORT, *control.CODES, *flow.CODES),
)
