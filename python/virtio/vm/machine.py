"""A virtual machine monitor as a child process: its console, its time limit, its end."""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from virtio.errors import Error

#: More console than any command should print; a guest that loops while printing is stopped here.
CONSOLE_LIMIT = 64 << 20
_LOG_LIMIT = 64 << 10
_TAIL_LINES = 25


class GuestError(Error):
    """The guest did not do what it was asked: it did not boot, ended early, or took too long.

    ``console`` holds the last of what it printed.
    """

    def __init__(self, message: str, console: str = "") -> None:
        """Describe what went wrong, and keep the console's last lines."""
        super().__init__(f"{message}; the console's end:\n{console}" if console else message)
        self.console = console


class Machine:
    """A running monitor. Its console is its standard input and output, and standard error with it.

    It leads a process group of its own, because User Mode Linux is several processes, and because a Ctrl-C on
    the terminal is for us to handle. ``timeout`` limits its whole life.
    """

    def __init__(self, command: Sequence[str | Path], *, timeout: float | None = None) -> None:
        """Start ``command``."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._received = bytearray()
        self._log = bytearray()
        self._ended = False
        self._ending = threading.Lock()
        self._gone = False
        self._reason: str | None = None
        self._reader = threading.Thread(target=self._read, name="guest console", daemon=True)
        self._reader.start()
        self._watchdog: threading.Timer | None = None
        if timeout is not None:
            self._watchdog = threading.Timer(timeout, self.kill, [f"took longer than its {timeout:g} s"])
            self._watchdog.daemon = True
            self._watchdog.start()

    @property
    def pid(self) -> int:
        """The monitor's process, which is also its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the monitor still runs."""
        return not self._exited(0)

    @property
    def tail(self) -> str:
        """The last of what the guest and its monitor printed."""
        with self._changed:
            return self._tail()

    def _tail(self) -> str:
        return "\n".join(self._log.decode(errors="replace").splitlines()[-_TAIL_LINES:]).strip()

    def send(self, data: bytes) -> None:
        """Write to the guest's console."""
        assert self._process.stdin is not None
        if self._gone:
            raise self._error("the guest is gone")
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            raise self._error(f"the guest is gone: {error.strerror}") from error

    def receive_until(self, marker: bytes, timeout: float) -> bytes:
        """Return what the guest prints before ``marker``; both are consumed."""
        deadline = time.monotonic() + timeout
        searched = 0
        with self._changed:
            while True:
                found = self._received.find(marker, searched)
                if found >= 0:
                    before = bytes(self._received[:found])
                    del self._received[: found + len(marker)]
                    return before
                searched = max(0, len(self._received) - len(marker) + 1)
                if self._ended:
                    raise self._error(f"the guest {self._reason or 'ended'} before it was done")
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._error(f"the guest did not answer within {timeout:g} s")
                self._changed.wait(remaining)

    def receive(self, timeout: float) -> bytes | None:
        """Return what the guest printed since the last call, empty if nothing came; None after its end."""
        with self._changed:
            if not self._received and not self._ended:
                self._changed.wait(timeout)
            if not self._received and self._ended:
                return None
            data = bytes(self._received)
            self._received.clear()
            return data

    def wait(self, timeout: float) -> bool:
        """Wait for the monitor to end by itself; tell whether it did."""
        if not self._exited(timeout):
            return False
        self._end()
        return True

    def kill(self, reason: str = "was killed") -> None:
        """End the whole process group at once, as a power cut does. Does nothing after its end."""
        if self._reason is None:
            self._reason = reason
        self._end()

    def _exited(self, timeout: float) -> bool:
        """Wait without reaping the process; see :meth:`_end`."""
        with self._ending:
            if self._gone:
                return True
            descriptor = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(descriptor)

    def _end(self) -> None:
        with self._ending:
            if not self._gone:
                # Before the leader is reaped, since its process id names the group; helpers may outlive it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                self._gone = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if threading.current_thread() is not self._reader:
            self._reader.join(5)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        flooded = False
        while data := os.read(descriptor, 1 << 16):
            with self._changed:
                self._log += data
                del self._log[: max(0, len(self._log) - _LOG_LIMIT)]
                if not flooded:
                    self._received += data
                self._changed.notify_all()
            if len(self._received) > CONSOLE_LIMIT and not flooded:
                flooded = True
                self.kill("flooded its console")
        self._process.stdout.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _error(self, message: str) -> GuestError:
        return GuestError(message, self._tail())
