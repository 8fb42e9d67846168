"""The driver of a network device (VIRTIO 1.4, 5.1): frames, and what the control queue can set.

::

    with virtio.connect("vhost-user:/tmp/net.sock", "net", pairs=4) as card:
        card.send(frame)
        print(card.receive(timeout=1, queue=2).data)
        card.set_rss([0, 1, 2, 3])
        print(card.statistics())
"""

import contextlib
import functools
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import ClassVar, Literal, NamedTuple

from virtio import spec
from virtio.driver.base import POLLING, QUEUE_SIZE, Driver
from virtio.driver.net_flow import FlowFilters
from virtio.driver.net_queues import Frame as Frame
from virtio.driver.net_queues import Header, ReceiveQueue, TransmitQueue
from virtio.driver.queue import DriverQueue
from virtio.driver.wire import DriverEnd
from virtio.errors import ConfigurationError, DeviceError, Error, ProtocolError
from virtio.spec import net as layout
from virtio.spec import net_control, selection
from virtio.spec.layout import Struct
from virtio.spec.model import Code
from virtio.spec.net import F

_COMMAND = 4096
_KEY_SIZE = 40
_CLASS = {code.name.removeprefix("VIRTIO_NET_CTRL_"): code.value for code in net_control.CLASS}

Direction = Literal["RX", "TX"]


class Coalescing(NamedTuple):
    """When a queue notifies: after so many packets, or so many microseconds after the first (5.1.9.5.10)."""

    max_packets: int
    max_usecs: int


class Rss(NamedTuple):
    """How frames are spread over receive queues (5.1.9.5.7)."""

    table: tuple[int, ...]
    """Receive queues, counted from 0, by the lowest bits of a frame's hash."""
    types: int
    key: bytes
    unclassified: int
    transmit: int


class NetworkDriver(Driver):
    """Pairs of queues, and the control queue where there is one. Any thread may call."""

    spec: ClassVar[ModuleType] = spec.net
    understood: ClassVar[int] = (
        F.MAC | F.STATUS | F.MTU | F.SPEED_DUPLEX | F.MRG_RXBUF | F.HASH_REPORT | F.GUEST_HDRLEN
        | F.CSUM | F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO | F.HOST_USO
        | F.GUEST_CSUM | F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_ECN | F.GUEST_UFO | F.GUEST_USO4
        | F.GUEST_USO6 | F.CTRL_GUEST_OFFLOADS | F.CTRL_VQ | F.CTRL_RX | F.CTRL_RX_EXTRA | F.CTRL_VLAN
        | F.CTRL_MAC_ADDR | F.DEVICE_STATS | F.GUEST_ANNOUNCE | F.MQ | F.RSS | F.NOTF_COAL | F.VQ_NOTF_COAL
    )  # fmt: skip

    def __init__(
        self,
        end: DriverEnd,
        *,
        pairs: int = 1,
        mask: int | str = 0,
        queue_size: int = QUEUE_SIZE,
        polling: int = POLLING,
    ) -> None:
        """Initialise the device. ``pairs`` of queues are used, or as many of them as the device has.

        With one pair neither MQ nor RSS is accepted. The rest as for every :class:`Driver`.
        """
        if not 1 <= pairs <= 0x8000:
            raise ConfigurationError(f"{pairs} pairs of queues")
        self._wanted_pairs = pairs
        self.announcements: list[bytes] | None = None
        """Frames that tell the network where we are, sent when the device asks for it; None: one RARP frame
        with the device's address."""
        mask = selection.parse(layout.DEVICE, mask) if isinstance(mask, str) else mask
        if pairs == 1:
            mask |= F.MQ | F.RSS
        super().__init__(end, mask=mask, queue_size=queue_size, polling=polling)

    def set_up(self) -> None:
        """Add the queues and allocate buffers."""
        header = Header(self.features)
        most = 1
        if self.features & (F.MQ | F.RSS):
            most = self.config.values()["max_virtqueue_pairs"]
            if not 1 <= most <= 0x8000:
                raise ProtocolError(f"a network device with {most} pairs of queues", "5.1.4.1")
        self.pairs = min(self._wanted_pairs, most)
        """Pairs of queues that are set up."""
        self._sending_pairs = 1
        self.rss: Rss | None = None
        """What :meth:`set_rss` has set; None: frames are steered automatically."""
        self.offloads = sum(code.value for code in self._offloads())
        """What the device may do to incoming frames (``spec.net_control.OFFLOADS``); at first, all."""
        self._receiving: list[ReceiveQueue] = []
        self._transmitting: list[TransmitQueue] = []
        for pair in range(self.pairs):
            self._receiving.append(ReceiveQueue(self.add_queue(2 * pair), header, self.allocate))
            self._transmitting.append(TransmitQueue(self.add_queue(2 * pair + 1), header, self.allocate))
        # 5.1.2: behind all pairs that the device has, used or not.
        self._control = self.add_queue(2 * most) if self.features & F.CTRL_VQ else None
        self._command = self.allocate(2 * _COMMAND)
        self._commanding = threading.Lock()
        self._announcing = threading.Lock()
        self._statistics_types: int | None = None

    def started(self) -> None:
        """Give the device buffers, and have all pairs used."""
        for queue in self._receiving:
            queue.offer_all()
        if self.pairs > 1:
            if self.features & F.MQ:
                self.use_pairs(self.pairs)
            else:
                self.set_rss([number % self.pairs for number in range(1 << (self.pairs - 1).bit_length())])
        self.config_changed()

    def queue_reset(self, queue: DriverQueue, native: object) -> None:
        """Offer the buffers anew; frames in those that were out are lost."""
        pair, transmit = divmod(queue.index, 2)
        if queue is self._control:
            return
        if transmit:
            self._transmitting[pair].start()
        else:
            self._receiving[pair].offer_all()

    # --- what the device is

    @property
    def mac(self) -> bytes | None:
        """The address; None: the device has none."""
        return bytes(self.config.values()["mac"]) if self.features & F.MAC else None

    @property
    def link(self) -> bool:
        """Whether there is a link (assumed where the device does not tell, 5.1.4.2)."""
        if not self.features & F.STATUS:
            return True
        return bool(self.config.values()["status"] & layout.S.LINK_UP)

    # --- frames

    def receive(self, timeout: float | None = None, *, queue: int = 0) -> Frame:
        """Return the next frame of a receive queue, counted from 0.

        Raises ``TimeoutError`` if none comes for ``timeout`` seconds.
        """
        with self._receiver(queue) as receiving:
            return receiving.next(timeout)

    def receive_batch(self, most: int = 256, timeout: float | None = None, *, queue: int = 0) -> list[Frame]:
        """Return all frames that are there, at least one and at most ``most``."""
        with self._receiver(queue) as receiving:
            found = [receiving.next(timeout)]
            while len(found) < most:
                try:
                    found.append(receiving.next(0))
                except TimeoutError:
                    break
        return found

    @contextlib.contextmanager
    def _receiver(self, queue: int) -> Iterator[ReceiveQueue]:
        if not 0 <= queue < self.pairs:
            raise ConfigurationError(f"there is no receive queue {queue}: {self.pairs} pairs are set up")
        with self._receiving[queue].lock:
            self._check_open()
            yield self._receiving[queue]

    def send(
        self,
        data: bytes | bytearray | memoryview,
        *,
        flags: int = 0,
        gso_type: int = 0,
        hdr_len: int = 0,
        gso_size: int = 0,
        csum_start: int = 0,
        csum_offset: int = 0,
        timeout: float | None = None,
        queue: int = 0,
    ) -> None:
        """Send a frame; it is copied. The fields ask the device for checksums and segments.

        ``queue``: which transmit queue, counted from 0. Waits while the device has too much already; raises
        ``TimeoutError`` after ``timeout`` seconds. The frame is not checked: a test may send what no driver
        should.
        """
        fields = {
            "flags": flags,
            "gso_type": gso_type,
            "hdr_len": hdr_len,
            "gso_size": gso_size,
            "csum_start": csum_start,
            "csum_offset": csum_offset,
        }
        transmitting = self._transmitter(queue)
        self._check_open()
        transmitting.send(fields, data, timeout)

    def send_batch(self, frames: Iterable[bytes], timeout: float | None = None, *, queue: int = 0) -> int:
        """Send complete frames; return how many. ``timeout`` is for each."""
        count = 0
        for frame in frames:
            self.send(frame, timeout=timeout, queue=queue)
            count += 1
        return count

    def flush(self, timeout: float | None = None, *, queue: int = 0) -> None:
        """Wait until the device has taken all that was sent."""
        self._transmitter(queue).flush(timeout)

    def _transmitter(self, queue: int) -> TransmitQueue:
        # 5.1.9.5.6.1: nothing goes to a queue that is not in use.
        if not 0 <= queue < self._sending_pairs:
            raise ConfigurationError(f"there is no transmit queue {queue}: {self._sending_pairs} are in use")
        return self._transmitting[queue]

    # --- the control queue

    def command(self, kind: str | int, command: int, data: bytes = b"", result: int = 0) -> bytes:
        """Send a control command; return up to ``result`` bytes of its answer.

        ``kind`` is a class by number or name (``"RX"``). Raises :exc:`~virtio.DeviceError` if it is refused.
        """
        if self._control is None:
            raise ConfigurationError("the device has no control queue")
        request = bytes([_CLASS[kind] if isinstance(kind, str) else kind, command]) + data
        if len(request) > _COMMAND or result >= _COMMAND:
            raise ConfigurationError(f"a command of {len(request)} bytes, an answer of {result}")
        with self._commanding:
            self._check_open()
            view, address = memoryview(self._command), self._command.address
            view[: len(request)] = request
            token = self._control.native.submit([(address, len(request))], [(address + _COMMAND, 1 + result)])
            assert token is not None, "nothing else is in this queue"
            written, _ = self._control.native.wait(token)
            answer = bytes(view[_COMMAND : _COMMAND + written])
        if answer[:1] != bytes([net_control.ACK.OK]):
            raise DeviceError(
                f"the device refuses control command {kind} {command}", answer[0] if answer else 1
            )
        return answer[1:]

    def set_mode(self, mode: str, on: bool) -> None:
        """Switch a receive mode: PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI or NOBCAST."""
        self.command("RX", net_control.RX[mode].value, bytes([on]))

    def set_filter(self, unicast: Sequence[bytes] = (), multicast: Sequence[bytes] = ()) -> None:
        """Receive what is sent to these addresses, beside the device's own."""
        table = [len(part).to_bytes(4, "little") + b"".join(part) for part in (unicast, multicast)]
        self.command("MAC", net_control.MAC.TABLE_SET, b"".join(table))

    def set_mac(self, mac: bytes) -> None:
        """Change the device's address."""
        self.command("MAC", net_control.MAC.ADDR_SET, mac)

    def add_vlan(self, vlan: int) -> None:
        """Let frames of a VLAN come in."""
        self.command("VLAN", net_control.VLAN.ADD, vlan.to_bytes(2, "little"))

    def remove_vlan(self, vlan: int) -> None:
        """Let them come in no longer."""
        self.command("VLAN", net_control.VLAN.DEL, vlan.to_bytes(2, "little"))

    def set_offloads(self, offloads: int) -> None:
        """Switch on these of the negotiated ``GUEST_…`` features, and no others.

        Their bits are those of ``spec.net_control.OFFLOADS``: the features', but for tunnels.
        """
        allowed = sum(code.value for code in self._offloads())
        if offloads & ~allowed:
            raise ConfigurationError(f"offloads {offloads:#x}: {allowed:#x} were negotiated")
        self.command("GUEST_OFFLOADS", net_control.OFFLOADS_CMD.SET, offloads.to_bytes(8, "little"))
        self.offloads = offloads

    def _offloads(self) -> Iterator[Code]:
        for code in net_control.OFFLOADS:
            if self.features & selection.parse(self.type, code.name):
                yield code

    # --- queues and hashes

    @property
    def used_pairs(self) -> int:
        """How many transmit queues, and with automatic steering receive queues, are in use."""
        return self._sending_pairs

    def use_pairs(self, pairs: int) -> None:
        """Use the first so many pairs; a flow comes in where it goes out (MQ)."""
        if not 1 <= pairs <= self.pairs:
            raise ConfigurationError(f"{pairs} pairs of queues: {self.pairs} are set up")
        # 5.1.9.5.6.1: what goes is gone as soon as the device has the command, what comes only afterwards.
        self._sending_pairs = min(self._sending_pairs, pairs)
        self.command("MQ", net_control.MQ.VQ_PAIRS_SET, net_control.VQ_PAIRS.pack(virtqueue_pairs=pairs))
        self._sending_pairs, self.rss = pairs, None

    def set_rss(
        self,
        table: Sequence[int],
        *,
        types: int | None = None,
        key: bytes | None = None,
        unclassified: int = 0,
        transmit: int | None = None,
    ) -> None:
        """Spread frames over receive queues by their hashes (RSS).

        ``table``: a power of two of receive queues, counted from 0; the lowest bits of a hash choose one.
        ``types``: what is hashed, ``VIRTIO_NET_HASH_TYPE_…``; by default all that the device can. ``key``: of
        the hash; by default a random one. ``unclassified``: the queue for what has no hash. ``transmit``:
        how many transmit queues to use, by default all that are set up.
        """
        self._must_have(F.RSS)
        values = self.config.values()
        if not table or len(table) & (len(table) - 1):
            raise ConfigurationError(f"a table of {len(table)} entries, which is no power of two")
        if len(table) > (most := values["rss_max_indirection_table_length"]):
            raise ConfigurationError(f"a table of {len(table)} entries: the device takes {most}")
        for queue in (*table, unclassified):
            if not 0 <= queue < self.pairs:
                raise ConfigurationError(f"there is no receive queue {queue}: {self.pairs} pairs are set up")
        sending = self.pairs if transmit is None else transmit
        if not 1 <= sending <= self.pairs:
            raise ConfigurationError(f"{sending} transmit queues: {self.pairs} pairs are set up")
        key = secrets.token_bytes(min(values["rss_max_key_size"], _KEY_SIZE)) if key is None else key
        if len(key) > values["rss_max_key_size"]:
            raise ConfigurationError(
                f"a key of {len(key)} bytes: the device takes {values['rss_max_key_size']}"
            )
        rss = Rss(tuple(table), self._hash_types(types), key, unclassified, sending)
        data = net_control.RSS_CONFIG.pack(
            hash_types=rss.types,
            indirection_table_mask=len(table) - 1,
            unclassified_queue={"vq_index_1_16": unclassified, "reserved": 0},
            indirection_table=[{"vq_index_1_16": queue, "reserved": 0} for queue in table],
            max_tx_vq=sending,
            hash_key_length=len(key),
            hash_key_data=key,
        )
        self._sending_pairs = min(self._sending_pairs, sending)
        self.command("MQ", net_control.MQ.RSS_CONFIG, data)
        self._sending_pairs, self.rss = sending, rss

    def set_hash(self, types: int, key: bytes) -> None:
        """Have hashes of these types reported, with this key (HASH_REPORT)."""
        self._must_have(F.HASH_REPORT)
        data = self._hash_types(types).to_bytes(4, "little") + bytes(8) + bytes([len(key)]) + key
        self.command("MQ", net_control.MQ.HASH_CONFIG, data)

    def _hash_types(self, types: int | None) -> int:
        supported: int = self.config.values()["supported_hash_types"]
        if types is not None and types & ~supported:
            raise ConfigurationError(f"hash types {types:#x}: the device can do {supported:#x}")
        return supported if types is None else types

    @functools.cached_property
    def flow_filters(self) -> FlowFilters:
        """Rules about incoming packets, which come before all steering (5.1.9.6).

        Raises :exc:`~virtio.ConfigurationError` if the device or the transport has none.
        """
        return FlowFilters(self)

    # --- coalescing of notifications

    def set_coalescing(
        self, direction: Direction, max_packets: int, max_usecs: int, *, queue: int | None = None
    ) -> None:
        """Have the device put notifications off (NOTF_COAL), of one queue if it is given (VQ_NOTF_COAL).

        A notification comes after ``max_packets``, and no later than ``max_usecs`` after the first of them;
        either of them 0: after each packet.
        """
        coal = {"max_packets": max_packets, "max_usecs": max_usecs}
        commands = net_control.COALESCE
        if queue is None:
            self._must_have(F.NOTF_COAL)
            command = commands.RX_SET if direction == "RX" else commands.TX_SET
            self.command("NOTF_COAL", command, net_control.COAL.pack(**coal))
            return
        index = self._enabled(direction, queue)
        data = net_control.COAL_VQ.pack(vq_index=index, reserved=0, coal=coal)
        self.command("NOTF_COAL", commands.VQ_SET, data)

    def coalescing(self, direction: Direction, *, queue: int = 0) -> Coalescing:
        """How a queue's notifications are put off (VQ_NOTF_COAL)."""
        request = self._enabled(direction, queue).to_bytes(4, "little")
        size = net_control.COAL.size
        assert size is not None
        answer = self.command("NOTF_COAL", net_control.COALESCE.VQ_GET, request, size)
        return Coalescing(**_unpacked(net_control.COAL, answer))

    def _enabled(self, direction: Direction, queue: int) -> int:
        self._must_have(F.VQ_NOTF_COAL)
        if not 0 <= queue < (self.pairs if direction == "RX" else self._sending_pairs):
            raise ConfigurationError(f"queue {queue} is not in use")
        return 2 * queue + (direction == "TX")

    # --- announcements

    def config_changed(self) -> None:
        """Announce where we are if the device asks for it (5.1.9.5.4)."""
        if not self.features & F.GUEST_ANNOUNCE or not self.config.status & layout.S.ANNOUNCE:
            return
        # Not here: this may be the very thread of the device that is to answer the command.
        threading.Thread(target=self._announce, name="virtio announcement", daemon=True).start()

    def _announce(self) -> None:
        # A driver that is closed meanwhile, or a device that is lost, has nothing to announce.
        with contextlib.suppress(Error), self._announcing:
            if not self.config.status & layout.S.ANNOUNCE:
                return
            for frame in self._announcement() if self.announcements is None else self.announcements:
                self.send(frame)
            self.command("ANNOUNCE", net_control.ANNOUNCE.ACK)

    def _announcement(self) -> list[bytes]:
        """A reverse ARP request: switches learn from it where the address is."""
        mac = self.mac
        if mac is None:
            return []
        hardware = bytes.fromhex("0001 0800 06 04 0003") + 2 * (mac + bytes(4))
        return [b"\xff" * 6 + mac + b"\x80\x35" + hardware.ljust(46, b"\0")]

    # --- statistics

    def statistics(self, queue: int | None = None) -> dict[str, int]:
        """What the device counts, by the names of the standard (DEVICE_STATS).

        Of the pair ``queue``, counted from 0; or of all that are set up, and of the control queue.
        """
        self._must_have(F.DEVICE_STATS)
        if queue is not None and not 0 <= queue < self.pairs:
            raise ConfigurationError(f"there is no pair {queue}: {self.pairs} are set up")
        pairs = range(self.pairs) if queue is None else range(queue, queue + 1)
        wanted = [(2 * pair, "RX") for pair in pairs] + [(2 * pair + 1, "TX") for pair in pairs]
        if queue is None and self._control is not None:
            wanted.append((self._control.index, "CVQ"))
        found: dict[str, int] = {}
        for index, kind in wanted:
            for name, count in self._queue_statistics(index, kind).items():
                found[name] = found.get(name, 0) + count
        return found

    def _queue_statistics(self, index: int, kind: str) -> dict[str, int]:
        if self._statistics_types is None:
            # 5.1.9.5.11.13: nothing is asked for that the device has not said to have.
            answer = self.command("STATS", net_control.STATS_CMD.QUERY, result=8)
            self._statistics_types = int.from_bytes(answer, "little")
        structs = {
            struct.name.removeprefix("virtio_net_stats_").upper(): struct for struct in net_control.STATS
        }
        found: dict[str, int] = {}
        for bit, name in net_control.STATS_KINDS:
            needs = sum(selection.parse(self.type, key) for key in net_control.STATS_NEEDS.get(name, ()))
            if not name.startswith(kind) or not self._statistics_types >> bit & 1:
                continue
            if needs and not self.features & needs:
                continue
            request = index.to_bytes(8, "little") + (1 << bit).to_bytes(8, "little")
            answer = self.command("STATS", net_control.STATS_CMD.GET, request, structs[name].size or 0)
            found |= _unpacked(structs[name], answer, without="hdr")
        return found

    def _must_have(self, feature: int) -> None:
        if not self.features & feature:
            raise ConfigurationError(f"not negotiated: {selection.names(self.type, feature)}")


def _unpacked(struct: Struct, answer: bytes, without: str = "") -> dict[str, int]:
    if len(answer) != struct.size:
        raise ProtocolError(f"an answer of {len(answer)} bytes instead of {struct.size}", struct.section)
    values = struct.unpack(answer)
    return {field.name: values[field.name] for field in struct.fields if field.name != without}
