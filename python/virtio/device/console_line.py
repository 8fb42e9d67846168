"""What is behind a console: a Unix socket, a pseudoterminal, or this process's own terminal.

A line moves bytes between its descriptors and a :class:`~virtio.device.console_port.Port` on a thread of its
own, and reads no more than the port has room for.
"""

import contextlib
import logging
import os
import pty
import select
import signal
import socket
import sys
import termios
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtio.device.console_port import Port
from virtio.errors import ConfigurationError

ESCAPE = b"\x1d"
"""Ctrl-]: ends a session on the own terminal, where Ctrl-C belongs to the guest."""

_CHUNK = 1 << 14
_RETRY = 100  # milliseconds

_log = logging.getLogger("virtio.device.console")


class Line:
    """The thread, and one connection at a time over which it reads and writes."""

    title = "line"

    def __init__(self) -> None:
        """Prepare; nothing is opened yet."""
        self._awake, self._waker = socket.socketpair()
        self._awake.setblocking(False)
        self._waker.setblocking(False)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._reader = -1
        self._writer = -1
        self._port = Port()

    def start(self, port: Port) -> None:
        """Serve ``port`` until :meth:`close`."""
        self._port = port
        port.wake = self.wake
        self.open()
        self._thread = threading.Thread(target=self._run, name=f"virtio console {self.title}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look at the port again."""
        with contextlib.suppress(BlockingIOError):  # full: it is being woken already
            self._waker.send(b"!")

    def close(self, timeout: float = 2.0) -> None:
        """Write what the other end still takes, and stop."""
        self._closing = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout)
        self._disconnect()
        self.shut()
        self._awake.close()
        self._waker.close()

    # --- for the kinds of line

    def open(self) -> None:
        """Open what is to be opened, and connect if that is all it takes."""

    def shut(self) -> None:
        """Close what :meth:`open` opened."""

    def listener(self) -> int | None:
        """Return a descriptor that is readable when somebody wants to connect; None: nothing to wait on."""
        return None

    def connect(self) -> None:
        """Call :meth:`_connect` if somebody is there. Tried when the listener says so, or now and then."""

    def received(self, data: bytes) -> bytes:
        """Look at input before the guest gets it."""
        return data

    def ended(self) -> None:
        """The other end has closed."""
        self._disconnect()

    def _connect(self, reader: int, writer: int) -> None:
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._reader, self._writer = reader, writer
        self._port.connected = True

    def _disconnect(self) -> None:
        self._reader = self._writer = -1
        self._port.connected = False

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
            self._write()
        except Exception:
            _log.exception("the console's %s stopped", self.title)
            self._disconnect()

    def _step(self) -> None:
        awake = self._awake.fileno()
        wanted = {awake: select.POLLIN}
        timeout = None
        connected = self._reader >= 0 or self._writer >= 0
        if not connected:
            listener = self.listener()
            if listener is None:
                timeout = _RETRY
            else:
                wanted[listener] = select.POLLIN
        if self._reader >= 0 and self._port.room:
            wanted[self._reader] = select.POLLIN
        if self._writer >= 0 and self._port.output():
            wanted[self._writer] = wanted.get(self._writer, 0) | select.POLLOUT
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        ready = {fd for fd, _ in poll.poll(timeout)}
        if awake in ready:
            with contextlib.suppress(BlockingIOError):
                self._awake.recv(4096)
        if not connected:
            self.connect()
            return
        if self._writer in ready:
            self._write()
        if self._reader in ready:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._reader, min(_CHUNK, self._port.room or _CHUNK))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended()
            return
        self._port.feed(self.received(data))

    def _write(self) -> None:
        data = self._port.output()
        if not data or self._writer < 0:
            return
        try:
            self._port.sent(os.write(self._writer, data[:_CHUNK]))
        except BlockingIOError:
            return
        except OSError:
            self.ended()


class UnixLine(Line):
    """A listening Unix socket. One client at a time, coming and going; a second one waits for its turn."""

    title = "socket"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Listen at ``path``, replacing a socket that nobody listens on any more."""
        super().__init__()
        self.path = Path(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: socket.socket | None = None

    def __str__(self) -> str:
        """For messages."""
        return str(self.path)

    def open(self) -> None:
        """Bind and listen."""
        if self.path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()
                else:
                    raise ConfigurationError(f"{self.path}: somebody listens there already")
        try:
            self._listener.bind(str(self.path))
        except OSError as error:
            raise ConfigurationError(f"cannot listen at {self.path}: {error.strerror or error}") from None
        self._listener.listen(1)
        self._listener.setblocking(False)

    def shut(self) -> None:
        """Close the sockets and take the path away."""
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def listener(self) -> int:
        """Readable when a client knocks."""
        return self._listener.fileno()

    def connect(self) -> None:
        """Let a client in."""
        with contextlib.suppress(BlockingIOError):
            self._client, _ = self._listener.accept()
            self._connect(self._client.fileno(), self._client.fileno())

    def _disconnect(self) -> None:
        super()._disconnect()
        if self._client is not None:
            self._client.close()
            self._client = None


class PtyLine(Line):
    """A pseudoterminal; whoever opens it is connected."""

    title = "pseudoterminal"

    def __init__(self, link: str | os.PathLike[str] | None = None) -> None:
        """Make it, and a symbolic link to it at ``link`` if given."""
        super().__init__()
        self._link = Path(link) if link is not None else None
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self.path = Path(os.ttyname(slave))
        os.close(slave)  # from here on the master says whether somebody has it open
        if self._link is not None:
            if self._link.is_symlink():
                self._link.unlink()
            self._link.symlink_to(self.path)

    def __str__(self) -> str:
        """For messages."""
        return str(self._link or self.path)

    def connect(self) -> None:
        """See whether somebody has opened it: until then the master hangs up."""
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        if not any(events & select.POLLHUP for _, events in poll.poll(0)):
            self._connect(self._master, self._master)

    def shut(self) -> None:
        """Close it, and take the link away."""
        os.close(self._master)
        if self._link is not None:
            self._link.unlink(missing_ok=True)


class StdioLine(Line):
    """The process's own input and output; a terminal is in raw mode meanwhile."""

    title = "terminal"

    def __init__(self, quit: Callable[[], object] | None = None) -> None:  # noqa: A002
        """Call ``quit`` on Ctrl-] at a terminal; by default the process gets SIGINT."""
        super().__init__()
        self._quit = quit or (lambda: os.kill(os.getpid(), signal.SIGINT))
        self._saved: list[Any] | None = None
        self._blocking = (True, True)

    def __str__(self) -> str:
        """For messages."""
        return "this terminal (Ctrl-] ends)" if self._saved is not None else "standard input and output"

    def open(self) -> None:
        """Connect at once."""
        reader, writer = sys.stdin.fileno(), sys.stdout.fileno()
        sys.stdout.flush()
        self._blocking = (os.get_blocking(reader), os.get_blocking(writer))
        if os.isatty(reader):
            self._saved = termios.tcgetattr(reader)
            tty.setraw(reader)
        self._connect(reader, writer)

    def received(self, data: bytes) -> bytes:
        """Catch the key that ends the session."""
        if self._saved is not None and ESCAPE in data:
            self._quit()
        return data

    def ended(self) -> None:
        """End of input: the guest's output is still shown."""
        self._reader = -1

    def shut(self) -> None:
        """Give the terminal back as it was."""
        reader, writer = sys.stdin.fileno(), sys.stdout.fileno()
        os.set_blocking(reader, self._blocking[0])
        os.set_blocking(writer, self._blocking[1])
        if self._saved is not None:
            termios.tcsetattr(reader, termios.TCSADRAIN, self._saved)
            self._saved = None
