"""Sound Device (5.14)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
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
    Struct,
    Union,
    W,
    le16,
    le32,
    le64,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_SND_F_",
    Feature(0, "VIRTIO_SND_F_CTLS", V1_3, "5.14.3", "control elements: volume, mute, switches"),
)

CONFIG = Struct("virtio_snd_config", "5.14.4", (
    Field("jacks", le32, "number of jacks"),
    Field("streams", le32, "number of PCM streams"),
    Field("chmaps", le32, "number of channel maps"),
    Field("controls", le32, "number of control elements", "VIRTIO_SND_F_CTLS", since=V1_3),
), since=V1_2, doc="how many items of each kind there are; read-only for the driver")
HDR = Struct("virtio_snd_hdr", "5.14.6", (
    Field("code", le32, "a request, event or status code"),
), since=V1_2, doc="starts every control request, response and notification")
EVENT = Struct("virtio_snd_event", "5.14.6", (
    Field("hdr", HDR, "its kind", access=W),
    Field("data", le32, "what it is about: a jack or a stream", access=W),
), since=V1_2, doc="a notification")
QUERY_INFO = Struct("virtio_snd_query_info", "5.14.6.1", (
    Field("hdr", HDR, "VIRTIO_SND_R_*_INFO"),
    Field("start_id", le32, "first item"),
    Field("count", le32, "number of items"),
    Field("size", le32, "size of the structure that the driver knows for one item"),
), since=V1_2, doc="ask for a number of items; virtio_snd_hdr and the items answer")
INFO = Struct("virtio_snd_info", "5.14.6.1", (
    Field("hda_fn_nid", le32, "function group node of High Definition Audio; links items of different kinds", access=W),
), since=V1_2, doc="starts every item")
JACK_HDR = Struct("virtio_snd_jack_hdr", "5.14.6.4", (
    Field("hdr", HDR, "VIRTIO_SND_R_JACK_*"),
    Field("jack_id", le32, "the jack"),
), since=V1_2, doc="starts the requests about one jack")
JACK_INFO = Struct("virtio_snd_jack_info", "5.14.6.4.1", (
    Field("hdr", INFO, "header", access=W),
    Field("features", le32, "bit map of VIRTIO_SND_JACK_F_*", access=W),
    Field("hda_reg_defconf", le32, "default configuration of the pin, as in High Definition Audio", access=W),
    Field("hda_reg_caps", le32, "capabilities of the pin, as in High Definition Audio", access=W),
    Field("connected", u8, "1: something is plugged in", access=W),
    Field("padding", u8[7], "zero", access=W),
), since=V1_2, doc="a jack")
JACK_REMAP = Struct("virtio_snd_jack_remap", "5.14.6.4.2", (
    Field("hdr", JACK_HDR, "the jack"),
    Field("association", le32, "association number"),
    Field("sequence", le32, "sequence number"),
), since=V1_2, doc="change what a jack belongs to")
PCM_HDR = Struct("virtio_snd_pcm_hdr", "5.14.6.6", (
    Field("hdr", HDR, "VIRTIO_SND_R_PCM_*"),
    Field("stream_id", le32, "the stream"),
), since=V1_2, doc="starts the requests about one stream")
PCM_INFO = Struct("virtio_snd_pcm_info", "5.14.6.6.2", (
    Field("hdr", INFO, "header", access=W),
    Field("features", le32, "bit map of VIRTIO_SND_PCM_F_*", access=W),
    Field("formats", le64, "bit map of VIRTIO_SND_PCM_FMT_*", access=W),
    Field("rates", le64, "bit map of VIRTIO_SND_PCM_RATE_*", access=W),
    Field("direction", u8, "VIRTIO_SND_D_*", access=W),
    Field("channels_min", u8, "fewest channels", access=W),
    Field("channels_max", u8, "most channels", access=W),
    Field("padding", u8[5], "zero", access=W),
), since=V1_2, doc="a stream")
PCM_SET_PARAMS = Struct("virtio_snd_pcm_set_params", "5.14.6.6.3", (
    Field("hdr", PCM_HDR, "the stream"),
    Field("buffer_bytes", le32, "size of the hardware buffer"),
    Field("period_bytes", le32, "size of a period, which divides the buffer"),
    Field("features", le32, "bit map of VIRTIO_SND_PCM_F_*"),
    Field("channels", u8, "number of channels"),
    Field("format", u8, "VIRTIO_SND_PCM_FMT_*"),
    Field("rate", u8, "VIRTIO_SND_PCM_RATE_*"),
    Field("padding", u8, "zero"),
), since=V1_2, doc="choose the parameters of a stream")
PCM_XFER = Struct("virtio_snd_pcm_xfer", "5.14.6.8", (
    Field("stream_id", le32, "the stream"),
), since=V1_2, doc="starts every buffer of the tx and rx queues")
PCM_STATUS = Struct("virtio_snd_pcm_status", "5.14.6.8", (
    Field("status", le32, "VIRTIO_SND_S_OK or VIRTIO_SND_S_IO_ERR", access=W),
    Field("latency_bytes", le32, "latency of the device", access=W),
), since=V1_2, doc="ends every buffer of the tx and rx queues")
CHMAP_INFO = Struct("virtio_snd_chmap_info", "5.14.6.9.1", (
    Field("hdr", INFO, "header", access=W),
    Field("direction", u8, "VIRTIO_SND_D_*", access=W),
    Field("channels", u8, "number of valid positions", access=W),
    Field("positions", u8[18], "VIRTIO_SND_CHMAP_*", access=W),
), since=V1_2, doc="a channel map")
CTL_HDR = Struct("virtio_snd_ctl_hdr", "5.14.6.10", (
    Field("hdr", HDR, "VIRTIO_SND_R_CTL_*"),
    Field("control_id", le32, "the element"),
), since=V1_3, doc="starts the requests about one control element")
CTL_INTEGER = Struct("virtio_snd_ctl_integer", "5.14.6.10.1", (
    Field("min", le32, "lowest", access=W),
    Field("max", le32, "highest", access=W),
    Field("step", le32, "step; 0: varies", access=W),
), since=V1_3, doc="the range of an INTEGER (a struct without a name in the standard)")
CTL_INTEGER64 = Struct("virtio_snd_ctl_integer64", "5.14.6.10.1", (
    Field("min", le64, "lowest", access=W),
    Field("max", le64, "highest", access=W),
    Field("step", le64, "step; 0: varies", access=W),
), since=V1_3, doc="the range of an INTEGER64 (a struct without a name in the standard)")
CTL_ENUMERATED = Struct("virtio_snd_ctl_enumerated", "5.14.6.10.1", (
    Field("items", le32, "number of choices", access=W),
), since=V1_3, doc="the range of an ENUMERATED (a struct without a name in the standard)")
CTL_RANGE = Union("virtio_snd_ctl_range", (
    Field("integer", CTL_INTEGER, "for INTEGER", access=W),
    Field("integer64", CTL_INTEGER64, "for INTEGER64", access=W),
    Field("enumerated", CTL_ENUMERATED, "for ENUMERATED", access=W),
))
CTL_INFO = Struct("virtio_snd_ctl_info", "5.14.6.10.1", (
    Field("hdr", INFO, "header", access=W),
    Field("role", le32, "direction in bit 0, VIRTIO_SND_CTL_ROLE_* above it; or 0", access=W),
    Field("type", le32, "VIRTIO_SND_CTL_TYPE_*", access=W),
    Field("access", le32, "bit map of VIRTIO_SND_CTL_ACCESS_*", access=W),
    Field("count", le32, "number of values in the element", access=W),
    Field("index", le32, "tells elements of one name apart", access=W),
    Field("name", u8[44], "name, zero-terminated ASCII", access=W),
    Field("value", CTL_RANGE, "what values it takes, by its type", access=W),
), since=V1_3, doc="a control element")
CTL_ENUM_ITEM = Struct("virtio_snd_ctl_enum_item", "5.14.6.10.1", (
    Field("item", u8[64], "name, zero-terminated ASCII", access=W),
), since=V1_3, doc="one choice of an enumerated element")
CTL_IEC958 = Struct("virtio_snd_ctl_iec958", "5.14.6.10.2", (
    Field("status", u8[24], "channel status bits"),
    Field("subcode", u8[147], "subcode bits"),
    Field("pad", u8, "unused"),
    Field("dig_subframe", u8[4], "subframe bits"),
), since=V1_3, doc="the value of an IEC 958 element")
CTL_VALUES = Union("virtio_snd_ctl_values", (
    Field("integer", le32[128], "for BOOLEAN and INTEGER"),
    Field("integer64", le64[64], "for INTEGER64"),
    Field("enumerated", le32[128], "for ENUMERATED"),
    Field("bytes", u8[512], "for BYTES"),
    Field("iec958", CTL_IEC958, "for IEC958"),
))
CTL_VALUE = Struct("virtio_snd_ctl_value", "5.14.6.10.2", (
    Field("value", CTL_VALUES, "by its type"),
), since=V1_3, doc="the values of an element")
CTL_TLV = Struct("virtio_snd_ctl_tlv", "5.14.6.10.3", (
    Field("type", le32, "type, as ALSA has it or private"),
    Field("length", le32, "length of the value in bytes, a multiple of 4"),
    Field("value", u8["length"], "the metadata, 32-bit integers"),
), since=V1_3, doc="metadata of an element")
CTL_EVENT = Struct("virtio_snd_ctl_event", "5.14.6.10.4", (
    Field("hdr", HDR, "VIRTIO_SND_EVT_CTL_NOTIFY", access=W),
    Field("control_id", le16, "the element", access=W),
    Field("mask", le16, "bit map of VIRTIO_SND_CTL_EVT_MASK_*", access=W),
), since=V1_3, doc="a notification about an element")
REQUEST = Codes(
    "control request", "VIRTIO_SND_R_", "5.14.6",
    Code(0x0001, "VIRTIO_SND_R_JACK_INFO", "describe jacks"),
    Code(0x0002, "VIRTIO_SND_R_JACK_REMAP", "change what a jack belongs to"),
    Code(0x0100, "VIRTIO_SND_R_PCM_INFO", "describe streams"),
    Code(0x0101, "VIRTIO_SND_R_PCM_SET_PARAMS", "choose the parameters of a stream"),
    Code(0x0102, "VIRTIO_SND_R_PCM_PREPARE", "prepare a stream"),
    Code(0x0103, "VIRTIO_SND_R_PCM_RELEASE", "release a stream"),
    Code(0x0104, "VIRTIO_SND_R_PCM_START", "start a stream"),
    Code(0x0105, "VIRTIO_SND_R_PCM_STOP", "stop a stream"),
    Code(0x0200, "VIRTIO_SND_R_CHMAP_INFO", "describe channel maps"),
    Code(0x0300, "VIRTIO_SND_R_CTL_INFO", "describe control elements", V1_3),
    Code(0x0301, "VIRTIO_SND_R_CTL_ENUM_ITEMS", "name the choices of an enumerated element", V1_3),
    Code(0x0302, "VIRTIO_SND_R_CTL_READ", "read an element", V1_3),
    Code(0x0303, "VIRTIO_SND_R_CTL_WRITE", "write an element", V1_3),
    Code(0x0304, "VIRTIO_SND_R_CTL_TLV_READ", "read metadata", V1_3),
    Code(0x0305, "VIRTIO_SND_R_CTL_TLV_WRITE", "write metadata", V1_3),
    Code(0x0306, "VIRTIO_SND_R_CTL_TLV_COMMAND", "carry out a command on metadata", V1_3),
    since=V1_2,
)
EVT = Codes(
    "notification", "VIRTIO_SND_EVT_", "5.14.6",
    Code(0x1000, "VIRTIO_SND_EVT_JACK_CONNECTED", "something was plugged in"),
    Code(0x1001, "VIRTIO_SND_EVT_JACK_DISCONNECTED", "it was unplugged"),
    Code(0x1100, "VIRTIO_SND_EVT_PCM_PERIOD_ELAPSED", "a period has elapsed"),
    Code(0x1101, "VIRTIO_SND_EVT_PCM_XRUN", "a stream ran dry or over"),
    Code(0x1200, "VIRTIO_SND_EVT_CTL_NOTIFY", "a control element changed", V1_3),
    since=V1_2,
)
STATUS = Codes(
    "request status", "VIRTIO_SND_S_", "5.14.6",
    Code(0x8000, "VIRTIO_SND_S_OK", "done"),
    Code(0x8001, "VIRTIO_SND_S_BAD_MSG", "malformed, or with invalid parameters"),
    Code(0x8002, "VIRTIO_SND_S_NOT_SUPP", "not supported"),
    Code(0x8003, "VIRTIO_SND_S_IO_ERR", "I/O error"),
    since=V1_2,
)
DIRECTION = Codes(
    "direction", "VIRTIO_SND_D_", "5.14.6",
    Code(0, "VIRTIO_SND_D_OUTPUT", "output"),
    Code(1, "VIRTIO_SND_D_INPUT", "input"),
    since=V1_2,
)
JACK_F = Codes(
    "jack feature, by bit number", "VIRTIO_SND_JACK_F_", "5.14.6.4.1",
    Code(0, "VIRTIO_SND_JACK_F_REMAP", "it can be remapped"),
    since=V1_2,
)
PCM_F = Codes(
    "stream feature, by bit number", "VIRTIO_SND_PCM_F_", "5.14.6.6.2",
    Code(0, "VIRTIO_SND_PCM_F_SHMEM_HOST", "shares memory of the host; not to be selected yet"),
    Code(1, "VIRTIO_SND_PCM_F_SHMEM_GUEST", "shares memory of the guest; not to be selected yet"),
    Code(2, "VIRTIO_SND_PCM_F_MSG_POLLING", "the device polls the queue"),
    Code(3, "VIRTIO_SND_PCM_F_EVT_SHMEM_PERIODS", "notifies of elapsed periods when memory is shared"),
    Code(4, "VIRTIO_SND_PCM_F_EVT_XRUNS", "notifies of underruns and overruns"),
    since=V1_2,
)
PCM_FMT = Codes(
    "sample format, by bit number", "VIRTIO_SND_PCM_FMT_", "5.14.6.6.2",
    Code(0, "VIRTIO_SND_PCM_FMT_IMA_ADPCM", "IMA ADPCM, 4 bits"),
    Code(1, "VIRTIO_SND_PCM_FMT_MU_LAW", "mu-law, 8 bits"),
    Code(2, "VIRTIO_SND_PCM_FMT_A_LAW", "a-law, 8 bits"),
    Code(3, "VIRTIO_SND_PCM_FMT_S8", "signed, 8 bits"),
    Code(4, "VIRTIO_SND_PCM_FMT_U8", "unsigned, 8 bits"),
    Code(5, "VIRTIO_SND_PCM_FMT_S16", "signed, 16 bits"),
    Code(6, "VIRTIO_SND_PCM_FMT_U16", "unsigned, 16 bits"),
    Code(7, "VIRTIO_SND_PCM_FMT_S18_3", "signed, 18 bits in 3 bytes"),
    Code(8, "VIRTIO_SND_PCM_FMT_U18_3", "unsigned, 18 bits in 3 bytes"),
    Code(9, "VIRTIO_SND_PCM_FMT_S20_3", "signed, 20 bits in 3 bytes"),
    Code(10, "VIRTIO_SND_PCM_FMT_U20_3", "unsigned, 20 bits in 3 bytes"),
    Code(11, "VIRTIO_SND_PCM_FMT_S24_3", "signed, 24 bits in 3 bytes"),
    Code(12, "VIRTIO_SND_PCM_FMT_U24_3", "unsigned, 24 bits in 3 bytes"),
    Code(13, "VIRTIO_SND_PCM_FMT_S20", "signed, 20 bits in 4 bytes"),
    Code(14, "VIRTIO_SND_PCM_FMT_U20", "unsigned, 20 bits in 4 bytes"),
    Code(15, "VIRTIO_SND_PCM_FMT_S24", "signed, 24 bits in 4 bytes"),
    Code(16, "VIRTIO_SND_PCM_FMT_U24", "unsigned, 24 bits in 4 bytes"),
    Code(17, "VIRTIO_SND_PCM_FMT_S32", "signed, 32 bits"),
    Code(18, "VIRTIO_SND_PCM_FMT_U32", "unsigned, 32 bits"),
    Code(19, "VIRTIO_SND_PCM_FMT_FLOAT", "floating point, 32 bits"),
    Code(20, "VIRTIO_SND_PCM_FMT_FLOAT64", "floating point, 64 bits"),
    Code(21, "VIRTIO_SND_PCM_FMT_DSD_U8", "direct stream digital, 8 bits"),
    Code(22, "VIRTIO_SND_PCM_FMT_DSD_U16", "direct stream digital, 16 bits"),
    Code(23, "VIRTIO_SND_PCM_FMT_DSD_U32", "direct stream digital, 32 bits"),
    Code(24, "VIRTIO_SND_PCM_FMT_IEC958_SUBFRAME", "IEC 958 subframes, 32 bits"),
    since=V1_2,
)
PCM_RATE = Codes(
    "frame rate, by bit number", "VIRTIO_SND_PCM_RATE_", "5.14.6.6.2",
    Code(0, "VIRTIO_SND_PCM_RATE_5512", "5512 Hz"),
    Code(1, "VIRTIO_SND_PCM_RATE_8000", "8000 Hz"),
    Code(2, "VIRTIO_SND_PCM_RATE_11025", "11025 Hz"),
    Code(3, "VIRTIO_SND_PCM_RATE_16000", "16000 Hz"),
    Code(4, "VIRTIO_SND_PCM_RATE_22050", "22050 Hz"),
    Code(5, "VIRTIO_SND_PCM_RATE_32000", "32000 Hz"),
    Code(6, "VIRTIO_SND_PCM_RATE_44100", "44100 Hz"),
    Code(7, "VIRTIO_SND_PCM_RATE_48000", "48000 Hz"),
    Code(8, "VIRTIO_SND_PCM_RATE_64000", "64000 Hz"),
    Code(9, "VIRTIO_SND_PCM_RATE_88200", "88200 Hz"),
    Code(10, "VIRTIO_SND_PCM_RATE_96000", "96000 Hz"),
    Code(11, "VIRTIO_SND_PCM_RATE_176400", "176400 Hz"),
    Code(12, "VIRTIO_SND_PCM_RATE_192000", "192000 Hz"),
    Code(13, "VIRTIO_SND_PCM_RATE_384000", "384000 Hz"),
    Code(14, "VIRTIO_SND_PCM_RATE_12000", "12000 Hz", V1_4),
    Code(15, "VIRTIO_SND_PCM_RATE_24000", "24000 Hz", V1_4),
    since=V1_2,
)
CHMAP = Codes(
    "channel position", "VIRTIO_SND_CHMAP_", "5.14.6.9.1",
    Code(0, "VIRTIO_SND_CHMAP_NONE", "undefined"),
    Code(1, "VIRTIO_SND_CHMAP_NA", "silent"),
    Code(2, "VIRTIO_SND_CHMAP_MONO", "mono"),
    Code(3, "VIRTIO_SND_CHMAP_FL", "front left"),
    Code(4, "VIRTIO_SND_CHMAP_FR", "front right"),
    Code(5, "VIRTIO_SND_CHMAP_RL", "rear left"),
    Code(6, "VIRTIO_SND_CHMAP_RR", "rear right"),
    Code(7, "VIRTIO_SND_CHMAP_FC", "front centre"),
    Code(8, "VIRTIO_SND_CHMAP_LFE", "low frequencies"),
    Code(9, "VIRTIO_SND_CHMAP_SL", "side left"),
    Code(10, "VIRTIO_SND_CHMAP_SR", "side right"),
    Code(11, "VIRTIO_SND_CHMAP_RC", "rear centre"),
    Code(12, "VIRTIO_SND_CHMAP_FLC", "front left of centre"),
    Code(13, "VIRTIO_SND_CHMAP_FRC", "front right of centre"),
    Code(14, "VIRTIO_SND_CHMAP_RLC", "rear left of centre"),
    Code(15, "VIRTIO_SND_CHMAP_RRC", "rear right of centre"),
    Code(16, "VIRTIO_SND_CHMAP_FLW", "front left wide"),
    Code(17, "VIRTIO_SND_CHMAP_FRW", "front right wide"),
    Code(18, "VIRTIO_SND_CHMAP_FLH", "front left high"),
    Code(19, "VIRTIO_SND_CHMAP_FCH", "front centre high"),
    Code(20, "VIRTIO_SND_CHMAP_FRH", "front right high"),
    Code(21, "VIRTIO_SND_CHMAP_TC", "top centre"),
    Code(22, "VIRTIO_SND_CHMAP_TFL", "top front left"),
    Code(23, "VIRTIO_SND_CHMAP_TFR", "top front right"),
    Code(24, "VIRTIO_SND_CHMAP_TFC", "top front centre"),
    Code(25, "VIRTIO_SND_CHMAP_TRL", "top rear left"),
    Code(26, "VIRTIO_SND_CHMAP_TRR", "top rear right"),
    Code(27, "VIRTIO_SND_CHMAP_TRC", "top rear centre"),
    Code(28, "VIRTIO_SND_CHMAP_TFLC", "top front left of centre"),
    Code(29, "VIRTIO_SND_CHMAP_TFRC", "top front right of centre"),
    Code(30, "VIRTIO_SND_CHMAP_TSL", "top side left"),
    Code(31, "VIRTIO_SND_CHMAP_TSR", "top side right"),
    Code(32, "VIRTIO_SND_CHMAP_LLFE", "left low frequencies"),
    Code(33, "VIRTIO_SND_CHMAP_RLFE", "right low frequencies"),
    Code(34, "VIRTIO_SND_CHMAP_BC", "bottom centre"),
    Code(35, "VIRTIO_SND_CHMAP_BLC", "bottom left of centre"),
    Code(36, "VIRTIO_SND_CHMAP_BRC", "bottom right of centre"),
    since=V1_2,
)
CHMAP_LIMITS = Codes(
    "limit of a channel map", "VIRTIO_SND_CHMAP_MAX_", "5.14.6.9.1",
    Code(18, "VIRTIO_SND_CHMAP_MAX_SIZE", "most channels"),
    since=V1_2,
)
CTL_ROLE = Codes(
    "role of a control element", "VIRTIO_SND_CTL_ROLE_", "5.14.6.10.1",
    Code(0, "VIRTIO_SND_CTL_ROLE_UNDEFINED", "none"),
    Code(1, "VIRTIO_SND_CTL_ROLE_VOLUME", "volume"),
    Code(2, "VIRTIO_SND_CTL_ROLE_MUTE", "mute switch"),
    Code(3, "VIRTIO_SND_CTL_ROLE_GAIN", "gain"),
    since=V1_3,
)
CTL_TYPE = Codes(
    "type of a control element", "VIRTIO_SND_CTL_TYPE_", "5.14.6.10.1",
    Code(0, "VIRTIO_SND_CTL_TYPE_BOOLEAN", "0 or 1"),
    Code(1, "VIRTIO_SND_CTL_TYPE_INTEGER", "32-bit integers"),
    Code(2, "VIRTIO_SND_CTL_TYPE_INTEGER64", "64-bit integers"),
    Code(3, "VIRTIO_SND_CTL_TYPE_ENUMERATED", "choices with names"),
    Code(4, "VIRTIO_SND_CTL_TYPE_BYTES", "bytes"),
    Code(5, "VIRTIO_SND_CTL_TYPE_IEC958", "virtio_snd_ctl_iec958"),
    since=V1_3,
)
CTL_ACCESS = Codes(
    "access to a control element, by bit number", "VIRTIO_SND_CTL_ACCESS_", "5.14.6.10.1",
    Code(0, "VIRTIO_SND_CTL_ACCESS_READ", "can be read"),
    Code(1, "VIRTIO_SND_CTL_ACCESS_WRITE", "can be written"),
    Code(2, "VIRTIO_SND_CTL_ACCESS_VOLATILE", "changes without a notification"),
    Code(3, "VIRTIO_SND_CTL_ACCESS_INACTIVE", "does nothing"),
    Code(4, "VIRTIO_SND_CTL_ACCESS_TLV_READ", "metadata can be read"),
    Code(5, "VIRTIO_SND_CTL_ACCESS_TLV_WRITE", "metadata can be written"),
    Code(6, "VIRTIO_SND_CTL_ACCESS_TLV_COMMAND", "metadata takes commands"),
    since=V1_3,
)
CTL_EVT_MASK = Codes(
    "change of a control element, by bit number", "VIRTIO_SND_CTL_EVT_MASK_", "5.14.6.10.4",
    Code(0, "VIRTIO_SND_CTL_EVT_MASK_VALUE", "its value"),
    Code(1, "VIRTIO_SND_CTL_EVT_MASK_INFO", "its description"),
    Code(2, "VIRTIO_SND_CTL_EVT_MASK_TLV", "its metadata"),
    since=V1_3,
)
# fmt: on

DEVICE = DeviceType(
    id=25,
    name="sound",
    title="Sound Device",
    section="5.14",
    since=V1_2,
    doc="plays and records sound",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "controlq", "control", "5.14.6", "control requests", since=V1_2),
        Queue(
            1, "eventq", "events", "5.14.6", "buffers that the device fills with notifications", since=V1_2
        ),
        Queue(2, "txq", "transmit", "5.14.6.8.1", "frames of output streams", since=V1_2),
        Queue(
            3,
            "rxq",
            "receive",
            "5.14.6.8.2",
            "buffers that the device fills with frames of input streams",
            since=V1_2,
        ),
    ),
    structs=(
        HDR,
        EVENT,
        QUERY_INFO,
        INFO,
        JACK_HDR,
        JACK_INFO,
        JACK_REMAP,
        PCM_HDR,
        PCM_INFO,
        PCM_SET_PARAMS,
        PCM_XFER,
        PCM_STATUS,
        CHMAP_INFO,
        CTL_HDR,
        CTL_INTEGER,
        CTL_INTEGER64,
        CTL_ENUMERATED,
        CTL_INFO,
        CTL_ENUM_ITEM,
        CTL_IEC958,
        CTL_VALUE,
        CTL_TLV,
        CTL_EVENT,
    ),
    codes=(
        REQUEST,
        EVT,
        STATUS,
        DIRECTION,
        JACK_F,
        PCM_F,
        PCM_FMT,
        PCM_RATE,
        CHMAP,
        CHMAP_LIMITS,
        CTL_ROLE,
        CTL_TYPE,
        CTL_ACCESS,
        CTL_EVT_MASK,
    ),
)
