"""Messages of known length, and the descriptors that belong to them, out of a stream.

The bytes of a message come in any pieces. Its descriptors come with its first byte: the sender attaches them
to the call that sends it, and the kernel delivers them with it. To be sure which message they belong to, read
:attr:`Framer.wanted` bytes at a time: never across the end of a message.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


class FramingError(Exception):
    """The header makes no sense: the end of the message, and so the next one, cannot be found."""


@dataclass(slots=True)
class Frame:
    """The bytes of one message, with its header."""

    data: bytes
    fds: list[int] = field(default_factory=list)
    """Descriptors that came with it. Whoever handles the message closes them."""
    problem: str | None = None
    """What went wrong with the descriptors."""


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


class Framer:
    """Finds the messages in what is received."""

    def __init__(self, header: int, measure: Callable[[bytearray], int]) -> None:
        """``header`` bytes are enough for ``measure`` to tell the length of the whole message.

        It raises :exc:`FramingError` if there cannot be such a message.
        """
        self._header = header
        self._measure = measure
        self._buffer = bytearray()
        self._size = 0  # of the message that has begun; 0: not known yet
        self._fds: list[int] = []
        self._problem: str | None = None
        self.failure: str | None = None
        """Why no further message can be found; what is received then is dropped."""

    @property
    def wanted(self) -> int:
        """Bytes to the end of the header, then to the end of the message."""
        return (self._size or self._header) - len(self._buffer)

    @property
    def midway(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Frame]:
        """Take bytes and the descriptors that came with them; return the messages that are complete now.

        ``lost``: the system could not deliver all descriptors (MSG_CTRUNC). The framer owns ``fds`` from
        here, until it hands them out with a message.
        """
        if self.failure is not None or not data:
            close_all(fds)
            return []
        arrived = list(fds)
        if not self._buffer:
            self._fds, arrived = arrived, []
        self._buffer += data
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
            if self._buffer and arrived:
                self._fds, arrived = arrived, []
        if lost:
            self._blame("descriptors were lost, perhaps for want of free ones", frames)
        if arrived:
            close_all(arrived)
            self._blame("descriptors came after the first byte", frames)
        return frames

    def close(self) -> None:
        """Close the descriptors of a message that was never complete."""
        close_all(self._fds)
        self._fds = []
        self._buffer.clear()
        self._size = 0

    def _blame(self, problem: str, frames: list[Frame]) -> None:
        if self._buffer or not frames:
            self._problem = self._problem or problem
        else:
            frames[-1].problem = frames[-1].problem or problem

    def _next(self) -> Frame | None:
        if len(self._buffer) < self._header or self.failure is not None:
            return None
        if not self._size:
            try:
                self._size = self._measure(self._buffer)
            except FramingError as error:
                self.failure = str(error)
                self.close()
                return None
        if len(self._buffer) < self._size:
            return None
        frame = Frame(bytes(self._buffer[: self._size]), self._fds, self._problem)
        del self._buffer[: self._size]
        self._size = 0
        self._fds, self._problem = [], None
        return frame
