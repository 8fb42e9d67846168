"""What driver ends have in common whose device is behind registers, however those are reached."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from virtio.blocks import Closing
from virtio.errors import DeviceError, Error, TransportError
from virtio.spec.core import STATUS
from virtio.transport.news import ConfigCallback, FailureCallback, NewsDesk


class Wire(Protocol):
    """The notifications of one queue."""

    def call(self) -> None:
        """Wake who waits for the device."""

    def close(self) -> None:
        """Close the descriptors."""


class ClosedError(TransportError):
    """This end was closed by its owner."""


W = TypeVar("W", bound=Wire)


class RegisterDriverEnd(Closing, Generic[W]):
    """Sequences of accesses one at a time; losses and failures told once; an orderly end.

    A transport derives from it, and says how the device is reset and what else is to be closed.
    """

    def __init__(self, address: str, timeout: float) -> None:
        """``timeout``: seconds after which a device that does not do as it is told is given up."""
        self.address = address
        self.timeout = timeout
        self._lock = threading.RLock()
        self._failure: Error | None = None
        self._desk = NewsDesk(address)
        self._wires: dict[int, W] = {}
        self._accepted = 0

    # --- for transports

    def _reset(self) -> None:
        """Reset the device, and wait until it says so."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Close what leads to the device. Called once."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """One sequence of accesses at a time, and none to a device that is gone."""
        with self._lock:
            if self._failure is not None:
                raise type(self._failure)(*self._failure.args) from self._failure
            yield

    def _await(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.timeout
        while not done():
            if time.monotonic() > deadline:
                error = TransportError(f"{self.address}: the device did not {what} within {self.timeout} s")
                self._lose(error)
                raise error
            time.sleep(0.001)

    # --- news

    def on_config_change(self, callback: ConfigCallback | None) -> None:
        """Call this after a configuration change notification."""
        self._desk.on_config_change(callback)

    def on_failure(self, callback: FailureCallback | None) -> None:
        """Call this once, when the device is lost or needs a reset."""
        self._desk.on_failure(callback)

    def _configuration_changed(self, status: int) -> None:
        """There was a configuration change notification, and this is the status."""
        if status & STATUS.DEVICE_NEEDS_RESET:
            self._fail(DeviceError("the device needs a reset", status))
        self._desk.config_changed()

    def _call_all(self) -> None:
        for wire in list(self._wires.values()):
            wire.call()

    def _fail(self, error: Error) -> None:
        self._desk.failed(error)
        self._call_all()  # Whoever waits for the device looks up.

    def _lose(self, error: Error) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
        self._fail(error)

    # --- the end

    def close(self) -> None:
        """Reset the device, let go of it, and unmap the memory. Twice: harmless."""
        self._desk.close()
        with self._lock:
            if isinstance(self._failure, ClosedError):
                return
            if self._failure is None:
                with contextlib.suppress(Error):
                    self._reset()
            self._failure = ClosedError("the connection is closed")
            for wire in self._wires.values():
                wire.close()
            self._wires.clear()
        self._let_go()
