"""What a transport needs of a device, and what a user gets of a transport.

The device's side is :class:`virtio.Device`; it is described here by its shape, so that a transport can be
tested with anything that has it. The driver's face of a transport, :class:`DriverEnd`, is described by those
who call it, in :mod:`virtio.driver.wire`.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from virtio.driver.wire import Allocation, DriverEnd, DriverMemory, QueueWire
from virtio.errors import ProtocolError

__all__ = [
    "Allocation",
    "DeviceEnd",
    "DriverEnd",
    "DriverMemory",
    "GuestMemory",
    "QueueEnd",
    "QueueWire",
    "Server",
    "Space",
    "TransportEvents",
]

Space = Literal["guest", "user"]


class QueueEnd(Protocol):
    """The device's end of one virtqueue."""

    @property
    def max_size(self) -> int:
        """Most descriptors that it can have."""

    @property
    def running(self) -> bool:
        """Whether it takes chains."""

    @property
    def broken(self) -> bool:
        """Whether the driver broke a rule on it; configuring it clears that."""

    def configure(
        self,
        *,
        size: int | None = None,
        descriptors: int | None = None,
        available: int | None = None,
        used: int | None = None,
        space: Space | None = None,
        base: int | None = None,
    ) -> None:
        """Say where the rings are, while it is stopped."""

    def set_kick(self, fd: int | None) -> None:
        """Take notifications from this descriptor."""

    def set_kicks(self, come: bool) -> None:
        """Poll instead of sleeping if no notifications come."""

    def set_call(self, target: int | Callable[[], object] | None) -> None:
        """Send notifications there."""

    def set_error(self, fd: int | None) -> None:
        """Signal broken rules there."""

    def set_inflight(self, fd: int | None, offset: int = ..., size: int = ..., *, entries: int = ...) -> None:
        """Keep there what is under way, and take up what a predecessor left; None: no more."""

    def notify(self, data: int | None = None) -> None:
        """Look at the ring now; ``data`` is what VIRTIO_F_NOTIFICATION_DATA told with the notification."""

    def start(self) -> None:
        """Take chains from now on."""

    def reset(self) -> None:
        """Stop, and forget where the rings are."""

    def stop(self, timeout: float = ...) -> int:
        """Finish what was taken and return where to continue."""


class GuestMemory(Protocol):
    """Guest memory, see ``virtio._native.Memory``."""

    @property
    def regions(self) -> Sequence[Any]:
        """What is mapped."""

    def add(
        self,
        guest_address: int,
        size: int,
        fd: int,
        offset: int = 0,
        *,
        user_address: int | None = None,
        writable: bool = True,
    ) -> None:
        """Map a region."""

    def remove(self, guest_address: int, size: int, timeout: float = ...) -> None:
        """Unmap a region when nothing works on it any more."""

    def replace(self, regions: Sequence[Any], timeout: float = ...) -> None:
        """Put these in the place of all others."""

    def clear(self, timeout: float = ...) -> None:
        """Unmap everything."""

    def set_dirty_log(
        self,
        fd: int | None,
        size: int = 0,
        offset: int = 0,
        *,
        notify: int | None = None,
        timeout: float = ...,
    ) -> None:
        """Note there which pages are written to; None: no more."""

    def translate(self, on: bool, timeout: float = ...) -> None:
        """Take guest addresses to be I/O virtual ones from now on, or not."""

    def update_translation(
        self, iova: int, size: int, user_address: int, access: int, timeout: float = ...
    ) -> None:
        """Learn where I/O virtual addresses lead."""

    def invalidate_translation(self, iova: int, size: int, timeout: float = ...) -> None:
        """Forget that, when nothing uses it any more."""

    def refuse_translation(self, iova: int, access: int) -> None:
        """Learn that they lead nowhere."""

    def on_miss(self, listener: Callable[[], object] | None) -> None:
        """Call this, from any thread, when an address is to be asked for."""

    def take_misses(self) -> list[tuple[int, int, bool]]:
        """Return what is to be asked for: an address, the access, and whether it has failed for good."""

    def repeat_misses(self) -> None:
        """Have everything asked for again that was not answered."""

    def read(self, address: int, size: int, space: Space = "guest") -> bytes:
        """Copy bytes out."""


class TransportEvents(Protocol):
    """What a device tells its transport, from any thread."""

    def config_changed(self) -> None:
        """Fields of the configuration space have new values."""

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device cannot go on until it is reset."""


class DeviceEnd(Protocol):
    """A device as its transport sees it."""

    @property
    def name(self) -> str:
        """For logs."""

    @property
    def device_id(self) -> int:
        """The number of the device's type."""

    @property
    def offered_features(self) -> int:
        """All it has."""

    @property
    def negotiated_features(self) -> int:
        """What the driver took of them."""

    def negotiate(self, features: int) -> None:
        """Take what the driver accepted."""

    @property
    def status(self) -> int:
        """The device status."""

    def set_status(self, status: int) -> None:
        """Take what the driver wrote; 0 resets."""

    @property
    def config_size(self) -> int:
        """Bytes in configuration space."""

    @property
    def config_generation(self) -> int:
        """Changes whenever the device changes its configuration."""

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space."""

    @property
    def queues(self) -> Sequence[QueueEnd]:
        """Its queues."""

    @property
    def admin_queues(self) -> range:
        """Which of them, the last ones, are administration virtqueues. Few transports carry those."""

    def save_state(self) -> bytes:
        """Return what goes with the device to another process; its queues stand still."""

    def load_state(self, data: bytes) -> None:
        """Go on where another device was; :exc:`~virtio.StateError` if it cannot."""

    def attach(self, memory: Any, events: TransportEvents) -> None:
        """Begin with a new driver."""

    def detach(self) -> None:
        """The driver is gone."""

    def close(self) -> None:
        """Finish everything and release what is behind the device."""


class Server(Protocol):
    """A device being served at an address."""

    @property
    def address(self) -> str:
        """Where, in the form that :func:`virtio.start` takes."""

    @property
    def connected(self) -> bool:
        """Whether somebody drives the device at this moment."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until serving has ended by itself; False: it has not, in that time."""

    def shut_down(self) -> None:
        """Begin to stop and return at once; may be called from a signal handler."""

    def stop(self) -> None:
        """Finish what was begun, let go of the driver, and give up the address. The device stays usable."""

    def __enter__(self) -> Self:
        """Serve within a block."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
