"""The entropy device (VIRTIO 1.4, 5.4)."""

import os
from collections.abc import Callable
from typing import Any

from virtio._native import Chain
from virtio.device.base import Device
from virtio.device.features import extra
from virtio.errors import ConfigurationError
from virtio.spec import entropy

MAX_BYTES = 1 << 16
"""Most bytes given at once. A buffer may be filled in part (5.4.6.2); a driver's buffer may have any size."""


class EntropyDevice(Device):
    """Gives the guest random bytes, by default those of ``os.urandom``."""

    spec = entropy

    def __init__(
        self, source: Any = None, *, name: str = "", features: int | str = 0, mask: int | str = 0
    ) -> None:
        """Take random bytes from ``source``.

        That is a path (``/dev/hwrng``), an object with ``read(size)``, or a function of the size. It may
        return fewer bytes than asked for, which the driver is told. When it returns none, it is exhausted,
        and the device asks for a reset: it must never hand out an empty buffer. ``features`` are offered too:
        those that belong to no device type (``"IN_ORDER,RING_RESET"``).
        """
        self._file: Any = None
        self._starved: list[Chain] = []  # buffers that cannot be filled any more, not even in part
        self._draw = self._open(source)
        super().__init__(name=name, features=extra(entropy.DEVICE, features), mask=mask)

    def on_requests(self, chain: Chain) -> None:
        """Fill a buffer, or the start of a long one."""
        wanted = min(len(chain.writable), MAX_BYTES)
        if wanted == 0:
            return
        data = self._draw(wanted)
        if not data:
            chain.hold(idle=True)
            self._starved.append(chain)
            self.fail("the source of random bytes is exhausted", "5.4.6.2")
            return
        chain.write(data[:wanted])

    def driver_reset(self) -> None:
        """The driver has taken its buffers back."""
        self._starved.clear()

    def close(self) -> None:
        """Detach, and close the source if it was given by its path."""
        super().close()
        if self._file is not None:
            self._file.close()

    def _open(self, source: Any) -> Callable[[int], bytes]:
        if source is None:
            return os.urandom
        if isinstance(source, str | os.PathLike):
            try:
                self._file = open(source, "rb", buffering=0)  # noqa: SIM115, PTH123 (closed by close)
            except OSError as error:
                raise ConfigurationError(
                    f"no random bytes from {os.fspath(source)}: {error.strerror}"
                ) from None
            source = self._file
        draw = getattr(source, "read", source)
        if not callable(draw):
            raise ConfigurationError(
                f"a {type(source).__name__} is no source of random bytes: it has no read(size)"
            )
        return draw  # type: ignore[no-any-return]
