"""What a session asks of the shell around it, and what the shell brings back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Send:
    """Send bytes, with descriptors, to the client. The descriptors stay the session's."""

    data: bytes
    fds: tuple[int, ...] = ()
    twin: bool = False
    """By the socket on which the server asks."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection: the protocol leaves no other way."""

    reason: str


Action = Send | Disconnect


@dataclass(frozen=True, slots=True)
class TransferWaits:
    """A thread wants to reach the client's memory by messages."""


Notice = TransferWaits
"""News from other threads, handed to the session on its own. Equal ones that wait are one."""
