"""The control queue of the crypto device (5.9.9.2): sessions."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import V1_1, V1_3, Code, Codes, Field, Struct, W, le32, le64, rest, u8

# Without REVISION_1 the fixed part of a request is padded to this size.
CTRLQ_OP_SPEC_HDR_LEGACY = 56

# fmt: off
CTRL_HEADER = Struct("virtio_crypto_ctrl_header", "5.9.9.2", (
    Field("opcode", le32, "control operation"),
    Field("algo", le32, "algorithm of the service"),
    Field("flag", le32),
    Field("reserved", le32),
), since=V1_1)
CTRL_REQ = Struct("virtio_crypto_op_ctrl_req", "5.9.9.2", (
    Field("header", CTRL_HEADER),
    Field("op_flf", u8["flf_len"], "the fixed part of the operation"),
    Field("op_vlf", u8["vlf_len"], "its variable part: keys"),
    Field("op_outcome", u8[rest], "session or status", access=W),
), since=V1_1)
CREATE_INPUT = Struct("virtio_crypto_create_session_input", "5.9.9.2.1", (
    Field("session_id", le64, access=W),
    Field("status", le32, "status", access=W),
    Field("padding", le32, access=W),
), since=V1_1)
DESTROY_FLF = Struct("virtio_crypto_destroy_session_flf", "5.9.9.2.1", (Field("session_id", le64),), since=V1_1)
DESTROY_INPUT = Struct("virtio_crypto_destroy_session_input", "5.9.9.2.1", (Field("status", u8, "status", access=W),), since=V1_1)
HASH_FLF = Struct("virtio_crypto_hash_create_session_flf", "5.9.9.2.1.1", (
    Field("algo", le32, "hash"),
    Field("hash_result_len", le32, "bytes"),
), since=V1_1)
MAC_FLF = Struct("virtio_crypto_mac_create_session_flf", "5.9.9.2.1.2", (
    Field("algo", le32, "MAC"),
    Field("hash_result_len", le32, "bytes"),
    Field("auth_key_len", le32, "bytes"),
    Field("padding", le32),
), since=V1_1)
MAC_VLF = Struct("virtio_crypto_mac_create_session_vlf", "5.9.9.2.1.2", (Field("auth_key", u8["auth_key_len"]),), since=V1_1)
CIPHER_FLF = Struct("virtio_crypto_cipher_session_flf", "5.9.9.2.1.3", (
    Field("algo", le32, "cipher"),
    Field("key_len", le32, "bytes"),
    Field("op", le32, "direction"),
    Field("padding", le32),
), since=V1_1)
CIPHER_VLF = Struct("virtio_crypto_cipher_session_vlf", "5.9.9.2.1.3", (Field("cipher_key", u8["key_len"]),), since=V1_1)
CHAIN_FLF = Struct("virtio_crypto_alg_chain_session_flf", "5.9.9.2.1.3", (
    Field("alg_chain_order", le32, "order of a chain"),
    Field("hash_mode", le32, "hash mode"),
    Field("cipher_hdr", CIPHER_FLF),
    Field("algo_flf", u8[16], "the fixed part for the hash or the MAC"),
    Field("aad_len", le32, "bytes"),
    Field("padding", le32),
), since=V1_1)
CHAIN_VLF = Struct("virtio_crypto_alg_chain_session_vlf", "5.9.9.2.1.3", (
    Field("cipher_key", u8["key_len"]),
    Field("auth_key", u8["auth_key_len"]),
), since=V1_1)
SYM_FLF = Struct("virtio_crypto_sym_create_session_flf", "5.9.9.2.1.3", (
    Field("op_flf", u8[48], "the fixed part for the cipher or the chain"),
    Field("op_type", le32, "symmetric operation"),
    Field("padding", le32),
), since=V1_1)
SYM_VLF = Struct("virtio_crypto_sym_create_session_vlf", "5.9.9.2.1.3", (Field("op_vlf", u8["vlf_len"]),), since=V1_1)
AEAD_FLF = Struct("virtio_crypto_aead_create_session_flf", "5.9.9.2.1.4", (
    Field("algo", le32, "AEAD"),
    Field("key_len", le32, "bytes"),
    Field("tag_len", le32, "bytes"),
    Field("aad_len", le32, "bytes"),
    Field("op", le32, "direction"),
    Field("padding", le32),
), since=V1_1)
AEAD_VLF = Struct("virtio_crypto_aead_create_session_vlf", "5.9.9.2.1.4", (Field("key", u8["key_len"]),), since=V1_1)
RSA_PARA = Struct("virtio_crypto_rsa_session_para", "5.9.9.2.1.5", (
    Field("padding_algo", le32, "RSA padding"),
    Field("hash_algo", le32, "RSA hash"),
), since=V1_3)
ECDSA_PARA = Struct("virtio_crypto_ecdsa_session_para", "5.9.9.2.1.5", (Field("curve_id", le32, "curve"),), since=V1_3)
AKCIPHER_FLF = Struct("virtio_crypto_akcipher_create_session_flf", "5.9.9.2.1.5", (
    Field("algo", le32, "asymmetric cipher"),
    Field("key_type", le32, "key type"),
    Field("key_len", le32, "bytes"),
    Field("algo_flf", u8[44], "parameters of RSA or ECDSA"),
), since=V1_3)
AKCIPHER_VLF = Struct("virtio_crypto_akcipher_create_session_vlf", "5.9.9.2.1.5", (Field("key", u8["key_len"]),), since=V1_3)

CTRL_OP = Codes(
    "control operation", "VIRTIO_CRYPTO_", "5.9.9.2",
    Code(0x002, "VIRTIO_CRYPTO_CIPHER_CREATE_SESSION"),
    Code(0x003, "VIRTIO_CRYPTO_CIPHER_DESTROY_SESSION"),
    Code(0x102, "VIRTIO_CRYPTO_HASH_CREATE_SESSION"),
    Code(0x103, "VIRTIO_CRYPTO_HASH_DESTROY_SESSION"),
    Code(0x202, "VIRTIO_CRYPTO_MAC_CREATE_SESSION"),
    Code(0x203, "VIRTIO_CRYPTO_MAC_DESTROY_SESSION"),
    Code(0x302, "VIRTIO_CRYPTO_AEAD_CREATE_SESSION"),
    Code(0x303, "VIRTIO_CRYPTO_AEAD_DESTROY_SESSION"),
    # Unlike the others, these two end in 4 and 5.
    Code(0x404, "VIRTIO_CRYPTO_AKCIPHER_CREATE_SESSION", since=V1_3),
    Code(0x405, "VIRTIO_CRYPTO_AKCIPHER_DESTROY_SESSION", since=V1_3),
    since=V1_1,
)
OP = Codes(
    "direction", "VIRTIO_CRYPTO_OP_", "5.9.9.2.1.3",
    Code(1, "VIRTIO_CRYPTO_OP_ENCRYPT"),
    Code(2, "VIRTIO_CRYPTO_OP_DECRYPT"),
    since=V1_1,
)
CHAIN_ORDER = Codes(
    "order of a chain", "VIRTIO_CRYPTO_SYM_ALG_CHAIN_ORDER_", "5.9.9.2.1.3",
    Code(1, "VIRTIO_CRYPTO_SYM_ALG_CHAIN_ORDER_HASH_THEN_CIPHER"),
    Code(2, "VIRTIO_CRYPTO_SYM_ALG_CHAIN_ORDER_CIPHER_THEN_HASH"),
    since=V1_1,
)
HASH_MODE = Codes(
    "hash mode", "VIRTIO_CRYPTO_SYM_HASH_MODE_", "5.9.9.2.1.3",
    Code(1, "VIRTIO_CRYPTO_SYM_HASH_MODE_PLAIN"),
    Code(2, "VIRTIO_CRYPTO_SYM_HASH_MODE_AUTH"),
    Code(3, "VIRTIO_CRYPTO_SYM_HASH_MODE_NESTED"),
    since=V1_1,
)
SYM_OP = Codes(
    "symmetric operation", "VIRTIO_CRYPTO_SYM_OP_", "5.9.9.2.1.3",
    Code(0, "VIRTIO_CRYPTO_SYM_OP_NONE"),
    Code(1, "VIRTIO_CRYPTO_SYM_OP_CIPHER"),
    Code(2, "VIRTIO_CRYPTO_SYM_OP_ALGORITHM_CHAINING"),
    since=V1_1,
)
RSA_PADDING = Codes(
    "RSA padding", "VIRTIO_CRYPTO_RSA_", "5.9.9.2.1.5",
    Code(0, "VIRTIO_CRYPTO_RSA_RAW_PADDING"),
    Code(1, "VIRTIO_CRYPTO_RSA_PKCS1_PADDING"),
    since=V1_3,
)
RSA_HASH = Codes(
    "RSA hash", "VIRTIO_CRYPTO_RSA_", "5.9.9.2.1.5",
    Code(0, "VIRTIO_CRYPTO_RSA_NO_HASH"),
    Code(1, "VIRTIO_CRYPTO_RSA_MD2"),
    Code(2, "VIRTIO_CRYPTO_RSA_MD3"),
    Code(3, "VIRTIO_CRYPTO_RSA_MD4"),
    Code(4, "VIRTIO_CRYPTO_RSA_MD5"),
    Code(5, "VIRTIO_CRYPTO_RSA_SHA1"),
    Code(6, "VIRTIO_CRYPTO_RSA_SHA256"),
    Code(7, "VIRTIO_CRYPTO_RSA_SHA384"),
    Code(8, "VIRTIO_CRYPTO_RSA_SHA512"),
    Code(9, "VIRTIO_CRYPTO_RSA_SHA224"),
    since=V1_3,
)
CURVE = Codes(
    "curve", "VIRTIO_CRYPTO_CURVE_", "5.9.9.2.1.5",
    Code(0, "VIRTIO_CRYPTO_CURVE_UNKNOWN"),
    Code(1, "VIRTIO_CRYPTO_CURVE_NIST_P192"),
    Code(2, "VIRTIO_CRYPTO_CURVE_NIST_P224"),
    Code(3, "VIRTIO_CRYPTO_CURVE_NIST_P256"),
    Code(4, "VIRTIO_CRYPTO_CURVE_NIST_P384"),
    Code(5, "VIRTIO_CRYPTO_CURVE_NIST_P521"),
    since=V1_3,
)
KEY_TYPE = Codes(
    "key type", "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_", "5.9.9.2.1.5",
    Code(1, "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PUBLIC"),
    Code(2, "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PRIVATE"),
    since=V1_3,
)
# fmt: on

STRUCTS = tuple(value for value in list(globals().values()) if isinstance(value, Struct))
CODES = tuple(value for value in list(globals().values()) if isinstance(value, Codes))
