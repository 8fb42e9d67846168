"""``pci:NAME``: a function in this process, and a bus to it."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence

from virtio.errors import Error, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.transport.in_process import InProcessServer
from virtio.transport.pci.function import PciFunction
from virtio.transport.pci.interface import Notification, Region


class FunctionServer(InProcessServer):
    """A function under a name."""

    def __init__(self, function: PciFunction, name: str) -> None:
        """Make ``function`` known as ``pci:NAME``; it is closed when serving ends."""
        self.function = function
        super().__init__(function.device, "pci", name)

    def stop(self) -> None:
        """Let go of the driver, and give up the name."""
        super().stop()
        self.function.close()


class LocalBus:
    """A :class:`~virtio.transport.pci.PciBus` whose accesses are calls."""

    def __init__(self, server: FunctionServer, memory: SharedMemory, timeout: float) -> None:
        """Take the function that ``server`` has; ``memory`` belongs to the bus from here."""
        self.address = server.address
        self.timeout = timeout
        self.memory = memory
        self._server = server
        self._function = server.function
        self._lock = threading.Lock()
        self._lost: Error | None = None
        self._tell: Callable[[Error], object] | None = None
        self._kicks: dict[int, int] = {}
        self._closed = False
        server.take(self)
        try:
            for region in memory.regions:
                self._share(region)
            memory.on_growth(self._share)
            self._function.attach()
        except BaseException:
            server.leave(self)
            self._function.memory.clear()
            raise

    @property
    def regions(self) -> Sequence[Region]:
        """The function's."""
        return self._function.regions

    @property
    def interrupts(self) -> Sequence[int]:
        """The function's."""
        return self._function.interrupts

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region."""
        self._check()
        return self._function.read(region, offset, size)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region."""
        self._check()
        self._function.write(region, offset, data)

    def kick_fd(self, notification: Notification) -> int | None:
        """An eventfd for each queue that the function says can have one."""
        self._check()
        known = {(each.region, each.offset, each.size): each.queue for each in self._function.notifications}
        index = known.get(notification[:3])
        if index is None or index != notification.queue:
            return None
        if index not in self._kicks:
            self._kicks[index] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._function.set_kick(index, self._kicks[index])
        return self._kicks[index]

    def set_interrupts(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        """Send vectors to eventfds."""
        self._check()
        self._function.set_interrupts(index, start, fds)

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again."""
        self._check()
        self._function.unmask(index, start, count)

    def reset(self) -> None:
        """Reset the function."""
        self._check()
        self._function.reset()

    def on_lost(self, callback: Callable[[Error], object] | None) -> None:
        """Call this when the function is taken away; at once if it is."""
        with self._lock:
            self._tell = callback
            lost = self._lost
        if lost is not None and callback is not None:
            callback(lost)

    def lose(self, error: Error) -> None:
        """The function goes away."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = error
            tell = self._tell
        try:
            self._function.detach()
            with contextlib.suppress(Error):  # a queue that does not let go has said so
                self._function.memory.clear(self.timeout)
        finally:
            self._server.leave(self)
        if tell is not None:
            tell(error)

    def close(self) -> None:
        """Let go of the function and unmap the memory. Twice: harmless."""
        self.on_lost(None)
        self.lose(TransportError("the connection is closed"))
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for fd in self._kicks.values():
                os.close(fd)
        self.memory.on_growth(None)
        self.memory.close()

    def _check(self) -> None:
        if (lost := self._lost) is not None:
            raise TransportError(*lost.args) from lost

    def _share(self, region: SharedRegion) -> None:
        self._function.memory.add(
            region.guest_address, region.size, region.fd, user_address=region.user_address
        )
