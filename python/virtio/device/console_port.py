"""What a console port holds between the guest and the line behind it. No I/O, any thread.

Both directions are bounded. Output that the line has not taken yet fills a buffer; when that is full, the
driver's transmit buffers wait, unread. Input waits for the driver's receive buffers in another; when that is
full, the line is not read.
"""

import threading
from collections import deque
from collections.abc import Callable

from virtio._native import Chain
from virtio.errors import ConfigurationError

LIMIT = 1 << 16


class Port:
    """The two buffers, and the chains that wait for them."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Hold at most ``limit`` bytes in each direction."""
        self.limit = limit
        self.dropped = 0
        """Bytes of output that nobody was there to see."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is output where there was none, or room for input where there was none."""
        self._lock = threading.Lock()
        self._connected = False
        self._output = bytearray()
        self._input = bytearray()
        self._transmits: deque[Chain] = deque()
        self._receives: deque[Chain] = deque()

    # --- the guest's side

    def transmit(self, chain: Chain) -> None:
        """Take a buffer with output."""
        chain.hold(idle=True)
        with self._lock:
            idle = not self._output
            self._transmits.append(chain)
            self._pump_output()
            news = idle and bool(self._output)
        if news:
            self.wake()

    def receive(self, chain: Chain) -> None:
        """Take an empty buffer for input."""
        chain.hold(idle=True)
        with self._lock:
            full = len(self._input) >= self.limit
            self._receives.append(chain)
            self._pump_input()
            news = full and len(self._input) < self.limit
        if news:
            self.wake()

    def emergency(self, data: bytes) -> None:
        """Take output that came without a queue; it may not wait, so it may be dropped."""
        with self._lock:
            if self._connected and len(self._output) < self.limit:
                self._output += data
            else:
                self.dropped += len(data)
        self.wake()

    def forget(self) -> None:
        """The driver is gone, its buffers too. What was said is kept."""
        with self._lock:
            self._transmits.clear()
            self._receives.clear()

    # --- moving to another process

    def unread(self) -> bytes:
        """Return the input that the guest has not read yet."""
        with self._lock:
            return bytes(self._input)

    def hold(self, data: bytes) -> None:
        """Take input that was left unread elsewhere; it comes before what is here."""
        with self._lock:
            self._input[:0] = data

    # --- the line's side

    @property
    def room(self) -> int:
        """How many bytes of input may be fed."""
        with self._lock:
            return max(0, self.limit - len(self._input))

    def feed(self, data: bytes) -> int:
        """Take input, as much as there is room for; return how much that was."""
        with self._lock:
            taken = data[: max(0, self.limit - len(self._input))]
            self._input += taken
            self._pump_input()
        return len(taken)

    def output(self) -> bytes:
        """Return the output that waits for the line."""
        with self._lock:
            return bytes(self._output)

    def sent(self, count: int) -> None:
        """The line has taken so much of it."""
        with self._lock:
            del self._output[:count]
            self._pump_output()

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end. Else output is dropped: a guest must not hang for it."""
        return self._connected

    @connected.setter
    def connected(self, connected: bool) -> None:
        with self._lock:
            self._connected = connected
            if not connected:
                self.dropped += len(self._output)
                self._output.clear()
                self._pump_output()

    # --- with the lock held

    def _pump_output(self) -> None:
        while self._transmits and (not self._connected or len(self._output) < self.limit):
            chain = self._transmits[0]
            try:
                data = chain.read(self.limit - len(self._output))
                if self._connected:
                    self._output += data
                else:
                    self.dropped += len(data)
                if data:
                    continue
                chain.complete()
            except ConfigurationError:
                pass  # its queue was stopped meanwhile; the driver offers it again
            self._transmits.popleft()

    def _pump_input(self) -> None:
        while self._input and self._receives:
            chain = self._receives.popleft()
            piece = bytes(self._input[: len(chain.writable)])
            try:
                chain.write(piece)
                chain.complete()
            except ConfigurationError:
                continue  # as above; the input is for the next one
            del self._input[: len(piece)]
