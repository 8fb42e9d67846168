"""A device that only writes down what a session does with it."""

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from virtio.errors import (
    ConfigurationError,
    FeatureNegotiationError,
    ProtocolError,
    StateError,
    TransportError,
)
from virtio.transport.interface import Space, TransportEvents

VERSION_1 = 1 << 32
INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
ACCESS_PLATFORM = 1 << 33
RING_PACKED = 1 << 34
NEEDS_RESET = 0x40


class FakeQueue:
    """Keeps what it is told."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.max_size = 1024
        self.running = False
        self.broken = False
        self.rings: dict[str, Any] = {}
        self.base = 0
        self.advance = 0
        self.kick: int | None = None
        self.kicks = True
        self.call: int | Callable[[], object] | None = None
        self.error: int | None = None
        self.notified = 0
        self.inflight: tuple[int, int, int] | None = None
        self.starts = 0
        self.hangs = False

    def configure(
        self,
        *,
        size: int | None = None,
        descriptors: int | None = None,
        available: int | None = None,
        used: int | None = None,
        space: Space | None = None,
        base: int | None = None,
    ) -> None:
        assert not self.running
        self.rings = {
            "size": size,
            "descriptors": descriptors,
            "available": available,
            "used": used,
            "space": space,
        }
        self.base = base or 0
        self.broken = False

    def set_kick(self, fd: int | None) -> None:
        self.kick = _checked(fd)

    def set_kicks(self, come: bool) -> None:
        self.kicks = come

    def set_call(self, target: int | Callable[[], object] | None) -> None:
        self.call = target if callable(target) else _checked(target)

    def set_error(self, fd: int | None) -> None:
        self.error = _checked(fd)

    def set_inflight(self, fd: int | None, offset: int = 0, size: int = 0, *, entries: int = 0) -> None:
        if fd is not None and os.fstat(fd).st_size < offset + size:
            raise TransportError("in-flight memory beyond its file")
        self.inflight = None if fd is None else (offset, size, entries)

    def notify(self, data: int | None = None) -> None:
        self.notified += 1

    def start(self) -> None:
        self.running = True
        self.starts += 1

    def reset(self) -> None:
        self.stop()
        self.rings = {}

    def stop(self, timeout: float = 5.0) -> int:
        was, self.running = self.running, False
        if was and self.hangs:
            raise TransportError("requests are still under way")
        if was:
            self.base = self.base + self.advance & 0xFFFF
        return self.base


def _checked(fd: int | None) -> int | None:
    if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode):
        raise TransportError("a file cannot be waited for")
    return fd


class FakeMemory:
    """Regions in a list."""

    def __init__(self) -> None:
        self.regions: list[Any] = []
        self.contents: dict[int, bytes] = {}
        self.log: tuple[int, int] | None = None
        self.translated = False
        self.translations: dict[int, tuple[int, int, int]] = {}
        self.refused: list[tuple[int, int]] = []
        self.listener: Callable[[], object] | None = None
        self.misses: list[tuple[int, int, bool]] = []
        self.asked: list[tuple[int, int, bool]] = []

    def add(
        self,
        guest_address: int,
        size: int,
        fd: int,
        offset: int = 0,
        *,
        user_address: int | None = None,
        writable: bool = True,
    ) -> None:
        from virtio._native import Region

        os.fstat(fd)
        self.regions.append(Region(guest_address, size, -1, offset, user_address, writable))

    def remove(self, guest_address: int, size: int, timeout: float = 5.0) -> None:
        kept = [r for r in self.regions if (r.guest_address, r.size) != (guest_address, size)]
        if len(kept) == len(self.regions):
            raise ConfigurationError("there is no such region")
        self.regions = kept

    def replace(self, regions: Sequence[Any], timeout: float = 5.0) -> None:
        for region in regions:
            os.fstat(region.fd)
            if region.size == 0:
                raise ConfigurationError("a region without bytes")
        self.regions = list(regions)

    def clear(self, timeout: float = 5.0) -> None:
        self.regions = []

    def set_dirty_log(
        self,
        fd: int | None,
        size: int = 0,
        offset: int = 0,
        *,
        notify: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        for given in (fd, notify):
            if given is not None:
                os.fstat(given)
        self.log = None if fd is None else (size, offset)

    def translate(self, on: bool, timeout: float = 5.0) -> None:
        self.translated = on
        self.translations.clear()

    def update_translation(
        self, iova: int, size: int, user_address: int, access: int, timeout: float = 5.0
    ) -> None:
        if not size:
            raise ConfigurationError("a translation of nothing")
        self.translations[iova] = (size, user_address, access)

    def invalidate_translation(self, iova: int, size: int, timeout: float = 5.0) -> None:
        self.translations.pop(iova, None)

    def refuse_translation(self, iova: int, access: int) -> None:
        self.refused.append((iova, access))

    def on_miss(self, listener: Callable[[], object] | None) -> None:
        self.listener = listener

    def miss(self, iova: int, access: int, failed: bool = False) -> None:
        """What a queue does."""
        self.misses.append((iova, access, failed))
        self.asked.append((iova, access, failed))
        if self.listener is not None:
            self.listener()

    def take_misses(self) -> list[tuple[int, int, bool]]:
        misses, self.misses = self.misses, []
        return misses

    def repeat_misses(self) -> None:
        self.misses = list(self.asked)
        if self.misses and self.listener is not None:
            self.listener()

    def read(self, address: int, size: int, space: Space = "guest") -> bytes:
        if address not in self.contents:
            raise ConfigurationError("not guest memory")
        return self.contents[address][:size]


class FakeDevice:
    """A device of two queues with 60 bytes of configuration, of which the last 8 can be written."""

    def __init__(self, queues: int = 2, features: int = VERSION_1 | INDIRECT_DESC | EVENT_IDX | 0x3) -> None:
        self.name = "fake"
        self.offered_features = features
        self.negotiated_features = 0
        self.status = 0
        self.resets = 0
        self.config = bytearray(range(60))
        self.device_id = 2
        self.config_size = len(self.config)
        self.config_generation = 0
        self.queues = tuple(FakeQueue(index) for index in range(queues))
        self.admin_queues = range(0)
        self.events: TransportEvents | None = None
        self.attached = False
        self.closed = False
        self.state = b"fake state"
        self.loads: list[tuple[int, bytes]] = []

    def attach(self, memory: Any, events: TransportEvents) -> None:
        assert not self.attached
        self.attached, self.events = True, events

    def detach(self) -> None:
        self.attached, self.events = False, None
        for queue in self.queues:
            queue.running = False
            queue.kick = queue.call = queue.error = None
        self.status = 0

    def close(self) -> None:
        self.closed = True

    def negotiate(self, features: int) -> None:
        if not features & VERSION_1:
            raise FeatureNegotiationError("VERSION_1 is missing", "6.1", missing=VERSION_1)
        self.negotiated_features = features

    def set_status(self, status: int) -> None:
        if status == 0:
            self.resets += 1
            self.negotiated_features = 0
        self.status = status

    def read_config(self, offset: int, size: int) -> bytes:
        return bytes(self.config[offset : offset + size])

    def write_config(self, offset: int, data: bytes) -> None:
        if offset < 52 or offset + len(data) > 60:
            raise ProtocolError("the driver writes to a read-only field", "2.5")
        self.config[offset : offset + len(data)] = data

    def save_state(self) -> bytes:
        return self.state

    def load_state(self, data: bytes) -> None:
        if not data.startswith(b"fake"):
            raise StateError("not the state of a fake")
        self.loads.append((self.status, data))

    def breaks(self, queue: int) -> None:
        """Do what a device does when the driver broke a rule."""
        self.queues[queue].broken = True
        self.queues[queue].running = False
        self.status |= NEEDS_RESET
        assert self.events is not None
        self.events.needs_reset(ProtocolError("a loop", "2.7.5"))
