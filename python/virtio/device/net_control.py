"""The control queue of the network device (VIRTIO 1.4, 5.1.9.5): commands in, an acknowledgement out.

No queue and no thread here: :meth:`Control.handle` takes the bytes of a command and returns the answer's.
What a command changes goes to the :class:`~virtio._native.NetPort`, which the data path looks at.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from virtio._native import Counters, NetPort
from virtio.device.net_rss import Contexts, Hashing, RefusedError, Scaling, check_tunnels
from virtio.device.net_statistics import Statistics
from virtio.queue.device import DeviceQueue
from virtio.spec import net_control
from virtio.spec.net import F

OK, ERR = net_control.ACK.OK, net_control.ACK.ERR
MAX_COMMAND = 1 << 16
"""Longer commands are refused unread: no table needs so much."""
MAX_MACS = 1024
"""Addresses in the filter. With more, all frames of that kind are let through (5.1.9.5.2)."""
_OFFLOADS = {code.value: F[code.name].mask for code in net_control.OFFLOADS}
"""The feature that each offload is about: those above bit 63 have other numbers in the command."""

_VLAN = net_control.CLASS["VIRTIO_NET_CTRL_VLAN"].value
_COALESCING = net_control.CLASS["VIRTIO_NET_CTRL_NOTF_COAL"].value
_LASTING = frozenset(
    net_control.CLASS[f"VIRTIO_NET_CTRL_{name}"].value
    for name in ("RX", "MAC", "VLAN", "MQ", "GUEST_OFFLOADS", "NOTF_COAL", "HASH_TUNNEL")
)
_CONTEXTS = net_control.CLASS["VIRTNET_RSS_CTX_CTRL"].value

_log = logging.getLogger("virtio.device.net")


class Host(Protocol):
    """What the control queue belongs to."""

    port: NetPort
    pairs: int
    negotiated_features: int

    def mac_changed(self, mac: bytes) -> None:
        """The driver has set the address."""

    def announced(self) -> None:
        """The driver has seen that it shall announce itself."""

    def counters(self, queue_index: int) -> Counters | None:
        """What a queue has done."""

    @property
    def data_queues(self) -> Sequence[DeviceQueue]:
        """The receive and transmit queues that this driver may use."""


@dataclass
class Modes:
    """What filters frames, as the driver has set it."""

    mac: bytes
    promiscuous: bool = True
    """Until the driver says otherwise: with some front ends this queue does not come as far as here."""
    all_multicast: bool = False
    all_unicast: bool = False
    no_multicast: bool = False
    no_unicast: bool = False
    no_broadcast: bool = False
    macs: list[bytes] = field(default_factory=list)
    all_listed_unicast: bool = False
    all_listed_multicast: bool = False
    vlans: set[int] | None = None


class Control:
    """The state that commands make."""

    def __init__(self, host: Host, mac: bytes) -> None:
        """Begin as after a reset, with the device's own address."""
        self._host = host
        self._commands: Mapping[int, tuple[int, Callable[[int, bytes], bytes]]] = {
            net_control.CLASS["VIRTIO_NET_CTRL_RX"].value: (F.CTRL_RX | F.CTRL_RX_EXTRA, self._receive_mode),
            net_control.CLASS["VIRTIO_NET_CTRL_MAC"].value: (F.CTRL_RX | F.CTRL_MAC_ADDR, self._address),
            net_control.CLASS["VIRTIO_NET_CTRL_VLAN"].value: (F.CTRL_VLAN, self._vlan),
            net_control.CLASS["VIRTIO_NET_CTRL_ANNOUNCE"].value: (F.GUEST_ANNOUNCE, self._announce),
            net_control.CLASS["VIRTIO_NET_CTRL_MQ"].value: (F.MQ | F.RSS | F.HASH_REPORT, self._queues),
            net_control.CLASS["VIRTIO_NET_CTRL_GUEST_OFFLOADS"].value: (
                F.CTRL_GUEST_OFFLOADS,
                self._offloads,
            ),
            net_control.CLASS["VIRTIO_NET_CTRL_NOTF_COAL"].value: (
                F.NOTF_COAL | F.VQ_NOTF_COAL,
                self._coalescing,
            ),
            net_control.CLASS["VIRTIO_NET_CTRL_STATS"].value: (F.DEVICE_STATS, self._statistics),
            net_control.CLASS["VIRTIO_NET_CTRL_HASH_TUNNEL"].value: (F.HASH_TUNNEL, self._tunnels),
            _CONTEXTS: (F.RSS_CONTEXT, lambda command, data: self.contexts.command(command, data)),
        }
        self.reset(mac)

    def reset(self, mac: bytes) -> None:
        """Forget what the driver has set."""
        self.modes = Modes(mac)
        self.contexts = Contexts(self._host.pairs)
        self.received = 0
        self.succeeded = 0
        self._seen = False
        self._lasting: dict[tuple[int, ...], bytes] = {}
        self.apply()

    def apply(self) -> None:
        """Let the data path have the filter."""
        modes = self.modes
        self._host.port.set_filter(
            modes.mac,
            promiscuous=modes.promiscuous,
            all_multicast=modes.all_multicast or modes.all_listed_multicast,
            all_unicast=modes.all_unicast or modes.all_listed_unicast,
            no_multicast=modes.no_multicast,
            no_unicast=modes.no_unicast,
            no_broadcast=modes.no_broadcast,
            macs=modes.macs,
            vlans=None if modes.vlans is None else sorted(modes.vlans),
        )

    def handle(self, request: bytes) -> bytes:
        """Carry out a command; return the acknowledgement and the result."""
        self.received += 1
        if not self._seen:
            self._seen = True
            if self._host.negotiated_features & F.CTRL_VLAN:
                self.modes.vlans = set()
                self.apply()
        try:
            result = self._dispatch(request)
        except RefusedError as refusal:
            _log.info("a control command was refused: %s", refusal)
            return bytes([ERR])
        if not self._counts_itself(request):
            self.succeeded += 1
        self._remember(request)
        return bytes([OK]) + result

    def _remember(self, request: bytes) -> None:
        """Keep commands whose effect lasts, in the order in which they take effect."""
        kind, command = request[0], request[1]
        key: tuple[int, ...] = (kind, command)
        if kind == _CONTEXTS and command != net_control.RSS_CTX.CAP_GET:
            # To make a context as it is now takes one command.
            key = (kind, net_control.RSS_CTX.ADD, *request[2:4])
            self._lasting.pop(key, None)
            if command != net_control.RSS_CTX.DEL:
                self._lasting[key] = bytes(key[:2]) + request[2:]
        if kind not in _LASTING or (kind == _COALESCING and command == net_control.COALESCE.VQ_GET):
            return
        if kind == _VLAN or (kind == _COALESCING and command == net_control.COALESCE.VQ_SET):
            key = (kind, net_control.VLAN.ADD if kind == _VLAN else command, *request[2:4])
        self._lasting.pop(key, None)
        if key[1] == command:
            self._lasting[key] = request

    def saved(self) -> bytes:
        """The commands that make another device what this one is now."""
        requests = list(self._lasting.values())
        if self.modes.vlans is not None and not self.modes.vlans:
            # No VLAN is wanted, which is something else than that no command came.
            requests.insert(0, bytes([_VLAN, net_control.VLAN.DEL, 0, 0]))
        return b"".join(len(request).to_bytes(4, "little") + request for request in requests)

    def restore(self, saved: bytes) -> None:
        """Carry out what :meth:`saved` returned."""
        while saved:
            size = int.from_bytes(saved[:4], "little")
            self.handle(saved[4 : 4 + size])
            saved = saved[4 + size :]

    def _dispatch(self, request: bytes) -> bytes:
        if len(request) < 2:
            raise RefusedError(f"{len(request)} bytes, without class and command")
        if len(request) > MAX_COMMAND:
            raise RefusedError(f"longer than {MAX_COMMAND} bytes")
        needs, command = self._commands.get(request[0], (0, None))
        if command is None or not self._host.negotiated_features & needs:
            raise RefusedError(f"class {request[0]} was not negotiated or does not exist")
        return command(request[1], request[2:])

    def _counts_itself(self, request: bytes) -> bool:
        """Whether the command was counted when it was carried out: it reports that very count."""
        return request[0] == net_control.CLASS["VIRTIO_NET_CTRL_STATS"].value and request[1] == 1

    def _needs(self, features: int) -> None:
        if not self._host.negotiated_features & features:
            raise RefusedError("a feature that was not negotiated")

    # --- filters

    _MODES = (
        ("promiscuous", F.CTRL_RX),
        ("all_multicast", F.CTRL_RX),
        ("all_unicast", F.CTRL_RX_EXTRA),
        ("no_multicast", F.CTRL_RX_EXTRA),
        ("no_unicast", F.CTRL_RX_EXTRA),
        ("no_broadcast", F.CTRL_RX_EXTRA),
    )

    def _receive_mode(self, command: int, data: bytes) -> bytes:
        if command >= len(self._MODES):
            raise RefusedError(f"receive mode {command}")
        name, needs = self._MODES[command]
        self._needs(needs)
        if data not in (b"\0", b"\1"):
            raise RefusedError(f"{name} {data[:8].hex()} is neither off nor on")
        setattr(self.modes, name, data == b"\1")
        self.apply()
        return b""

    def _address(self, command: int, data: bytes) -> bytes:
        if command == net_control.MAC.TABLE_SET:
            self._needs(F.CTRL_RX)
            self._table(data)
        elif command == net_control.MAC.ADDR_SET:
            self._needs(F.CTRL_MAC_ADDR)
            if len(data) != 6 or data[0] & 1:
                raise RefusedError(f"address {data[:8].hex()}")
            self.modes.mac = data
            self.apply()
            self._host.mac_changed(data)
        else:
            raise RefusedError(f"command {command} about addresses")
        return b""

    def _table(self, data: bytes) -> None:
        lists = []
        for _ in range(2):
            count, rest = int.from_bytes(data[:4], "little"), data[4:]
            if len(data) < 4 or len(rest) < 6 * count:
                raise RefusedError("the table of addresses is cut short")
            lists.append([rest[at : at + 6] for at in range(0, 6 * count, 6)])
            data = rest[6 * count :]
        if data:
            raise RefusedError(f"{len(data)} bytes behind the tables of addresses")
        unicast, multicast = lists
        if any(mac[0] & 1 for mac in unicast) or not all(mac[0] & 1 for mac in multicast):
            raise RefusedError("multicast addresses among the others, or the other way round")
        self.modes.all_listed_unicast = len(unicast) > MAX_MACS
        self.modes.all_listed_multicast = len(multicast) > MAX_MACS
        self.modes.macs = unicast[:MAX_MACS] + multicast[:MAX_MACS]
        self.apply()

    def _vlan(self, command: int, data: bytes) -> bytes:
        vlan = int.from_bytes(data, "little")
        if len(data) != 2 or vlan > 4095 or command not in (net_control.VLAN.ADD, net_control.VLAN.DEL):
            raise RefusedError(f"VLAN command {command}, {data[:4].hex()}")
        vlans = self.modes.vlans = self.modes.vlans or set()
        (vlans.add if command == net_control.VLAN.ADD else vlans.discard)(vlan)
        self.apply()
        return b""

    # --- the rest

    def _announce(self, command: int, data: bytes) -> bytes:
        if command != net_control.ANNOUNCE.ACK or data:
            raise RefusedError(f"command {command} about announcements")
        self._host.announced()
        return b""

    def _queues(self, command: int, data: bytes) -> bytes:
        if command == net_control.MQ.VQ_PAIRS_SET:
            self._needs(F.MQ)
            pairs = int.from_bytes(data, "little")
            if len(data) != 2 or not 1 <= pairs <= self._host.pairs:
                raise RefusedError(f"{pairs} pairs of queues")
            if self.contexts.found:
                raise RefusedError("pairs of queues while there are RSS contexts (5.1.9.5.8.4)")
            self._host.port.steer_automatically(pairs)
        elif command == net_control.MQ.RSS_CONFIG:
            self._needs(F.RSS)
            Scaling.unpack(data, self._host.pairs).apply(self._host.port)
        elif command == net_control.MQ.HASH_CONFIG:
            self._needs(F.HASH_REPORT)
            Hashing.unpack(data).apply(self._host.port)
        else:
            raise RefusedError(f"command {command} about queues")
        return b""

    def _tunnels(self, command: int, data: bytes) -> bytes:
        self._host.port.set_tunnels(check_tunnels(command, data))
        return b""

    def _offloads(self, command: int, data: bytes) -> bytes:
        asked = int.from_bytes(data, "little")
        if command != net_control.OFFLOADS_CMD.SET or len(data) != 8:
            raise RefusedError(f"command {command} about offloads")
        known = {
            bit: feature for bit, feature in _OFFLOADS.items() if feature & self._host.negotiated_features
        }
        # No offload that could be switched, but Linux counts it among them (as of 7.2).
        asked &= ~(self._host.negotiated_features & F.GUEST_HDRLEN)
        if asked & ~sum(known):
            raise RefusedError(f"offloads {asked:#x}, some of which were not negotiated")
        self._host.port.set_offloads(sum(feature for bit, feature in known.items() if asked & bit))
        return b""

    def _coalescing(self, command: int, data: bytes) -> bytes:
        codes = net_control.COALESCE
        if command in (codes.TX_SET, codes.RX_SET):
            self._needs(F.NOTF_COAL)
            if len(data) != 8:
                raise RefusedError("coalescing parameters of the wrong length")
            for queue in self._host.data_queues:
                if queue.index % 2 == (command == codes.TX_SET):
                    queue.set_coalescing(*_coalescing(data), default=True)
            return b""
        self._needs(F.VQ_NOTF_COAL)
        # Of VQ_GET the driver sends the index and what is reserved; the parameters are the device's to write.
        if command not in (codes.VQ_SET, codes.VQ_GET) or len(data) != (12 if command == codes.VQ_SET else 4):
            raise RefusedError(f"coalescing command {command} of {len(data)} bytes")
        index = int.from_bytes(data[:2], "little")
        found = [queue for queue in self._host.data_queues if queue.index == index and queue.enabled]
        if not found:
            raise RefusedError(f"queue {index} is no enabled receive or transmit queue")
        if command == codes.VQ_SET:
            found[0].set_coalescing(*_coalescing(data[4:]))
            return b""
        return b"".join(value.to_bytes(4, "little") for value in found[0].coalescing)

    def _statistics(self, command: int, data: bytes) -> bytes:
        statistics = Statistics(self._host, self.received, self.succeeded + 1)
        if command == net_control.STATS_CMD.QUERY:
            if data:
                raise RefusedError("data in a query for statistics")
            return statistics.capabilities()
        if command == net_control.STATS_CMD.GET:
            result = statistics.get(data)
            if result is None:
                raise RefusedError("statistics that do not exist, or not for this queue")
            self.succeeded += 1
            return result
        raise RefusedError(f"command {command} about statistics")


def _coalescing(data: bytes) -> tuple[int, int]:
    """The packets and microseconds of ``struct virtio_net_ctrl_coal``."""
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")


def is_saved(data: bytes) -> bool:
    """Whether this may have come from :meth:`Control.saved`."""
    while data:
        size = int.from_bytes(data[:4], "little")
        if not 2 <= size <= min(MAX_COMMAND, len(data) - 4):
            return False
        data = data[4 + size :]
    return True
