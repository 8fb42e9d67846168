"""GPIO Device (5.18)."""

# ruff: noqa: E501 - a table has one line per row
from __future__ import annotations

from virtio.spec.model import (
    V1_2,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    W,
    le16,
    le32,
    rest,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_GPIO_F_",
    Feature(0, "VIRTIO_GPIO_F_IRQ", V1_2, "5.18.3", "lines can interrupt"),
)

CONFIG = Struct("virtio_gpio_config", "5.18.4", (
    Field("ngpio", le16, "number of lines"),
    Field("padding", u8[2], "zero"),
    Field("gpio_names_size", le32, "size in bytes of all names; 0: the lines have none"),
), since=V1_2, doc="number of lines and size of their names")
REQUEST = Struct("virtio_gpio_request", "5.18.6", (
    Field("type", le16, "message type"),
    Field("gpio", le16, "the line"),
    Field("value", le32, "what the message type takes"),
), since=V1_2, doc="every request")
RESPONSE = Struct("virtio_gpio_response", "5.18.6", (
    Field("status", u8, "VIRTIO_GPIO_STATUS_*", access=W),
    Field("value", u8, "what the message type gives", access=W),
), since=V1_2, doc="every response but that of GET_LINE_NAMES")
RESPONSE_N = Struct("virtio_gpio_response_N", "5.18.6.1", (
    Field("status", u8, "VIRTIO_GPIO_STATUS_*", access=W),
    Field("value", u8[rest], "gpio_names_size bytes: one zero-terminated name per line, empty for lines without", access=W),
), since=V1_2, doc="the response to GET_LINE_NAMES")
IRQ_REQUEST = Struct("virtio_gpio_irq_request", "5.18.7", (
    Field("gpio", le16, "the line"),
), since=V1_2, doc="unmasks the interrupt of a line")
IRQ_RESPONSE = Struct("virtio_gpio_irq_response", "5.18.7", (
    Field("status", u8, "VIRTIO_GPIO_IRQ_STATUS_*", access=W),
), since=V1_2, doc="returned when the line interrupts, or is disabled")
MSG = Codes(
    "message type", "VIRTIO_GPIO_MSG_", "5.18.6",
    Code(0x0001, "VIRTIO_GPIO_MSG_GET_LINE_NAMES", "names of all lines"),
    Code(0x0002, "VIRTIO_GPIO_MSG_GET_DIRECTION", "direction of a line"),
    Code(0x0003, "VIRTIO_GPIO_MSG_SET_DIRECTION", "set the direction of a line"),
    Code(0x0004, "VIRTIO_GPIO_MSG_GET_VALUE", "level that is sensed on a line"),
    Code(0x0005, "VIRTIO_GPIO_MSG_SET_VALUE", "set the level of a line"),
    Code(0x0006, "VIRTIO_GPIO_MSG_SET_IRQ_TYPE", "enable or disable the interrupt of a line"),
    since=V1_2,
)
STATUS = Codes(
    "status", "VIRTIO_GPIO_STATUS_", "5.18.6",
    Code(0x0, "VIRTIO_GPIO_STATUS_OK", "done"),
    Code(0x1, "VIRTIO_GPIO_STATUS_ERR", "failed"),
    since=V1_2,
)
DIRECTION = Codes(
    "direction", "VIRTIO_GPIO_DIRECTION_", "5.18.6",
    Code(0x00, "VIRTIO_GPIO_DIRECTION_NONE", "inactive"),
    Code(0x01, "VIRTIO_GPIO_DIRECTION_OUT", "output"),
    Code(0x02, "VIRTIO_GPIO_DIRECTION_IN", "input"),
    since=V1_2,
)
IRQ_TYPE = Codes(
    "interrupt trigger", "VIRTIO_GPIO_IRQ_TYPE_", "5.18.6",
    Code(0x00, "VIRTIO_GPIO_IRQ_TYPE_NONE", "never: disabled"),
    Code(0x01, "VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING", "when it rises"),
    Code(0x02, "VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING", "when it falls"),
    Code(0x03, "VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH", "when it changes"),
    Code(0x04, "VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH", "while it is high"),
    Code(0x08, "VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW", "while it is low"),
    since=V1_2,
)
IRQ_STATUS = Codes(
    "interrupt status", "VIRTIO_GPIO_IRQ_STATUS_", "5.18.7",
    Code(0x0, "VIRTIO_GPIO_IRQ_STATUS_INVALID", "the interrupt was disabled"),
    Code(0x1, "VIRTIO_GPIO_IRQ_STATUS_VALID", "the line interrupted"),
    since=V1_2,
)
# fmt: on

DEVICE = DeviceType(
    id=41,
    name="gpio",
    title="GPIO Device",
    section="5.18",
    since=V1_2,
    doc="lines that are read, set, or interrupt",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "requestq", "requests", "5.18.6", "requests of the driver", since=V1_2),
        Queue(
            1,
            "eventq",
            "events",
            "5.18.7",
            "one buffer per line; making it available unmasks the line's interrupt",
            "VIRTIO_GPIO_F_IRQ",
            since=V1_2,
        ),
    ),
    structs=(REQUEST, RESPONSE, RESPONSE_N, IRQ_REQUEST, IRQ_RESPONSE),
    codes=(MSG, STATUS, DIRECTION, IRQ_TYPE, IRQ_STATUS),
)
