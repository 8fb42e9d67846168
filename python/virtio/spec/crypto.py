"""Crypto device (5.9). Its requests are in :mod:`virtio.spec.crypto_requests`."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec import crypto_ipsec as ipsec
from virtio.spec import crypto_requests as requests
from virtio.spec import crypto_sessions as sessions
from virtio.spec.model import (
    V1_1,
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
    le32,
    le64,
)

REVISION_1 = ("VIRTIO_CRYPTO_F_REVISION_1",)

# fmt: off
F = Features(
    "VIRTIO_CRYPTO_F_",
    Feature(0, "VIRTIO_CRYPTO_F_REVISION_1", V1_1, "5.9.3", "requests have the lengths of revision 1"),
    Feature(1, "VIRTIO_CRYPTO_F_CIPHER_STATELESS_MODE", V1_1, "5.9.3", "ciphers without sessions", REVISION_1),
    Feature(2, "VIRTIO_CRYPTO_F_HASH_STATELESS_MODE", V1_1, "5.9.3", "hashes without sessions", REVISION_1),
    Feature(3, "VIRTIO_CRYPTO_F_MAC_STATELESS_MODE", V1_1, "5.9.3", "MACs without sessions", REVISION_1),
    Feature(4, "VIRTIO_CRYPTO_F_AEAD_STATELESS_MODE", V1_1, "5.9.3", "AEAD without sessions", REVISION_1),
    Feature(5, "VIRTIO_CRYPTO_F_AKCIPHER_STATELESS_MODE", V1_3, "5.9.3", "asymmetric ciphers without sessions", REVISION_1),
)

CONFIG = Struct("virtio_crypto_config", "5.9.5", (
    Field("status", le32, "hardware status"),
    Field("max_dataqueues", le32, "data queues"),
    Field("crypto_services", le32, "one bit per service"),
    Field("cipher_algo_l", le32, "one bit per cipher, 0 to 31"),
    Field("cipher_algo_h", le32, "one bit per cipher, 32 to 63"),
    Field("hash_algo", le32, "one bit per hash"),
    Field("mac_algo_l", le32, "one bit per MAC, 0 to 31"),
    Field("mac_algo_h", le32, "one bit per MAC, 32 to 63"),
    Field("aead_algo", le32, "one bit per AEAD algorithm"),
    Field("max_cipher_key_len", le32, "bytes"),
    Field("max_auth_key_len", le32, "bytes"),
    # 1.1 and 1.2 had a reserved field here.
    Field("akcipher_algo", le32, "one bit per asymmetric cipher", since=V1_3),
    Field("max_size", le64, "bytes of the content of a request"),
), since=V1_1)

S = Codes(
    "hardware status", "VIRTIO_CRYPTO_S_", "5.9.5",
    Code(1, "VIRTIO_CRYPTO_S_HW_READY", "ready for requests"),
    since=V1_1, flags=True,
)
SERVICE = Codes(
    "service", "VIRTIO_CRYPTO_SERVICE_", "5.9.4",
    Code(0, "VIRTIO_CRYPTO_SERVICE_CIPHER"),
    Code(1, "VIRTIO_CRYPTO_SERVICE_HASH"),
    Code(2, "VIRTIO_CRYPTO_SERVICE_MAC"),
    Code(3, "VIRTIO_CRYPTO_SERVICE_AEAD"),
    Code(4, "VIRTIO_CRYPTO_SERVICE_AKCIPHER", since=V1_3),
    Code(5, "VIRTIO_CRYPTO_SERVICE_IPSEC", since=V1_4),
    since=V1_1,
)
CIPHER = Codes(
    "cipher", "VIRTIO_CRYPTO_", "5.9.4.1",
    Code(0, "VIRTIO_CRYPTO_NO_CIPHER"),
    Code(1, "VIRTIO_CRYPTO_CIPHER_ARC4"),
    Code(2, "VIRTIO_CRYPTO_CIPHER_AES_ECB"),
    Code(3, "VIRTIO_CRYPTO_CIPHER_AES_CBC"),
    Code(4, "VIRTIO_CRYPTO_CIPHER_AES_CTR"),
    Code(5, "VIRTIO_CRYPTO_CIPHER_DES_ECB"),
    Code(6, "VIRTIO_CRYPTO_CIPHER_DES_CBC"),
    Code(7, "VIRTIO_CRYPTO_CIPHER_3DES_ECB"),
    Code(8, "VIRTIO_CRYPTO_CIPHER_3DES_CBC"),
    Code(9, "VIRTIO_CRYPTO_CIPHER_3DES_CTR"),
    Code(10, "VIRTIO_CRYPTO_CIPHER_KASUMI_F8"),
    Code(11, "VIRTIO_CRYPTO_CIPHER_SNOW3G_UEA2"),
    Code(12, "VIRTIO_CRYPTO_CIPHER_AES_F8"),
    Code(13, "VIRTIO_CRYPTO_CIPHER_AES_XTS"),
    Code(14, "VIRTIO_CRYPTO_CIPHER_ZUC_EEA3"),
    since=V1_1,
)
HASH = Codes(
    "hash", "VIRTIO_CRYPTO_", "5.9.4.2",
    Code(0, "VIRTIO_CRYPTO_NO_HASH"),
    Code(1, "VIRTIO_CRYPTO_HASH_MD5"),
    Code(2, "VIRTIO_CRYPTO_HASH_SHA1"),
    Code(3, "VIRTIO_CRYPTO_HASH_SHA_224"),
    Code(4, "VIRTIO_CRYPTO_HASH_SHA_256"),
    Code(5, "VIRTIO_CRYPTO_HASH_SHA_384"),
    Code(6, "VIRTIO_CRYPTO_HASH_SHA_512"),
    Code(7, "VIRTIO_CRYPTO_HASH_SHA3_224"),
    Code(8, "VIRTIO_CRYPTO_HASH_SHA3_256"),
    Code(9, "VIRTIO_CRYPTO_HASH_SHA3_384"),
    Code(10, "VIRTIO_CRYPTO_HASH_SHA3_512"),
    Code(11, "VIRTIO_CRYPTO_HASH_SHA3_SHAKE128"),
    Code(12, "VIRTIO_CRYPTO_HASH_SHA3_SHAKE256"),
    since=V1_1,
)
MAC = Codes(
    "MAC", "VIRTIO_CRYPTO_", "5.9.4.3",
    Code(0, "VIRTIO_CRYPTO_NO_MAC"),
    Code(1, "VIRTIO_CRYPTO_MAC_HMAC_MD5"),
    Code(2, "VIRTIO_CRYPTO_MAC_HMAC_SHA1"),
    Code(3, "VIRTIO_CRYPTO_MAC_HMAC_SHA_224"),
    Code(4, "VIRTIO_CRYPTO_MAC_HMAC_SHA_256"),
    Code(5, "VIRTIO_CRYPTO_MAC_HMAC_SHA_384"),
    Code(6, "VIRTIO_CRYPTO_MAC_HMAC_SHA_512"),
    Code(25, "VIRTIO_CRYPTO_MAC_CMAC_3DES"),
    Code(26, "VIRTIO_CRYPTO_MAC_CMAC_AES"),
    Code(27, "VIRTIO_CRYPTO_MAC_KASUMI_F9"),
    Code(28, "VIRTIO_CRYPTO_MAC_SNOW3G_UIA2"),
    Code(41, "VIRTIO_CRYPTO_MAC_GMAC_AES"),
    Code(42, "VIRTIO_CRYPTO_MAC_GMAC_TWOFISH"),
    Code(49, "VIRTIO_CRYPTO_MAC_CBCMAC_AES"),
    Code(50, "VIRTIO_CRYPTO_MAC_CBCMAC_KASUMI_F9"),
    Code(53, "VIRTIO_CRYPTO_MAC_XCBC_AES"),
    Code(54, "VIRTIO_CRYPTO_MAC_ZUC_EIA3"),
    since=V1_1,
)
AEAD = Codes(
    "AEAD", "VIRTIO_CRYPTO_", "5.9.4.4",
    Code(0, "VIRTIO_CRYPTO_NO_AEAD"),
    Code(1, "VIRTIO_CRYPTO_AEAD_GCM"),
    Code(2, "VIRTIO_CRYPTO_AEAD_CCM"),
    Code(3, "VIRTIO_CRYPTO_AEAD_CHACHA20_POLY1305"),
    since=V1_1,
)
AKCIPHER = Codes(
    "asymmetric cipher", "VIRTIO_CRYPTO_", "5.9.4.5",
    Code(0, "VIRTIO_CRYPTO_NO_AKCIPHER"),
    Code(1, "VIRTIO_CRYPTO_AKCIPHER_RSA"),
    Code(2, "VIRTIO_CRYPTO_AKCIPHER_ECDSA"),
    since=V1_3,
)
STATUS = Codes(
    "status", "VIRTIO_CRYPTO_", "5.9.9.1",
    Code(0, "VIRTIO_CRYPTO_OK", "done"),
    Code(1, "VIRTIO_CRYPTO_ERR", "anything else"),
    Code(2, "VIRTIO_CRYPTO_BADMSG", "verification failed"),
    Code(3, "VIRTIO_CRYPTO_NOTSUPP", "no such operation or algorithm"),
    Code(4, "VIRTIO_CRYPTO_INVSESS", "no such session"),
    Code(5, "VIRTIO_CRYPTO_NOSPC", "no free session"),
    Code(6, "VIRTIO_CRYPTO_KEY_REJECTED", "signature not verified", V1_3),
    Code(7, "VIRTIO_CRYPTO_IPSEC_SA_SOFT_EXPIRY", "done; the security association ends soon", V1_4),
    since=V1_1,
)
QUEUES = (
    Queue(0, "dataq", "requests", "5.9.2", "operations", repeat=Repeat("max_dataqueues"), since=V1_1),
    Queue(None, "controlq", "control", "5.9.2", "sessions, after all data queues", since=V1_1),
)
# fmt: on

DEVICE = DeviceType(
    id=20,
    name="crypto",
    title="Crypto Device",
    section="5.9",
    since=V1_1,
    doc="encrypts, signs and hashes",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(*sessions.STRUCTS, *requests.STRUCTS, *ipsec.STRUCTS),
    codes=(
        S,
        SERVICE,
        CIPHER,
        HASH,
        MAC,
        AEAD,
        AKCIPHER,
        STATUS,
        *sessions.CODES,
        *requests.CODES,
        *ipsec.CODES,
    ),
)
