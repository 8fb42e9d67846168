"""A front end for tests: it says what real ones say, and anything else on request."""

import array
import contextlib
import mmap
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from virtio.queue.model.ring import Addresses
from virtio.transport.vhost_user.codec import Decoder, Message, encode_acknowledgement, encode_request
from virtio.transport.vhost_user.messages import (
    BACK_END,
    F_PROTOCOL_FEATURES,
    FRONT_END,
    Flag,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import (
    ConfigAccess,
    MemoryRegion,
    VringAddress,
    VringState,
)

TIMEOUT = 10.0


class DisconnectedError(Exception):
    """The back end hung up."""


class GuestMemory:
    """Memory of an imaginary guest in a memfd, mapped here and handed to the back end."""

    def __init__(
        self, size: int = 1 << 20, guest_address: int = 0, user_address: int = 0x7F00_0000_0000
    ) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.size = size
        self.guest_address = guest_address
        self.user_address = user_address

    @property
    def region(self) -> MemoryRegion:
        return MemoryRegion(self.guest_address, self.size, self.user_address, 0)

    def to_user(self, guest_address: int) -> int:
        """Translate an address as front ends do for vrings."""
        return guest_address - self.guest_address + self.user_address

    def close(self) -> None:
        os.close(self.fd)
        with contextlib.suppress(BufferError):
            self.map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FrontEnd:
    """The front end's end of a connection, one call after another."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(TIMEOUT)
        self.protocol_features = 0
        self.channel: socket.socket | None = None
        self._decoder = Decoder(FRONT_END)
        self._channel_decoder = Decoder(BACK_END)

    @classmethod
    def connect(cls, path: Path | str) -> Self:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(TIMEOUT)
        connection.connect(str(path))
        return cls(connection)

    def close(self) -> None:
        self.socket.close()
        self._decoder.close()
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- messages

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([data], rights)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DisconnectedError from error

    def send(
        self, name: str, payload: Any = None, fds: Sequence[int] = (), *, need_reply: bool = False
    ) -> None:
        """Send a request."""
        self.raw(encode_request(FRONT_END[name], payload, need_reply=need_reply), fds)

    def receive(self) -> Message:
        """Wait for an answer."""
        return _receive(self.socket, self._decoder)

    def ask(self, name: str, payload: Any = None, fds: Sequence[int] = ()) -> Any:
        """Send a request that has an answer of its own, and return that."""
        self.send(name, payload, fds)
        message = self.receive()
        assert message.number == FRONT_END[name].number
        assert message.flags == Flag.VERSION | Flag.REPLY
        assert message.problem is None, message.problem
        return message.payload

    def acknowledged(self, name: str, payload: Any = None, fds: Sequence[int] = ()) -> int:
        """Send a request and ask how it went: 0 is well."""
        self.send(name, payload, fds, need_reply=True)
        message = self.receive()
        assert message.number == FRONT_END[name].number
        assert message.flags == Flag.VERSION | Flag.REPLY
        return int(message.payload)

    def tell(self, name: str, payload: Any = None, fds: Sequence[int] = ()) -> None:
        """Send a request as a careful front end does: acknowledged, if that was negotiated."""
        if self.protocol_features & ProtocolFeature.REPLY_ACK.mask:
            assert self.acknowledged(name, payload, fds) == 0, f"{name} was refused"
        else:
            self.send(name, payload, fds)

    def barrier(self) -> None:
        """Wait until all that was sent before is done."""
        self.ask("GET_FEATURES")

    def is_closed(self) -> bool:
        """Wait for the back end to hang up."""
        try:
            while True:
                self.receive().close()
        except DisconnectedError:
            return True
        except TimeoutError:
            return False

    # --- steps of a session

    def negotiate(self, features: int, protocol: Sequence[ProtocolFeature] = ()) -> int:
        """Take what is offered of ``features``, with these protocol features; return what was taken."""
        self.send("SET_OWNER")
        offered = self.ask("GET_FEATURES")
        taken = offered & features
        if protocol:
            assert offered & F_PROTOCOL_FEATURES
            available = self.ask("GET_PROTOCOL_FEATURES")
            self.protocol_features = available & sum(feature.mask for feature in protocol)
            self.send("SET_PROTOCOL_FEATURES", self.protocol_features)
            taken |= F_PROTOCOL_FEATURES
        self.send("SET_FEATURES", taken)
        return int(taken)

    def open_channel(self) -> None:
        """Give the back end a channel for requests of its own."""
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT)
        self.channel = ours
        with theirs:
            self.tell("SET_BACKEND_REQ_FD", None, [theirs.fileno()])

    def channel_request(self, *, answer: int | None = 0) -> Message:
        """Wait for a request of the back end, and answer it if it asks for that."""
        assert self.channel is not None
        message = _receive(self.channel, self._channel_decoder)
        if message.needs_reply and answer is not None:
            self.channel.sendall(encode_acknowledgement(message.number, answer))
        return message

    def get_config(self, offset: int, size: int) -> bytes:
        access: ConfigAccess = self.ask("GET_CONFIG", ConfigAccess(offset, size, 0, bytes(size)))
        assert (access.offset, access.size) == (offset, size)
        return access.data

    def ring(self, index: int, size: int, addresses: Addresses, memory: GuestMemory, base: int = 0) -> None:
        """Describe a ring: its size, where to begin, and where it is."""
        self.tell("SET_VRING_NUM", VringState(index, size))
        self.tell("SET_VRING_BASE", VringState(index, base))
        self.tell("SET_VRING_ADDR", vring_address(index, addresses, memory))


def vring_address(index: int, addresses: Addresses, memory: GuestMemory, flags: int = 0) -> VringAddress:
    user = memory.to_user
    return VringAddress(
        index, flags, user(addresses["descriptors"]), user(addresses["used"]), user(addresses["available"]), 0
    )


def _receive(source: socket.socket, decoder: Decoder) -> Message:
    while True:
        try:
            data, ancillary, _, _ = source.recvmsg(decoder.wanted, 4096, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise DisconnectedError from error
        if not data:
            raise DisconnectedError
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        for message in decoder.receive(data, fds.tolist()):
            return message
        assert decoder.failure is None, decoder.failure


@contextlib.contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    """Make eventfds as QEMU does."""
    fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def readable(fd: int, timeout: float = TIMEOUT) -> bool:
    """Wait until a descriptor has something to read."""
    return bool(select.select([fd], [], [], timeout)[0])


def open_descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{entry.name} {entry.readlink()}")
    return found


def running_threads() -> dict[str, str]:
    """The threads of this process, native ones among them, and their names."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found[task.name] = (task / "comm").read_text().strip()
    return found


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Check that what runs inside leaves no descriptor and no thread; threads take a moment to go."""
    before, threads = open_descriptors(), running_threads()
    yield
    deadline = time.monotonic() + TIMEOUT
    while True:
        descriptors, running = open_descriptors() - before, running_threads()
        left = {task: name for task, name in running.items() if task not in threads}
        if not descriptors and not left:
            return
        assert time.monotonic() < deadline, (descriptors, left)
        time.sleep(0.001)
