"""Input device (5.8)."""

from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_1,
    Code,
    Codes,
    DeviceType,
    Features,
    Field,
    Queue,
    Struct,
    Union,
    le16,
    le32,
    u8,
)

# fmt: off
F = Features("VIRTIO_INPUT_F_")

ABSINFO = Struct("virtio_input_absinfo", "5.8.4", (
    Field("min", le32),
    Field("max", le32),
    Field("fuzz", le32),
    Field("flat", le32),
    Field("res", le32),
), since=V1_1)
DEVIDS = Struct("virtio_input_devids", "5.8.4", (
    Field("bustype", le16),
    Field("vendor", le16),
    Field("product", le16),
    Field("version", le16),
), since=V1_1)
CONFIG = Struct("virtio_input_config", "5.8.4", (
    Field("select", u8, "what to show", access=RW),
    Field("subsel", u8, "which part of it", access=RW),
    Field("size", u8, "bytes of it; 0: there is none"),
    Field("reserved", u8[5]),
    Field("u", Union("", (
        Field("string", u8[128]),
        Field("bitmap", u8[128]),
        Field("abs", ABSINFO),
        Field("ids", DEVIDS),
    )), "what was selected"),
), since=V1_1)
EVENT = Struct("virtio_input_event", "5.8.6", (
    Field("type", le16, "as in evdev"),
    Field("code", le16, "as in evdev"),
    Field("value", le32, "as in evdev"),
), since=V1_1)

CFG = Codes(
    "what to show", "VIRTIO_INPUT_CFG_", "5.8.4",
    Code(0x00, "VIRTIO_INPUT_CFG_UNSET", "nothing"),
    Code(0x01, "VIRTIO_INPUT_CFG_ID_NAME", "name of the device"),
    Code(0x02, "VIRTIO_INPUT_CFG_ID_SERIAL", "serial number"),
    Code(0x03, "VIRTIO_INPUT_CFG_ID_DEVIDS", "bus, vendor, product, version"),
    Code(0x10, "VIRTIO_INPUT_CFG_PROP_BITS", "properties"),
    Code(0x11, "VIRTIO_INPUT_CFG_EV_BITS", "codes of an event type"),
    Code(0x12, "VIRTIO_INPUT_CFG_ABS_INFO", "range of an axis"),
    since=V1_1,
)
QUEUES = (
    Queue(0, "eventq", "events", "5.8.2", "buffers for events from the device", since=V1_1),
    Queue(1, "statusq", "status", "5.8.2", "events to the device: lights, sounds", since=V1_1),
)
# fmt: on

DEVICE = DeviceType(
    id=18,
    name="input",
    title="Input Device",
    section="5.8",
    since=V1_1,
    doc="keyboard, mouse, touch screen: the events of evdev",
    features=F,
    config=CONFIG,
    queues=QUEUES,
    structs=(EVENT, ABSINFO, DEVIDS),
    codes=(CFG,),
)
