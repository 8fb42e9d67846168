"""What a session asks of the shell around it, and what it asks it to bring back."""

from dataclasses import dataclass

from virtio.transport.vhost_user.state_transfer import StateTransfer


@dataclass(frozen=True, slots=True)
class Send:
    """Send bytes, with descriptors, to the front end. They are valid until the session is called again."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Send bytes on the back end's own channel."""

    data: bytes


@dataclass(frozen=True, slots=True)
class UseChannel:
    """Use this socket, now the shell's, as the back end's own channel, in the place of an earlier one."""

    fd: int


@dataclass(frozen=True, slots=True)
class DropChannel:
    """Close the back end's own channel."""

    reason: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection: the protocol leaves no other way."""

    reason: str


@dataclass(frozen=True, slots=True)
class WatchTransfer:
    """Step this transfer whenever its descriptor is ready, in the place of an earlier one."""

    transfer: StateTransfer | None


Action = Send | SendRequest | UseChannel | DropChannel | Disconnect | WatchTransfer


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The device has changed its configuration space."""


@dataclass(frozen=True, slots=True)
class DeviceBroke:
    """The device needs a reset."""


@dataclass(frozen=True, slots=True)
class BuffersUsed:
    """A queue has used buffers and calls in-band."""

    queue: int


@dataclass(frozen=True, slots=True)
class TranslationMissed:
    """A queue waits for a translation."""


Notice = ConfigChanged | DeviceBroke | BuffersUsed | TranslationMissed
"""News from other threads, handed to the session on its own. Equal ones that wait are one."""
