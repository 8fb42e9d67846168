"""The handshake: versions, and capabilities in JSON."""

import json
import struct
from dataclasses import dataclass, replace
from typing import Any

from virtio.transport.vfio_user.messages import MAJOR, MAX_TRANSFER, MINOR, PAGE
from virtio.transport.vfio_user.payloads import PayloadError

_VERSION = struct.Struct("=HH")
_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True)
class Capabilities:
    """What one side takes; by default what it takes if it says nothing."""

    max_msg_fds: int = 1
    max_data_xfer_size: int = MAX_TRANSFER
    max_dma_maps: int = 65535
    pgsizes: int = PAGE
    write_multiple: bool = False
    twin_socket: bool = False
    """Whether it is ready for a second socket, on which the server asks."""
    twin_index: int | None = None
    """In a reply: which of its descriptors is that socket."""


OURS = Capabilities(
    max_msg_fds=64, max_data_xfer_size=MAX_TRANSFER, max_dma_maps=8192, pgsizes=PAGE, write_multiple=True
)


@dataclass(frozen=True)
class Hello:
    """What VERSION carries, in both directions."""

    major: int
    minor: int
    capabilities: Capabilities
    given: frozenset[str] = frozenset()
    """The names of the capabilities that were there."""


def decode(payload: bytes) -> Hello:
    """Take a VERSION apart; :exc:`PayloadError` if it cannot be understood."""
    if len(payload) < _VERSION.size:
        raise PayloadError("a version is missing")
    major, minor = _VERSION.unpack_from(payload)
    text = payload[_VERSION.size :]
    if not text:
        return Hello(major, minor, Capabilities())
    if text[-1] or b"\0" in text[:-1]:
        raise PayloadError("the version data do not end in one NUL")
    try:
        found = json.loads(text[:-1].decode())
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the version data are no JSON: {error}") from None
    values = _mapping(found, "the version data").get("capabilities", {})
    return Hello(major, minor, *_capabilities(_mapping(values, "capabilities")))


def encode(major: int, minor: int, capabilities: dict[str, Any]) -> bytes:
    """Make the payload of a VERSION."""
    text = json.dumps({"capabilities": capabilities}, separators=(",", ":"))
    return _VERSION.pack(major, minor) + text.encode() + b"\0"


def propose(ours: Capabilities = OURS, *, twin: bool = False) -> bytes:
    """Make the payload with which a client begins; ``twin``: the server may ask on a second socket."""
    return encode(MAJOR, MINOR, _written(replace(ours, twin_socket=twin)))


def answer(hello: Hello, ours: Capabilities = OURS, *, twin_index: int | None = None) -> bytes:
    """Make a server's answer: no more than was proposed, in the version that both know.

    ``twin_index``: which of the descriptors with it is a second socket, if one is.
    """
    theirs = hello.capabilities
    agreed = Capabilities(
        max_msg_fds=min(ours.max_msg_fds, theirs.max_msg_fds),
        max_data_xfer_size=min(ours.max_data_xfer_size, theirs.max_data_xfer_size),
        max_dma_maps=min(ours.max_dma_maps, theirs.max_dma_maps),
        pgsizes=ours.pgsizes & theirs.pgsizes or ours.pgsizes,
        write_multiple=ours.write_multiple and theirs.write_multiple,
        twin_socket=twin_index is not None,
        twin_index=twin_index,
    )
    written = _written(agreed)
    return encode(
        hello.major, min(hello.minor, MINOR), {k: v for k, v in written.items() if k in hello.given}
    )


def _written(value: Capabilities) -> dict[str, Any]:
    written: dict[str, Any] = {
        "max_msg_fds": value.max_msg_fds,
        "max_data_xfer_size": value.max_data_xfer_size,
        "max_dma_maps": value.max_dma_maps,
        "pgsizes": value.pgsizes,
        "write_multiple": value.write_multiple,
    }
    if value.twin_socket:
        written["twin_socket"] = {"supported": True}
        if value.twin_index is not None:
            written["twin_socket"]["fd_index"] = value.twin_index
    return written


def _capabilities(values: dict[str, Any]) -> tuple[Capabilities, frozenset[str]]:
    default = Capabilities()
    twin = _mapping(values.get("twin_socket", {}), "twin_socket")
    found = Capabilities(
        max_msg_fds=_number(values, "max_msg_fds", default.max_msg_fds, least=0),
        max_data_xfer_size=_number(values, "max_data_xfer_size", default.max_data_xfer_size, least=8),
        max_dma_maps=_number(values, "max_dma_maps", default.max_dma_maps, least=1),
        pgsizes=_number(values, "pgsizes", default.pgsizes, least=1),
        write_multiple=_boolean(values, "write_multiple"),
        twin_socket=_boolean(twin, "supported"),
        twin_index=_number(twin, "fd_index", 0, least=0) if "fd_index" in twin else None,
    )
    return found, frozenset(values)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PayloadError(f"{what}: not a JSON object")
    return value


def _number(values: dict[str, Any], name: str, default: int, *, least: int) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_NUMBER:
        raise PayloadError(f"{name} is not a number from {least} on")
    return value


def _boolean(values: dict[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise PayloadError(f"{name} is neither true nor false")
    return value
