"""Our client, and servers that do not keep to the protocol; the second socket on which a server asks."""

import contextlib
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, Mirror, live
from tests.transport.vfio_user.harness import Client

import virtio
from virtio.errors import Error, TransportError
from virtio.transport import vfio_user
from virtio.transport.pci import PciFunction
from virtio.transport.unix.ancillary import receive
from virtio.transport.vfio_user import version
from virtio.transport.vfio_user.actions import Disconnect, Send
from virtio.transport.vfio_user.bus import VfioUserBus
from virtio.transport.vfio_user.codec import Decoder, Message, encode
from virtio.transport.vfio_user.connection import Connection
from virtio.transport.vfio_user.messages import Command, Flag
from virtio.transport.vfio_user.payloads import DmaAccess
from virtio.transport.vfio_user.session import Session

Deed = Callable[[socket.socket, Message, bytes], object]
SECONDS = 10.0


class Rogue:
    """A server that is honest but for one kind of answer, which ``deed`` sends in its own way."""

    def __init__(self, folder: Path, command: Command, deed: Deed) -> None:
        self.path = str(folder / "rogue.sock")
        self._command, self._deed = command, deed
        self._device = Mirror()
        self._function = PciFunction(self._device)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self.heard: list[Message] = []
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "Rogue":
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self._function.close()
        self._device.close()
        assert self.failure is None

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            with connection, contextlib.closing(Session(self._function, lambda _: None)) as session:
                try:
                    self._serve(connection, session)
                except OSError:
                    pass  # the client has had enough
                except BaseException as error:
                    self.failure = error

    def _serve(self, connection: socket.socket, session: Session) -> None:
        listener = Decoder()
        while True:
            connection.recv(1, socket.MSG_PEEK)
            received = receive(connection, session.wanted)
            if received is None:
                continue
            if not received.data:
                listener.close()
                return
            self.heard += listener.receive(received.data)
            for action in session.receive(*received[:2]):
                if isinstance(action, Disconnect):
                    return
                assert isinstance(action, Send)
                (answer,) = Decoder().receive(action.data)
                if answer.command == self._command:
                    self._deed(connection, answer, action.data)
                else:
                    socket.send_fds(connection, [action.data], list(action.fds))


def says(capabilities: object, fds: int = 0, *, major: int = 0, minor: int = 1) -> Deed:
    """Answer VERSION with these, and with so many descriptors of no socket."""

    def deed(connection: socket.socket, answer: Message, _: bytes) -> None:
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        payload = struct.pack("=HH", major, minor) + text
        passed = [os.memfd_create("none") for _ in range(fds)]
        socket.send_fds(connection, [encode(answer.id, answer.command, Flag.REPLY, payload)], passed)
        for fd in passed:
            os.close(fd)

    return deed


def instead(change: Callable[[Message, bytes], bytes]) -> Deed:
    return lambda connection, answer, data: connection.sendall(change(answer, data))


def hang_up(connection: socket.socket, _: Message, data: bytes) -> None:
    connection.sendall(data[:-3])
    connection.shutdown(socket.SHUT_RDWR)


GREETINGS: dict[str, Deed] = {
    "another major version": says({}, major=1),
    "a later minor version": says({}, minor=9),
    "no capabilities but a list": says([]),
    "a second socket that is not sent": says({"twin_socket": {"supported": True, "fd_index": 0}}),
    "a second socket without a number": says({"twin_socket": {"supported": True}}, 1),
    "a second socket of another number": says({"twin_socket": {"supported": True, "fd_index": 2}}, 1),
    "a second socket that is a file": says({"twin_socket": {"supported": True, "fd_index": 0}}, 1),
    "no JSON": instead(lambda m, _: encode(m.id, m.command, Flag.REPLY, b"\0\0\1\0{\0")),
    "too short": instead(lambda m, _: encode(m.id, m.command, Flag.REPLY, b"\0")),
}
ANSWERS: dict[str, Deed] = {
    "cut off": hang_up,
    "too long": instead(lambda m, _: struct.pack("=HHIII", m.id, m.command, 1 << 31, Flag.REPLY, 0)),
    "no header": instead(lambda m, _: struct.pack("=HHIII", m.id, m.command, 3, Flag.REPLY, 0)),
    "to nobody": instead(lambda m, _: encode(m.id + 1, m.command, Flag.REPLY, m.payload)),
    "to another command": instead(lambda m, _: encode(m.id, Command.VERSION, Flag.REPLY, m.payload)),
    "twice": instead(lambda _, data: data * 2),
    "of no type": instead(lambda m, _: encode(m.id, m.command, 3, m.payload)),
    "refused": instead(lambda m, _: encode(m.id, m.command, Flag.REPLY | Flag.ERROR, b"", errno.EPERM)),
    "without contents": instead(lambda m, _: encode(m.id, m.command, Flag.REPLY, b"")),
    "with few contents": instead(lambda m, _: encode(m.id, m.command, Flag.REPLY, m.payload[:-1])),
    "with other contents": instead(
        lambda m, _: encode(m.id, m.command, Flag.REPLY, b"\xff" * len(m.payload))
    ),
    "not at all": lambda *_: None,
}
ASKED = [
    Command.DEVICE_GET_INFO,
    Command.DEVICE_GET_REGION_INFO,
    Command.DEVICE_GET_IRQ_INFO,
    Command.REGION_READ,
]


def connect(path: str, **options: bool) -> None:
    end = None
    try:
        with pytest.raises(Error) as caught:
            end = vfio_user.open_driver_end(path, timeout=0.3, **options)
        assert str(caught.value)
    finally:
        if end is not None:
            end.close()


@pytest.mark.parametrize("share", [True, False], ids=["shared", "far"])
@pytest.mark.parametrize("name", GREETINGS)
def test_a_greeting_that_cannot_be(tmp_path: Path, name: str, share: bool) -> None:
    with Rogue(tmp_path, Command.VERSION, GREETINGS[name]) as rogue:
        connect(rogue.path, share=share)


@pytest.mark.parametrize("command", ASKED)
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be(tmp_path: Path, name: str, command: Command) -> None:
    with Rogue(tmp_path, command, ANSWERS[name]) as rogue:
        connect(rogue.path)


def test_answers_may_come_in_pieces(tmp_path: Path) -> None:
    def slowly(connection: socket.socket, _: Message, data: bytes) -> None:
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])

    with (
        Rogue(tmp_path, Command.REGION_READ, slowly) as rogue,
        contextlib.closing(vfio_user.open_driver_end(rogue.path)) as end,
    ):
        assert end.device_id == 2


def test_what_a_server_may_not_ask_is_refused(tmp_path: Path) -> None:
    asked = [
        (Command.DMA_READ, DmaAccess(1 << 60, 16).pack()),
        (Command.DMA_READ, DmaAccess(0, 1 << 40).pack()),
        (Command.DMA_READ, DmaAccess((1 << 64) - 1, 16).pack()),
        (Command.DMA_WRITE, DmaAccess(1 << 60, 4).pack() + b"abcd"),
        (Command.DMA_WRITE, DmaAccess(0, 5).pack() + b"abcd"),
        (Command.DMA_READ, b""),
        (Command.DEVICE_RESET, b""),
        (99, b""),
    ]

    def also_asks(connection: socket.socket, _: Message, data: bytes) -> None:
        for number, (command, payload) in enumerate(asked):
            connection.sendall(encode(number, command, 0, payload))
        connection.sendall(data)

    with Rogue(tmp_path, Command.DEVICE_GET_INFO, also_asks) as rogue:
        with contextlib.closing(vfio_user.open_driver_end(rogue.path)) as end:
            assert end.device_id == 2
        refused = [message for message in rogue.heard if message.is_reply]
    assert [message.command for message in refused] == [command for command, _ in asked]
    assert all(message.failed and message.error for message in refused)


# --- a second socket


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    device = Mirror()
    with virtio.start(device, f"vfio-user:{tmp_path}/function.sock") as server:
        yield server.address
    device.close()


@pytest.mark.parametrize("twin", [True, False], ids=["two-sockets", "one-socket"])
def test_the_server_asks_on_a_socket_of_its_own(
    address: str, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not twin:
        monkeypatch.setattr(Connection, "_open_twin", None)
    end = vfio_user.open_driver_end(address.partition(":")[2], share=False)
    with contextlib.closing(end), live(end, BASIC, [0, 1]) as rings:
        assert isinstance(end.bus, VfioUserBus)
        assert (end.bus._client._twin is not None) is twin
        for ring in rings:
            for number in range(10):
                ring.mirror(b"%d there and back" % number)
    end = vfio_user.open_driver_end(address.partition(":")[2])
    with contextlib.closing(end):
        assert isinstance(end.bus, VfioUserBus)
        assert end.bus._client._twin is None  # it has no reason to ask


def test_a_second_socket_that_is_closed_ends_the_connection(address: str) -> None:
    end = vfio_user.open_driver_end(address.partition(":")[2], share=False)
    lost = threading.Event()
    end.on_failure(lambda _: lost.set())
    assert isinstance(end.bus, VfioUserBus)
    twin = end.bus._client._twin
    assert twin is not None
    twin._socket.shutdown(socket.SHUT_RDWR)
    assert lost.wait(SECONDS)
    with pytest.raises(TransportError):
        _ = end.status
    end.close()


def test_answers_belong_on_the_socket_of_the_questions(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    client = Client(greet=False, open_twin=theirs.detach)
    with ours, contextlib.closing(client):
        reply = client.call(Command.VERSION, version.propose(twin=True))
        hello = version.decode(reply.payload).capabilities
        assert (hello.twin_socket, hello.twin_index, len(reply.fds)) == (True, 0, 1)
        assert client.map(0, 1 << 20, None) == 0
        client.settle()
        reach = client.session.far_memory()
        assert reach is not None
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(reach.read(0x100, 4)))
        thread.start()
        while not client.notices:
            thread.join(0.001)
        (action,) = client.session.notice(client.notices.pop())
        assert isinstance(action, Send)
        assert action.twin
        (asked,) = Decoder().receive(action.data)
        answer = encode(asked.id, asked.command, Flag.REPLY, asked.payload + b"abcd")
        assert client.session.receive(answer) == []
        assert "belongs on the other socket" in caplog.text
        command = encode(1, Command.DEVICE_RESET, 0, b"")
        assert client.session.receive_twin(command) == []
        assert "where only answers come" in caplog.text
        assert thread.is_alive()
        assert client.session.receive_twin(answer) == []
        thread.join()
        assert found == [b"abcd"]
        (end,) = client.session.receive_twin(struct.pack("=HHIII", 1, 11, 3, 1, 0))
        assert isinstance(end, Disconnect)


def test_without_a_second_socket_none_is_announced(fresh: Client) -> None:
    reply = fresh.call(Command.VERSION, version.propose(twin=True))
    assert b"twin" not in reply.payload
    assert not reply.fds
