"""A network device that lives by itself: it takes in packets, makes them up, or lets them go round."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import virtio
from virtio.spec import net
from virtio.spec.core import F

HEADER = 12  # struct virtio_net_hdr up to num_buffers, as VERSION_1 has it
ETHERNET = bytes.fromhex("020000000001 020000000002 88b5")  # an EtherType for local experiments
SMALLEST, LARGEST = 60, 1514

Mode = Literal["sink", "source", "loop"]


@dataclass
class Traffic:
    """Packets and their bytes, without headers."""

    packets: int = 0
    bytes: int = 0

    def add(self, packets: int, size: int) -> None:
        self.packets += packets
        self.bytes += size


@dataclass(frozen=True)
class _Rows:
    """What to put into the receive buffers of a batch, and how much of each is used."""

    rows: bytes
    written: bytes
    packets: int
    size: int


def header(buffers: int = 1) -> bytes:
    return net.HDR.until(()).pack(num_buffers=buffers)


def packet(number: int) -> bytes:
    """Return packet ``number``: its bytes tell which one it is, all along, and so does its length."""
    size = SMALLEST + number * 37 % (LARGEST - SMALLEST + 1)
    mark = number.to_bytes(8, "little")
    return (ETHERNET + mark * (size // 8))[:size]


def number_of(data: bytes) -> int:
    return int.from_bytes(data[len(ETHERNET) : len(ETHERNET) + 8], "little")


class NetDevice(virtio.Device):
    """One pair of queues, and a :attr:`mode`.

    ``sink``: packets are taken in, and receive buffers kept. ``source``: each receive buffer is filled at
    once, with ``MRG_RXBUF`` two of them with one packet wherever two are there. ``loop``: some packets are
    given to the driver, and each that comes back is looked at and followed by the next.
    """

    spec = net

    def __init__(self, *, mergeable: bool = False, in_order: bool = False, mask: str = "") -> None:
        features = net.F.MAC | (net.F.MRG_RXBUF if mergeable else 0) | (F.IN_ORDER if in_order else 0)
        self.mode: Mode = "sink"
        self.sent = Traffic()
        """From the driver."""
        self.received = Traffic()
        """To the driver."""
        self.wrong: list[str] = []
        """What was not as it had to be: one line for each, up to a few."""
        self._mergeable = mergeable
        self._guard = threading.Lock()
        self._buffers: deque[virtio.Chain] = deque()
        self._waiting: deque[int] = deque()
        self._rows: dict[tuple[int, int], _Rows] = {}
        self._next_out = self._next_in = 0
        super().__init__(features=features, mask=mask, config={"mac": bytes.fromhex("020000000001")})

    # --- what a test does

    def sink(self) -> None:
        """Go on taking packets in, and give no more."""
        with self._guard:
            self.mode = "sink"

    def source(self) -> None:
        """Fill all receive buffers from now on."""
        with self._guard:
            self.mode = "source"
            for number in range(len(self._buffers)):
                self._give(number)

    def loop(self, packets: int) -> None:
        """Let this many packets go round."""
        with self._guard:
            self.mode = "loop"
            self._waiting.extend(range(self._next_out, self._next_out + packets))
            self._next_out += packets
            self._give_waiting()

    @property
    def under_way(self) -> int:
        """Packets of the loop that have not come back yet."""
        return self._next_out - self._next_in

    @property
    def buffers(self) -> int:
        """Receive buffers that are kept."""
        return len(self._buffers)

    # --- queues

    def on_transmit_batch(self, batch: virtio.Batch) -> None:
        with self._guard:
            lengths = batch.readable_lengths
            self.sent.add(len(batch), sum(lengths) - HEADER * len(batch))
            if self.under_way:
                for chain in batch:
                    self._came_back(chain.read())
                self._give_waiting()
            else:
                self._look_at(batch)

    def on_receive_batch(self, batch: virtio.Batch) -> None:
        with self._guard:
            if self.mode == "source":
                self._fill(batch)
                return
            for chain in batch:
                chain.hold(idle=True)  # until there is a packet, which may be never
                self._buffers.append(chain)
            self._give_waiting()

    def driver_reset(self) -> None:
        self._buffers.clear()
        self._waiting.clear()
        self._next_in = self._next_out

    # --- packets

    def _look_at(self, batch: virtio.Batch) -> None:
        """No offload was negotiated, so that headers say nothing; all come from one generator."""
        rows = bytes(batch.gather(0, HEADER + 14))
        first = rows[: HEADER + 14]
        self._expect(not any(first[:10]), lambda: f"header {first[:10].hex()}")
        self._expect(rows == first * len(batch), lambda: f"packets begin differently: {rows.hex()}")

    def _came_back(self, data: bytes) -> None:
        found = data[HEADER:]
        number = number_of(found)
        self._expect(number == self._next_in, lambda: f"packet {number} instead of {self._next_in}")
        self._expect(found == packet(number), lambda: f"packet {number} is {found.hex()}")
        self._next_in = number + 1
        if self.mode == "loop":
            self._waiting.append(self._next_out)
            self._next_out += 1

    def _give_waiting(self) -> None:
        while self._waiting and self._buffers:
            self._give(self._waiting.popleft())

    def _give(self, number: int) -> None:
        """Put a packet into a receive buffer that was kept."""
        data = packet(number)
        chain = self._buffers.popleft()
        chain.write(header() + data)
        chain.complete()
        self.received.add(1, len(data))

    def _fill(self, batch: virtio.Batch) -> None:
        room = batch.writable_lengths[0]
        key = (len(batch), room)
        if (rows := self._rows.get(key)) is None:
            rows = self._rows[key] = self._make_rows(*key)
        batch.scatter(0, rows.rows)
        batch.written.cast("B")[:] = rows.written
        self.received.add(rows.packets, rows.size)

    def _make_rows(self, count: int, room: int) -> _Rows:
        rows: list[bytes] = []
        written: list[int] = []
        packets = 0
        while len(rows) < count:
            data = packet(packets)
            packets += 1
            if self._mergeable and len(rows) + 2 <= count:
                # All buffers of a packet but its last are used to their end (5.1.9.4.1).
                rows.append((header(2) + data).ljust(room, b"\x55"))
                written.append(room)
                rows.append(data)
                written.append(len(data))
            else:
                rows.append(header() + data)
                written.append(HEADER + len(data))
        longest = max(map(len, rows))
        return _Rows(
            b"".join(row.ljust(longest, b"\0") for row in rows),
            b"".join(size.to_bytes(4, "little") for size in written),
            packets,
            sum(written) - HEADER * packets,
        )

    def _expect(self, right: bool, explain: Callable[[], str]) -> None:
        if not right and len(self.wrong) < 10:
            self.wrong.append(explain())


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
