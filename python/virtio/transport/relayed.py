"""A device that is served even to drivers whose memory cannot be mapped: its queues are relayed then.

It stands between a device and the registers of a transport, and is a device to them. Whether the memory can
be mapped is asked whenever a driver begins anew; if it can, this does nothing but pass on.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from virtio.errors import ConfigurationError, ProtocolError
from virtio.memory.shared import SharedMemory
from virtio.queue.device import FRESH_BASE, FRESH_PACKED_BASE
from virtio.queue.relay import FarMemory, Relay, Rings
from virtio.spec.core import STATUS, F
from virtio.transport.interface import DeviceEnd, Space, TransportEvents

_NEAR_SIZE = 16 << 20
"""Bytes by which the memory for relayed buffers grows."""


class RelayedQueue:
    """A queue of such a device: a :class:`~virtio.transport.interface.QueueEnd`."""

    def __init__(self, device: "RelayedDevice", index: int, queue: Any) -> None:
        """Stand before ``queue``."""
        self._device = device
        self._index = index
        self._queue = queue
        self._rings: dict[str, int] = {}
        self._enabled = False
        self._kicks = True
        self._kick: int | None = None
        self._call: int | Callable[[], object] | None = None
        self._relay: Relay | None = None

    @property
    def max_size(self) -> int:
        """Most descriptors that it can have."""
        return int(self._queue.max_size)

    @property
    def running(self) -> bool:
        """Whether it takes chains."""
        return bool(self._queue.running)

    @property
    def broken(self) -> bool:
        """Whether the driver broke a rule on it."""
        return bool(self._queue.broken) or (self._relay is not None and self._relay.broken)

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
        """Say where the rings are."""
        if not self._device.relaying:
            self._queue.configure(
                size=size, descriptors=descriptors, available=available, used=used, space=space, base=base
            )
            return
        given = {"size": size, "descriptors": descriptors, "available": available, "used": used, "base": base}
        self._rings |= {name: value for name, value in given.items() if value is not None}

    def set_kick(self, fd: int | None) -> None:
        """Take notifications from this descriptor."""
        if not self._device.relaying:
            self._queue.set_kick(fd)
        # Kept: the driver may begin anew in another way, and does not say it again.
        if self._kick is not None:
            os.close(self._kick)
        self._kick = None if fd is None else os.dup(fd)

    def set_kicks(self, come: bool) -> None:
        """Poll instead of sleeping if no notifications come."""
        self._kicks = come
        if not self._device.relaying:
            self._queue.set_kicks(come)

    def set_call(self, target: int | Callable[[], object] | None) -> None:
        """Send notifications there."""
        if not self._device.relaying:
            self._queue.set_call(target)
            return
        self._forget_call()
        self._call = os.dup(target) if isinstance(target, int) else target

    def set_error(self, fd: int | None) -> None:
        """Signal broken rules there."""
        self._queue.set_error(fd)

    def set_inflight(self, fd: int | None, offset: int = 0, size: int = 0, *, entries: int = 0) -> None:
        """Keep there what is under way."""
        if self._device.relaying:
            raise ConfigurationError("what is relayed is not kept anywhere else")
        self._queue.set_inflight(fd, offset, size, entries=entries)

    def notify(self, data: int | None = None) -> None:
        """Look at the ring now."""
        if not self._device.relaying:
            self._queue.notify(data)
        elif self._relay is not None:
            os.eventfd_write(self._relay.wake, 1)

    def start(self) -> None:
        """Take chains from now on."""
        if not self._device.relaying:
            self._queue.start()
            return
        self._enabled = True
        self.run()

    def stop(self, timeout: float = 5.0) -> int:
        """Stop, and return where to continue."""
        if not self._device.relaying:
            return int(self._queue.stop(timeout))
        self._enabled = False
        self._end()
        return self._rings.get("base", 0)

    def reset(self) -> None:
        """Stop, and forget where the rings are."""
        self.forget()
        self._queue.reset()

    # --- the device

    def run(self) -> None:
        """Relay, if the driver has started the queue and the device is live."""
        device = self._device
        if self._relay is not None or not self._enabled or not device.live:
            return
        features = device.negotiated_features
        fresh = FRESH_PACKED_BASE if features & F.RING_PACKED else FRESH_BASE
        rings = Rings(**{"base": fresh, "features": features, **self._rings})
        relay = device.make_relay(self._index, rings, self._signal)
        self._relay = relay
        relay.kick, relay.kicks = self._kick, self._kicks
        self._queue.reset()
        self._queue.configure(size=rings.size, space="guest", **relay.near_rings)
        self._queue.set_kick(relay.near_kick)
        self._queue.set_call(relay.near_call)
        self._queue.start()
        relay.start()

    def forget(self) -> None:
        """The driver begins anew."""
        self._enabled = False
        self._end()
        self._rings.clear()
        self._forget_call()

    def attached(self) -> None:
        """The device is attached anew, and not relayed."""
        if self._kick is not None:
            self._queue.set_kick(self._kick)
        self._queue.set_kicks(self._kicks)

    def leave(self) -> None:
        """The driver is gone, and its descriptors with it."""
        self.forget()
        self._kicks = True
        if self._kick is not None:
            os.close(self._kick)
            self._kick = None

    def _end(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            self._rings["base"] = relay.stop()
            self._queue.reset()
            relay.close()

    def _signal(self) -> None:
        call = self._call
        if callable(call):
            call()
        elif call is not None:
            with contextlib.suppress(OSError):  # a full counter is as good as a signal
                os.eventfd_write(call, 1)

    def _forget_call(self) -> None:
        if isinstance(self._call, int):
            os.close(self._call)
        self._call = None


class RelayedDevice:
    """The device: a :class:`~virtio.transport.interface.DeviceEnd`."""

    def __init__(self, device: DeviceEnd) -> None:
        """Stand before ``device``."""
        self._device = device
        self.far_memory: Callable[[], FarMemory | None] = lambda: None
        """Returns what reaches the driver's memory, for each user anew; None: it is mapped."""
        self._memory: Any = None
        self._events: TransportEvents | None = None
        self._near: SharedMemory | None = None
        self._broken = False
        self.queues: Sequence[RelayedQueue] = tuple(
            RelayedQueue(self, index, queue) for index, queue in enumerate(device.queues)
        )

    @property
    def relaying(self) -> bool:
        """Whether queues are relayed for this driver."""
        return self._near is not None

    @property
    def live(self) -> bool:
        """Whether the driver has said that it is ready."""
        return bool(self._device.status & STATUS.DRIVER_OK)

    def attach(self, memory: Any, events: TransportEvents) -> None:
        """Begin with a new driver."""
        self._device.attach(memory, events)
        self._memory, self._events = memory, events

    def detach(self) -> None:
        """The driver is gone."""
        self._leave()
        self._device.detach()
        self._memory = self._events = None
        self._drop_near()

    def close(self) -> None:
        """Finish everything and release what is behind the device."""
        self._leave()
        self._device.close()
        self._drop_near()

    @property
    def status(self) -> int:
        """The device status field."""
        return self._device.status | (STATUS.DEVICE_NEEDS_RESET if self._broken else 0)

    def set_status(self, status: int) -> None:
        """Take what the driver wrote; 0 resets."""
        if status == 0:
            self._forget()
        elif not self._device.status:
            self._choose()
        self._device.set_status(status)
        if self.relaying and self.live:
            for queue in self.queues:
                queue.run()

    def negotiate(self, features: int) -> None:
        """Take what the driver accepted."""
        self._device.negotiate(features)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the device's."""
        return getattr(self._device, name)

    def make_relay(self, index: int, rings: Rings, call: Callable[[], object]) -> Relay:
        """Make the relay of a queue."""
        far = self.far_memory()
        if far is None or self._near is None:
            raise ConfigurationError("the driver's memory is not far away any more")
        name = f"{self._device.name}:{index}"
        return Relay(far, rings, self._near, name=name, call=call, on_fault=self._fault)

    def _choose(self) -> None:
        """A driver begins: see whether its memory can be mapped by now."""
        far = self.far_memory() is not None
        if far == self.relaying or self._memory is None or self._events is None:
            return
        self._device.detach()
        self._drop_near()
        if far:
            self._near = SharedMemory(_NEAR_SIZE)
        self._device.attach(self._memory if self._near is None else self._near.native, self._events)
        if not far:
            for queue in self.queues:
                queue.attached()

    def _fault(self, fault: ProtocolError) -> None:
        """A driver broke a rule in a ring that is relayed."""
        self._broken = True
        events = self._events
        if events is not None:
            events.needs_reset(fault)
            events.config_changed()

    def _forget(self) -> None:
        for queue in self.queues:
            queue.forget()
        self._broken = False

    def _leave(self) -> None:
        self._forget()
        for queue in self.queues:
            queue.leave()

    def _drop_near(self) -> None:
        if self._near is not None:
            self._near.close()
            self._near = None
