"""Requests to a block device that are under way, and what their failures mean."""

from typing import TYPE_CHECKING

from typing_extensions import Buffer

from virtio._native import BlockRequests
from virtio.errors import ConfigurationError, DeviceError, IOFailed, ProtocolError, UnsupportedRequest
from virtio.spec import block as layout

if TYPE_CHECKING:
    from virtio.driver.block import BlockDriver

NOT_WRITTEN = 0xFF
"""What a status byte holds before the device has written it."""


def check(kind: int, sector: int, status: int) -> None:
    """Raise what a status that is not 0 stands for."""
    if status:
        raise failure(kind, sector, status)


def failure(kind: int, sector: int, status: int) -> Exception:
    """The error that a status stands for: it names the request, the place and the status."""
    name = layout.S.name(status)
    what = (layout.T.name(kind) or str(kind)).removeprefix("VIRTIO_BLK_T_")
    text = f"{what} at sector {sector}: the device says {name or status}"
    if status == layout.S.IOERR:
        return IOFailed(text, status)
    if status == layout.S.UNSUPP:
        return UnsupportedRequest(text, status)
    if status == NOT_WRITTEN:
        return ProtocolError(f"{what} at sector {sector}: the device returned it without a status", "5.2.6.2")
    return DeviceError(text, status)


class Request:
    """A request that was submitted. Its buffer belongs to the device until it is :attr:`done`."""

    __slots__ = ("_buffer", "_driver", "_kind", "_requests", "_sector", "_status", "_token")

    def __init__(
        self,
        driver: "BlockDriver",
        requests: BlockRequests,
        token: int,
        kind: int,
        sector: int,
        buffer: Buffer | None,
    ) -> None:
        """Take note of a request that the native queue knows by ``token``."""
        self._driver = driver
        self._requests = requests
        self._token: int | None = token
        self._kind = kind
        self._sector = sector
        self._buffer = buffer
        self._status: int | None = None

    def poll(self) -> bool:
        """Look whether it is done, without waiting; return at once."""
        if self._status is None:
            found = self._requests.queue.poll(self._given())
            if found is None:
                return False
            self._settle(found[1])
        return True

    @property
    def done(self) -> bool:
        """Whether the device has answered; as :meth:`poll`."""
        return self.poll()

    def wait(self, timeout: float | None = None) -> memoryview:
        """Wait for the device and return the buffer's bytes (for a flush: none).

        Raises what the device's status stands for, or ``TimeoutError``: then it is still under way, and may
        be waited for again.
        """
        if self._status is None:
            self._settle(self._requests.queue.wait(self._given(), timeout)[1])
        assert self._status is not None
        check(self._kind, self._sector, self._status)
        return memoryview(self._buffer if self._buffer is not None else b"")

    def cancel(self) -> None:
        """Take no more interest in it. What it uses is free when the device has answered."""
        if self._token is None:
            return
        token, self._token = self._token, None
        if not self._requests.queue.abandon(token):
            self._driver.keep(self._requests, self._buffer)
        self._buffer = None

    def __del__(self) -> None:
        """Cancel it, if nobody waited for it."""
        try:
            self.cancel()
        except Exception:  # the queue may be gone already, and there is nobody to tell
            self._token = None

    def __repr__(self) -> str:
        """Show what it is and how it stands."""
        what = (layout.T.name(self._kind) or str(self._kind)).removeprefix("VIRTIO_BLK_T_")
        if self._status is not None:
            state = layout.S.name(self._status) or f"status {self._status}"
        else:
            state = "cancelled" if self._token is None else "under way"
        return f"<Request {what} at sector {self._sector}, {state}>"

    def _given(self) -> int:
        if self._token is None:
            raise ConfigurationError("the request was cancelled")
        return self._token

    def _settle(self, status: int) -> None:
        self._token = None
        self._status = status
