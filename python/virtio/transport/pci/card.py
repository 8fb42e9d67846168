"""A device whose queues are served by the model of the rings, access by access, so that each is counted.

It is slow and exact: what a card reads and writes for a driver, real or not, is on the record. An author
names the type and answers bytes with bytes::

    class Noise(CardDevice):
        spec = virtio.spec.entropy

        def answer(self, queue_index, data, room):
            return os.urandom(room)
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

from virtio._native import Counters, Handler, Memory, NullHandler, Queue
from virtio.device.base import Device
from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.device import DeviceQueue
from virtio.queue.model import PackedDevice, PackedLayout, SplitDevice, SplitLayout, Touch
from virtio.queue.model.buffers import ModelChain
from virtio.queue.model.shared import SharedMemory
from virtio.spec.core import F
from virtio.transport.pci.hardware import HardwareProfile, Traffic, transactions

DATA = "data"
"""The part of memory that buffers are."""


class BusMemory(SharedMemory):
    """Guest memory in all its regions, as a card reaches it."""

    def __init__(self, memory: Memory, observer: Callable[[Touch], object]) -> None:
        """Look at ``memory``, and tell ``observer`` of every access."""
        super().__init__(bytearray(8), 0, end="device", observer=observer)
        self._memory = memory

    def __len__(self) -> int:
        """Where the last region ends; a hole before is found when it is accessed."""
        return max((region.guest_address + region.size for region in self._memory.regions), default=0)

    def _piece(self, address: int, size: int, part: str, write: bool) -> memoryview:
        try:
            view = self._memory.view(address, size)
        except ConfigurationError as error:
            raise ProtocolError(f"{size} bytes at {address:#x} are not guest memory", "2.7.5") from error
        if self.observer is not None and part:
            self.observer(Touch(self.end, part, address, size, write))
        return view

    def load16(self, address: int, part: str = "") -> int:
        """Read a field of 16 bits in one access."""
        return int(self._piece(address, 2, part, False).cast("H")[0])

    def store16(self, address: int, value: int, part: str = "") -> None:
        """Write a field of 16 bits in one access."""
        self._piece(address, 2, part, True).cast("H")[0] = value & 0xFFFF

    def store32(self, address: int, value: int, part: str = "") -> None:
        """Write a field of 32 bits in one access."""
        self._piece(address, 4, part, True).cast("I")[0] = value

    def load64(self, address: int, part: str = "") -> int:
        """Read a field of 64 bits in one access."""
        return int(self._piece(address, 8, part, False).cast("Q")[0])

    def store64(self, address: int, value: int, part: str = "") -> None:
        """Write a field of 64 bits in one access."""
        self._piece(address, 8, part, True).cast("Q")[0] = value

    def load(self, address: int, size: int, part: str = "") -> bytes:
        """Copy bytes out."""
        return bytes(self._piece(address, size, part, False))

    def store(self, address: int, data: bytes, part: str = "") -> None:
        """Copy bytes in."""
        self._piece(address, len(data), part, True)[:] = data

    def view(self, address: int, size: int) -> memoryview:
        """The bytes of a buffer."""
        return self._piece(address, size, "", False)


class CardRing:
    """What :class:`~virtio.queue.device.DeviceQueue` runs instead of a native queue. It has no thread.

    Buffers are taken when the driver notifies, on the thread that brings the notification.
    """

    def __init__(
        self,
        memory: Memory,
        answer: Callable[[bytes, int], bytes],
        on_fault: Callable[[ProtocolError], object],
        profile: HardwareProfile,
        traffic: Traffic,
    ) -> None:
        """Prepare a queue that ``answer`` serves."""
        self.running = False
        self.broken = False
        self.counters: Counters | None = None
        self._answer = answer
        self._on_fault = on_fault
        self._profile = profile
        self._traffic = traffic
        self._touches: list[Touch] = []
        self._memory = BusMemory(memory, self._touches.append)
        self._call: int | Callable[[], object] | None = None
        self._rings: dict[str, Any] = {}
        self._device: SplitDevice | PackedDevice | None = None

    def configure(self, **rings: Any) -> None:
        """Say where the ring is."""
        self._rings = rings
        self._device = None
        self.broken = False

    def set_kick(self, fd: int | None) -> None:
        """Raise, but for None: a card is notified by writes."""
        if fd is not None:
            raise ConfigurationError("a card takes no notifications from an eventfd")

    def set_call(self, target: int | Callable[[], object] | None) -> None:
        """Say where interrupts go. Descriptors stay the caller's."""
        self._call = target

    def set_error(self, fd: int | None) -> None:
        """There is nothing to be signalled."""

    def set_polling(self, mode: object, *, microseconds: int = 0) -> None:
        """A card does not poll."""
        if mode == "busy":
            raise ConfigurationError("the queues of a card want notifications: they cannot be mapped")

    def set_coalescing(self, packets: int, microseconds: int) -> None:
        """Nothing is put off: a batch has one interrupt as it is."""

    def start(self) -> None:
        """Begin, and look what is there already."""
        try:
            self._make()
        except ProtocolError as error:
            self._break(error)
            return
        self.running = True
        self.notify()

    def _make(self) -> None:
        rings = self._rings
        if self._device is not None:
            return
        size, features = rings["size"], rings["features"]
        places = rings["descriptors"], rings["available"], rings["used"]
        if features & F.RING_PACKED:
            packed = PackedLayout(size, *places)
            self._device = PackedDevice(self._memory, packed, features, base=rings["base"])
        else:
            split = SplitLayout(size, *places)
            self._device = SplitDevice(self._memory, split, features, base=rings["base"])

    def stop(self, timeout: float = 0.0) -> int:
        """Stop; return where to continue."""
        self.running = False
        return self._device.base if self._device is not None else int(self._rings.get("base", 0))

    def reset(self, timeout: float = 0.0) -> int:
        """Forget the ring."""
        self.running = False
        self._device = None
        return 0

    def notify(self, data: int | None = None) -> None:
        """Serve what is available. ``data``: what the notification told of it."""
        if not self.running or self._device is None:
            return
        device = self._device
        try:
            device.disarm()
            if data is not None:
                device.kicked(data >> 16)
            interrupt = self._serve(device)
            while device.arm():  # something came while it was looked at
                interrupt |= self._serve(device)
        except ProtocolError as error:
            self._break(error)
            return
        finally:
            self._settle()
        if interrupt and self._call is not None:
            self._signal(self._call)

    def _serve(self, device: SplitDevice | PackedDevice) -> bool:
        chains: list[ModelChain] = []
        while (chain := device.pop()) is not None:
            chains.append(chain)
        for chain in chains:
            self._note(chain.readable, None)
            data = self._answer(chain.read(self._memory), chain.room)[: chain.room]
            self._note(chain.writable, len(data))
            chain.write(self._memory, data)
            if isinstance(device, PackedDevice):
                device.push(chain, len(data))
            else:
                device.push(chain.head, len(data))
        return device.publish()

    def _note(self, pieces: Sequence[tuple[int, int]], written: int | None) -> None:
        """Note accesses to buffers, which the model does not tell of."""
        left = sum(length for _, length in pieces) if written is None else written
        for address, length in pieces:
            size = min(length, left)
            left -= size
            if size:
                self._touches.append(Touch("device", DATA, address, size, written is not None))

    def _settle(self) -> None:
        """Count what has been done for a notification, and let the time pass that it takes."""
        reads = transactions(self._touches, self._profile.burst, write=False)
        self._traffic.reads += reads
        self._traffic.writes += transactions(self._touches, self._profile.burst, write=True)
        self._touches.clear()
        if self._profile.latency and reads:
            self._profile.wait(reads * self._profile.latency)

    def _signal(self, call: int | Callable[[], object]) -> None:
        if isinstance(call, int):
            with contextlib.suppress(OSError):
                os.eventfd_write(call, 1)
        else:
            call()

    def _break(self, error: ProtocolError) -> None:
        self.running = False
        self.broken = True
        self._on_fault(error)


class CardQueue(DeviceQueue):
    """A queue of a :class:`CardDevice`."""

    def __init__(self, index: int, name: str, max_size: int, owner: "CardDevice") -> None:
        """Describe queue ``index``."""
        super().__init__(index, name, max_size)
        self._owner = owner

    def attach(
        self, memory: Memory, handler: Handler, on_fault: Callable[[ProtocolError], object], name: str
    ) -> None:
        """A driver arrives."""
        self._clear()
        ring = CardRing(
            memory,
            lambda data, room: self._owner.answer(self.index, data, room),
            on_fault,
            self._owner.profile,
            self._owner.traffic,
        )
        self._native = cast(Queue, ring)


class CardDevice(Device):
    """A device that is served access by access. See the module's text for how to derive from it."""

    features = F.ORDER_PLATFORM

    def __init__(self, **options: Any) -> None:
        """Set up the device; ``options`` are those of :class:`virtio.Device`."""
        super().__init__(**options)
        self.profile = HardwareProfile()
        self.traffic = Traffic()
        self.queues = tuple(CardQueue(each.index, each.name, each.max_size, self) for each in self.queues)

    def connect_bus(self, profile: HardwareProfile, traffic: Traffic) -> None:
        """Behave like this, and count there."""
        self.profile, self.traffic = profile, traffic

    def answer(self, queue_index: int, data: bytes, room: int) -> bytes:
        """Answer a buffer: at most ``room`` bytes."""
        raise NotImplementedError

    def handler(self, queue_index: int) -> Handler:
        """None that is ever called: see :meth:`answer`."""
        return NullHandler()
