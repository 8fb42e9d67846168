"""All vhost-user messages and protocol features, as tables.

They follow QEMU's ``docs/interop/vhost-user.rst``; ``since`` is the QEMU release that brought a message.
Requests go from the front end to the back end (:data:`FRONT_END`), and on a channel of their own the other
way (:data:`BACK_END`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any

from virtio.transport.vhost_user import payloads as form
from virtio.transport.vhost_user.payloads import MAX_REGIONS, Form

F_LOG_ALL = 1 << 26
"""vhost's own feature bit: log what is written. Means something else to no virtio device."""

F_PROTOCOL_FEATURES = 1 << 30
"""The feature bit that says that there are protocol features. No driver ever sees it."""

VRING_F_LOG = 1
"""In the flags of a vring address: log writes to the used ring."""

NO_DESCRIPTOR = 1 << 8
"""In the number that names a vring: no descriptor comes with the message, poll instead."""


class ProtocolFeature(IntEnum):
    """Bit numbers of the protocol features."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_INFLIGHT = 20

    @property
    def mask(self) -> int:
        """The bit itself."""
        return 1 << self.value


class Flag(IntFlag):
    """The second word of a header."""

    VERSION = 1
    REPLY = 4
    NEED_REPLY = 8


VERSION_MASK = 3


@dataclass(frozen=True, slots=True)
class MessageType:
    """A row of the table.

    ``reply`` is the payload of the answer that the message always gets; None: it is acknowledged with a
    number, and only if that was asked for. ``descriptors`` is how few and how many may come with the request.
    ``feature`` is the protocol feature that the message belongs to. ``failure`` holds the answer that says
    that it failed, where the protocol has one for a message that is always answered.
    """

    number: int
    name: str
    request: Form
    reply: Form | None = None
    descriptors: tuple[int, int] = (0, 0)
    feature: ProtocolFeature | None = None
    since: str = "2.1"
    failure: tuple[Any, ...] = ()


_P = ProtocolFeature
_NO_STATE = NO_DESCRIPTOR | 1
# fmt: off
_FRONT_END = (
    MessageType(1, "GET_FEATURES", form.EMPTY, form.U64),
    MessageType(2, "SET_FEATURES", form.U64),
    MessageType(3, "SET_OWNER", form.EMPTY),
    MessageType(4, "RESET_OWNER", form.EMPTY),
    MessageType(5, "SET_MEM_TABLE", form.MEMORY_TABLE, None, (0, MAX_REGIONS)),
    MessageType(6, "SET_LOG_BASE", form.LOG, form.LOG_ANSWER, (0, 1), _P.LOG_SHMFD),
    MessageType(7, "SET_LOG_FD", form.EMPTY, None, (1, 1), _P.LOG_SHMFD),
    MessageType(8, "SET_VRING_NUM", form.VRING_STATE),
    MessageType(9, "SET_VRING_ADDR", form.VRING_ADDRESS),
    MessageType(10, "SET_VRING_BASE", form.VRING_STATE),
    MessageType(11, "GET_VRING_BASE", form.VRING_STATE, form.VRING_STATE),
    MessageType(12, "SET_VRING_KICK", form.U64, None, (0, 1)),
    MessageType(13, "SET_VRING_CALL", form.U64, None, (0, 1)),
    MessageType(14, "SET_VRING_ERR", form.U64, None, (0, 1)),
    MessageType(15, "GET_PROTOCOL_FEATURES", form.EMPTY, form.U64, since="2.5"),
    MessageType(16, "SET_PROTOCOL_FEATURES", form.U64, since="2.5"),
    MessageType(17, "GET_QUEUE_NUM", form.EMPTY, form.U64, (0, 0), _P.MQ, "2.5"),
    MessageType(18, "SET_VRING_ENABLE", form.VRING_STATE, since="2.5"),
    MessageType(19, "SEND_RARP", form.U64, None, (0, 0), _P.RARP, "2.5"),
    MessageType(20, "NET_SET_MTU", form.U64, None, (0, 0), _P.MTU, "2.9"),
    MessageType(21, "SET_BACKEND_REQ_FD", form.EMPTY, None, (1, 1), _P.BACKEND_REQ, "2.10"),
    MessageType(22, "IOTLB_MSG", form.IOTLB, form.U64, (0, 0), None, "2.10", (1,)),
    MessageType(23, "SET_VRING_ENDIAN", form.VRING_STATE, None, (0, 0), _P.CROSS_ENDIAN, "2.10"),
    MessageType(24, "GET_CONFIG", form.CONFIG, form.CONFIG, (0, 0), _P.CONFIG, "2.12", (None,)),
    MessageType(25, "SET_CONFIG", form.CONFIG, None, (0, 0), _P.CONFIG, "2.12"),
    MessageType(26, "CREATE_CRYPTO_SESSION", form.BYTES, form.BYTES, (0, 0), _P.CRYPTO_SESSION, "2.12"),
    MessageType(27, "CLOSE_CRYPTO_SESSION", form.U64, None, (0, 0), _P.CRYPTO_SESSION, "2.12"),
    MessageType(28, "POSTCOPY_ADVISE", form.EMPTY, form.EMPTY, (0, 0), _P.PAGEFAULT, "2.12"),
    MessageType(29, "POSTCOPY_LISTEN", form.EMPTY, None, (0, 0), _P.PAGEFAULT, "2.12"),
    MessageType(30, "POSTCOPY_END", form.EMPTY, form.U64, (0, 0), _P.PAGEFAULT, "2.12", (1,)),
    # An area of 0 bytes: there is none to be had, as QEMU understands it.
    MessageType(31, "GET_INFLIGHT_FD", form.INFLIGHT, form.INFLIGHT, (0, 0), _P.INFLIGHT_SHMFD, "4.0",
                (form.Inflight(0, 0, 0, 0),)),
    MessageType(32, "SET_INFLIGHT_FD", form.INFLIGHT, None, (1, 1), _P.INFLIGHT_SHMFD, "4.0"),
    MessageType(33, "GPU_SET_SOCKET", form.EMPTY, None, (1, 1), since="4.1"),
    MessageType(34, "RESET_DEVICE", form.EMPTY, None, (0, 0), _P.RESET_DEVICE, "5.0"),
    MessageType(35, "VRING_KICK", form.VRING_STATE, None, (0, 0), _P.INBAND_NOTIFICATIONS, "5.0"),
    MessageType(36, "GET_MAX_MEM_SLOTS", form.EMPTY, form.U64, (0, 0), _P.CONFIGURE_MEM_SLOTS, "5.1"),
    MessageType(37, "ADD_MEM_REG", form.MEMORY_REGION, None, (1, 1), _P.CONFIGURE_MEM_SLOTS, "5.1"),
    # One descriptor SHOULD not come with it, but must be tolerated and closed.
    MessageType(38, "REM_MEM_REG", form.MEMORY_REGION, None, (0, 1), _P.CONFIGURE_MEM_SLOTS, "5.1"),
    MessageType(39, "SET_STATUS", form.U64, None, (0, 0), _P.STATUS, "5.1"),
    MessageType(40, "GET_STATUS", form.EMPTY, form.U64, (0, 0), _P.STATUS, "5.1"),
    MessageType(41, "GET_SHARED_OBJECT", form.BYTES, form.EMPTY, (0, 0), _P.SHARED_OBJECT, "8.2", (None,)),
    MessageType(42, "SET_DEVICE_STATE_FD", form.STATE_TRANSFER, form.U64, (1, 1), _P.DEVICE_STATE, "8.2",
                (_NO_STATE,)),
    MessageType(43, "CHECK_DEVICE_STATE", form.EMPTY, form.U64, (0, 0), _P.DEVICE_STATE, "8.2", (1,)),
)
_BACK_END = (
    MessageType(1, "BACKEND_IOTLB_MSG", form.IOTLB, None, (0, 0), _P.BACKEND_REQ, "2.10"),
    MessageType(2, "BACKEND_CONFIG_CHANGE_MSG", form.EMPTY, None, (0, 0), _P.CONFIG, "2.12"),
    MessageType(3, "BACKEND_VRING_HOST_NOTIFIER_MSG", form.VRING_AREA, None, (0, 1), _P.HOST_NOTIFIER, "3.0"),
    MessageType(4, "BACKEND_VRING_CALL", form.VRING_STATE, None, (0, 0), _P.INBAND_NOTIFICATIONS, "5.0"),
    MessageType(5, "BACKEND_VRING_ERR", form.VRING_STATE, None, (0, 0), _P.INBAND_NOTIFICATIONS, "5.0"),
    MessageType(6, "BACKEND_SHARED_OBJECT_ADD", form.BYTES, None, (0, 0), _P.SHARED_OBJECT, "8.2"),
    MessageType(7, "BACKEND_SHARED_OBJECT_REMOVE", form.BYTES, None, (0, 0), _P.SHARED_OBJECT, "8.2"),
    MessageType(8, "BACKEND_SHARED_OBJECT_LOOKUP", form.BYTES, form.U64, (0, 0), _P.SHARED_OBJECT, "8.2"),
)


# fmt: on


class Table:
    """The messages of one direction, by number and by name."""

    def __init__(self, rows: tuple[MessageType, ...]) -> None:
        """Index the rows."""
        self.by_number: Mapping[int, MessageType] = MappingProxyType({row.number: row for row in rows})
        self.by_name: Mapping[str, MessageType] = MappingProxyType({row.name: row for row in rows})

    def __getitem__(self, name: str) -> MessageType:
        """Return a message by name."""
        return self.by_name[name]

    def __iter__(self) -> Iterator[MessageType]:
        """Iterate in order of the numbers."""
        return iter(self.by_number.values())

    def name(self, number: int) -> str:
        """Return what to call a message in a log, known or not."""
        kind = self.by_number.get(number)
        return kind.name if kind is not None else f"message {number}"


FRONT_END = Table(_FRONT_END)
BACK_END = Table(_BACK_END)
