"""Interrupts of a function: MSI-X with its table and pending bits, or INTx with the ISR status.

Workers of queues raise interrupts while the driver masks them, so there is a lock; it is held for no call
into anything else. Where the driver's table stays out of sight, as behind VFIO, whose user keeps it, no entry
is ever written here, and the targets alone say which vectors there are.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence

from virtio.errors import ConfigurationError, StateError
from virtio.spec import pci, pci_bus
from virtio.transport.pci.interface import InterruptIndex, Target

NO_VECTOR = pci.MSI.NO_VECTOR
ENTRY = pci_bus.MSIX_ENTRY.size or 16
CONTROL = pci_bus.MSIX_ENTRY.offset("control")


class _Line:
    """Where a vector goes to: a descriptor of our own, or a function."""

    def __init__(self, target: Target) -> None:
        self.fd: int | None = None
        self._call: Callable[[], object] | None = None
        if isinstance(target, int):
            self.fd = os.dup(target)
            os.set_blocking(self.fd, False)  # who does not read it must not hold up a worker
        else:
            self._call = target

    def signal(self) -> Callable[[], object] | None:
        """Signal the descriptor, or return what to call once the lock is free."""
        if self.fd is not None:
            # A full counter is as good as a signal, and nobody may be there any more.
            with contextlib.suppress(OSError):
                os.eventfd_write(self.fd, 1)
        return self._call

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Interrupts:
    """All interrupts of a function."""

    def __init__(self, vectors: int, *, intx: bool) -> None:
        """Have so many MSI-X ``vectors``, and a pin or not."""
        self.vectors = vectors
        self.has_pin = intx
        self._lock = threading.Lock()
        self._lines: dict[tuple[int, int], _Line] = {}
        self._masked_by_client: set[int] = set()
        self.raised = 0
        """Interrupts that were sent from here, for :class:`~virtio.transport.pci.hardware.Traffic`."""
        self.direct = True
        """Whether queues may signal eventfds of vectors by themselves."""
        self.reset()

    def reset(self) -> None:
        """Go back to the beginning. Targets stay: they are the bus's."""
        with self._lock:
            self._table = bytearray(ENTRY * self.vectors)
            for vector in range(self.vectors):
                self._table[vector * ENTRY + CONTROL] = pci_bus.MSIX_ENTRY_MASK
            self._written = [False] * self.vectors
            self._pending: set[int] = set()
            self._control = 0
            self._isr = 0
            self._pin_masked = False
            self._pin_disabled = False
            self._open = True

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """Vectors by :class:`~virtio.transport.pci.interface.InterruptIndex`."""
        return (int(self.has_pin), 0, self.vectors, 1, 1)

    # --- what the driver sets

    @property
    def msix_enabled(self) -> bool:
        """Whether MSI-X is in use, and not INTx."""
        return bool(self._control & pci_bus.MSIX_ENABLE)

    @property
    def isr(self) -> int:
        """ISR status, as reading it would show."""
        return self._isr

    def set_control(self, control: int) -> None:
        """Take the message control field of the MSI-X capability."""
        with self._lock:
            self._control = control
        self._settle()

    def set_gate(self, open: bool, *, pin_disabled: bool) -> None:  # noqa: A002
        """Say whether the function may write to memory at all, and whether its pin is switched off."""
        with self._lock:
            self._open, self._pin_disabled = open, pin_disabled
        self._settle()

    def withdraw(self) -> None:
        """Take back what was raised: the device was reset."""
        with self._lock:
            self._isr = 0
            self._pending.clear()

    def read_isr(self) -> int:
        """Read the ISR status, which clears it and takes the interrupt back (4.1.4.5.1)."""
        with self._lock:
            isr, self._isr = self._isr, 0
        return isr

    def read_table(self, offset: int, size: int) -> bytes:
        """Read from the MSI-X table."""
        return bytes(self._table[offset : offset + size]).ljust(size, b"\0")

    def write_table(self, offset: int, data: bytes) -> None:
        """Write to the MSI-X table: whole aligned words."""
        with self._lock:
            for start in range(offset, offset + len(data), 4):
                vector, place = divmod(start, ENTRY)
                if vector >= self.vectors:
                    break
                word = data[start - offset : start - offset + 4]
                if place == CONTROL:
                    word = bytes((word[0] & pci_bus.MSIX_ENTRY_MASK, 0, 0, 0))
                self._table[start : start + 4] = word
                self._written[vector] = True
        self._settle()

    def read_pending(self, offset: int, size: int) -> bytes:
        """Read pending bits."""
        bits = sum(1 << vector for vector in self._pending)
        return (bits >> 8 * offset & (1 << 8 * size) - 1).to_bytes(size, "little")

    # --- what the bus sets

    def set_targets(self, index: int, start: int, targets: Sequence[Target | None]) -> None:
        """Send vectors from ``start`` on there; without any, switch all of this kind off."""
        count = self._count(index)
        if start < 0 or start + len(targets) > count:
            raise ConfigurationError(f"vectors {start} to {start + len(targets)} of {count}")
        with self._lock:
            if not targets:
                for key in [key for key in self._lines if key[0] == index]:
                    self._lines.pop(key).close()
                if index == InterruptIndex.MSIX:
                    self._pending.clear()
                    self._masked_by_client.clear()
            for vector, target in enumerate(targets, start):
                old = self._lines.pop((index, vector), None)
                if target is not None:
                    self._lines[index, vector] = _Line(target)
                if old is not None:
                    old.close()
            if index == InterruptIndex.INTX:
                self._pin_masked = False
        self._settle()

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back."""
        self._check_range(index, start, count)
        with self._lock:
            if index == InterruptIndex.INTX:
                self._pin_masked = True
            elif index == InterruptIndex.MSIX:
                self._masked_by_client.update(range(start, start + count))

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again; what was held back comes now."""
        self._check_range(index, start, count)
        with self._lock:
            if index == InterruptIndex.INTX:
                self._pin_masked = False
            elif index == InterruptIndex.MSIX:
                self._masked_by_client.difference_update(range(start, start + count))
        self._settle()

    def _count(self, index: int) -> int:
        return self.counts[index] if 0 <= index < len(self.counts) else 0

    def _check_range(self, index: int, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self._count(index):
            raise ConfigurationError(f"there is no vector {start + count - 1} of kind {index}")

    # --- what the device raises, on any thread

    def raise_queue(self, vector: int) -> None:
        """A buffer was used."""
        self._raise(vector, 0 if self.msix_enabled else pci.ISR.QUEUE_INTERRUPT)

    def raise_config(self, vector: int) -> None:
        """The configuration has changed. The ISR status says so even with MSI-X (4.1.4.5.1)."""
        self._raise(vector, pci.ISR.DEVICE_CONFIGURATION_INTERRUPT)

    def signal(self, index: int) -> None:
        """Signal the one vector of a kind that is not the driver's."""
        with self._lock:
            line = self._lines.get((index, 0))
            call = line.signal() if line is not None else None
        if call is not None:
            call()

    def route(self, vector: int) -> Target | None:
        """Where a queue sends its notifications now: straight to an eventfd if nothing stands between."""
        if not self.msix_enabled:
            return lambda: self.raise_queue(NO_VECTOR)
        if vector >= self.vectors:
            return None
        with self._lock:
            line = self._lines.get((InterruptIndex.MSIX, vector))
            if self.direct and line is not None and line.fd is not None and self._passes(vector):
                return line.fd
        return lambda: self.raise_queue(vector)

    def _raise(self, vector: int, isr: int) -> None:
        call = None
        with self._lock:
            self._isr |= isr
            if self._control & pci_bus.MSIX_ENABLE:
                if vector < self.vectors:
                    call = self._send(vector)
            else:
                call = self._assert_pin()
        if call is not None:
            call()

    def _settle(self) -> None:
        """Send what may be sent since something changed."""
        calls = []
        with self._lock:
            if self._control & pci_bus.MSIX_ENABLE:
                waiting, self._pending = self._pending, set()
                calls += [self._send(vector) for vector in sorted(waiting)]
            else:
                calls.append(self._assert_pin())
        for call in calls:
            if call is not None:
                call()

    def _passes(self, vector: int) -> bool:
        if not self._open or self._control & pci_bus.MSIX_MASK_ALL or vector in self._masked_by_client:
            return False
        masked = self._table[vector * ENTRY + CONTROL] & pci_bus.MSIX_ENTRY_MASK
        return not (self._written[vector] and masked)

    def _send(self, vector: int) -> Callable[[], object] | None:
        line = self._lines.get((InterruptIndex.MSIX, vector))
        if line is None or not self._passes(vector):
            self._pending.add(vector)
            return None
        self.raised += 1
        return line.signal()

    def _assert_pin(self) -> Callable[[], object] | None:
        """Signal the pin, which masks it until the bus says that it was looked at."""
        line = self._lines.get((InterruptIndex.INTX, 0))
        if not self._isr or self._pin_masked or self._pin_disabled or line is None:
            return None
        self._pin_masked = True
        self.raised += 1
        return line.signal()

    # --- the end, and a new beginning elsewhere

    def close(self) -> None:
        """Let go of all targets."""
        with self._lock:
            for line in self._lines.values():
                line.close()
            self._lines.clear()
            self._masked_by_client.clear()

    @property
    def table(self) -> bytes:
        """The whole MSI-X table."""
        return bytes(self._table)

    @property
    def written(self) -> list[int]:
        """Vectors whose entry in the table the driver has written."""
        return [vector for vector, written in enumerate(self._written) if written]

    @property
    def pending(self) -> list[int]:
        """Vectors that were raised and held back."""
        with self._lock:
            return sorted(self._pending)

    def restore(self, table: bytes, written: Sequence[int], pending: Sequence[int], isr: int) -> None:
        """Take over what another function had; the message control comes by :meth:`set_control`."""
        if len(table) != len(self._table) or any(vector >= self.vectors for vector in (*written, *pending)):
            raise StateError("the function had another number of vectors")
        with self._lock:
            self._table[:] = table
            self._written = [vector in written for vector in range(self.vectors)]
            self._pending = set(pending)
            self._isr = isr
