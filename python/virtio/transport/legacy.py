"""The legacy interface in front of a modern device (VIRTIO 1.4, the sections named "Legacy Interface").

A legacy driver sees 32 feature bits without VIRTIO_F_VERSION_1, writes no FEATURES_OK, has its rings in one
piece and may use the device before DRIVER_OK. The device behind is not told: what the driver leaves out is
done for it. That is possible where requests look the same either way; the types that it is possible for are
listed. Byte order is the machine's, which is little-endian.

A transport offers this only when it is asked to.
"""

import logging
import sys

from virtio.errors import ConfigurationError, Error
from virtio.spec import device_type
from virtio.spec.core import STATUS, F
from virtio.transport.interface import DeviceEnd
from virtio.transport.registers import DeviceRegisters, QueueSetup

_log = logging.getLogger("virtio.transport.legacy")

TYPES = ("block", "console", "entropy")
"""Their requests and configuration do not depend on VIRTIO_F_VERSION_1."""

FEATURES = 0xFFFF_FFFF & ~F.UNUSED_30
_SHOWN = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK | STATUS.FAILED
_NEGOTIATED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK


class LegacyRegisters(DeviceRegisters):
    """A device as its legacy driver knows it."""

    def __init__(self, device: DeviceEnd) -> None:
        """Stand in front of ``device``; :exc:`~virtio.ConfigurationError` if its type cannot be had so."""
        if device.device_id not in (device_type(name).id for name in TYPES):
            raise ConfigurationError(
                f"{device.name}: the legacy interface is there for {', '.join(TYPES)} devices only"
            )
        if sys.byteorder != "little":
            raise ConfigurationError("the legacy interface is there for little-endian machines only")
        super().__init__(device, FEATURES)

    def _forget(self) -> None:
        super()._forget()
        self._status = 0
        self._begun = False

    @property
    def offered(self) -> int:
        """What the driver is shown: VIRTIO_F_ANY_LAYOUT is a must (6.3)."""
        return super().offered | F.ANY_LAYOUT

    @property
    def status(self) -> int:
        """What the driver wrote. FEATURES_OK and DEVICE_NEEDS_RESET are unknown to it."""
        return self._status

    def set_status(self, value: int) -> None:
        """The driver writes the device status field."""
        if value == 0:
            self.reset()
            return
        if value & ~_SHOWN:
            self.ignore(f"a legacy driver writes the status {value:#x}", "3.1.2")
        self._status = value & _SHOWN
        if value & STATUS.FAILED:
            _log.warning("%s: the driver has given up on the device", self.device.name)
        elif value & STATUS.DRIVER_OK:
            self.begin()

    def reset(self) -> None:
        """Reset the device and forget everything that was written."""
        super().reset()
        self._status = 0

    def begin(self) -> None:
        """Take the steps that the driver leaves out: at DRIVER_OK, or at its first notification before."""
        if self._begun:
            return
        accepted = self._accepted[0] & ~F.ANY_LAYOUT
        try:
            self.device.negotiate(accepted | F.VERSION_1)
            self.device.set_status(_NEGOTIATED)
            self.device.set_status(_NEGOTIATED | STATUS.DRIVER_OK)
            self._begun = True
        except Error as error:  # a legacy driver cannot be told
            self.refuse(error)

    def place(self, index: int, address: int, size: int, align: int) -> QueueSetup:
        """Say where the three parts of a queue lie that is one piece at ``address`` (2.7.2)."""
        available = address + 16 * size
        used = -(-(available + 6 + 2 * size) // align) * align
        setup = QueueSetup(size, address, available, used)
        self.queues[index] = setup
        return setup

    def notify(self, index: int, data: int | None, clause: str) -> None:
        """An available buffer notification, maybe the first of all."""
        self.begin()
        super().notify(index, data, clause)

    def _may_enable(self) -> bool:
        return True  # rings are set up before anything is negotiated
