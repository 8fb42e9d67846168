"""The errors of this package.

::

    Error
    ├── ProtocolError        the other side broke the standard; carries the clause
    │   └── FeatureNegotiationError
    ├── TransportError       the wire: sockets, descriptors, messages
    ├── DeviceError          the device said no; carries its status
    └── ConfigurationError   the caller asked for something that cannot be
"""


class Error(Exception):
    """Base of all errors that this package raises on purpose."""


class ProtocolError(Error):
    """The other side broke the standard.

    ``clause`` is the section of VIRTIO 1.4 that holds the broken rule, for example ``"2.7.5.1"``.
    """

    def __init__(self, message: str, clause: str) -> None:
        """Describe what was seen, and name the section that forbids it."""
        super().__init__(f"{message} (VIRTIO 1.4, {clause})")
        self.clause = clause


class FeatureNegotiationError(ProtocolError):
    """The feature bits that the other side accepted cannot work.

    ``missing`` holds bits that must be there and are not, ``unexpected`` bits that were never offered.
    """

    def __init__(self, message: str, clause: str, *, missing: int = 0, unexpected: int = 0) -> None:
        """Describe the mismatch; ``missing`` and ``unexpected`` are feature words."""
        super().__init__(message, clause)
        self.missing = missing
        self.unexpected = unexpected


class TransportError(Error):
    """The connection to the other side failed, or carried something that is not its protocol."""


class DeviceError(Error):
    """The device answered a request with a failure; ``status`` is what it said."""

    def __init__(self, message: str, status: int) -> None:
        """Describe the request that failed and keep the device's status code."""
        super().__init__(message)
        self.status = status


class ConfigurationError(Error):
    """What was asked for cannot be: a value out of range, a missing file, a missing program."""
