"""Transports: they join a device, or a driver, to a wire."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from virtio.transport.address import parse, starter
from virtio.transport.interface import DeviceEnd, Server

__all__ = ["Server", "serve", "start"]


def start(device: DeviceEnd, address: str) -> Server:
    """Serve ``device`` at ``address`` in the background, until the returned server is stopped.

    ::

        with virtio.start(device, "vhost-user:/run/disk.sock") as server:
            ...
    """
    scheme, rest = parse(address)
    return starter(scheme)(device, rest)


def serve(device: DeviceEnd, address: str) -> None:
    """Serve ``device`` at ``address`` until SIGINT or SIGTERM; then finish what was begun and close it.

    A second signal does what it does otherwise. Called from another thread than the main one, it returns only
    when the address has nothing more to serve.
    """
    serving: Server | None = None
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        if serving is not None:
            serving.shut_down()

    try:
        with _on_signals(stop), start(device, address) as serving:
            if asked:  # before there was anything to stop
                serving.shut_down()
            serving.wait()
    finally:
        device.close()


@contextlib.contextmanager
def _on_signals(call: Callable[[], object]) -> Iterator[None]:
    """Call for the first SIGINT or SIGTERM, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(_number: int, _frame: FrameType | None) -> None:
        restore()
        call()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
