"""An IOMMU domain: the I/O virtual addresses that a device may use, and where they lead.

A driver with VIRTIO_F_ACCESS_PLATFORM (VIRTIO 1.4, 6.1) gives its device no other addresses. The device, or
who serves it, keeps translations that it was told, asks for those that it lacks, and forgets what it is told
to forget before :meth:`IommuDomain.unmap` returns.
"""

import bisect
import logging
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from virtio.errors import ConfigurationError, Error

_log = logging.getLogger("virtio.memory")

DEFAULT_OFFSET = 0x40_0000_0000
"""What an I/O virtual address has above the guest address of the same byte."""

PAGE = 4096

_ACCESS = {"r": 1, "w": 2, "rw": 3}


class Mapping(NamedTuple):
    """A range of I/O virtual addresses, and what is there."""

    iova: int
    size: int
    user_address: int
    access: int
    """1: the device may read it, 2: write it, 3: both."""

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.iova + self.size

    def part(self, start: int, end: int) -> "Mapping":
        """Return what of it lies between two addresses."""
        start, end = max(start, self.iova), min(end, self.end)
        return Mapping(start, end - start, self.user_address + start - self.iova, self.access)


class HasUserAddress(Protocol):
    """Memory that is shared with a device: a region, or an allocation in one."""

    @property
    def user_address(self) -> int:
        """Its address in the front end."""


class Translator(Protocol):
    """The device's end: a cache of translations."""

    def update(self, mapping: Mapping) -> None:
        """Learn a translation."""

    def invalidate(self, iova: int, size: int) -> None:
        """Forget a range; return when nothing uses it any more."""


class _Waiting(NamedTuple):
    iova: int
    access: int
    settle: Callable[[bool], object]


class IommuDomain:
    """What a device may reach. Each device has a domain of its own, as each has a memory of its own.

    ::

        domain = IommuDomain(granule=4096)
        with virtio.connect("vhost-user:/run/disk.sock", "block", iommu=domain) as disk:
            ...
    """

    def __init__(
        self,
        *,
        eager: bool = False,
        granule: int | None = None,
        unmapped: Literal["refuse", "wait"] = "refuse",
        allocations: bool = False,
        offset: int = DEFAULT_OFFSET,
    ) -> None:
        """Begin with nothing mapped.

        The device is told translations when it asks, or with ``eager`` as soon as there are any. An answer
        covers a ``granule`` (bytes, a power of two), or by default all that was mapped at once. A question
        for an address that is not mapped is answered "no", which costs the device its queue, or has to
        ``wait`` until it is mapped. A driver maps all of the memory that it shares; with ``allocations``,
        only what it has allocated, for as long as it has it.
        """
        if granule is not None and (granule < 1 or granule & (granule - 1)):
            raise ConfigurationError(f"a granule of {granule} bytes is not a power of two")
        if unmapped not in ("refuse", "wait"):
            raise ConfigurationError(f'unmapped={unmapped!r} is neither "refuse" nor "wait"')
        if offset < 0 or offset % PAGE:
            raise ConfigurationError(f"an offset of {offset:#x} is not one of whole pages")
        self.offset = offset
        self.allocations = allocations
        self.misses = 0
        """Questions of the device, answered or not."""
        self.failures: list[tuple[int, int]] = []
        """Accesses that the device gave up on: address and kind of access."""
        self._eager = eager
        self._granule = granule
        self._wait = unmapped == "wait"
        self._mappings: list[Mapping] = []
        self._translator: Translator | None = None
        self._waiting: list[_Waiting] = []
        # Held while the device is told as well: what it is told last is what is true.
        self._lock = threading.RLock()

    @property
    def mappings(self) -> list[Mapping]:
        """What is mapped, in order."""
        with self._lock:
            return list(self._mappings)

    def map(
        self,
        iova: int,
        size: int,
        target: "int | HasUserAddress",
        access: Literal["r", "w", "rw"] = "rw",
    ) -> None:
        """Map ``size`` bytes of shared memory at ``iova``.

        ``target`` is a region, an allocation or a user address.
        """
        if access not in _ACCESS:
            raise ConfigurationError(f"access {access!r} is none of r, w and rw")
        user = target if isinstance(target, int) else target.user_address
        if size <= 0 or iova < 0 or iova + size > 1 << 64:
            raise ConfigurationError(f"cannot map {size} bytes at {iova:#x}")
        new = Mapping(iova, size, user, _ACCESS[access])
        with self._lock:
            if old := self._overlapping(iova, new.end):
                raise ConfigurationError(
                    f"{size:#x} bytes at {iova:#x}: {old[0].size:#x} at {old[0].iova:#x} are mapped already"
                )
            bisect.insort(self._mappings, new)
            if self._eager and self._translator is not None:
                self._translator.update(new)
            waiting, self._waiting = self._waiting, []
            for question in waiting:
                self._answer(question)

    def unmap(self, iova: int, size: int) -> None:
        """Take a range away, of one mapping or several; when this returns, the device does not use it."""
        end = iova + size
        with self._lock:
            old = self._overlapping(iova, end)
            if not old:
                raise ConfigurationError(f"nothing is mapped in {size:#x} bytes at {iova:#x}")
            for mapping in old:
                self._mappings.remove(mapping)
                for part in (mapping.part(mapping.iova, iova), mapping.part(end, mapping.end)):
                    if part.size > 0:
                        bisect.insort(self._mappings, part)
            if self._translator is not None:
                self._translator.invalidate(iova, size)

    def find(self, iova: int) -> Mapping | None:
        """Return the mapping that an address is in."""
        with self._lock:
            found = self._overlapping(iova, iova + 1)
            return found[0] if found else None

    def overlaps(self, iova: int, size: int) -> bool:
        """Tell whether anything is mapped in a range."""
        with self._lock:
            return bool(self._overlapping(iova, iova + size))

    def _overlapping(self, start: int, end: int) -> list[Mapping]:
        first = bisect.bisect_right(self._mappings, start, key=lambda mapping: mapping.iova)
        if first and self._mappings[first - 1].end > start:
            first -= 1
        last = bisect.bisect_left(self._mappings, end, key=lambda mapping: mapping.iova)
        return self._mappings[first:last]

    # --- the transport's side

    def attach(self, translator: Translator) -> None:
        """A device uses the domain from now on, and knows nothing of it."""
        with self._lock:
            if self._translator not in (None, translator):
                raise ConfigurationError("the IOMMU domain is in use by another device")
            self._translator = translator
            if self._eager:
                for mapping in self._mappings:
                    translator.update(mapping)

    def detach(self, translator: Translator) -> None:
        """The device is gone, or was reset: it knows nothing any more."""
        with self._lock:
            if self._translator is translator:
                self._translator = None
                self._waiting.clear()

    def missed(self, iova: int, access: int, settle: Callable[[bool], object]) -> None:
        """The device asks for a translation. ``settle`` is called with True when it was told, False if not.

        It may be called a long time later, from another thread, or never.
        """
        with self._lock:
            self.misses += 1
            self._answer(_Waiting(iova, access, settle))

    def failed(self, iova: int, access: int) -> None:
        """The device could not do an access."""
        _log.warning("the device may not access I/O virtual address %#x (permission %d)", iova, access)
        with self._lock:
            self.failures.append((iova, access))

    def _answer(self, question: _Waiting) -> None:
        mapping = self.find(question.iova)
        if mapping is None and self._wait:
            self._waiting.append(question)
            return
        # A mapping that allows less is shown all the same: the device sees what it may do.
        told = mapping is not None and self._translator is not None
        if mapping is not None:
            if self._granule is not None:
                start = question.iova & ~(self._granule - 1)
                mapping = mapping.part(start, start + self._granule)
            try:
                if self._translator is not None:
                    self._translator.update(mapping)
            except Error as error:
                _log.warning("the device does not take the translation of %#x: %s", question.iova, error)
                told = False
        question.settle(told)


def domain_of(option: bool | IommuDomain) -> IommuDomain | None:
    """Return the domain that a connection's option ``iommu`` asks for."""
    if isinstance(option, IommuDomain):
        return option
    return IommuDomain() if option else None
