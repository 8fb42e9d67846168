"""Transports: they join a device, or a driver, to a wire."""

import signal
import threading
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
    try:
        with start(device, address) as server:
            _wait(server)
    finally:
        device.close()


def _wait(server: Server) -> None:
    if threading.current_thread() is not threading.main_thread():
        server.wait()
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def stop(_number: int, _frame: FrameType | None) -> None:
        restore()
        server.shut_down()

    for number in previous:
        signal.signal(number, stop)
    try:
        server.wait()
    finally:
        restore()
