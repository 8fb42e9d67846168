"""A person at a terminal, played by a script on a pseudoterminal."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from virtio.vm import Monitor

pytestmark = [pytest.mark.guest, pytest.mark.timeout(60)]

PROGRAM = """
import sys
from virtio.vm import Guest
from virtio.vm.terminal import interact
with Guest(monitor="uml", timeout=50) as guest:
    status = interact(guest)
print("status", status, flush=True)
"""


class Person:
    """Types, and reads the screen."""

    def __init__(self) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
        self.screen = b""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def sees(self, text: str, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while text.encode() not in self.screen:
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"no {text!r} on the screen:\n{self.screen.decode(errors='replace')}"
            if select.select([self.terminal], [], [], remaining)[0]:
                try:
                    self.screen += os.read(self.terminal, 4096)
                except OSError:  # the other end is closed
                    deadline = 0
        self.screen = self.screen.split(text.encode(), 1)[1]

    def close(self) -> None:
        os.close(self.terminal)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def person(needs: Callable[[Monitor], None]) -> Iterator[Person]:
    needs("uml")
    person = Person()
    yield person
    person.close()


def test_a_shell_with_job_control_and_an_exit_status(person: Person) -> None:
    person.sees("guest # ")
    person.type("uname\n")
    person.sees("\nLinux\r\n")
    # Ctrl-C reaches the command in the guest, and not this program.
    person.type("sleep 100\n")
    person.sees("sleep 100")
    time.sleep(0.2)
    person.type("\x03")
    person.sees("guest # ")
    person.type("echo $?\n")
    person.sees("\n130\r\n")
    person.type("exit 9\n")
    person.sees("status 9")


def test_the_escape_key_ends_it(person: Person) -> None:
    person.sees("guest # ")
    person.type("sleep 100\n")
    person.type("\x1d")
    person.sees("status 0")


def test_switching_off_from_inside_ends_it(person: Person) -> None:
    person.sees("guest # ")
    person.type("poweroff -f\n")
    person.sees("status 0")
