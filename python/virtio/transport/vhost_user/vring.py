"""One ring as the front end describes it, piece by piece, and when it is live.

A ring has the states of the protocol: stopped or started, and disabled or enabled. Both must be right for
the device's queue to run. A ring starts as soon as it is set up and there is a way to hear of new buffers: a
kick descriptor, polling, or in-band messages. The protocol has it start on the first kick; but kicks are no
state, and one that was consumed by a predecessor (after a resume, or a reconnection) never comes again.
Looking into a ring without a kick is harmless, the other way round hangs the driver.
"""

import contextlib
import os
import select
from collections.abc import Callable

from virtio.errors import Error, TransportError
from virtio.transport.interface import GuestMemory, QueueEnd, Space
from virtio.transport.vhost_user.inflight import InflightMemory
from virtio.transport.vhost_user.payloads import VringAddress
from virtio.transport.vhost_user.quirks import packed_base

MAX_SIZE = 32768
"""Largest queue that the standard allows (2.7). The protocol cannot say that a back end wants less."""

_SIGNAL = (1).to_bytes(8, "little")


class Vring:
    """The state of one ring, and the queue behind it."""

    def __init__(self, queue: QueueEnd, index: int, memory: GuestMemory) -> None:
        """Begin stopped and disabled, with nothing known."""
        self.queue = queue
        self.index = index
        self.packed = False
        self.translated = False
        """Addresses are I/O virtual ones."""
        self.enabled = False
        self.live = False
        self.begun = False
        """Whether it ran since it was last stopped; while disabled it only pauses."""
        self.failed = False
        """The driver broke a rule here: nothing runs until the device is reset."""
        self.call_set = False
        self.error_set = False
        self.left: int | None = None
        """Where it stopped last, if it has run with the present in-flight memory."""
        self._memory = memory
        self._size = 0
        self._address: VringAddress | None = None
        self._base = 0
        self._kick_known = False

    @property
    def ready(self) -> bool:
        """Whether everything that the queue needs is known and allowed."""
        described = self._kick_known and self._size > 0 and self._address is not None
        return described and self.enabled and not self.failed

    @property
    def _space(self) -> Space:
        return "guest" if self.translated else "user"

    # --- what the front end says

    def set_size(self, size: int) -> None:
        """Set the number of descriptors."""
        self._not_live("its size")
        if not 0 < size <= MAX_SIZE:
            raise TransportError(f"a queue of {size} descriptors; there must be 1 to {MAX_SIZE}")
        if not self.packed and size & (size - 1):
            raise TransportError(f"a split queue of {size} descriptors; it must be a power of two")
        self._size = size

    def set_address(self, address: VringAddress, timeout: float) -> None:
        """Set where the parts of the ring are; a live ring moves there."""
        address = address._replace(flags=0)
        parts = (
            ("descriptors", address.descriptors, 16, 16),
            ("driver area", address.available, 4 if self.packed else 2, 4 if self.packed else 2),
            ("device area", address.used, 4, 4 if self.packed else 8),
        )
        for name, start, alignment, entry in parts:
            if start % alignment:
                raise TransportError(f"the {name} at {start:#x}: not aligned to {alignment} bytes")
            if start + entry * max(self._size, 1) > 1 << 64:
                raise TransportError(f"the {name} at {start:#x}: wraps around the end of the address space")
        if self.live and address != self._address:
            self.pause(timeout)
        self._address = address

    def set_base(self, base: int) -> None:
        """Set where to continue."""
        self._not_live("its base")
        if not self.packed and base > 0xFFFF:
            raise TransportError(f"base {base:#x} for a split ring; it has 16 bits")
        self._base = base

    def set_kick(self, fd: int | None) -> None:
        """Take the descriptor for kicks; None: the front end wants polling, or kicks in-band."""
        self.queue.set_kick(fd)
        self.queue.set_kicks(fd is not None)
        self._kick_known = True

    def kick_in_band(self) -> None:
        """Learn that kicks come as messages."""
        self._kick_known = True

    def set_call(self, fd: int | None) -> None:
        """Take the descriptor for calls; None: the front end polls."""
        self.queue.set_call(fd)
        if fd is not None and self.live and not self.call_set:
            _signal(fd)  # Chains completed before there was a way to say so.
        self.call_set = True

    def set_error(self, fd: int | None) -> None:
        """Take the descriptor that is signalled when the ring breaks."""
        self.queue.set_error(fd)
        self.error_set = fd is not None

    # --- what follows

    def start(self, in_band_call: Callable[[], object] | None, inflight: InflightMemory) -> None:
        """Start the queue, with its part of the in-flight memory."""
        address = self._address
        if address is None:
            raise TransportError("the ring has no address")
        if self.packed:
            self._base = packed_base(self._base, self._first_flags(address))
        if self.left not in (None, self._base):
            inflight.clear(self.index)  # a new ring in the place of the one that was stopped
        part = inflight.part(self.index, self._size, packed=self.packed)
        self.queue.configure(
            size=self._size,
            descriptors=address.descriptors,
            available=address.available,
            used=address.used,
            space=self._space,
            base=self._base,
        )
        if part is None:
            self.queue.set_inflight(None)
        else:
            fd, offset, length, entries = part
            self.queue.set_inflight(fd, offset, length, entries=entries)
        if in_band_call is not None and not self.call_set:
            self.queue.set_call(in_band_call)
        try:
            self.queue.start()
        except Error:
            self.queue.stop()
            raise
        self.live = self.begun = True

    def pause(self, timeout: float) -> None:
        """Stop the queue and remember where to continue."""
        if self.live:
            self.live = False
            self.failed = self.failed or self.queue.broken
            self._base = self.left = self.queue.stop(timeout)

    def stop(self, timeout: float) -> int:
        """Stop the ring: it must be kicked, or get a new kick descriptor, to start again. Return its base."""
        try:
            self.pause(timeout)
        finally:
            self.begun = self._kick_known = False
            self.queue.set_kick(None)
            self.queue.set_kicks(True)
        return self._base

    def reset(self, *, enabled: bool | None, timeout: float) -> None:
        """Go back to the start, but for the base, which may be asked for yet (quirk RESETS_BEFORE_ASKING).

        ``enabled`` None leaves the ring enabled or not, as it was.

        The call and error descriptors stay too: front ends send them once.
        """
        try:
            self.stop(timeout)
        finally:
            if enabled is not None:
                self.enabled = enabled
            self.failed = False

    def _not_live(self, what: str) -> None:
        if self.live:
            raise TransportError(f"{what} cannot change while the ring is live")

    def _first_flags(self, address: VringAddress) -> int:
        try:
            return int.from_bytes(self._memory.read(address.descriptors + 14, 2, self._space), "little")
        except Error:  # Not mapped yet: then nothing was used there either.
            return 0


def _signal(fd: int) -> None:
    """Write to an eventfd or a socket, but never wait."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if any(events & select.POLLOUT for _, events in poll.poll(0)):
        with contextlib.suppress(OSError):
            os.write(fd, _SIGNAL)
