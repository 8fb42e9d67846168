"""Console device (5.3)."""

from __future__ import annotations

from virtio.spec.model import (
    RW,
    V1_0,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Repeat,
    Struct,
    le16,
    le32,
)

# fmt: off
F = Features(
    "VIRTIO_CONSOLE_F_",
    Feature(0, "VIRTIO_CONSOLE_F_SIZE", V1_0, "5.3.3", "cols and rows are valid"),
    Feature(1, "VIRTIO_CONSOLE_F_MULTIPORT", V1_0, "5.3.3", "several ports and the control queues"),
    Feature(2, "VIRTIO_CONSOLE_F_EMERG_WRITE", V1_0, "5.3.3", "a character can be written without queues"),
)

CONFIG = Struct("virtio_console_config", "5.3.4", (
    Field("cols", le16, "width of port 0 in characters", "VIRTIO_CONSOLE_F_SIZE"),
    Field("rows", le16, "height of port 0 in characters", "VIRTIO_CONSOLE_F_SIZE"),
    Field("max_nr_ports", le32, "number of ports", "VIRTIO_CONSOLE_F_MULTIPORT"),
    Field("emerg_wr", le32, "its lowest byte is a character to print", "VIRTIO_CONSOLE_F_EMERG_WRITE", RW),
))

CONTROL = Struct("virtio_console_control", "5.3.6.2", (
    Field("id", le32, "port number"),
    Field("event", le16, "control event"),
    Field("value", le16, "what it says depends on the event"),
), doc="a message on a control queue; PORT_NAME and RESIZE append more")
RESIZE = Struct("virtio_console_resize", "5.3.6.2", (
    Field("cols", le16, "width in characters"),
    Field("rows", le16, "height in characters"),
), doc="follows the control message RESIZE")

EVENT = Codes(
    "control event", "VIRTIO_CONSOLE_", "5.3.6.2",
    Code(0, "VIRTIO_CONSOLE_DEVICE_READY", "driver: initialised (value 1) or failed (0)"),
    Code(1, "VIRTIO_CONSOLE_DEVICE_ADD", "device: there is a new port"),
    Code(2, "VIRTIO_CONSOLE_DEVICE_REMOVE", "device: a port has gone"),
    Code(3, "VIRTIO_CONSOLE_PORT_READY", "driver: the port is ready (value 1) or failed (0)"),
    Code(4, "VIRTIO_CONSOLE_CONSOLE_PORT", "device: this port is a console"),
    Code(5, "VIRTIO_CONSOLE_RESIZE", "device: the size has changed; it follows"),
    Code(6, "VIRTIO_CONSOLE_PORT_OPEN", "both: the port was opened (value 1) or closed (0)"),
    Code(7, "VIRTIO_CONSOLE_PORT_NAME", "device: the name of the port, in UTF-8, follows"),
)

MULTIPORT = "VIRTIO_CONSOLE_F_MULTIPORT"
# Port 0 is there without MULTIPORT too, and its queues stand before the control queues.
PORTS = Repeat("max_nr_ports", MULTIPORT, otherwise=0, less=1)
# fmt: on

DEVICE = DeviceType(
    id=3,
    name="console",
    title="Console Device",
    section="5.3",
    since=V1_0,
    doc="characters in and out, over one or several ports",
    features=F,
    config=CONFIG,
    queues=(
        Queue(0, "receiveq(port0)", "receive", "5.3.2", "characters for the guest"),
        Queue(1, "transmitq(port0)", "transmit", "5.3.2", "characters from the guest"),
        Queue(2, "control receiveq", "control_receive", "5.3.2", "messages to the driver", MULTIPORT),
        Queue(3, "control transmitq", "control_transmit", "5.3.2", "messages to the device", MULTIPORT),
        Queue(4, "receiveq", "receive", "5.3.2", "as port 0", MULTIPORT, PORTS, "{name}(port{number})"),
        Queue(5, "transmitq", "transmit", "5.3.2", "as port 0", MULTIPORT, PORTS, "{name}(port{number})"),
    ),
    structs=(CONTROL, RESIZE),
    codes=(EVENT,),
)
