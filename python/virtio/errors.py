"""The errors of this package.

::

    Error
    ├── ProtocolError        the other side broke the standard; carries the clause
    │   └── FeatureNegotiationError
    ├── TransportError       the wire: sockets, descriptors, messages
    │   └── RefusedError         … works, but the other side will not do what was asked
    ├── DeviceError          the device said no; carries its status
    │   ├── IOFailed             … because reading or writing failed
    │   └── UnsupportedRequest   … because it does not know the request
    ├── StateError           a saved state that cannot be loaded
    └── ConfigurationError   the caller asked for something that cannot be

Beside the tree stands :class:`IOCompleted`: not an error but an outcome, see there.
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


class RefusedError(TransportError):
    """The other side answered that it will not do what the wire asked of it. The connection lives on."""


class DeviceError(Error):
    """The device answered a request with a failure; ``status`` is what it said."""

    def __init__(self, message: str, status: int) -> None:
        """Describe the request that failed and keep the device's status code."""
        super().__init__(message)
        self.status = status


class IOFailed(DeviceError):  # noqa: N818 (reads as the outcome that a device author raises)
    """This one request fails with the device's I/O error status; the device lives on.

    A device author raises it, as the class or with a message; the driver sees ``VIRTIO_BLK_S_IOERR``.
    """

    def __init__(self, message: str = "input or output failed", status: int = 1) -> None:
        """Describe the failure; a block device's status for it is 1."""
        super().__init__(message, status)


class UnsupportedRequest(DeviceError):  # noqa: N818
    """This one request is not supported; the driver sees ``VIRTIO_BLK_S_UNSUPP``."""

    def __init__(self, message: str = "request not supported", status: int = 2) -> None:
        """Name the request; a block device's status for it is 2."""
        super().__init__(message, status)


class IOCompleted(Exception):  # noqa: N818
    """A request succeeded: an outcome that may be returned or raised.

    ``BlockDevice.read`` and its siblings return this class, so that a subclass may write its decision
    as one expression of outcomes, and raise whichever it is::

        raise virtio.IOFailed if sector == 2048 else super().read(sector, into)

    Raising it, returning it and returning ``None`` all mean success. It is no :class:`Error`: an
    ``except virtio.Error`` must not swallow a success.
    """


class StateError(Error):
    """The state of a device that was saved elsewhere is damaged, or not for this device."""


class ConfigurationError(Error):
    """What was asked for cannot be: a value out of range, a missing file, a missing program."""
