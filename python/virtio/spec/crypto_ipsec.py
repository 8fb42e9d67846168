"""IPsec (5.9.9.9): capabilities, security associations and data of the crypto and the network device."""

from __future__ import annotations

from virtio.spec.model import V1_4, Code, Codes, Field, Struct, Union, W, le16, le32, le64, u8

# fmt: off
RESOURCE_CAP = Struct("virtio_crypto_ipsec_resource_cap", "5.9.9.9.1.1", (
    Field("inb_sa_limit", le32, "most inbound associations"),
    Field("outb_sa_limit", le32, "most outbound associations"),
), since=V1_4)
MODE_CAP = Struct("virtio_crypto_ipsec_mode_cap", "5.9.9.9.1.2", (
    Field("mode", u8, "IPsec mode"),
    Field("reserved", u8[3]),
    Field("max_replay_win_sz", le32, "largest window against replays"),
    Field("options", le32, "one bit per option"),
    Field("reserved1", le32),
    Field("cipher_algo", le64, "one bit per cipher"),
    Field("hmac_algo", le64, "one bit per MAC"),
    Field("aead_algo", le32, "one bit per AEAD algorithm"),
    Field("max_cipher_key_len", le32, "bytes"),
    Field("max_auth_key_len", le32, "bytes"),
), since=V1_4)
SA_CAP = Struct("virtio_crypto_ipsec_sa_cap_data", "5.9.9.9.1.2", (
    Field("count", u8, "modes"),
    Field("reserved", u8[7]),
    Field("cap_mode", MODE_CAP["count"]),
), since=V1_4)
IPV4 = Struct("ipv4", "5.9.9.9.2.1", (
    Field("src_ip", le32),
    Field("dst_ip", le32),
    Field("dscp", u8),
    Field("df", u8, "do not fragment"),
    Field("ttl", u8),
    Field("reserved1", u8),
), since=V1_4)
IPV6 = Struct("ipv6", "5.9.9.9.2.1", (
    Field("src_addr", u8[16]),
    Field("dst_addr", u8[16]),
    Field("flabel", le32, "flow label"),
    Field("hlimit", u8, "hop limit"),
    Field("dscp", u8),
    Field("reserved2", u8[2]),
), since=V1_4)
TUNNEL_PARAM = Struct("virtio_crypto_ipsec_tunnel_param", "5.9.9.9.2.1", (
    Field("type", u8, "IPv4 or IPv6"),
    Field("reserved", u8[3]),
    Field("u", Union("", (Field("ipv4", IPV4), Field("ipv6", IPV6)))),
), since=V1_4)
LIFETIME = Struct("virtio_crypto_ipsec_lifetime", "5.9.9.9.2.1", (
    Field("packets_soft_limit", le64),
    Field("bytes_soft_limit", le64),
    Field("packets_hard_limit", le64),
    Field("bytes_hard_limit", le64),
), since=V1_4)


def _key(name: str, reserved: str) -> Struct:
    fields = (Field("length", le16, "bytes that count"), Field(reserved, le16), Field("data", u8[32]))
    return Struct(name, "5.9.9.9.2.1", fields, since=V1_4)


SA = Struct("virtio_crypto_resource_obj_ipsec_sa_256b_key", "5.9.9.9.2.1", (
    Field("mode", u8, "IPsec mode"),
    Field("direction", u8, "direction of an association"),
    Field("reserved", u8[2]),
    Field("obj_id", le32),
    Field("spi", le32, "security parameters index"),
    Field("salt", le32),
    Field("options", le64, "one bit per option"),
    Field("param", TUNNEL_PARAM),
    Field("udp_sport", le16),
    Field("udp_dport", le16),
    Field("replay_win_sz", le32, "window against replays"),
    Field("cipher_algo", le64, "cipher"),
    Field("cipher_key", _key("cipher_key", "reserved1")),
    Field("auth_algo", le64, "MAC"),
    Field("auth_key", _key("auth_key", "reserved2")),
    Field("life", LIFETIME),
), since=V1_4)
DATA_FLF = Struct("virtio_crypto_ipsec_data_flf", "5.9.9.9.3", (
    Field("src_data_len", le32, "bytes"),
    Field("dst_data_len", le32, "bytes"),
), since=V1_4)
DATA_VLF = Struct("virtio_crypto_ipsec_data_vlf", "5.9.9.9.3", (
    Field("src_data", u8["src_data_len"], "a whole packet"),
    Field("dst_data", u8["dst_data_len"], access=W),
), since=V1_4)

CAPABILITY = Codes(
    "capability", "VIRTIO_CRYPTO_IPSEC_", "5.9.7",
    Code(0x0800, "VIRTIO_CRYPTO_IPSEC_RESOURCE_CAP", "limits"),
    Code(0x0801, "VIRTIO_CRYPTO_IPSEC_SA_CAP", "security associations"),
    since=V1_4,
)
RESOURCE_OBJ = Codes(
    "resource object type", "VIRTIO_CRYPTO_RESOURCE_OBJ_", "5.9.8",
    Code(0x0200, "VIRTIO_CRYPTO_RESOURCE_OBJ_IPSEC_OUTBOUND_SA"),
    Code(0x0201, "VIRTIO_CRYPTO_RESOURCE_OBJ_IPSEC_INBOUND_SA"),
    since=V1_4,
)
MODE = Codes(
    "IPsec mode", "VIRTIO_CRYPTO_IPSEC_MODE_", "5.9.9.9.1.2",
    Code(1, "VIRTIO_CRYPTO_IPSEC_MODE_ESP_TUNNEL"),
    Code(2, "VIRTIO_CRYPTO_IPSEC_MODE_ESP_TRANSPORT"),
    Code(3, "VIRTIO_CRYPTO_IPSEC_MODE_AH_TUNNEL"),
    Code(4, "VIRTIO_CRYPTO_IPSEC_MODE_AH_TRANSPORT"),
    since=V1_4,
)
DIR = Codes(
    "direction of an association", "VIRTIO_CRYPTO_IPSEC_DIR_", "5.9.9.9.2.1",
    Code(1, "VIRTIO_CRYPTO_IPSEC_DIR_OUTBOUND"),
    Code(2, "VIRTIO_CRYPTO_IPSEC_DIR_INBOUND"),
    since=V1_4,
)
# Bit numbers, as in the standard.
OPTION = Codes(
    "IPsec option bits", "VIRTIO_CRYPTO_IPSEC_", "5.9.9.9.1.2",
    Code(0, "VIRTIO_CRYPTO_IPSEC_ESN", "extended sequence numbers"),
    Code(1, "VIRTIO_CRYPTO_IPSEC_UDP_ENCAP", "inside UDP"),
    Code(2, "VIRTIO_CRYPTO_IPSEC_COPY_DSCP"),
    Code(3, "VIRTIO_CRYPTO_IPSEC_DEC_TTL"),
    Code(4, "VIRTIO_CRYPTO_IPSEC_COPY_DF"),
    Code(5, "VIRTIO_CRYPTO_IPSEC_ECN"),
    Code(6, "VIRTIO_CRYPTO_IPSEC_SA_LIFETIME", "limits of use"),
    since=V1_4,
)
# fmt: on

STRUCTS = (RESOURCE_CAP, MODE_CAP, SA_CAP, TUNNEL_PARAM, LIFETIME, SA, DATA_FLF, DATA_VLF)
CODES = (CAPABILITY, RESOURCE_OBJ, MODE, DIR, OPTION)
