"""What accesses to configuration space bring about: power states, reset, the window to the BARs."""

from typing import Protocol

from virtio.spec import pci, pci_bus
from virtio.transport.pci.capabilities import Placement
from virtio.transport.pci.config_space import ConfigSpace
from virtio.transport.registers import DeviceRegisters

_COMMAND = pci_bus.HEADER.offset("command")
_STATUS = pci_bus.HEADER.offset("status")
_DATA = pci.CFG_CAP.offset("pci_cfg_data")


class Owner(Protocol):
    """The function whose configuration space it is."""

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a BAR."""

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a BAR."""

    def reset(self) -> None:
        """Reset the function."""

    def decode(self) -> None:
        """The command register or the power state has changed."""

    def msix_written(self, control: int) -> None:
        """The driver has written to the message control field."""


class ConfigRegisters:
    """Configuration space, with all that it does."""

    def __init__(
        self,
        space: ConfigSpace,
        placement: Placement,
        owner: Owner,
        registers: DeviceRegisters,
        *,
        no_soft_reset: bool,
    ) -> None:
        """Have ``owner`` do what accesses mean; without ``no_soft_reset`` leaving D3hot is a reset."""
        self.space = space
        self._at = placement
        self._owner = owner
        self._registers = registers
        self._no_soft_reset = no_soft_reset
        space.watch(_COMMAND, 2, owner.decode)
        if placement.msix is not None:
            control = placement.msix + pci_bus.MSIX_CAP.offset("control")
            space.watch(control, 2, lambda: owner.msix_written(self.msix_control))

    # --- state

    @property
    def command(self) -> int:
        """The command register."""
        return self.space.get(_COMMAND, 2)

    @property
    def _power(self) -> int | None:
        return self._at.power + pci_bus.POWER_CAP.offset("control") if self._at.power is not None else None

    @property
    def awake(self) -> bool:
        """Whether the function is in D0."""
        return self._power is None or self._power_state(self._power) == pci_bus.D0

    def _power_state(self, place: int) -> int:
        return self.space.get(place, 2) & pci_bus.POWER_STATE

    @property
    def msix_control(self) -> int:
        """The message control field of MSI-X."""
        assert self._at.msix is not None
        return self.space.field(pci_bus.MSIX_CAP, "control", self._at.msix)

    def reset(self) -> None:
        """Go back to the beginning."""
        self.space.reset()

    def load(self, data: bytes) -> None:
        """Take what a driver had written to another space of the same make."""
        self.space.load(data)
        if self._power is not None:
            state = data[self._power] & pci_bus.POWER_STATE
            kept = self.space.get(self._power, 2) & ~pci_bus.POWER_STATE
            self.space.put(self._power, kept | (state if state == pci_bus.D3_HOT else pci_bus.D0), 2)

    # --- accesses

    def read(self, offset: int, size: int, *, interrupt: bool) -> bytes:
        """Read; ``interrupt`` is what the status register says of the pin."""
        status = self.space.get(_STATUS, 2) & ~pci_bus.STATUS.INTERRUPT
        self.space.put(_STATUS, status | (pci_bus.STATUS.INTERRUPT if interrupt else 0), 2)
        if self._is_window(offset, size):
            self._use_window(write=False)
        return self.space.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write."""
        self.space.write(offset, data)
        if self._is_window(offset, len(data)):
            self._use_window(write=True)
        self._write_power(offset, data)
        self._write_express(offset, data)

    def _is_window(self, offset: int, size: int) -> bool:
        # Larger accesses are those of who copies the space: the window shows what it held last.
        start = self._at.window + _DATA
        return start <= offset and offset + size <= start + 4

    def _use_window(self, *, write: bool) -> None:
        """Carry out an access to a BAR (4.1.4.9)."""
        base, space = self._at.window, self.space
        size = space.field(pci.CAP, "length", base)
        bar, offset = space.field(pci.CAP, "bar", base), space.field(pci.CAP, "offset", base)
        if size == 0:
            return  # whoever dumps configuration space passes here
        if size not in (1, 2, 4) or offset % size or bar >= pci_bus.BARS:
            self._registers.ignore(f"{size} bytes at {offset:#x} of BAR {bar}, by the window", "4.1.4.9.2")
        elif write:
            self._owner.write(bar, offset, bytes(space.data[base + _DATA : base + _DATA + size]))
        else:
            space.data[base + _DATA : base + _DATA + size] = self._owner.read(bar, offset, size)

    def _write_power(self, offset: int, data: bytes) -> None:
        place = self._power
        if place is None or not offset <= place < offset + len(data):
            return
        wanted, state = data[place - offset] & pci_bus.POWER_STATE, self._power_state(place)
        if wanted == state or wanted not in (pci_bus.D0, pci_bus.D3_HOT):
            return  # D1 and D2 are optional and not there: the write has no effect (PCI PM 3.2.4)
        if wanted == pci_bus.D0 and not self._no_soft_reset:
            self._owner.reset()
        self.space.put(place, self.space.get(place, 2) & ~pci_bus.POWER_STATE | wanted, 2)
        self._owner.decode()

    def _write_express(self, offset: int, data: bytes) -> None:
        if self._at.express is None:
            return
        high = self._at.express + pci_bus.EXPRESS_CAP.offset("device_control") + 1
        if offset <= high < offset + len(data) and data[high - offset] << 8 & pci_bus.EXPRESS_CONTROL_FLR:
            self._owner.reset()
