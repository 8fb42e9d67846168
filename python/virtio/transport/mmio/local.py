"""``mmio:NAME``: a register block in this process, and a bus to it."""

import os
import threading
from collections.abc import Callable

from virtio._native import Memory
from virtio.errors import Error, TransportError
from virtio.memory.shared import SharedMemory, SharedRegion
from virtio.transport.in_process import InProcessServer
from virtio.transport.mmio.device_end import MmioRegisters


class LocalBus:
    """A :class:`~virtio.transport.mmio.MmioBus` whose loads and stores are calls."""

    def __init__(self, server: InProcessServer, memory: SharedMemory) -> None:
        """Take the device that ``server`` has; ``memory`` belongs to the bus from here."""
        self.address = server.address
        self.memory = memory
        self.interrupt_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._server = server
        self._seen = Memory()  # the memory, as the device maps it
        self._lock = threading.Lock()
        self._lost: Error | None = None
        self._tell: Callable[[Error], object] | None = None
        self._open = True
        self.registers = MmioRegisters(server.device, self._line)
        self.size = self.registers.size
        try:
            server.take(self)
            try:
                for region in memory.regions:
                    self._share(region)
                memory.on_growth(self._share)
                self.registers.attach(self._seen)
            except BaseException:
                server.leave(self)
                raise
        except BaseException:
            self._seen.clear()
            os.close(self.interrupt_fd)
            raise

    def read(self, offset: int, size: int) -> int:
        """Load from a register."""
        self._check()
        return int.from_bytes(self.registers.read(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        self._check()
        self.registers.write(offset, value.to_bytes(size, "little"))

    def on_loss(self, callback: Callable[[Error], object]) -> None:
        """Call this when the device is taken away; at once if it is."""
        with self._lock:
            self._tell = callback
            lost = self._lost
        if lost is not None:
            callback(lost)

    def lose(self, error: Error) -> None:
        """The device goes away."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = error
            tell = self._tell
        try:
            self.registers.detach()
            self._seen.clear()
        finally:
            self._server.leave(self)
        if tell is not None:
            tell(error)

    def close(self) -> None:
        """Let go of the device and unmap the memory. Twice: harmless."""
        self.lose(TransportError("the connection is closed"))
        with self._lock:
            if not self._open:
                return
            self._open = False
            os.close(self.interrupt_fd)
        self.memory.on_growth(None)
        self.memory.close()

    def _check(self) -> None:
        if (lost := self._lost) is not None:
            raise TransportError(*lost.args) from lost

    def _line(self, level: bool) -> None:
        # The lock: the descriptor's number may be somebody else's once the bus is closed.
        with self._lock:
            if level and self._open:
                os.eventfd_write(self.interrupt_fd, 1)

    def _share(self, region: SharedRegion) -> None:
        self._seen.add(region.guest_address, region.size, region.fd, user_address=region.user_address)
