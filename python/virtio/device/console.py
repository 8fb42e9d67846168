"""The console device (VIRTIO 1.4, 5.3), with port 0.

Behind it stands a line (:mod:`virtio.device.console_line`), or Python::

    console = virtio.ConsoleDevice(print)             # output: called with bytes
    console.send(b"root\\n")                           # input
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from virtio._native import Chain
from virtio.device.base import Device
from virtio.device.console_line import Line
from virtio.device.console_port import LIMIT, Port
from virtio.device.features import extra
from virtio.errors import ConfigurationError, StateError, TransportError
from virtio.spec import console
from virtio.spec.console import F

_PAUSE = 0.01


class ConsoleDevice(Device):
    """A console. Give it a line, a function for its output, or override :meth:`output`."""

    spec = console
    movable = frozenset({"cols", "rows"})

    def __init__(
        self,
        line: Line | Callable[[bytes], object] | None = None,
        *,
        size: tuple[int, int] | None = None,
        name: str = "",
        features: int | str = 0,
        mask: int | str = 0,
    ) -> None:
        """Connect ``line``; without one, ``output`` is called with what the guest writes.

        ``size`` is columns and rows; without it the driver is told none, and :meth:`resize` cannot be used.
        ``features`` are offered too: those that belong to no device type (``"IN_ORDER,RING_RESET"``).
        """
        config = {}
        if size is not None:
            config = {"cols": size[0], "rows": size[1]}
        offered = F.EMERG_WRITE | (F.SIZE if size is not None else 0) | extra(console.DEVICE, features)
        super().__init__(name=name, features=offered, mask=mask, config=config)
        self.port = Port()
        self.line = line if isinstance(line, Line) else None
        self._call = line if line is not None and not isinstance(line, Line) else None
        if self.line is not None:
            self.line.start(self.port)

    # --- for the program that serves the console

    def output(self, data: bytes) -> None:
        """Take what the guest wrote, if there is no line. The driver waits for as long as this takes."""
        if self._call is not None:
            self._call(data)

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Give the guest input.

        What it has not read yet is kept, up to a bound; then this waits for it to read, for ``timeout``
        seconds at most (:exc:`~virtio.TransportError`).
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            data = data[self.port.feed(data) :]
            if not data:
                return
            if until is not None and time.monotonic() > until:
                raise TransportError(f"the guest left {len(data)} bytes of input unread")
            time.sleep(_PAUSE)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the driver a new size, now."""
        if not self.offered_features & F.SIZE:
            raise ConfigurationError("the console was made without a size; the driver does not look for one")
        self.config.update(cols=columns, rows=rows)

    def resize_to_terminal(self) -> None:
        """Take the size of the terminal on standard output, if it is one."""
        try:
            size = os.get_terminal_size(1)
        except OSError:
            return
        self.resize(size.columns, size.lines)

    # --- the device

    def on_receive(self, chain: Chain) -> None:
        """A buffer for input."""
        self.port.receive(chain)

    def on_transmit(self, chain: Chain) -> None:
        """A buffer with output."""
        if self.line is not None:
            self.port.transmit(chain)
            return
        while data := chain.read(LIMIT):
            self.output(data)

    def config_written(self, fields: Sequence[str]) -> None:
        """Emergency write: one character, even before any queue is there (5.3.5.1)."""
        if "emerg_wr" in fields:
            data = bytes([self.config.emerg_wr & 0xFF])
            if self.line is not None:
                self.port.emergency(data)
            else:
                self.output(data)

    def driver_reset(self) -> None:
        """The driver's buffers are gone."""
        self.port.forget()

    def saved(self) -> bytes:
        """Input that the guest has not read yet. Output leaves by the line that is here."""
        return self.port.unread()

    def check_saved(self, own: bytes, config: Mapping[str, Any]) -> None:
        """Look whether that can be."""
        if len(own) > LIMIT:
            raise StateError(f"{len(own)} bytes of unread input; at most {LIMIT} are kept")

    def restored(self, own: bytes) -> None:
        """Let the guest read it here."""
        self.port.hold(own)

    def close(self) -> None:
        """Detach, and close the line."""
        super().close()
        if self.line is not None:
            self.line.close()
