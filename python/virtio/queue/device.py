"""One virtqueue of a device: the native queue, and what outlives it.

A transport configures, starts and stops queues; the device decides whether they may run at all. So
``start`` means "the driver has enabled this queue": it runs once the device is live too, whichever comes
last.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from virtio._native import Chain, Counters, Handler, Memory, Queue
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec.core import F

MAX_SIZE = 1024
"""The queue size that is shown as the maximum to drivers that ask for one; any up to 32768 works."""

FRESH_BASE = 0
FRESH_PACKED_BASE = 0x8000_8000
"""Where a new ring begins, as :meth:`DeviceQueue.stop` would return it; packed: wrap counters start at 1."""


class DeviceQueue:
    """The device's end of one virtqueue, as transports see it."""

    def __init__(self, index: int, name: str, max_size: int = MAX_SIZE, workers: int = 1) -> None:
        """Describe queue ``index``; it is attached to a driver later. ``workers`` threads answer it."""
        if workers < 1:
            raise ConfigurationError(f"{workers} workers cannot answer a queue")
        self._workers = workers
        self.index = index
        self.name = name
        self.max_size = max_size
        self._native: Queue | None = None
        self._counters: Counters | None = None
        self._coalescing = self._default_coalescing = (0, 0)
        self._polling: tuple[Literal["busy", "adaptive", "off"] | int, int] = ("off", 50)
        self._clear()

    def _clear(self) -> None:
        self._rings: dict[str, Any] = {}
        self._fresh = False  # the rings were configured since the queue last ran
        self._enabled = False
        self._live = False
        self._kicks = True
        self._features = 0

    def __repr__(self) -> str:
        """Show what the queue is and does."""
        state = "broken" if self.broken else "running" if self.running else "stopped"
        return f"<DeviceQueue {self.index} {self.name}, {state}>"

    # --- the transport's side

    @property
    def size(self) -> int:
        """How many descriptors the driver chose; 0 before it did."""
        return int(self._rings.get("size", 0))

    def configure(
        self,
        *,
        size: int | None = None,
        descriptors: int | None = None,
        available: int | None = None,
        used: int | None = None,
        space: str | None = None,
        base: int | None = None,
    ) -> None:
        """Say where the rings are, all at once or piece by piece; only while the queue is stopped.

        The pieces are put together when the queue starts, and checked then.
        """
        if self.running:
            raise ConfigurationError(f"queue {self.index} is running; its rings cannot be moved")
        given = {
            "size": size,
            "descriptors": descriptors,
            "available": available,
            "used": used,
            "space": space,
            "base": base,
        }
        self._rings.update({name: value for name, value in given.items() if value is not None})
        self._fresh = True

    def set_kick(self, fd: int | None) -> None:
        """Take available buffer notifications from an eventfd."""
        self._attached().set_kick(fd)

    def set_call(self, target: "int | Callable[[], object] | None") -> None:
        """Send used buffer notifications to an eventfd, a stream socket or a function."""
        self._attached().set_call(target)

    def set_error(self, fd: int | None) -> None:
        """Signal this eventfd when the driver breaks a rule."""
        self._attached().set_error(fd)

    def set_inflight(self, fd: int | None, offset: int = 0, size: int = 0, *, entries: int = 0) -> None:
        """Keep there what is under way, in vhost-user's form, and take up what a predecessor left."""
        self._attached().set_inflight(fd, offset, size, entries=entries)

    def notify(self, data: int | None = None) -> None:
        """Kick in-band, with what the notification carried. Harmless on a queue that does not run."""
        if self._native is not None:
            self._native.notify(data)

    def set_polling(
        self, mode: 'Literal["busy", "adaptive", "off"] | int', *, microseconds: int = 50
    ) -> None:
        """Look at an empty ring without end, for a bounded time (a number: these microseconds), or not.

        It may be chosen before there is a driver, and stays when another comes.
        """
        self._polling = (mode, microseconds)
        self._apply_polling()

    def set_coalescing(self, packets: int, microseconds: int, *, default: bool = False) -> None:
        """Put notifications off until so many buffers are used, or so long; with a 0, not at all.

        A ``default`` also holds for the queue when it is enabled again after a reset.
        """
        self._coalescing = (packets, microseconds)
        if default:
            self._default_coalescing = self._coalescing
        if self._native is not None:
            self._native.set_coalescing(packets, microseconds)

    @property
    def coalescing(self) -> tuple[int, int]:
        """Buffers and microseconds for which notifications are put off."""
        return self._coalescing

    def set_kicks(self, come: bool) -> None:
        """Say whether the driver sends kicks at all. Without any the queue never sleeps."""
        self._kicks = come
        self._apply_polling()

    def _apply_polling(self) -> None:
        if self._native is not None:
            mode, microseconds = self._polling
            self._native.set_polling(mode if self._kicks else "busy", microseconds=microseconds)

    @property
    def ready(self) -> bool:
        """Whether the driver has said where all the rings are."""
        return {"size", "descriptors", "available", "used"} <= self._rings.keys()

    @property
    def enabled(self) -> bool:
        """Whether the transport has started the queue, so that it runs while the device is live."""
        return self._enabled

    def start(self) -> None:
        """Enable the queue. Without rings, or on a device that is not live, it starts as soon as it can."""
        self._attached()
        self._enabled = True
        self._run()

    def stop(self, timeout: float = 5.0) -> int:
        """Disable the queue, wait for what is under way, and return the base to continue from."""
        self._enabled = False
        return self._halt(timeout)

    def reset(self, timeout: float = 5.0) -> None:
        """Stop at once and forget the rings (VIRTIO 1.4, 2.6.1); what comes next is configured anew.

        Nothing is completed and nobody is notified any more, unlike with :meth:`stop`.
        """
        self._enabled = False
        if self._native is not None:
            self._native.reset(timeout)
        self._rings.clear()
        self._fresh = False
        self.set_coalescing(*self._default_coalescing)

    @property
    def running(self) -> bool:
        """Whether the worker runs."""
        return self._native is not None and self._native.running

    @property
    def broken(self) -> bool:
        """Whether the driver broke a rule, so that the queue stands still until it is configured again."""
        return self._native is not None and self._native.broken

    @property
    def counters(self) -> Counters | None:
        """What has been done for the present driver, or else for the last one; None if there was none yet."""
        if self._native is not None:
            self._counters = self._native.counters
        return self._counters

    # --- the device's side

    def complete_together(self, chains: Sequence[Chain], written: Sequence[int | None] | None = None) -> None:
        """Complete chains so that the driver finds all of them used at once, or none.

        As :meth:`Queue.complete_together <virtio._native.Queue.complete_together>`.
        """
        self._attached().complete_together(chains, written)

    def attach(
        self, memory: Memory, handler: Handler, on_fault: Callable[[ProtocolError], object], name: str
    ) -> None:
        """A driver arrives: make the native queue on its memory."""
        self._clear()
        self._native = Queue(memory, self.index, handler, on_fault=on_fault, name=name, workers=self._workers)
        self._apply_polling()
        self.set_coalescing(0, 0, default=True)

    def detach(self, timeout: float = 5.0) -> None:
        """The driver is gone: stop, and let go of its memory and descriptors."""
        try:
            if self._native is not None:
                self.stop(timeout)
        finally:
            self._counters = self.counters
            self._native = None
            self._clear()

    def go_live(self, features: int) -> None:
        """The device runs, with these features: start if enabled."""
        if features != self._features:
            self._features = features
            self._fresh = True
        self._live = True
        self._run()

    def pause(self, timeout: float = 5.0) -> None:
        """The device does not run any more: stop, to go on where it was when it is live again."""
        self._live = False
        self._halt(timeout)

    def _attached(self) -> Queue:
        if self._native is None:
            raise ConfigurationError(f"queue {self.index} has no driver")
        return self._native

    def _run(self) -> None:
        native = self._native
        if native is None or native.running or not (self._enabled and self._live and self.ready):
            return
        if self._fresh:
            packed = self._features & F.RING_PACKED
            rings = {"base": FRESH_PACKED_BASE if packed else FRESH_BASE} | self._rings
            native.configure(**rings, features=self._features)
            self._fresh = False
        native.start()

    def _halt(self, timeout: float) -> int:
        if self._native is None:
            return int(self._rings.get("base", 0))
        if not self._native.running:
            if self._fresh:  # configured but never started since: its base is still the one it was given
                return int(self._rings.get("base", 0))
            return self._native.stop(timeout)
        base = self._native.stop(timeout)
        self._rings["base"] = base
        # A broken queue stays so until the driver configures it anew.
        self._fresh = not self._native.broken
        return base
