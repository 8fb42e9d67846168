"""PCI configuration space: bytes of which some may be written, and capabilities that are linked."""

from collections.abc import Callable
from typing import NamedTuple

from virtio.errors import ConfigurationError
from virtio.spec import pci_bus
from virtio.spec.model import Struct


class Span(NamedTuple):
    """A range of bytes."""

    start: int
    stop: int

    def meets(self, offset: int, size: int) -> bool:
        """Whether an access touches it."""
        return offset < self.stop and self.start < offset + size


class ConfigSpace:
    """The register file. What writes mean besides is up to those who :meth:`watch`."""

    def __init__(self, size: int) -> None:
        """Begin with zeros of which none may be written."""
        self.data = bytearray(size)
        self._initial = bytes(size)
        self._writable = bytearray(size)
        self._clearable = bytearray(size)
        self._watchers: list[tuple[Span, Callable[[], object]]] = []
        self._free = pci_bus.CAPABILITIES_START
        self._last = pci_bus.HEADER.offset("capabilities_pointer")
        self._extended_free = pci_bus.EXTENDED_CAP_START
        self._extended_last: int | None = None
        self.capabilities: list[tuple[int, int]] = []
        """Id and offset of each capability, in order."""

    # --- building

    def allow(self, offset: int, mask: bytes | int, size: int = 0) -> None:
        """Let the bits of ``mask`` be written from ``offset`` on."""
        bits = mask if isinstance(mask, bytes) else mask.to_bytes(size, "little")
        for index, bit in enumerate(bits, offset):
            self._writable[index] |= bit

    def allow_clearing(self, offset: int, mask: int, size: int) -> None:
        """Let the bits of ``mask`` be cleared by writing 1."""
        for index, bit in enumerate(mask.to_bytes(size, "little"), offset):
            self._clearable[index] |= bit

    def add_capability(self, number: int, body: bytes) -> int:
        """Append a capability with ``body`` behind its two first bytes; return where it is."""
        size = -(-(2 + len(body)) // 4) * 4
        offset = self._free
        if offset + size > pci_bus.CONFIG_SIZE:
            raise ConfigurationError("there is no room for so many capabilities in configuration space")
        self._free += size
        self.data[self._last] = offset
        self._last = offset + 1
        self.data[offset : offset + 2 + len(body)] = bytes((number, 0)) + body
        status = pci_bus.HEADER.offset("status")
        self.put(status, self.get(status, 2) | pci_bus.STATUS.CAPABILITIES_LIST, 2)
        self.capabilities.append((number, offset))
        return offset

    @property
    def room(self) -> int:
        """Bytes that are left for capabilities."""
        return pci_bus.CONFIG_SIZE - self._free

    def add_extended_capability(self, number: int, version: int, body: bytes) -> int:
        """Append an extended capability with ``body`` behind its header of four bytes; return where it is."""
        offset = self._extended_free
        size = -(-(4 + len(body)) // 4) * 4
        if offset + size > len(self.data):
            raise ConfigurationError("there is no room for the extended capability")
        self._extended_free += size
        if self._extended_last is not None:
            self.put(self._extended_last + 2, self.get(self._extended_last + 2, 2) | offset << 4, 2)
        self._extended_last = offset
        header = pci_bus.EXTENDED_CAP.pack(id=number, version_and_next=version)
        self.data[offset : offset + 4 + len(body)] = header + body
        return offset

    def watch(self, offset: int, size: int, call: Callable[[], object]) -> None:
        """Call after each write that touches this range."""
        self._watchers.append((Span(offset, offset + size), call))

    def seal(self) -> None:
        """This is what a reset goes back to."""
        self._initial = bytes(self.data)

    # --- by the function itself

    def get(self, offset: int, size: int) -> int:
        """A number."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def put(self, offset: int, value: int, size: int) -> None:
        """Store a number, whether it may be written or not."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def field(self, layout: Struct, name: str, base: int = 0) -> int:
        """A field of a structure that begins at ``base``."""
        value = layout.field(name).type.take(memoryview(self.data)[base + layout.offset(name) :], {})[0]
        return int(value)

    def reset(self) -> None:
        """Go back to the beginning."""
        self.data[:] = self._initial

    # --- by the driver

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes; what lies behind the end reads as ones, as where there is no function."""
        inside = bytes(self.data[offset : offset + size])
        return inside + b"\xff" * (size - len(inside))

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes, as far as they may be."""
        for index, byte in enumerate(data, offset):
            if index >= len(self.data):
                break
            kept = (
                self.data[index] & ~self._clearable[index] | self.data[index] & ~byte & self._clearable[index]
            )
            mask = self._writable[index]
            self.data[index] = kept & ~mask | byte & mask
        for span, call in list(self._watchers):
            if span.meets(offset, len(data)):
                call()

    def load(self, data: bytes) -> None:
        """Take the bytes of another space of the same make; only what may be written can differ."""
        for index, byte in enumerate(data[: len(self.data)]):
            mask = self._writable[index]
            self.data[index] = self.data[index] & ~mask | byte & mask
