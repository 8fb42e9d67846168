"""How a command fails."""

import errno

from virtio.errors import TransportError


class Refusal(TransportError):  # noqa: N818 (an outcome, as an answer is)
    """The client gets this error number for an answer; the connection lives on."""

    def __init__(self, error: int, reason: str) -> None:
        """Say why, for the log; the number is for the client."""
        super().__init__(f"{reason} ({errno.errorcode.get(error, error)})")
        self.error = error


def invalid(reason: str) -> Refusal:
    """Refuse with EINVAL."""
    return Refusal(errno.EINVAL, reason)
