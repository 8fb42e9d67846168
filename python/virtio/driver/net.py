"""The driver of a network device (VIRTIO 1.4, 5.1): frames, and what the control queue can set.

::

    with virtio.connect("vhost-user:/tmp/net.sock", "net") as card:
        card.send(frame)
        print(card.receive(timeout=1).data)
        print(card.statistics())
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from virtio import spec
from virtio.driver.base import Driver
from virtio.driver.queue import DriverQueue
from virtio.errors import ConfigurationError, DeviceError, ProtocolError
from virtio.spec import net as layout
from virtio.spec import net_control
from virtio.spec.net import F

LONGEST = 65589
"""Bytes of the largest packet (5.1.9.3)."""
_BUFFER = 2048
_SEND_BUFFERS = 16
_COMMAND = 4096
_LARGE = F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6
_CLASS = {code.name.removeprefix("VIRTIO_NET_CTRL_"): code.value for code in net_control.CLASS}


@dataclass(frozen=True)
class Frame:
    """A frame from the device, with the fields of its ``struct virtio_net_hdr``."""

    data: bytes
    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    hash_value: int = 0
    hash_report: int = 0


class NetworkDriver(Driver):
    """One pair of queues, and the control queue where there is one."""

    spec: ClassVar[ModuleType] = spec.net
    understood: ClassVar[int] = (
        F.MAC | F.STATUS | F.MTU | F.SPEED_DUPLEX | F.MRG_RXBUF | F.HASH_REPORT | F.GUEST_HDRLEN
        | F.CSUM | F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO | F.HOST_USO
        | F.GUEST_CSUM | F.GUEST_ECN | _LARGE | F.CTRL_GUEST_OFFLOADS | F.CTRL_VQ | F.CTRL_RX
        | F.CTRL_RX_EXTRA | F.CTRL_VLAN | F.CTRL_MAC_ADDR | F.DEVICE_STATS
    )  # fmt: skip

    def set_up(self) -> None:
        """Add the queues and allocate buffers."""
        self._header = layout.HDR.until(
            ("VIRTIO_NET_F_HASH_REPORT",) if self.features & F.HASH_REPORT else ()
        )
        self._receive, self._transmit = self.add_queue(0), self.add_queue(1)
        self._control = self.add_queue(2) if self.features & F.CTRL_VQ else None
        size = _BUFFER
        if self.features & _LARGE and not self.features & F.MRG_RXBUF:
            size = LONGEST + self._header_size
        count = min(self._receive.size, 256 if size == _BUFFER else 32)
        self._inward = [self.allocate(size) for _ in range(count)]
        outward = min(_SEND_BUFFERS, self._transmit.size)
        self._outward = [self.allocate(LONGEST + 23 + self._header_size) for _ in range(outward)]
        self._command = self.allocate(2 * _COMMAND)
        self._offered: deque[tuple[int, int]] = deque()
        self._sent: deque[tuple[int, int]] = deque()
        self._idle = list(range(outward))
        self._receiving, self._sending, self._commanding = (threading.Lock() for _ in range(3))

    @property
    def _header_size(self) -> int:
        return 20 if self.features & F.HASH_REPORT else 12

    def started(self) -> None:
        """Give the device buffers."""
        for number in range(len(self._inward)):
            self._offer(number)

    def queue_reset(self, queue: DriverQueue, native: object) -> None:
        """Offer the buffers anew; frames in those that were out are lost."""
        if queue is self._receive:
            self._offered.clear()
            for number in range(min(len(self._inward), queue.size)):
                self._offer(number)
        elif queue is self._transmit:
            self._sent.clear()
            self._idle = list(range(min(len(self._outward), queue.size)))

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

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame. Raises ``TimeoutError`` if none comes for ``timeout`` seconds."""
        with self._receiving:
            return self._next(timeout)

    def receive_batch(self, most: int = 256, timeout: float | None = None) -> list[Frame]:
        """Return all frames that are there, at least one and at most ``most``."""
        with self._receiving:
            found = [self._next(timeout)]
            while len(found) < most:
                try:
                    found.append(self._next(0))
                except TimeoutError:
                    break
        return found

    def _next(self, timeout: float | None) -> Frame:
        self._check_open()
        token, _ = self._offered[0]
        # The device may use buffers in any order, but a link has one: it fills them as they were offered.
        written, _ = self._receive.native.wait(token, timeout)
        if written < self._header_size:
            raise ProtocolError(f"a received frame of {written} bytes, header included", "5.1.9.3.2")
        first = self._taken(written)
        fields = self._header.unpack(first[: self._header_size])
        pieces = [first[self._header_size :]]
        if self.features & F.MRG_RXBUF:
            if not 1 <= fields["num_buffers"] <= len(self._inward):
                raise ProtocolError(f"a frame in {fields['num_buffers']} buffers", "5.1.9.3.2")
            for _ in range(fields["num_buffers"] - 1):
                # 5.1.9.4.1: all are used together.
                written, _ = self._receive.native.wait(self._offered[0][0], 1.0)
                pieces.append(self._taken(written))
        hashed = self.features & F.HASH_REPORT
        return Frame(
            b"".join(pieces),
            fields["flags"],
            fields["gso_type"],
            fields["hdr_len"],
            fields["gso_size"],
            fields["csum_start"],
            fields["csum_offset"],
            fields["hash_value"] if hashed else 0,
            fields["hash_report"] if hashed else 0,
        )

    def _taken(self, written: int) -> bytes:
        _, number = self._offered.popleft()
        data = bytes(memoryview(self._inward[number])[:written])
        self._offer(number)
        return data

    def _offer(self, number: int) -> None:
        buffer = self._inward[number]
        token = self._receive.native.submit([], [(buffer.address, len(memoryview(buffer)))])
        if token is not None:
            self._offered.append((token, number))

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
    ) -> None:
        """Send a frame; it is copied. The fields ask the device for checksums and segments.

        Waits while the device has too much already; raises ``TimeoutError`` after ``timeout`` seconds.
        Nothing is checked: a test may send what no driver should.
        """
        if len(data) > LONGEST + 23:
            raise ConfigurationError(f"a frame of {len(data)} bytes")
        header = self._header.pack(
            flags=flags,
            gso_type=gso_type,
            hdr_len=hdr_len,
            gso_size=gso_size,
            csum_start=csum_start,
            csum_offset=csum_offset,
        )
        with self._sending:
            self._check_open()
            self._reclaim(timeout)
            number = self._idle.pop()
            buffer = self._outward[number]
            view = memoryview(buffer)
            view[: len(header)] = header
            view[len(header) : len(header) + len(data)] = data
            token = self._transmit.native.submit([(buffer.address, len(header) + len(data))], [])
            assert token is not None, "there are fewer buffers than descriptors"
            self._sent.append((token, number))

    def send_batch(self, frames: Iterable[bytes], timeout: float | None = None) -> int:
        """Send complete frames; return how many. ``timeout`` is for each."""
        count = 0
        for frame in frames:
            self.send(frame, timeout=timeout)
            count += 1
        return count

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the device has taken all that was sent."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._sending:
            while self._sent:
                token, number = self._sent[0]
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._transmit.native.wait(token, left)
                self._sent.popleft()
                self._idle.append(number)

    def _reclaim(self, timeout: float | None) -> None:
        while self._sent and (not self._idle or self._transmit.native.poll(self._sent[0][0]) is not None):
            token, number = self._sent[0]
            if not self._idle:
                self._transmit.native.wait(token, timeout)
            self._sent.popleft()
            self._idle.append(number)

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
        """Switch on these of the negotiated ``GUEST_…`` features, and no others."""
        self.command("GUEST_OFFLOADS", net_control.OFFLOADS_CMD.SET, offloads.to_bytes(8, "little"))

    def set_hash(self, types: int, key: bytes) -> None:
        """Have hashes of these types reported, with this key (HASH_REPORT)."""
        data = types.to_bytes(4, "little") + bytes(8) + bytes([len(key)]) + key
        self.command("MQ", net_control.MQ.HASH_CONFIG, data)

    def statistics(self) -> dict[str, int]:
        """What the device counts, by the names of the standard (DEVICE_STATS)."""
        kinds = (("RX_BASIC", 0, 0), ("TX_BASIC", 1, 16), ("CVQ", 2, 32))
        layouts = {struct.name: struct for struct in net_control.STATS}
        found: dict[str, int] = {}
        for kind, queue, bit in kinds:
            request = queue.to_bytes(8, "little") + (1 << bit).to_bytes(8, "little")
            struct = layouts[f"virtio_net_stats_{kind.lower()}"]
            answer = self.command("STATS", net_control.STATS_CMD.GET, request, struct.size or 0)
            values = struct.unpack(answer)
            found |= {field.name: values[field.name] for field in struct.fields if field.name != "hdr"}
        return found
