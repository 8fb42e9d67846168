"""Serving a device from the command line: one line when ready, a counter line on a terminal, a clean end."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from virtio.device.base import Device
from virtio.transport import Server, start

_INTERVAL = 0.25

SignalHandler = Callable[[], object]


def serve_until_signal(
    device: Device,
    address: str,
    what: str,
    *,
    quiet: bool = False,
    on_signal: dict[signal.Signals, SignalHandler] | None = None,
) -> None:
    """Serve ``device`` until SIGINT or SIGTERM, or until nothing is left to serve; then drain and close.

    ``quiet`` keeps standard output for the device itself: the ready line goes to standard error.
    ``on_signal`` gives more signals a meaning.
    """
    server: Server | None = None
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        if server is not None:
            server.shut_down()

    try:
        with _signals(stop, on_signal or {}), start(device, address) as server:
            if asked:  # before there was anything to stop
                server.shut_down()
            where = server.address.partition(":")[2]
            if quiet:  # and perhaps in raw mode, where a new line does not return by itself
                print(f"ready: {what} on {where}", end="\r\n", file=sys.stderr, flush=True)
            else:
                print(f"ready: {what} on {where}", flush=True)
            if quiet or not sys.stdout.isatty():
                server.wait()
            else:
                _show(device, server)
    finally:
        device.close()


@contextmanager
def _signals(stop: Callable[[], object], more: dict[signal.Signals, SignalHandler]) -> Iterator[None]:
    ends = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in (*ends, *more)}

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in ends:  # a second signal does not wait for the draining
            signal.signal(number, previous[number] or signal.SIG_DFL)
        stop()

    def extra(number: int, _frame: FrameType | None) -> None:
        more[signal.Signals(number)]()

    for number in ends:
        signal.signal(number, end)
    for number in more:
        signal.signal(number, extra)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _show(device: Device, server: Server) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), refresh_per_second=1 / _INTERVAL, transient=True) as live:
        then, before = time.monotonic(), 0
        while not server.wait(_INTERVAL):
            now, requests = time.monotonic(), _total(device, "chains")
            rate = max(0.0, (requests - before) / (now - then))
            live.update(Text(counter_line(device, connected=server.connected, rate=rate)))
            then, before = now, requests


def counter_line(device: Device, *, connected: bool, rate: float) -> str:
    """Say in one line what the device has done for its present driver."""
    if not connected:
        return "no driver"
    state = "needs a reset" if device.needs_reset else device.state.name.lower()
    parts = [
        state,
        f"{_total(device, 'chains'):,} requests",
        f"{rate:,.0f}/s",
        f"{_bytes(_total(device, 'bytes_read'))} from the driver",
        f"{_bytes(_total(device, 'bytes_written'))} to it",
        f"{_total(device, 'kicks'):,} kicks",
        f"{_total(device, 'interrupts'):,} interrupts",
    ]
    return " · ".join(parts)


def _total(device: Device, counter: str) -> int:
    snapshots = [queue.counters for queue in device.queues]
    return sum(getattr(snapshot, counter) for snapshot in snapshots if snapshot is not None)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
