"""``mem:`` between two processes: what goes over the Unix socket that joins them.

Each message is its length, four bytes in the machine's order, and a JSON object; descriptors travel with it.
The driver asks, one thing at a time::

    {"do": "start_queue", "as": 7, "index": 0, "size": 256, …}   + kick and call eventfds

and the device answers ``{"to": 7, "is": …}``, or ``{"to": 7, "error": "refused", "text": "…"}``. By itself
it says ``{"event": "config"}`` when its configuration has changed, and ``{"event": "broken", "text": "…"}``
when it needs a reset. :data:`CALLS` has all there is to ask. Bytes are in hexadecimal, features are numbers.

The driver shares its memory by descriptors before any ring is in it. Whoever is gone is found out by the end
of the connection, which resets the device.
"""

import json
import struct
from typing import Any

from virtio.errors import ConfigurationError, Error, RefusedError, TransportError
from virtio.transport.unix.framing import Framer, FramingError

MAX_MESSAGE = 64 * 1024
MAX_CONFIG = 16 * 1024
"""Bytes of configuration space in one message."""

CALLS: dict[str, dict[str, type]] = {
    "hello": {"timeout": float},
    "accept": {"features": int},
    "status": {},
    "set_status": {"status": int},
    "reset": {},
    "generation": {},
    "read_config": {"offset": int, "size": int},
    "write_config": {"offset": int, "data": str},
    "share": {"address": int, "size": int, "user": int},
    "start_queue": {
        "index": int,
        "size": int,
        "descriptors": int,
        "available": int,
        "used": int,
        "base": int,
    },
    "stop_queue": {"index": int},
    "reset_queue": {"index": int},
    "kick": {"index": int, "data": int},
}
"""What can be asked, with its arguments. ``base`` is -1 for a new ring."""

DESCRIPTORS = {"share": 1, "start_queue": 2}
"""How many descriptors come along."""

ERRORS: dict[str, type[Error]] = {
    "refused": RefusedError,
    "configuration": ConfigurationError,
    "transport": TransportError,
}

_LENGTH = struct.Struct("=I")


def framer() -> Framer:
    """Return what finds the messages in a stream."""

    def measure(data: bytearray) -> int:
        size = int(_LENGTH.unpack_from(data)[0])
        if size > MAX_MESSAGE:
            raise FramingError(f"a message of {size} bytes")
        return _LENGTH.size + size

    return Framer(_LENGTH.size, measure)


def encode(message: dict[str, Any]) -> bytes:
    """Return the bytes of a message."""
    text = json.dumps(message).encode()
    return _LENGTH.pack(len(text)) + text


def decode(data: bytes) -> dict[str, Any]:
    """Return what a message says; :exc:`~virtio.TransportError` if it says nothing."""
    try:
        found = json.loads(data[_LENGTH.size :])
    except (ValueError, RecursionError):
        raise TransportError("a message that cannot be read") from None
    if not isinstance(found, dict):
        raise TransportError("a message that is no object")
    return found


def arguments(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take apart what is asked for, and check the form of it."""
    name = message.pop("do", None)
    wanted = CALLS.get(name) if isinstance(name, str) else None
    if wanted is None:
        raise RefusedError(f"there is no {name!r} to ask for")
    if message.keys() != wanted.keys():
        raise RefusedError(f"{name} has {', '.join(wanted) or 'no arguments'}")
    for key, kind in wanted.items():
        value: Any = message[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RefusedError(f"{key} of {name} is no {kind.__name__}")
        if isinstance(value, int) and not -1 <= value < 1 << 128:
            raise RefusedError(f"{key} of {name} is out of range")
    return str(name), message


def failure(error: Error) -> dict[str, str]:
    """Return how to say that something failed."""
    for name, kind in ERRORS.items():
        if type(error) is kind:
            return {"error": name, "text": str(error)}
    return {"error": "refused", "text": str(error)}
