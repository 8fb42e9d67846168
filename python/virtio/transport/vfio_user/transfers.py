"""The client's memory by messages: DMA_READ and DMA_WRITE, asked for by any thread.

Whoever needs memory waits in :meth:`Transfers.read`; the session sends, goes on answering the client's own
commands, and hands over the answer when it comes. A client may be unable to answer before it has an answer
itself (QEMU's processor waits with the big lock held): so the session must never wait for a transfer.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable

from virtio.errors import Error, TransportError
from virtio.queue.relay import AwayError
from virtio.transport.vfio_user.codec import Message, encode_command
from virtio.transport.vfio_user.messages import Command
from virtio.transport.vfio_user.payloads import DmaAccess

MOST_OUTSTANDING = 32
"""Messages under way at once."""


class CancelledError(TransportError):
    """Whoever wanted it does not any more."""


class Waiter:
    """Somebody who transfers, and may be told to stop."""

    def __init__(self) -> None:
        """Begin."""
        self.cancelled = False


class Reach:
    """The client's memory for one user: a :class:`~virtio.queue.relay.FarMemory`."""

    def __init__(self, transfers: "Transfers") -> None:
        """Reach it by these."""
        self._transfers = transfers
        self._waiter = Waiter()

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out."""
        return self._transfers.read(address, size, self._waiter)

    def write(self, address: int, data: bytes) -> None:
        """Copy bytes in."""
        self._transfers.write(address, data, self._waiter)

    def cancel(self) -> None:
        """Have a call that waits, and all to come, raise an error."""
        self._transfers.cancel(self._waiter)


class _Transfer:
    """One message's worth."""

    def __init__(self, command: Command, address: int, size: int, data: bytes = b"") -> None:
        self.command = command
        self.address = address
        self.size = size
        self.data = data
        self.done = False
        self.error: Error | None = None


class Transfers:
    """All transfers of one connection."""

    def __init__(self, post: Callable[[], object], reaches: Callable[[int, int, bool], bool]) -> None:
        """``post`` wakes the session, from any thread; ``reaches`` tells it whether memory may be reached."""
        self._post = post
        self._reaches = reaches
        self._state = threading.Condition()
        self._waiting: deque[_Transfer] = deque()
        self._sent: dict[int, _Transfer] = {}
        self._ids = itertools.cycle(range(1 << 16))
        self._failure: str | None = None
        self.limit = 1 << 20
        """Bytes of one transfer: what the client takes at once."""

    # --- any thread

    def read(self, address: int, size: int, waiter: Waiter) -> bytes:
        """Read the client's memory."""
        return b"".join(
            self._run([_Transfer(Command.DMA_READ, *at) for at in self._cut(address, size)], waiter)
        )

    def write(self, address: int, data: bytes, waiter: Waiter) -> None:
        """Write it; when this returns, the client has it."""
        self._run(
            [
                _Transfer(Command.DMA_WRITE, at, size, data[at - address : at - address + size])
                for at, size in self._cut(address, len(data))
            ],
            waiter,
        )

    def cancel(self, waiter: Waiter) -> None:
        """Wake who waits: it gets :exc:`CancelledError`, now and from now on."""
        with self._state:
            waiter.cancelled = True
            self._state.notify_all()

    def _cut(self, address: int, size: int) -> list[tuple[int, int]]:
        end = address + size
        return [(at, min(self.limit, end - at)) for at in range(address, end, self.limit)]

    def _run(self, transfers: list[_Transfer], waiter: Waiter) -> list[bytes]:
        with self._state:
            if self._failure is not None:
                raise TransportError(self._failure)
            if waiter.cancelled:
                raise CancelledError("the queue was stopped")
            self._waiting.extend(transfers)
        self._post()
        with self._state:
            self._state.wait_for(lambda: waiter.cancelled or all(item.done for item in transfers))
            if waiter.cancelled:
                for item in transfers:
                    if item in self._waiting:
                        self._waiting.remove(item)
                raise CancelledError("the queue was stopped")
        for item in transfers:
            if item.error is not None:
                # Another one: raised, it would refer to this frame, and thereby to itself.
                raise type(item.error)(*item.error.args)
        return [item.data for item in transfers]

    # --- the session

    def outgoing(self) -> list[bytes]:
        """Return messages to be sent now."""
        found = []
        with self._state:
            while self._waiting and len(self._sent) < MOST_OUTSTANDING:
                item = self._waiting.popleft()
                if not self._reaches(item.address, item.size, item.command is Command.DMA_WRITE):
                    where = f"{item.size:#x} bytes at {item.address:#x}"
                    self._finish(item, AwayError(f"the device may not reach {where}"))
                    continue
                number = next(number for number in self._ids if number not in self._sent)
                self._sent[number] = item
                payload = DmaAccess(item.address, item.size).pack()
                if item.command is Command.DMA_WRITE:
                    payload += item.data
                found.append(encode_command(number, item.command, payload))
        return found

    def answered(self, message: Message) -> None:
        """Take an answer; :exc:`~virtio.TransportError` if it is none to anything."""
        with self._state:
            item = self._sent.pop(message.id, None)
            if item is None or item.command != message.command:
                if item is not None:
                    self._sent[message.id] = item
                raise TransportError(f"an answer to no {message.name}")
            self._finish(item, self._check(item, message))

    def fail(self, reason: str) -> None:
        """Nothing is transferred any more."""
        with self._state:
            self._failure = reason
            for item in [*self._waiting, *self._sent.values()]:
                self._finish(item, TransportError(reason))
            self._waiting.clear()
            self._sent.clear()

    def _check(self, item: _Transfer, message: Message) -> TransportError | None:
        what = f"{message.name} of {item.size:#x} bytes at {item.address:#x}"
        if message.failed:
            return TransportError(f"{what} failed: {message.reason}")
        # DMA_WRITE's answer has a count of 4 bytes in the protocol's text, of 8 in what programs send.
        if item.command is Command.DMA_READ:
            item.data = message.payload[DmaAccess.FORM.size :]
            if len(item.data) != item.size:
                return TransportError(f"{what} brought {len(item.data)}")
        return None

    def _finish(self, item: _Transfer, error: Error | None) -> None:
        item.error, item.done = error, True
        self._state.notify_all()
