"""What a driver needs of the transport that leads to its device.

A transport implements :class:`DriverEnd`; a driver walks 3.1.1 with it. The transport carries, it does not
decide: it keeps no order of steps but its own, and it checks of the device's answers only what it needs to
understand them. Where a wire has no word for something (a status, a reset), the transport emulates it: every
driver can take the same steps over every transport.

Calls may come from any thread. Every call that waits for the other side ends within the transport's timeout,
with :exc:`~virtio.TransportError` if need be. After such an error the connection is lost: every call but
:meth:`DriverEnd.close` raises it again. The exception is :exc:`~virtio.errors.RefusedError`, which leaves the
connection as it was.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from virtio._native import Memory
from virtio.errors import Error


class Allocation(Protocol):
    """A piece of the memory that driver and device share."""

    @property
    def address(self) -> int:
        """Where the device finds it: what goes into descriptors."""

    @property
    def size(self) -> int:
        """Bytes, as many as were asked for."""

    @property
    def view(self) -> memoryview:
        """The bytes themselves; zeros at first. Valid until it is freed."""

    def free(self) -> None:
        """Give it back, when the device does not use it any more. Twice: harmless."""


class DriverMemory(Protocol):
    """Memory that driver and device share."""

    @property
    def native(self) -> Memory:
        """The same for native code; addresses are of the ``guest`` space."""

    def allocate(self, size: int, alignment: int = 16) -> Allocation:
        """Take a contiguous piece, filled with zeros; more memory is shared if there is not enough.

        Raises :exc:`~virtio.ConfigurationError` if the size or the alignment cannot be,
        :exc:`~virtio.TransportError` if there is no more to be had.
        """


class QueueWire(Protocol):
    """The notifications of one started queue. Its descriptors belong to the transport."""

    @property
    def kick_fd(self) -> int | None:
        """Eventfd for available buffer notifications; None: only :meth:`kick` sends them."""

    def kick(self, data: int = 0) -> None:
        """Send an available buffer notification; ``data`` is what VIRTIO_F_NOTIFICATION_DATA tells with it.

        Not an error if the queue was stopped meanwhile.
        """

    @property
    def call_fd(self) -> int:
        """Eventfd, not blocking, that becomes readable with a used buffer notification.

        A hint: it may come late, early or without any used buffer.
        """


class DriverEnd(Protocol):
    """A connected device, as its driver sees it."""

    @property
    def address(self) -> str:
        """Where it is, in the form that :func:`virtio.connect` takes."""

    @property
    def device_id(self) -> int | None:
        """The number of its type (5); None: this transport does not tell."""

    @property
    def timeout(self) -> float:
        """Seconds after which a call that waits for the device gives up."""

    # --- features and status

    @property
    def device_features(self) -> int:
        """What the device offers, 128 bits, without what this transport cannot carry."""

    def accept(self, features: int) -> None:
        """Write the features that the driver accepts.

        They take effect with FEATURES_OK: whether the device goes along is read from :attr:`status`.
        Raises :exc:`~virtio.ConfigurationError` for what is not in :attr:`device_features`.
        """

    @property
    def status(self) -> int:
        """The device status field, read from the device where the wire allows it."""

    def set_status(self, status: int) -> None:
        """Write the device status field; 0 is :meth:`reset`."""

    def reset(self) -> None:
        """Reset the device, and wait until that is done: queues are stopped, nothing is accepted.

        Memory, callbacks and the connection stay.
        """

    # --- configuration space

    @property
    def config_size(self) -> int | None:
        """Bytes of configuration space; 0: there is none to be had, None: the wire does not tell."""

    @property
    def config_generation(self) -> int:
        """A number that changes whenever the configuration may have (2.5.1); wires without one emulate it."""

    def read_config(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` bytes; :exc:`~virtio.errors.RefusedError` if it does not have them."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes; :exc:`~virtio.errors.RefusedError` if the device is known not to take them."""

    # --- queues

    @property
    def max_queues(self) -> int | None:
        """How many queues the device has at most; None: the wire does not tell."""

    @property
    def admin_queues(self) -> range:
        """Which queues are administration virtqueues (2.13), once VIRTIO_F_ADMIN_VQ is accepted."""

    def max_queue_size(self, index: int) -> int:
        """Most entries that queue ``index`` may have; 0: there is no such queue."""

    @property
    def memory(self) -> DriverMemory:
        """Where rings and buffers come from."""

    def start_queue(
        self, index: int, *, size: int, descriptors: int, available: int, used: int, base: int | None = None
    ) -> QueueWire:
        """Tell the device where a queue is and enable it, after :meth:`accept`.

        Addresses are those of :attr:`memory`. ``base`` continues a queue where :meth:`stop_queue` left it, in
        vhost's VRING_BASE form; by default the ring is new.

        It may be called before DRIVER_OK or after it: the device uses no buffer before DRIVER_OK.
        """

    def stop_queue(self, index: int) -> int:
        """Stop a queue and return where to continue; the device does not touch the ring afterwards."""

    def reset_queue(self, index: int) -> None:
        """Reset one queue (2.6.1), to be started again, even with another size.

        Needs VIRTIO_F_RING_RESET; :exc:`~virtio.ConfigurationError` if this transport cannot.
        """

    # --- news

    def on_config_change(self, callback: Callable[[], object] | None) -> None:
        """Call this, from any thread, after a configuration change notification; None: no more."""

    def on_failure(self, callback: Callable[[Error], object] | None) -> None:
        """Call this, from any thread, once, when the device is lost or needs a reset; None: no more."""

    def close(self) -> None:
        """Stop all queues, reset, disconnect, and unmap the memory. Twice: harmless."""


@runtime_checkable
class MovableEnd(Protocol):
    """A :class:`DriverEnd` whose device can go on in another process."""

    def move(self, address: str, *, state: bool = True) -> None:
        """Go over to the device at another address, which takes the place of this one.

        Its state goes along, unless ``state`` is False. Queues go on where they were: the driver has nothing
        to do, and what it does meanwhile waits. What fails leaves the device where it was.
        """
