"""Serves a device to front ends, one after another, on a thread of its own.

A thread for each device, since stopping a queue waits for its requests: no device waits for another.
"""

import atexit
import errno
import logging
import os
import select
import socket
import threading
from types import TracebackType
from typing import Self

from virtio._native import Memory
from virtio.errors import Error
from virtio.transport.interface import DeviceEnd
from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES
from virtio.transport.vhost_user.connection import Connection
from virtio.transport.vhost_user.listener import Listener

_log = logging.getLogger("virtio.transport.vhost_user")

_RETRY_SECONDS = 0.5
_SIGNAL_SECONDS = 0.2


class VhostUserServer:
    """A device at an address."""

    def __init__(
        self, device: DeviceEnd, listener: Listener, *, protocol_features: int = PROTOCOL_FEATURES
    ) -> None:
        """Start serving ``device``; the listener belongs to the server from here."""
        self._device = device
        self._protocol_features = protocol_features
        self._listener = listener
        self._name = f"{device.name} ({listener.description})"
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._connected = False
        self._lock = threading.Lock()
        self._released = False
        self._thread = threading.Thread(target=self._run, name=f"vhost-user {device.name}", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def address(self) -> str:
        """Where front ends connect to."""
        return f"vhost-user:{self._listener.description}"

    @property
    def connected(self) -> bool:
        """Whether a front end is there."""
        return self._connected

    def shut_down(self) -> None:
        """Begin to stop and return at once; also from a signal handler."""
        if not self._released:
            os.eventfd_write(self._stop, 1)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until serving has ended; False: it has not, in that time."""
        # In slices: a signal that the kernel hands to another thread does not wake this one from a join.
        while timeout is None and self._thread.is_alive():
            self._thread.join(_SIGNAL_SECONDS)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Finish what was begun, disconnect the front end, and give up the address."""
        self.shut_down()
        self._thread.join()
        with self._lock:
            if not self._released:
                self._released = True
                os.close(self._stop)
                atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        """Serve within a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    # --- the thread

    def _run(self) -> None:
        try:
            if self._listener.connected:
                self._serve(self._listener.socket, None)
                return
            while (front_end := self._accept()) is not None:
                self._serve(front_end, self._listener.socket)
        except Exception:
            _log.exception("%s: the server ends", self._name)
        finally:
            self._listener.close()

    def _accept(self) -> socket.socket | None:
        """Wait for a front end; None: the server stops."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._listener.socket, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop in ready:
                return None
            try:
                return self._listener.socket.accept()[0]
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    raise
                _log.error("%s: a front end cannot connect: %s", self._name, error.strerror)
                if select.select([self._stop], [], [], _RETRY_SECONDS)[0]:
                    return None

    def _serve(self, front_end: socket.socket, listening: socket.socket | None) -> None:
        try:
            connection = Connection(front_end, self._device, Memory(), self._name, self._protocol_features)
        except (Error, OSError) as error:
            _log.error("%s: a front end was turned away: %s", self._name, error)
            front_end.close()
            return
        _log.info("%s: a front end has connected", self._name)
        self._connected = True
        reason = "an error of our own"
        try:
            reason = connection.run(self._stop, listening)
        except Exception:
            _log.exception("%s: the connection fails", self._name)
        finally:
            try:
                connection.close()
            except Error as error:
                _log.warning("%s: %s", self._name, error)
            self._connected = False
            _log.info("%s: the front end is gone: %s", self._name, reason)
