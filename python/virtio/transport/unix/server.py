"""Serves a device to those who connect, one after another, on a thread of its own.

A thread for each device, since stopping a queue waits for its requests: no device waits for another.
"""

import atexit
import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from virtio.blocks import Stopping
from virtio.errors import Error
from virtio.transport.interface import DeviceEnd
from virtio.transport.unix.listener import Listener

_log = logging.getLogger("virtio.transport")

_RETRY_SECONDS = 0.5
_SIGNAL_SECONDS = 0.2


class Connection(Protocol):
    """One client, from its connection to its end."""

    def run(self, stop: int, waiting: socket.socket | None) -> str:
        """Serve until the client goes, or ``stop`` becomes readable; return why it ended.

        ``waiting`` is where other clients knock. They are left waiting: the one that is here may be about to
        leave, and then it is their turn.
        """

    def close(self) -> None:
        """Let go of the device, finishing what it has begun, and close everything."""


Connect = Callable[[socket.socket, str], Connection]
"""Takes over a socket that was accepted; the text is for logs."""


class SocketServer(Stopping):
    """A device at an address."""

    def __init__(
        self, device: DeviceEnd, listener: Listener, connect: Connect, *, scheme: str, client: str
    ) -> None:
        """Start serving ``device``; the listener belongs to the server from here.

        ``connect`` begins to serve one client, which logs call a ``client`` ("front end").
        """
        self._connect = connect
        self._scheme = scheme
        self._client = client
        self._listener = listener
        self._name = f"{device.name} ({listener.description})"
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._connected = False
        self._lock = threading.Lock()
        self._released = False
        self._thread = threading.Thread(target=self._run, name=f"{scheme} {device.name}", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"{self._scheme}:{self._listener.description}"

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
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
        """Finish what was begun, disconnect the client, and give up the address."""
        self.shut_down()
        self._thread.join()
        with self._lock:
            if not self._released:
                self._released = True
                os.close(self._stop)
                atexit.unregister(self.stop)

    # --- the thread

    def _run(self) -> None:
        try:
            if self._listener.connected:
                self._serve(self._listener.socket, None)
                return
            while (client := self._accept()) is not None:
                self._serve(client, self._listener.socket)
        except Exception:
            _log.exception("%s: the server ends", self._name)
        finally:
            self._listener.close()

    def _accept(self) -> socket.socket | None:
        """Wait for a client; None: the server stops."""
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
                _log.error("%s: a %s cannot connect: %s", self._name, self._client, error.strerror)
                if select.select([self._stop], [], [], _RETRY_SECONDS)[0]:
                    return None

    def _serve(self, client: socket.socket, listening: socket.socket | None) -> None:
        try:
            connection = self._connect(client, self._name)
        except (Error, OSError) as error:
            _log.error("%s: a %s was turned away: %s", self._name, self._client, error)
            client.close()
            return
        _log.info("%s: a %s has connected", self._name, self._client)
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
            _log.info("%s: the %s is gone: %s", self._name, self._client, reason)
