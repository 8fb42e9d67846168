"""How a driver hears from a function: a vector for each queue if there are enough, else fewer, else INTx."""

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable

from virtio.errors import Error
from virtio.spec import pci, pci_bus
from virtio.transport.pci.capability_walk import ConfigReader, FunctionMap
from virtio.transport.pci.interface import InterruptIndex, PciBus
from virtio.transport.pci.interrupts import NO_VECTOR

_log = logging.getLogger("virtio.transport.pci")

CONFIG_VECTOR = 0
SHARED_VECTOR = 1
"""What queues share if they cannot have a vector each, and there are two."""


class DriverInterrupts:
    """The vectors in use, and a thread for those that are not one queue's alone."""

    def __init__(
        self,
        bus: PciBus,
        function: FunctionMap,
        *,
        queues: int,
        msix: bool,
        on_queues: Callable[[], object],
        on_config: Callable[[], object],
    ) -> None:
        """Set up interrupts for so many queues; without ``msix``, by INTx.

        ``on_queues``: something may have been used, it is not known where; ``on_config``: the configuration
        or the status may have changed.
        """
        self._bus = bus
        self._function = function
        self._config = ConfigReader(bus)
        self._on_queues = on_queues
        self._on_config = on_config
        there = min(function.vectors, bus.interrupts[InterruptIndex.MSIX]) if msix else 0
        # One more, should there be an administration queue: that shows only once it was agreed on.
        self.vectors = min(there, queues + 2)
        self.own = self.vectors > queues
        """Whether each queue has a vector of its own."""
        self._fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3)]
        self._closing, self._first, self._second = self._fds
        try:
            self._set_up()
        except BaseException:
            self._close_fds()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"interrupts of {bus.address}", daemon=True)
        self._thread.start()

    def _set_up(self) -> None:
        command = pci_bus.HEADER.offset("command")
        disable = pci_bus.COMMAND.INTERRUPT_DISABLE
        value = self._config.get(command, 2)
        if not self.vectors:
            self._config.put(command, value & ~disable, 2)
            self._bus.set_interrupts(InterruptIndex.INTX, 0, [self._first])
            return
        self._config.put(command, value | disable, 2)
        fds: list[int | None] = [self._first, *[None] * (self.vectors - 1)]
        if not self.own and self.vectors > SHARED_VECTOR:
            fds[SHARED_VECTOR] = self._second
        self._bus.set_interrupts(InterruptIndex.MSIX, 0, fds)
        # Not every bus does that by itself.
        assert self._function.msix is not None
        control = self._function.msix + pci_bus.MSIX_CAP.offset("control")
        enabled = self._config.get(control, 2) & ~pci_bus.MSIX_MASK_ALL | pci_bus.MSIX_ENABLE
        self._config.put(control, enabled, 2)

    @property
    def config_vector(self) -> int:
        """The vector for changes of the configuration."""
        return CONFIG_VECTOR if self.vectors else NO_VECTOR

    def queue_vector(self, index: int) -> int:
        """The vector for a queue."""
        if not self.vectors:
            return NO_VECTOR
        if self.own:
            return 1 + index if 1 + index < self.vectors else CONFIG_VECTOR
        return min(SHARED_VECTOR, self.vectors - 1)

    def connect(self, index: int, call_fd: int | None) -> None:
        """Send what a queue says straight to its eventfd, if it has a vector of its own."""
        if self.own and 1 + index < self.vectors:
            self._bus.set_interrupts(InterruptIndex.MSIX, 1 + index, [call_fd])

    def _serve(self) -> None:
        try:
            self._listen()
        finally:
            self._close_fds()

    def _listen(self) -> None:
        poll = select.poll()
        for fd in self._fds:
            poll.register(fd, select.POLLIN)
        while self._closing not in (ready := [fd for fd, _ in poll.poll()]):
            for fd in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            try:
                self._take(ready)
            except Error as error:
                _log.debug("%s: after an interrupt: %s", self._bus.address, error)

    def _take(self, ready: list[int]) -> None:
        if self.vectors:
            self._on_queues()  # a hint too many does no harm
            if self._first in ready:
                self._on_config()
            return
        isr = self._function.isr
        bits = self._bus.read(isr.bar, isr.offset, 1)[0]
        try:
            if bits & pci.ISR.QUEUE_INTERRUPT:
                self._on_queues()
            if bits & pci.ISR.DEVICE_CONFIGURATION_INTERRUPT:
                self._on_config()
        finally:
            self._bus.unmask(InterruptIndex.INTX, 0, 1)

    def close(self) -> None:
        """Switch them off, and wait for the thread unless this is it. Once only."""
        with contextlib.suppress(Error):
            self._bus.set_interrupts(InterruptIndex.MSIX if self.vectors else InterruptIndex.INTX, 0, [])
        os.eventfd_write(self._closing, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
