"""A back end in a process of its own: ours, or anybody's program."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from virtio.errors import TransportError
from virtio.spec import device_type
from virtio.transport.unix.listening import listening
from virtio.vm.attachment import Attachment
from virtio.vm.machine import GuestError, Machine

PATIENCE = 30.0
"""Seconds for a program to listen, and to end when it is asked to."""
_POLL_SECONDS = 0.005


class BackEnd:
    """A program that serves one device on a socket.

    It leads a process group, all of which ends with it: at the end of its time, with the test, and even if
    the test's process is killed. ``timeout`` limits its life, in seconds.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        socket: Path,
        *,
        type: str | None,  # noqa: A002
        queues: int,
        timeout: float | None,
    ) -> None:
        """Start it, and wait until it listens."""
        self.type = type
        self.socket = socket
        self.address = f"vhost-user:{socket}"
        self.queues = queues
        self.command = [str(part) for part in command]
        self._timeout = timeout
        self._machine: Machine
        self._earlier = ""
        self._start()

    def _start(self) -> None:
        self._machine = Machine(self.command, timeout=self._timeout)
        deadline = time.monotonic() + PATIENCE
        while not listening(self.socket):
            if not self._machine.running or time.monotonic() > deadline:
                self._machine.kill()
                said = self._machine.log.strip() or "and said nothing"
                raise TransportError(f"{self.command[0]} does not listen at {self.socket}: {said}")
            time.sleep(_POLL_SECONDS)

    @property
    def pid(self) -> int:
        """The process, which is also its group."""
        return self._machine.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._machine.running

    @property
    def log(self) -> str:
        """What it has printed, the last 64 KiB."""
        return self._earlier + self._machine.log

    @property
    def attachment(self) -> Attachment:
        """What a guest needs to know."""
        if self.type is None:
            raise ValueError(f"say what {self.command[0]} serves: type=")
        return Attachment(device_type(self.type).id, self.socket, queues=self.queues)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._machine.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._machine.kill()

    def stop(self) -> int:
        """Ask it to end, and see that it does; return its exit status, negative for a signal."""
        if self._machine.running:
            self.send_signal(signal.SIGTERM)
        if not self._machine.wait(PATIENCE):
            self._machine.kill("did not end when it was asked to")
        return self._machine.status

    def restart(self) -> None:
        """Start it again on the same socket, after its end, however that came about."""
        self._machine.kill()
        self._earlier = self.log
        # What a killed one leaves behind would keep others from listening, or be taken for theirs.
        self.socket.unlink(missing_ok=True)
        self._start()

    def wait_for_output(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until it has printed ``text``."""
        try:
            self._machine.receive_until(text.encode(), timeout)
        except GuestError as error:
            raise TransportError(f"{self.command[0]} has not said {text!r}: {error.console}") from None

    def report(self) -> str:
        """What a failed test shows of it."""
        how = f"process {self.pid}" if self.running else self._machine.reason or "ended by itself"
        return f"{' '.join(self.command)} ({how})\n{self.log}".rstrip()
