"""``virtio console``: this terminal as the driver's side of a console device."""

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from virtio.cli.connected import connected
from virtio.errors import Error

if TYPE_CHECKING:
    from virtio.driver.console import ConsoleDriver

app = typer.Typer(add_completion=False)

ESCAPE = b"\x1d"
"""Ctrl-]; Ctrl-C is a character like any other."""

_GLANCE = 0.1


@app.command()
def console(
    address: Annotated[str, typer.Argument(help="For example vhost-user:/run/console.sock.")],
    linger: Annotated[
        float, typer.Option(metavar="SECONDS", help="Keep listening this long after the input has ended.")
    ] = 0.5,
) -> None:
    """Talk to a console device: what is typed goes there, what it says is printed. Ctrl-] ends it."""
    with connected(address, "console") as device, _raw():
        over = threading.Event()
        failed: list[Error] = []
        thread = threading.Thread(target=_listen, args=(device, over, failed), name="console")
        thread.start()
        try:
            _talk(device, over)
            over.wait(linger)
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]


def _listen(device: "ConsoleDriver", over: threading.Event, failed: list[Error]) -> None:
    try:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                data = device.receive(timeout=_GLANCE)
                while data:
                    data = data[os.write(1, data) :]
    except Error as error:
        failed.append(error)
    except BrokenPipeError:
        pass
    finally:
        over.set()


def _talk(device: "ConsoleDriver", over: threading.Event) -> None:
    source = sys.stdin.fileno()
    while not over.is_set():
        if not select.select([source], [], [], _GLANCE)[0]:
            continue
        data = os.read(source, 4096)
        if not data:
            return
        before, escape, _ = data.partition(ESCAPE)
        device.send(before)
        if escape:
            over.set()


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
