"""The data queues of the crypto device (5.9.9.3 - 5.9.9.8).

A request has a fixed part (``flf``) and a variable one (``vlf``), whose lengths stand in the fixed part. The
``stateless`` forms carry what a session would know.
"""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.crypto_sessions import ECDSA_PARA, RSA_PARA
from virtio.spec.model import V1_1, V1_3, V1_4, Code, Codes, Field, Struct, Union, W, le32, le64, u8

# Without REVISION_1 the fixed part of a request is padded to this size.
DATAQ_OP_SPEC_HDR_LEGACY = 48


def _words(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, le32) for name in names)


def _to_device(*names: str) -> tuple[Field, ...]:
    """Bytes whose number stands in the fixed part under the name with _len."""
    return tuple(Field(name, u8[_length(name)]) for name in names)


def _from_device(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, u8[_length(name)], access=W) for name in names)


def _length(name: str) -> str:
    # The cipher key and the asymmetric key are counted by key_len.
    return "key_len" if name in ("cipher_key", "akcipher_key") else f"{name}_len"


def _struct(name: str, section: str, *fields: Field, since: object = None) -> Struct:
    version = V1_3 if since is V1_3 else V1_1
    return Struct(f"virtio_crypto_{name}", f"5.9.9.{section}", fields, since=version)


def _para(section: str, *fields: Field, since: object = None) -> Field:
    version = V1_3 if since is V1_3 else V1_1
    return Field(
        "sess_para",
        Struct("sess_para", f"5.9.9.{section}", fields, since=version),
        "what a session would know",
    )


# fmt: off
OP_HEADER = _struct(
    "op_header", "3",
    Field("opcode", le32, "data operation"),
    Field("algo", le32, "algorithm of the service"),
    Field("session_id", le64),
    Field("flag", le32, "request flags"),
    Field("padding", le32),
)
INHDR = _struct("inhdr", "3", Field("status", u8, "status", access=W))
OP_DATA_REQ = _struct(
    "op_data_req", "3",
    Field("header", OP_HEADER),
    Field("op_flf", u8["flf_len"], "the fixed part of the operation"),
    Field("op_vlf", u8["vlf_len"], "its variable part, readable and writable"),
    Field("inhdr", INHDR, access=W),
)

HASH_FLF = _struct("hash_data_flf", "4", *_words("src_data_len", "hash_result_len"))
HASH_VLF = _struct("hash_data_vlf", "4", *_to_device("src_data"), *_from_device("hash_result"))
HASH_FLF_STATELESS = _struct(
    "hash_data_flf_stateless", "4", _para("4", *_words("algo")), *_words("src_data_len", "hash_result_len", "reserved"),
)
HASH_VLF_STATELESS = _struct("hash_data_vlf_stateless", "4", *_to_device("src_data"), *_from_device("hash_result"))

MAC_FLF = _struct("mac_data_flf", "5", Field("hdr", HASH_FLF))
MAC_VLF = _struct("mac_data_vlf", "5", *_to_device("src_data"), *_from_device("hash_result"))
MAC_FLF_STATELESS = _struct(
    "mac_data_flf_stateless", "5", _para("5", *_words("algo", "auth_key_len")), *_words("src_data_len", "hash_result_len"),
)
MAC_VLF_STATELESS = _struct("mac_data_vlf_stateless", "5", *_to_device("auth_key", "src_data"), *_from_device("hash_result"))

CIPHER_FLF = _struct("cipher_data_flf", "6", *_words("iv_len", "src_data_len", "dst_data_len", "padding"))
CIPHER_VLF = _struct("cipher_data_vlf", "6", *_to_device("iv", "src_data"), *_from_device("dst_data"))
CHAIN_WORDS = ("iv_len", "src_data_len", "dst_data_len", "cipher_start_src_offset", "len_to_cipher",
               "hash_start_src_offset", "len_to_hash", "aad_len", "hash_result_len", "reserved")
CHAIN_FLF = _struct("alg_chain_data_flf", "6", *_words(*CHAIN_WORDS))
CHAIN_VLF = _struct("alg_chain_data_vlf", "6", *_to_device("iv", "src_data", "aad"), *_from_device("dst_data", "hash_result"))
SYM_FLF = _struct("sym_data_flf", "6", Field("op_type_flf", u8[40]), Field("op_type", le32, "symmetric operation"), Field("padding", le32))
SYM_VLF = _struct("sym_data_vlf", "6", Field("op_type_vlf", u8["sym_para_len"]))
CIPHER_FLF_STATELESS = _struct(
    "cipher_data_flf_stateless", "6", _para("6", *_words("algo", "key_len", "op")), *_words("iv_len", "src_data_len", "dst_data_len"),
)
CIPHER_VLF_STATELESS = _struct("cipher_data_vlf_stateless", "6", *_to_device("cipher_key", "iv", "src_data"), *_from_device("dst_data"))
CHAIN_FLF_STATELESS = _struct(
    "alg_chain_data_flf_stateless", "6",
    _para(
        "6",
        *_words("alg_chain_order", "aad_len"),
        Field("cipher", Struct("cipher", "5.9.9.6", _words("algo", "key_len", "op"), since=V1_1)),
        Field("hash", Struct("hash", "5.9.9.6", _words("algo", "auth_key_len", "hash_mode"), since=V1_1)),
    ),
    *_words(*CHAIN_WORDS),
)
# The additional data stands before the source data here, and after it with a session.
CHAIN_VLF_STATELESS = _struct(
    "alg_chain_data_vlf_stateless", "6",
    *_to_device("cipher_key", "auth_key", "iv", "aad", "src_data"), *_from_device("dst_data", "hash_result"),
)
SYM_FLF_STATELESS = _struct("sym_data_flf_stateless", "6", Field("op_type_flf", u8[72]), Field("op_type", le32, "symmetric operation"))
SYM_VLF_STATELESS = _struct("sym_data_vlf_stateless", "6", Field("op_type_vlf", u8["sym_para_len"]))

AEAD_FLF = _struct("aead_data_flf", "7", *_words("iv_len", "aad_len", "src_data_len", "dst_data_len", "tag_len", "reserved"))
AEAD_VLF = _struct("aead_data_vlf", "7", *_to_device("iv", "src_data", "aad"), *_from_device("dst_data"))
AEAD_FLF_STATELESS = _struct(
    "aead_data_flf_stateless", "7",
    _para("7", *_words("algo", "key_len", "op")), *_words("iv_len", "tag_len", "aad_len", "src_data_len", "dst_data_len"),
)
AEAD_VLF_STATELESS = _struct("aead_data_vlf_stateless", "7", *_to_device("key", "iv", "src_data", "aad"), *_from_device("dst_data"))

AKCIPHER_FLF = _struct("akcipher_data_flf", "8", *_words("src_data_len", "dst_data_len"), since=V1_3)
AKCIPHER_VLF = _struct("akcipher_data_vlf", "8", *_to_device("src_data"), *_from_device("dst_data"), since=V1_3)
AKCIPHER_FLF_STATELESS = _struct(
    "akcipher_data_flf_stateless", "8",
    _para(
        "8",
        *_words("algo", "key_type", "key_len"),
        Field("u", Union("", (Field("rsa", RSA_PARA), Field("ecdsa", ECDSA_PARA)))),
        since=V1_3,
    ),
    *_words("src_data_len", "dst_data_len"),
    since=V1_3,
)
AKCIPHER_VLF_STATELESS = _struct("akcipher_data_vlf_stateless", "8", *_to_device("akcipher_key", "src_data"), *_from_device("dst_data"), since=V1_3)

DATA_OP = Codes(
    "data operation", "VIRTIO_CRYPTO_", "5.9.9.3",
    Code(0x000, "VIRTIO_CRYPTO_CIPHER_ENCRYPT"),
    Code(0x001, "VIRTIO_CRYPTO_CIPHER_DECRYPT"),
    Code(0x100, "VIRTIO_CRYPTO_HASH"),
    Code(0x200, "VIRTIO_CRYPTO_MAC"),
    Code(0x300, "VIRTIO_CRYPTO_AEAD_ENCRYPT"),
    Code(0x301, "VIRTIO_CRYPTO_AEAD_DECRYPT"),
    Code(0x400, "VIRTIO_CRYPTO_AKCIPHER_ENCRYPT", since=V1_3),
    Code(0x401, "VIRTIO_CRYPTO_AKCIPHER_DECRYPT", since=V1_3),
    Code(0x402, "VIRTIO_CRYPTO_AKCIPHER_SIGN", since=V1_3),
    Code(0x403, "VIRTIO_CRYPTO_AKCIPHER_VERIFY", since=V1_3),
    Code(0x500, "VIRTIO_CRYPTO_IPSEC_OUTBOUND", since=V1_4),
    Code(0x501, "VIRTIO_CRYPTO_IPSEC_INBOUND", since=V1_4),
    since=V1_1,
)
FLAG = Codes(
    "request flags", "VIRTIO_CRYPTO_FLAG_", "5.9.9.3",
    Code(1, "VIRTIO_CRYPTO_FLAG_SESSION_MODE", "session_id counts"),
    since=V1_1, flags=True,
)
# fmt: on

STRUCTS = (
    OP_HEADER,
    INHDR,
    OP_DATA_REQ,
    HASH_FLF,
    HASH_VLF,
    HASH_FLF_STATELESS,
    HASH_VLF_STATELESS,
    MAC_FLF,
    MAC_VLF,
    MAC_FLF_STATELESS,
    MAC_VLF_STATELESS,
    CIPHER_FLF,
    CIPHER_VLF,
    CHAIN_FLF,
    CHAIN_VLF,
    SYM_FLF,
    SYM_VLF,
    CIPHER_FLF_STATELESS,
    CIPHER_VLF_STATELESS,
    CHAIN_FLF_STATELESS,
    CHAIN_VLF_STATELESS,
    SYM_FLF_STATELESS,
    SYM_VLF_STATELESS,
    AEAD_FLF,
    AEAD_VLF,
    AEAD_FLF_STATELESS,
    AEAD_VLF_STATELESS,
    AKCIPHER_FLF,
    AKCIPHER_VLF,
    AKCIPHER_FLF_STATELESS,
    AKCIPHER_VLF_STATELESS,
)
CODES = (DATA_OP, FLAG)
