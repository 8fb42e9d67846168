"""A virtual machine monitor as a child process: its console, its time limit, its end."""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from virtio.errors import Error

#: More console than any command should print; a guest that loops while printing is stopped here.
CONSOLE_LIMIT = 64 << 20
_LOG_LIMIT = 64 << 10
_TAIL_LINES = 25
#: Runs the command that follows, and in its process group a companion that reads from our pipe. That ends
#: when we are gone, however that came about, and then the companion takes the group with it.
_GUARDED = (
    "/bin/sh",
    "-c",
    'guard=$1; shift; (read -r _ </proc/self/fd/$guard; kill -KILL 0) </dev/null >/dev/null 2>&1 & exec "$@"',
    "guest",
)


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
        guard, self._guard = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*_GUARDED, str(guard), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[guard],
            )
        except BaseException:
            os.close(self._guard)
            raise
        finally:
            os.close(guard)
        self._changed = threading.Condition()
        self._received = bytearray()
        self._log = bytearray()
        self._ended = False
        self._ending = threading.Lock()
        self._gone = False
        self.reason: str | None = None  #: why it was killed, if it was
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
    def status(self) -> int:
        """How the monitor ended; of a signal, its negative number."""
        if self._process.returncode is None:
            raise self._error("it has not ended")
        return self._process.returncode

    @property
    def tail(self) -> str:
        """The last of what the guest and its monitor printed."""
        with self._changed:
            return self._tail()

    @property
    def log(self) -> str:
        """All of it that is kept: the last 64 KiB."""
        with self._changed:
            return self._log.decode(errors="replace")

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

    def receive_until(
        self, marker: bytes, timeout: float | None, sink: Callable[[bytes], object] | None = None
    ) -> bytes:
        """Return what the guest prints before ``marker``; both are consumed.

        With a ``sink``, that is called with each piece as it comes, and nothing is returned. ``timeout`` None
        waits for as long as the machine runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        searched = 0
        while True:
            with self._changed:
                found = self._received.find(marker, searched)
                if found < 0 and sink is None:
                    searched = max(0, len(self._received) - len(marker) + 1)
                    piece = b""
                else:
                    end = found if found >= 0 else len(self._received) - _overlap(self._received, marker)
                    piece = bytes(self._received[:end])
                    del self._received[: end + (len(marker) if found >= 0 else 0)]
                if found < 0 and not piece:
                    self._await_more(deadline, timeout)
            if sink is not None and piece:
                sink(piece)
            if found >= 0:
                return piece if sink is None else b""

    def _await_more(self, deadline: float | None, timeout: float | None) -> None:
        if self._ended:
            raise self._error(f"the guest {self.reason or 'ended'} before it was done")
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise self._error(f"the guest did not answer within {timeout:g} s")
        self._changed.wait(remaining)

    def remaining_output(self) -> bytes:
        """Return what nobody has asked for yet."""
        with self._changed:
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
        if self.reason is None:
            self.reason = reason
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
                os.close(self._guard)
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


def _overlap(data: bytearray, marker: bytes) -> int:
    """Return how many bytes at the end of ``data`` may be the beginning of ``marker``."""
    for size in range(min(len(marker) - 1, len(data)), 0, -1):
        if data.endswith(marker[:size]):
            return size
    return 0
