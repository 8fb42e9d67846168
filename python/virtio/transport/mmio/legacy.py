"""The register block of version 1, for drivers that know no other (VIRTIO 1.4, 4.2.4)."""

from collections.abc import Callable

from virtio.spec import mmio
from virtio.transport.interface import DeviceEnd
from virtio.transport.legacy import LegacyRegisters
from virtio.transport.mmio.device_end import LAYOUT_SECTION, VENDOR_ID, MmioRegisters

SECTION = "4.2.4"
_NEW = ("QueueReady", "QueueReset", "ConfigGeneration")
"""What version 2 has besides 64-bit addresses and shared memory."""


def _kept(name: str) -> bool:
    return name not in _NEW and not name.startswith("SHM") and not name.endswith(("Low", "High"))


class MmioLegacyRegisters(MmioRegisters):
    """A device behind MMIO registers, version 1. Only block, console and entropy devices."""

    version = mmio.LEGACY_VERSION
    table = (*(row for row in mmio.REGISTERS if _kept(row.name)), *mmio.LEGACY_REGISTERS)

    def __init__(
        self, device: DeviceEnd, interrupt: Callable[[bool], object], *, vendor_id: int = VENDOR_ID
    ) -> None:
        """Stand in front of ``device``, see :class:`MmioRegisters`."""
        self._legacy = LegacyRegisters(device)
        super().__init__(device, interrupt, vendor_id=vendor_id, registers=self._legacy)

    def _select(self) -> None:
        super()._select()
        self._page_size = 0
        self._align: dict[int, int] = {}
        self._pages: dict[int, int] = {}

    def _load(self, name: str) -> int:
        if name == "QueuePFN":
            return self._pages.get(self._queue, 0)
        return super()._load(name)

    def _store(self, name: str, value: int) -> None:
        match name:
            case "GuestPageSize":
                if value and not value & (value - 1):
                    self._page_size = value
                else:
                    self._legacy.ignore(f"a page of {value} bytes", SECTION)
            case "QueueAlign":
                if value and not value & (value - 1):
                    self._align[self._queue] = value
                else:
                    self._legacy.ignore(f"used rings aligned to {value} bytes", SECTION)
            case "QueuePFN":
                self._place(value)
            case _:
                super()._store(name, value)

    def _place(self, page: int) -> None:
        index, legacy = self._queue, self._legacy
        legacy.disable(index)
        self._pages.pop(index, None)
        if page == 0 or index >= len(legacy.queues):
            return
        if not self._page_size or index not in self._align:
            legacy.ignore("QueuePFN is written before GuestPageSize and QueueAlign", SECTION)
            return
        legacy.place(index, page * self._page_size, legacy.queues[index].size, self._align[index])
        if legacy.enable(index, LAYOUT_SECTION, self._used):
            self._pages[index] = page
