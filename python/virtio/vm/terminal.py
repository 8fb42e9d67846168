"""A guest's shell on the terminal that this process has."""

import contextlib
import os
import select
import shutil
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from virtio.vm.guest import Guest
from virtio.vm.machine import GuestError

ESCAPE = b"\x1d"
"""Ctrl-] ends the session; Ctrl-C belongs to the guest."""

_PIECE = 256
_LEFT = "was left by Ctrl-]"


def interact(guest: Guest) -> int:
    """Give the user a shell in the guest, and return its exit status."""
    columns, rows = shutil.get_terminal_size()
    sys.stdout.flush()
    machine = guest.machine
    with _raw(sys.stdin.fileno()), _typing(guest, sys.stdin.fileno()):
        try:
            return guest.shell(columns, rows, _show)
        except GuestError:
            # Switched off from inside, or left: that is how one leaves it. Not a time limit, though.
            if not machine.wait(2) or machine.reason not in (None, _LEFT):
                raise
            return 0


def _show(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    saved = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def _typing(guest: Guest, terminal: int) -> Iterator[None]:
    """Pass keys on from a thread, which ends with the block."""
    awake, waker = os.pipe()
    thread = threading.Thread(
        target=_pass_on, args=(guest, terminal, awake), name="guest keyboard", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        os.close(waker)
        thread.join()
        os.close(awake)


def _pass_on(guest: Guest, terminal: int, awake: int) -> None:
    machine = guest.machine
    while True:
        ready, _, _ = select.select([terminal, awake], [], [])
        if awake in ready:
            return
        # Small pieces, because a guest's terminal drops what comes faster than it is read.
        data = os.read(terminal, _PIECE)
        if not data or ESCAPE in data:
            machine.kill(_LEFT)
            return
        guest.type_in(data)
