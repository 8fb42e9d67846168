"""SPI Controller Device (5.21)."""

from __future__ import annotations

from virtio.spec.model import (
    V1_4,
    Code,
    Codes,
    DeviceType,
    Features,
    Field,
    Queue,
    Struct,
    W,
    le32,
    rest,
    u8,
)

# fmt: off
F = Features("VIRTIO_SPI_F_")

CONFIG = Struct("virtio_spi_config", "5.21.4", (
    Field("cs_max_number", u8, "number of chip selects"),
    Field("cs_change_supported", u8, "1: chip select can toggle after each transfer of a message"),
    Field("tx_nbits_supported", u8, "writing with more than one bit at a time: bit map of NBITS"),
    Field("rx_nbits_supported", u8, "reading with more than one bit at a time: bit map of NBITS"),
    Field("bits_per_word_mask", le32, "bit n: words of n+1 bits; 0: any"),
    Field("mode_func_supported", le32, "bit map of MODE_SUPPORT"),
    Field("max_freq_hz", le32, "highest clock rate; 0: no limit"),
    Field("max_word_delay_ns", le32, "longest delay between words; 0: none possible"),
    Field("max_cs_setup_ns", le32, "longest delay after asserting chip select; 0: none possible"),
    Field("max_cs_hold_ns", le32, "longest delay before deasserting it; 0: none possible"),
    Field("max_cs_inactive_ns", le32, "longest delay after deasserting it; 0: none possible"),
), since=V1_4, doc="what the controller can do; read-only for the driver")
TRANSFER_HEAD = Struct("virtio_spi_transfer_head", "5.21.6.1", (
    Field("chip_select_id", u8, "chip select"),
    Field("bits_per_word", u8, "bits in a word"),
    Field("cs_change", u8, "1: deselect before the next transfer"),
    Field("tx_nbits", u8, "bits at a time when writing: 0 or 1, 2, 4, 8"),
    Field("rx_nbits", u8, "bits at a time when reading: 0 or 1, 2, 4, 8"),
    Field("reserved", u8[3], "unused"),
    Field("mode", le32, "bit map of MODE"),
    Field("freq", le32, "clock rate in Hz"),
    Field("word_delay_ns", le32, "delay between words"),
    Field("cs_setup_ns", le32, "delay after asserting chip select"),
    Field("cs_delay_hold_ns", le32, "delay before deasserting it"),
    Field("cs_change_delay_inactive_ns", le32, "delay between deasserting and asserting it again"),
), since=V1_4, doc="starts every transfer")
TRANSFER_RESULT = Struct("virtio_spi_transfer_result", "5.21.6.1", (
    Field("result", u8, "VIRTIO_SPI_*", access=W),
), since=V1_4, doc="ends every transfer")
TRANSFER_REQ = Struct("virtio_spi_transfer_req", "5.21.6.1", (
    Field("head", TRANSFER_HEAD, "what to do"),
    Field("tx_buf", u8[rest], "what to write, if anything"),
    Field("rx_buf", u8[rest], "room for what is read, if anything", access=W),
    Field("result", TRANSFER_RESULT, "result", access=W),
), since=V1_4, doc="a transfer: writing, reading, or both at once with buffers of one length")
# The standard numbers these bits, and names them in its text only.
NBITS = Codes(
    "width of a transfer", "", "5.21.4",
    Code(1, "DUAL", "2 bits at a time"),
    Code(2, "QUAD", "4 bits at a time"),
    Code(4, "OCTAL", "8 bits at a time"),
    since=V1_4, flags=True,
)
MODE_SUPPORT = Codes(
    "supported mode", "", "5.21.4",
    Code(1, "CPHA_0", "clock phase 0"),
    Code(2, "CPHA_1", "clock phase 1"),
    Code(4, "CPOL_0", "clock polarity 0"),
    Code(8, "CPOL_1", "clock polarity 1"),
    Code(0x10, "CS_HIGH", "chip select active high"),
    Code(0x20, "LSB_FIRST", "least significant bit first"),
    Code(0x40, "LOOPBACK", "loopback"),
    since=V1_4, flags=True,
)
MODE = Codes(
    "transfer mode", "", "5.21.6.1",
    Code(1, "CPHA", "clock phase"),
    Code(2, "CPOL", "clock polarity"),
    Code(4, "CS_HIGH", "chip select is active high"),
    Code(8, "LSB_FIRST", "least significant bit first"),
    Code(0x10, "LOOP", "loopback"),
    since=V1_4, flags=True,
)
RESULT = Codes(
    "result", "VIRTIO_SPI_", "5.21.6.1",
    Code(0, "VIRTIO_SPI_TRANS_OK", "done"),
    Code(1, "VIRTIO_SPI_PARAM_ERR", "a parameter is wrong or not supported"),
    Code(2, "VIRTIO_SPI_TRANS_ERR", "the transfer failed"),
    since=V1_4,
)
# fmt: on

DEVICE = DeviceType(
    id=45,
    name="spi",
    title="SPI Controller Device",
    section="5.21",
    since=V1_4,
    doc="gives the guest devices on an SPI bus",
    features=F,
    config=CONFIG,
    queues=(Queue(0, "requestq", "requests", "5.21.6.1", "transfers", since=V1_4),),
    structs=(TRANSFER_HEAD, TRANSFER_RESULT, TRANSFER_REQ),
    codes=(NBITS, MODE_SUPPORT, MODE, RESULT),
)
