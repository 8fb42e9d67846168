"""What front ends send to bring a device up and down, message by message, as seen on the wire.

What differs between them is the order, what they wait for, and who resets what when.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.transport.frontend import FrontEnd, GuestMemory, eventfds, vring_address

from virtio.queue.model.ring import Addresses
from virtio.transport.vhost_user.codec import encode
from virtio.transport.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FRONT_END,
    NO_DESCRIPTOR,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import ConfigAccess, MemoryRegion, VringState

P = ProtocolFeature


@dataclass
class Ring:
    """A ring of the driver, and its notifications."""

    size: int
    addresses: Addresses
    kick: int
    call: int
    """Where the driver's end hears calls."""
    call_fd: int
    """What the back end is given: the same eventfd, or the other end of a socket pair."""
    error: int


@dataclass
class Guest:
    """What a driver has set up before a front end passes it on."""

    memory: GuestMemory
    rings: list[Ring]
    features: int
    base: int = 0
    stack: ExitStack = field(default_factory=ExitStack)


@contextmanager
def guest(
    memory: GuestMemory, addresses: list[Addresses], size: int, features: int, *, sockets: bool = False
) -> Iterator[Guest]:
    """Make notifications for rings that lie at ``addresses``; ``sockets``: calls as UML has them."""
    with ExitStack() as stack:
        rings = []
        for place in addresses:
            kick, error = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
            stack.callback(os.close, kick)
            stack.callback(os.close, error)
            if sockets:
                ours, theirs = socket.socketpair()
                stack.enter_context(ours)
                stack.enter_context(theirs)
                call, call_fd = ours.fileno(), theirs.fileno()
            else:
                call = call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                stack.callback(os.close, call)
            rings.append(Ring(size, place, kick, call, call_fd, error))
        yield Guest(memory, rings, features, stack=stack)


class Peer:
    """A front end with its habits."""

    name = "peer"
    protocol: tuple[P, ...] = ()
    always_acknowledged = False

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end = front_end

    def tell(self, name: str, payload: Any = None, fds: tuple[int, ...] = (), *, ack: bool = False) -> None:
        """Send; ``ack`` where the peer asks for an acknowledgement if it can."""
        wants = (ack or self.always_acknowledged) and self.has(P.REPLY_ACK)
        if wants:
            assert self.front_end.acknowledged(name, payload, fds) == 0, f"{name} was refused"
        else:
            self.front_end.send(name, payload, fds)

    def has(self, feature: P) -> bool:
        return bool(self.front_end.protocol_features & feature.mask)

    def take_protocol_features(self, *, ack: bool = False) -> None:
        offered = self.front_end.ask("GET_PROTOCOL_FEATURES")
        taken = offered & sum(feature.mask for feature in self.protocol)
        if ack:
            self.front_end.protocol_features = taken
            self.tell("SET_PROTOCOL_FEATURES", taken, ack=True)
        else:
            self.front_end.send("SET_PROTOCOL_FEATURES", taken)
            self.front_end.protocol_features = taken

    def bases(self, guest: Guest) -> list[int]:
        """Stop the rings and ask where they were."""
        rings = range(len(guest.rings))
        return [self.front_end.ask("GET_VRING_BASE", VringState(index, 0)).num for index in rings]

    def connect(self, queues: int, config_size: int) -> None:
        """What happens before there is a driver."""
        raise NotImplementedError

    def start(self, guest: Guest) -> None:
        """A driver is there."""
        raise NotImplementedError

    def stop(self, guest: Guest) -> list[int]:
        """The driver leaves; return where its rings were, as far as the peer asks."""
        raise NotImplementedError


class Uml(Peer):
    """UML 6.1: everything acknowledged, no MQ, no status, rings never stopped."""

    name = "UML 6.1"
    protocol: tuple[P, ...] = (P.REPLY_ACK, P.BACKEND_REQ, P.CONFIG)
    always_acknowledged = True

    def connect(self, queues: int, config_size: int) -> None:
        front_end = self.front_end
        front_end.send("SET_OWNER")
        self.offered = front_end.ask("GET_FEATURES")
        self.take_protocol_features(ack=True)
        ours, theirs = socket.socketpair()
        front_end.channel = ours
        ours.settimeout(front_end.socket.gettimeout())
        with theirs:
            self.tell("SET_BACKEND_REQ_FD", None, (theirs.fileno(),))

    def start(self, guest: Guest) -> None:
        front_end = self.front_end
        self.tell("SET_FEATURES", self.offered & guest.features | F_PROTOCOL_FEATURES)
        front_end.get_config(0, 16)
        table = FRONT_END["SET_MEM_TABLE"].request.encode((guest.memory.region,)) + bytes(32)
        _raw_table(front_end, table, guest.memory.fd)
        for index, ring in enumerate(guest.rings):
            self.set_call(index, ring)
            self.tell("SET_VRING_NUM", VringState(index, ring.size))
            self.tell("SET_VRING_BASE", VringState(index, 0))
            address = vring_address(index, ring.addresses, guest.memory)._replace(log=2**64 - 1)
            self.tell("SET_VRING_ADDR", address)
        for index, ring in enumerate(guest.rings):
            self.set_kick(index, ring)
            self.tell("SET_VRING_ENABLE", VringState(index, 1))
        front_end.get_config(0, 24)
        front_end.get_config(0, 8)

    def set_call(self, index: int, ring: Ring) -> None:
        self.tell("SET_VRING_CALL", index, (ring.call_fd,))

    def set_kick(self, index: int, ring: Ring) -> None:
        self.tell("SET_VRING_KICK", index, (ring.kick,))

    def stop(self, guest: Guest) -> list[int]:
        for index in range(len(guest.rings)):
            self.tell("SET_VRING_ENABLE", VringState(index, 0))
        self.front_end.barrier()
        return []


class UmlInBand(Uml):
    """UML 6.1 with in-band notifications: no kick or call descriptor at all."""

    name = "UML 6.1 in-band"
    protocol = (P.REPLY_ACK, P.BACKEND_REQ, P.CONFIG, P.INBAND_NOTIFICATIONS)

    def set_call(self, index: int, ring: Ring) -> None:
        pass

    def set_kick(self, index: int, ring: Ring) -> None:
        pass


class Uml72(Uml):
    """UML 7.2: with MQ, and the memory table in its proper size."""

    name = "UML 7.2"
    protocol = (P.MQ, P.REPLY_ACK, P.BACKEND_REQ, P.CONFIG)

    def connect(self, queues: int, config_size: int) -> None:
        super().connect(queues, config_size)
        assert self.front_end.ask("GET_QUEUE_NUM") == queues


class Qemu(Peer):
    """QEMU 7.2: acknowledges every protocol feature, sets a status of its own, stops rings."""

    name = "QEMU 7.2"
    protocol = tuple(P)
    acknowledged_vrings = False

    def connect(self, queues: int, config_size: int) -> None:
        front_end = self.front_end
        self.offered = front_end.ask("GET_FEATURES")
        self.take_protocol_features()
        self.queues = front_end.ask("GET_QUEUE_NUM") if self.has(P.MQ) else queues
        assert self.queues == queues
        if self.has(P.CONFIGURE_MEM_SLOTS):
            assert front_end.ask("GET_MAX_MEM_SLOTS") >= 8
        if self.has(P.BACKEND_REQ):
            ours, theirs = socket.socketpair()
            front_end.channel = ours
            ours.settimeout(front_end.socket.gettimeout())
            with theirs:
                self.tell("SET_BACKEND_REQ_FD", None, (theirs.fileno(),), ack=True)
        front_end.send("SET_OWNER")
        front_end.barrier()
        with eventfds(2) as (call, error):
            for index in range(queues):
                self.tell("SET_VRING_CALL", index, (call,), ack=self.acknowledged_vrings)
                self.tell("SET_VRING_ERR", index, (error,), ack=self.acknowledged_vrings)
        if self.has(P.CONFIG) and config_size:
            front_end.get_config(0, config_size)
        self.mapped = False

    def start(self, guest: Guest) -> None:
        front_end = self.front_end
        features = self.offered & guest.features | F_PROTOCOL_FEATURES
        self.tell("SET_FEATURES", features)
        if self.has(P.STATUS):
            status = front_end.ask("GET_STATUS")
            self.tell("SET_STATUS", status | 8)
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_CALL", index, (ring.call_fd,), ack=self.acknowledged_vrings)
        self.tell("SET_FEATURES", features)
        region = guest.memory.region
        if not self.has(P.CONFIGURE_MEM_SLOTS):
            self.tell("SET_MEM_TABLE", (region,), (guest.memory.fd,), ack=True)
        elif not self.mapped:
            self.tell("ADD_MEM_REG", region, (guest.memory.fd,), ack=True)
            self.mapped = True
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_NUM", VringState(index, ring.size))
            self.tell("SET_VRING_BASE", VringState(index, guest.base))
            self.tell("SET_VRING_ADDR", vring_address(index, ring.addresses, guest.memory))
            self.tell("SET_VRING_KICK", index, (ring.kick,), ack=self.acknowledged_vrings)
        for index in range(self.queues):
            self.tell("SET_VRING_ENABLE", VringState(index, 1), ack=self.acknowledged_vrings)
        if self.has(P.STATUS):
            self.tell("SET_STATUS", 0xF)
            assert front_end.ask("GET_STATUS") == 0xF

    def stop(self, guest: Guest) -> list[int]:
        if self.has(P.STATUS):
            self.tell("SET_STATUS", 0)
        return self._stop_rings(guest)

    def _stop_rings(self, guest: Guest) -> list[int]:
        for index in range(self.queues):
            self.tell("SET_VRING_ENABLE", VringState(index, 0), ack=self.acknowledged_vrings)
        return [
            self.front_end.ask("GET_VRING_BASE", VringState(index, 0)).num
            for index in range(len(guest.rings))
        ]


class QemuPlain(Qemu):
    """QEMU 7.2 with a back end that offers little: the memory table instead of slots."""

    name = "QEMU 7.2, few protocol features"
    protocol = (P.MQ, P.CONFIG)


class Qemu11(Qemu):
    """QEMU 11.1: resets the device at each start and stop, and waits for more acknowledgements."""

    name = "QEMU 11.1"
    acknowledged_vrings = True

    def start(self, guest: Guest) -> None:
        if self.has(P.RESET_DEVICE):
            self.tell("RESET_DEVICE")
        super().start(guest)

    def stop(self, guest: Guest) -> list[int]:
        bases = self._stop_rings(guest)
        self.tell("SET_STATUS", 0)
        self.tell("RESET_DEVICE")
        return bases


class Dpdk(Peer):
    """DPDK virtio-user 22.11: polls, and acknowledges little."""

    name = "DPDK 22.11"
    protocol = (P.MQ, P.REPLY_ACK, P.STATUS)

    def connect(self, queues: int, config_size: int) -> None:
        self.front_end.send("SET_OWNER")
        self.offered = self.front_end.ask("GET_FEATURES")
        self.take_protocol_features()

    def start(self, guest: Guest) -> None:
        front_end = self.front_end
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_CALL", index, (ring.call_fd,))
        self.tell("SET_FEATURES", self.offered & guest.features | F_PROTOCOL_FEATURES)
        self.tell("SET_STATUS", 0xB, ack=True)
        assert front_end.ask("GET_STATUS") == 0xB
        assert front_end.ask("GET_STATUS") == 0xB
        region = guest.memory.region
        self.tell("SET_MEM_TABLE", (region,), (guest.memory.fd,), ack=True)
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_NUM", VringState(index, ring.size))
            self.tell("SET_VRING_BASE", VringState(index, guest.base))
            self.tell("SET_VRING_ADDR", vring_address(index, ring.addresses, guest.memory))
            self.tell("SET_VRING_KICK", index, (ring.kick,))
        for index in range(len(guest.rings)):
            self.tell("SET_VRING_ENABLE", VringState(index, 1))
        self.tell("SET_STATUS", 0xF, ack=True)

    def stop(self, guest: Guest) -> list[int]:
        for index in range(len(guest.rings)):
            self.tell("SET_VRING_ENABLE", VringState(index, 0))
        bases = [
            self.front_end.ask("GET_VRING_BASE", VringState(index, 0)).num
            for index in range(len(guest.rings))
        ]
        self.tell("SET_STATUS", 0, ack=True)
        return bases


class Libblkio(Peer):
    """libblkio 1.x: features before protocol features, then everything acknowledged; calls after kicks."""

    name = "libblkio"
    protocol = (P.MQ, P.REPLY_ACK, P.CONFIG, P.CONFIGURE_MEM_SLOTS)

    def connect(self, queues: int, config_size: int) -> None:
        self.front_end.send("SET_OWNER")
        self.offered = self.front_end.ask("GET_FEATURES")
        self.queues = queues
        self.config_size = config_size

    def start(self, guest: Guest) -> None:
        front_end = self.front_end
        self.tell("SET_FEATURES", self.offered & guest.features | F_PROTOCOL_FEATURES)
        self.take_protocol_features()
        self.always_acknowledged = True
        assert front_end.ask("GET_QUEUE_NUM") == self.queues
        assert front_end.ask("GET_MAX_MEM_SLOTS") > 0
        access = ConfigAccess(0, self.config_size, 0, bytes(self.config_size))
        front_end.send("GET_CONFIG", access, need_reply=True)
        assert len(front_end.receive().payload.data) == self.config_size
        memory = guest.memory
        self.region = MemoryRegion(memory.guest_address, memory.size, memory.user_address, 0)
        self.tell("ADD_MEM_REG", self.region, (memory.fd,))
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_NUM", VringState(index, ring.size))
            self.tell("SET_VRING_BASE", VringState(index, 0))
            self.tell("SET_VRING_ADDR", vring_address(index, ring.addresses, memory))
            self.tell("SET_VRING_KICK", index, (ring.kick,))
            self.tell("SET_VRING_CALL", index, (ring.call_fd,))
            self.tell("SET_VRING_ENABLE", VringState(index, 1))

    def stop(self, guest: Guest) -> list[int]:
        self.tell("REM_MEM_REG", self.region, (guest.memory.fd,))
        return []


class Old(Peer):
    """A front end of the first days: no protocol features, so rings are enabled from the start."""

    name = "without protocol features"

    def connect(self, queues: int, config_size: int) -> None:
        self.front_end.send("SET_OWNER")
        self.offered = self.front_end.ask("GET_FEATURES")

    def start(self, guest: Guest) -> None:
        self.tell("SET_FEATURES", self.offered & guest.features & ~F_PROTOCOL_FEATURES)
        self.tell("SET_MEM_TABLE", (guest.memory.region,), (guest.memory.fd,))
        for index, ring in enumerate(guest.rings):
            self.tell("SET_VRING_NUM", VringState(index, ring.size))
            self.tell("SET_VRING_BASE", VringState(index, guest.base))
            self.tell("SET_VRING_ADDR", vring_address(index, ring.addresses, guest.memory))
            self.tell("SET_VRING_KICK", index, (ring.kick,))
            self.tell("SET_VRING_CALL", index, (ring.call_fd,))
        self.front_end.barrier()

    def stop(self, guest: Guest) -> list[int]:
        return [
            self.front_end.ask("GET_VRING_BASE", VringState(index, 0)).num
            for index in range(len(guest.rings))
        ]


class Silent(Old):
    """A front end that never kicks, and has the back end poll instead."""

    name = "without kicks"

    def start(self, guest: Guest) -> None:
        super().start(guest)
        for index in range(len(guest.rings)):
            self.tell("SET_VRING_KICK", NO_DESCRIPTOR | index)


def _raw_table(front_end: FrontEnd, payload: bytes, fd: int) -> None:
    """Send a memory table whose payload is longer than its regions."""
    front_end.raw(encode(5, 9, payload), [fd])
    assert front_end.receive().payload == 0


PEERS = (Uml, UmlInBand, Uml72, Qemu, QemuPlain, Qemu11, Dpdk, Libblkio, Old, Silent)
