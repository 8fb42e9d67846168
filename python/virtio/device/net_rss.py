"""Hashes and receive-side scaling as commands set them (VIRTIO 1.4, 5.1.9.4.4, 5.1.9.5.7 and 5.1.9.5.8)."""

from dataclasses import dataclass

from virtio._native import NetPort
from virtio.spec import net, net_control

MAX_KEY = 40
"""Bytes of a hash key that make a difference: two IPv6 addresses, two ports and a word more."""
MAX_TABLE = 128
PADDING = range(2)
"""Bytes behind a hash key: Linux from 6.15 sends a structure of even size, and so one too many."""
MAX_CONTEXTS = 16
SUPPORTED_HASH_TYPES = sum(code.value for code in net.HASH_TYPE)
SUPPORTED_TUNNEL_TYPES = sum(code.value for code in net.TUNNEL_TYPE)


class RefusedError(Exception):
    """The command cannot be carried out; the text is for the log."""


@dataclass(frozen=True)
class Hashing:
    """Which packets are hashed, and with which key."""

    types: int
    key: bytes

    @classmethod
    def read(cls, types: bytes, key: bytes) -> "Hashing":
        """Check the beginning and the end of a configuration."""
        number = int.from_bytes(types, "little")
        if number & ~SUPPORTED_HASH_TYPES:
            raise RefusedError(f"hash types {number:#x}")
        if len(key) > MAX_KEY:
            raise RefusedError(f"a hash key of {len(key)} bytes")
        return cls(number, key)

    @classmethod
    def unpack(cls, data: bytes) -> "Hashing":
        """Read ``struct virtio_net_hash_config``.

        Linux (7.2) has the number of transmit queues in the last reserved word, as where it configures RSS.
        """
        if len(data) < 13 or any(data[4:10]) or len(data) - 13 - data[12] not in PADDING:
            raise RefusedError("a hash configuration of the wrong length, or with reserved bits")
        return cls.read(data[:4], data[13 : 13 + data[12]])

    def apply(self, port: NetPort) -> None:
        """Hash so from now on."""
        port.set_hash(self.types, self.key)


@dataclass(frozen=True)
class Scaling:
    """Where packets go by their hash."""

    hashing: Hashing
    table: list[int]
    unclassified: int

    @classmethod
    def unpack(cls, data: bytes, pairs: int) -> "Scaling":
        """Read ``struct virtio_net_rss_config`` for a device with so many pairs of queues."""

        def word(at: int) -> int:
            return int.from_bytes(data[at : at + 2], "little")

        if len(data) < 8:
            raise RefusedError("the RSS configuration is cut short")
        entries = word(4) + 1
        if entries & (entries - 1) or entries > MAX_TABLE:
            raise RefusedError(f"an indirection table of {entries} entries")
        end = 8 + 2 * entries
        if len(data) < end + 3 or len(data) - end - 3 - data[end + 2] not in PADDING:
            raise RefusedError("an RSS configuration of the wrong length")
        hashing = Hashing.read(data[:4], data[end + 3 : end + 3 + data[end + 2]])
        table, unclassified = [word(8 + 2 * number) for number in range(entries)], word(6)
        if max(*table, unclassified) >= pairs:
            raise RefusedError("a receive queue that does not exist")
        if not 1 <= word(end) <= pairs:
            raise RefusedError(f"{word(end)} transmit queues")
        return cls(hashing, table, unclassified)

    def apply(self, port: NetPort) -> None:
        """Steer so from now on."""
        self.hashing.apply(port)
        port.steer_by_table(self.table, self.unclassified)


class Contexts:
    """RSS configurations beside the default one.

    A driver may keep them here. The standard has nothing yet that sends a packet to one.
    """

    def __init__(self, pairs: int) -> None:
        """Begin without any, on a device with so many pairs of queues."""
        self._pairs = pairs
        self.found: dict[int, Scaling] = {}

    def command(self, command: int, data: bytes) -> bytes:
        """Carry out a command of the class RSS_CTX_CTRL and return its result."""
        codes = net_control.RSS_CTX
        if command == codes.CAP_GET:
            if data:
                raise RefusedError("data in a query for RSS contexts")
            return MAX_CONTEXTS.to_bytes(2, "little")
        number = int.from_bytes(data[:2], "little")
        if len(data) < 2 or not 1 <= number <= MAX_CONTEXTS:
            raise RefusedError(f"there is no RSS context {number}")
        if command not in (codes.ADD, codes.MOD, codes.DEL):
            raise RefusedError(f"command {command} about RSS contexts")
        if (number in self.found) == (command == codes.ADD):
            raise RefusedError(f"there is already, or not yet, an RSS context {number}")
        if command == codes.DEL:
            if len(data) != 2:
                raise RefusedError("data behind the number of an RSS context")
            del self.found[number]
        elif len(data) < 8:
            raise RefusedError("an RSS context cut short")
        else:
            self.found[number] = Scaling.unpack(data[8:], self._pairs)
        return b""


def check_tunnels(command: int, data: bytes) -> int:
    """Read the command of the class HASH_TUNNEL: tunnels whose inner headers are to be hashed."""
    types = int.from_bytes(data, "little")
    if command != net_control.TUNNEL_CMD.SET or len(data) != 4:
        raise RefusedError(f"command {command} about tunnels, {len(data)} bytes")
    if types & ~SUPPORTED_TUNNEL_TYPES:
        raise RefusedError(f"tunnel types {types:#x}")
    return types
