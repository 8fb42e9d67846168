"""A client's side of a session, without sockets: what tests say and what comes back."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.transport.contract import Mirror

from virtio.transport.pci import Layout, PciFunction
from virtio.transport.vfio_user import version
from virtio.transport.vfio_user.actions import Disconnect, Notice, Send
from virtio.transport.vfio_user.codec import Decoder, Message, encode
from virtio.transport.vfio_user.messages import Command, Flag
from virtio.transport.vfio_user.payloads import DmaMap, DmaUnmap, RegionAccess
from virtio.transport.vfio_user.session import Session

MEMORY = 1 << 20
"""Bytes of memory of a client."""


@dataclass
class Reply:
    """An answer: its error number, 0 for success, and what came with it."""

    error: int
    payload: bytes
    fds: tuple[int, ...] = ()


class Client:
    """Speaks to a session of its own, for a function of its own."""

    def __init__(
        self,
        *,
        greet: bool = True,
        layout: Layout | None = None,
        open_twin: Callable[[], int] | None = None,
    ) -> None:
        self.device = Mirror()
        self.function = PciFunction(self.device, layout=layout)
        self.notices: list[Notice] = []
        self.session = Session(self.function, self.notices.append, open_twin=open_twin)
        self.disconnected: str | None = None
        self.asked: list[Message] = []
        self._id = 0
        if greet:
            assert self.call(Command.VERSION, version.propose()).error == 0

    def close(self) -> None:
        self.session.close()
        self.function.close()
        self.device.close()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[tuple[Message, tuple[int, ...]]]:
        """Hand bytes to the session, copies of descriptors with them; return what it sends."""
        return self._take(self.session.receive(data, [os.dup(fd) for fd in fds]))

    def feed_twin(self, data: bytes, fds: Sequence[int] = ()) -> list[tuple[Message, tuple[int, ...]]]:
        """The same by the second socket."""
        return self._take(self.session.receive_twin(data, [os.dup(fd) for fd in fds]))

    def _take(self, actions: Sequence[Send | Disconnect]) -> list[tuple[Message, tuple[int, ...]]]:
        found = []
        for action in actions:
            if isinstance(action, Disconnect):
                self.disconnected = action.reason
            else:
                (message,) = Decoder().receive(action.data)
                found.append((message, action.fds))
        self.asked += [message for message, _ in found if message.is_command]
        return [item for item in found if item[0].is_reply]

    def call(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> Reply:
        """Send a command and return its answer."""
        self._id += 1
        ((message, passed),) = self.feed(encode(self._id, command, flags, payload), fds)
        assert (message.id, message.command) == (self._id, command)
        assert message.failed == bool(message.error)
        if message.failed:
            assert not message.payload
        return Reply(message.error, message.payload, passed)

    def post(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a command that wants no answer, and see that there is none."""
        assert self.feed(encode(0, command, Flag.NO_REPLY, payload), fds) == []

    def map(self, address: int, size: int, fd: int | None, *, flags: int = 3, offset: int = 0) -> int:
        wanted = DmaMap(DmaMap.FORM.size, flags, offset, address, size)
        return self.call(Command.DMA_MAP, wanted.pack(), [] if fd is None else [fd]).error

    def unmap(self, address: int, size: int, flags: int = 0) -> int:
        wanted = DmaUnmap(DmaUnmap.FORM.size, flags, address, size).pack()
        reply = self.call(Command.DMA_UNMAP, wanted)
        assert reply.error or reply.payload == wanted
        return reply.error

    def settle(self) -> None:
        self._take(self.session.settle())

    def noticed(self) -> None:
        """Hand over what other threads have posted."""
        for notice in self.notices:
            self._take(self.session.notice(notice))
        self.notices.clear()

    # --- the function, as far as tests need it

    def read(self, region: int, offset: int, size: int) -> bytes:
        reply = self.call(Command.REGION_READ, RegionAccess(offset, region, size).pack())
        assert reply.error == 0
        return reply.payload[16:]

    def write(self, region: int, offset: int, data: bytes) -> None:
        access = RegionAccess(offset, region, len(data)).pack()
        reply = self.call(Command.REGION_WRITE, access + data)
        assert (reply.error, reply.payload) == (0, access)


def memory_file(size: int = MEMORY) -> int:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd
