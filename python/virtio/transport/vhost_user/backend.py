"""What each message of a front end does to the device."""

import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from virtio._native import Region
from virtio.errors import Error, FeatureNegotiationError, TransportError
from virtio.spec.core import STATUS, F
from virtio.transport.interface import DeviceEnd, GuestMemory, TransportEvents
from virtio.transport.vhost_user.codec import Message
from virtio.transport.vhost_user.device_state import DeviceState
from virtio.transport.vhost_user.dirty import DirtyLog
from virtio.transport.vhost_user.inflight import InflightMemory
from virtio.transport.vhost_user.messages import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    NO_DESCRIPTOR,
    VRING_F_LOG,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import (
    ConfigAccess,
    Inflight,
    MemoryRegion,
    VringAddress,
    VringState,
)
from virtio.transport.vhost_user.quirks import without_control_queue
from virtio.transport.vhost_user.translations import Translations
from virtio.transport.vhost_user.vring import Vring

_P = ProtocolFeature
_log = logging.getLogger("virtio.transport.vhost_user")

PROTOCOL_FEATURES = sum(
    feature.mask
    for feature in (
        _P.MQ,
        _P.REPLY_ACK,
        _P.BACKEND_REQ,
        _P.CONFIG,
        _P.RESET_DEVICE,
        _P.CONFIGURE_MEM_SLOTS,
        _P.STATUS,
        _P.LOG_SHMFD,
        _P.DEVICE_STATE,
        _P.INFLIGHT_SHMFD,
    )
)
"""The protocol features that are offered unless told otherwise."""

IN_BAND = _P.INBAND_NOTIFICATIONS.mask
"""Offered on request only: UML prefers messages to descriptors if it may, and each request then waits for our
process to read two of them (a sixth of the requests per second)."""

CARRIED_FEATURES = (
    (1 << 24) - 1  # those of device types; 41 and 42 are not for here
    | sum(1 << bit for bit in range(50, 64))
    | F.INDIRECT_DESC
    | F.EVENT_IDX
    | F.VERSION_1
    | F.RING_PACKED
    | F.IN_ORDER
    | F.ORDER_PLATFORM
    | F.ACCESS_PLATFORM
    | F.RING_RESET
)
"""The device's features that can be used over this transport.

A ring is reset by stopping it and describing it anew, as QEMU does. ACCESS_PLATFORM only if the device has it
offered: User Mode Linux takes it, and then fails to probe. Not NOTIFICATION_DATA: a kick is a write to an
eventfd and carries nothing. Not SUSPEND: there is no message for it. Nor what does not fit into 64 bits.
"""

MAX_MEMORY_SLOTS = 509
"""As many as vhost in the kernel has."""

LIVE_STATUS = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

MAX_CONFIG_SIZE = 2048


class FatalError(TransportError):
    """The connection cannot go on."""


class Answer(NamedTuple):
    """The payload of an answer, and a descriptor that goes with it; valid until the next message."""

    payload: Any
    fd: int


class BackEnd:
    """The state of a connection on the device's side."""

    def __init__(
        self,
        device: DeviceEnd,
        memory: GuestMemory,
        events: TransportEvents,
        *,
        call_in_band: Callable[[int], object],
        missed: Callable[[], object],
        protocol_features: int = PROTOCOL_FEATURES,
        timeout: float = 5.0,
    ) -> None:
        """Attach the device to ``memory``.

        ``call_in_band`` notifies the driver of a queue without a call descriptor, from any thread.
        ``missed`` is called, from any thread, when the front end is to be asked for a translation.
        ``timeout`` bounds the wait for requests under way whenever a ring stops or memory goes.
        """
        self.device = device
        self.offered = device.offered_features & CARRIED_FEATURES | F_PROTOCOL_FEATURES | F_LOG_ALL
        if not protocol_features & _P.BACKEND_REQ.mask:
            self.offered &= ~F.ACCESS_PLATFORM
        self.offered_protocol = protocol_features
        self.protocol_features = 0
        self._memory = memory
        self._timeout = timeout
        self._call_in_band = call_in_band
        self._accepted: int | None = None
        self._status = 0
        self._log = DirtyLog(memory, timeout)
        self.translations = Translations(memory, timeout)
        memory.on_miss(missed)
        self.state = DeviceState(device)
        self._inflight = InflightMemory()
        device.attach(memory, events)
        carried = device.queues[: len(device.queues) - len(device.admin_queues)]
        self.vrings = tuple(Vring(queue, index, memory) for index, queue in enumerate(carried))

    def has(self, feature: ProtocolFeature) -> bool:
        """Tell whether a protocol feature is negotiated."""
        return bool(self.protocol_features & feature.mask)

    @property
    def active(self) -> bool:
        """Whether a ring has been started and not stopped: otherwise the device keeps silent."""
        return any(vring.begun for vring in self.vrings)

    def handle(self, message: Message) -> Any:
        """Do what a request says; return the payload of its answer, if it has one."""
        self._inflight.sent()
        kind = message.kind
        if kind is None:
            raise TransportError("not a message of the protocol")
        if message.problem is not None:
            raise TransportError(message.problem)
        if kind.feature is not None and not self.offered_protocol & kind.feature.mask:
            raise TransportError(f"belongs to {kind.feature.name}, which is not offered")
        handler = _HANDLERS.get(kind.name)
        if handler is None:
            raise TransportError("not supported")
        return handler(self, message)

    def close(self) -> None:
        """Let go of the device and the memory."""
        try:
            self.device.detach()
        finally:
            self.state.close()
            self._log.close()
            self._inflight.close()
            self.translations.close()
            self._memory.clear(self._timeout)

    # --- features

    def get_features(self, _: Message) -> int:
        """GET_FEATURES."""
        return self.offered

    def set_features(self, message: Message) -> None:
        """SET_FEATURES: also the only sign of a new driver that every front end gives."""
        features: int = message.payload
        if unexpected := features & ~self.offered:
            raise self._refusal(message, f"features {unexpected:#x} were accepted, but never offered")
        accepted = features & ~(F_PROTOCOL_FEATURES | F_LOG_ALL)
        accepted = without_control_queue(self.device.device_id, accepted)
        if any(vring.live for vring in self.vrings):
            if accepted != self._accepted:
                raise TransportError("features cannot change while rings are live")
        else:
            if accepted != self._accepted or self._broken or self.active:
                self._negotiate(accepted, message)
            self.translations.start_over(bool(accepted & F.ACCESS_PLATFORM))
        self._log.want(bool(features & F_LOG_ALL))
        if not features & F_PROTOCOL_FEATURES:
            for vring in self.vrings:
                vring.enabled = True
                self._update(vring)

    def _negotiate(self, accepted: int, message: Message) -> None:
        # Network front ends enable rings before they send features, and not again.
        self._reset(enabled=None)
        if accepted & F.ACCESS_PLATFORM and not self.has(_P.BACKEND_REQ):
            raise self._refusal(message, "ACCESS_PLATFORM needs BACKEND_REQ: else nothing could be asked")
        try:
            self.state.negotiating()
            self.device.set_status(STATUS.ACKNOWLEDGE | STATUS.DRIVER)
            self.device.negotiate(accepted)
            self.device.set_status(STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK)
        except FeatureNegotiationError as error:
            raise self._refusal(message, str(error)) from error
        self._accepted = accepted
        for vring in self.vrings:
            vring.packed = bool(accepted & F.RING_PACKED)
            vring.translated = bool(accepted & F.ACCESS_PLATFORM)

    def _refusal(self, message: Message, reason: str) -> TransportError:
        """Refuse features so that the front end can see it: by an answer, the status, or by hanging up."""
        if (message.needs_reply and self.has(_P.REPLY_ACK)) or self.has(_P.STATUS):
            return TransportError(reason)
        return FatalError(reason)

    def get_protocol_features(self, _: Message) -> int:
        """GET_PROTOCOL_FEATURES."""
        return self.offered_protocol

    def set_protocol_features(self, message: Message) -> None:
        """SET_PROTOCOL_FEATURES. What is wrong here cannot be told to the front end but by hanging up."""
        features: int = message.payload
        if unexpected := features & ~self.offered_protocol:
            raise FatalError(f"protocol features {unexpected:#x} were accepted, but never offered")
        needed = _P.BACKEND_REQ.mask | _P.REPLY_ACK.mask
        if features & _P.INBAND_NOTIFICATIONS.mask and features & needed != needed:
            raise FatalError("INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK")
        self.protocol_features = features

    def set_owner(self, _: Message) -> None:
        """SET_OWNER: says that a session starts. Most front ends ask for features before it."""

    def reset_owner(self, _: Message) -> None:
        """RESET_OWNER, obsolete: disables all rings, as the protocol recommends."""
        for vring in self.vrings:
            vring.enabled = False
            self._update(vring)

    # --- memory

    def set_mem_table(self, message: Message) -> None:
        """SET_MEM_TABLE: all regions at once, in the place of those before."""
        regions: Sequence[MemoryRegion] = message.payload
        if len(regions) != len(message.fds):
            raise TransportError(f"{len(regions)} regions, but {len(message.fds)} descriptors")
        self._memory.replace(
            [
                Region(r.guest_address, r.size, fd, r.mmap_offset, r.user_address, True)
                for r, fd in zip(regions, message.fds, strict=True)
            ],
            self._timeout,
        )

    def get_max_mem_slots(self, _: Message) -> int:
        """GET_MAX_MEM_SLOTS."""
        return MAX_MEMORY_SLOTS

    def add_mem_reg(self, message: Message) -> None:
        """ADD_MEM_REG."""
        region: MemoryRegion = message.payload
        if len(self._memory.regions) >= MAX_MEMORY_SLOTS:
            raise TransportError(f"there are {MAX_MEMORY_SLOTS} regions already")
        self._memory.add(
            region.guest_address,
            region.size,
            message.fds[0],
            region.mmap_offset,
            user_address=region.user_address,
        )

    def set_log_base(self, message: Message) -> None:
        """SET_LOG_BASE: where to note what is written. The answer says that all queues do."""
        self._log.set_area(message.payload, message.fds)

    def set_log_fd(self, message: Message) -> None:
        """SET_LOG_FD."""
        self._log.set_notify(message.fds[0])

    def iotlb_msg(self, message: Message) -> int:
        """IOTLB_MSG: where I/O virtual addresses lead, or that they do not any more."""
        self.translations.take(message.payload)
        return 0

    def rem_mem_reg(self, message: Message) -> None:
        """REM_MEM_REG: the region is known by its addresses and its size."""
        region: MemoryRegion = message.payload
        for known in self._memory.regions:
            if (known.guest_address, known.size, known.user_address) == (
                region.guest_address,
                region.size,
                region.user_address,
            ):
                self._memory.remove(region.guest_address, region.size, self._timeout)
                return
        raise TransportError(
            f"there is no region of {region.size:#x} bytes at guest {region.guest_address:#x}, "
            f"user {region.user_address:#x}"
        )

    # --- in-flight memory

    def get_inflight_fd(self, message: Message) -> Answer:
        """GET_INFLIGHT_FD: make memory that outlives us. Without features the larger layout is meant."""
        packed = self._accepted is None or bool(self._accepted & F.RING_PACKED)
        return Answer(*self._inflight.make(message.payload, len(self.vrings), packed=packed))

    def set_inflight_fd(self, message: Message) -> None:
        """SET_INFLIGHT_FD: made here, or by a predecessor, which then may have left requests there."""
        if any(vring.live for vring in self.vrings):
            raise TransportError("in-flight memory cannot change while rings are live")
        area: Inflight = message.payload
        self._inflight.take(area, message.fds[0], len(self.vrings))
        for vring in self.vrings:
            vring.left = None

    # --- rings

    def get_queue_num(self, _: Message) -> int:
        """GET_QUEUE_NUM."""
        return len(self.vrings)

    def set_vring_num(self, message: Message) -> None:
        """SET_VRING_NUM."""
        state: VringState = message.payload
        self._vring(state.ring).set_size(state.num)

    def set_vring_addr(self, message: Message) -> None:
        """SET_VRING_ADDR."""
        address: VringAddress = message.payload
        # The used ring is logged whenever anything is, by its guest address: what front ends say here too.
        if address.flags & VRING_F_LOG and not self._log.wanted:
            raise TransportError("the used ring is to be logged, but logging was not negotiated")
        vring = self._vring(address.ring)
        vring.set_address(address, self._timeout)
        self._update(vring)

    def set_vring_base(self, message: Message) -> None:
        """SET_VRING_BASE."""
        state: VringState = message.payload
        self._vring(state.ring).set_base(state.num)

    def get_vring_base(self, message: Message) -> VringState:
        """GET_VRING_BASE: stops the ring."""
        state: VringState = message.payload
        return VringState(state.ring, self._vring(state.ring).stop(self._timeout))

    def set_vring_kick(self, message: Message) -> None:
        """SET_VRING_KICK."""
        vring, fd = self._vring_and_fd(message)
        vring.set_kick(fd)
        self._update(vring)

    def set_vring_call(self, message: Message) -> None:
        """SET_VRING_CALL: may come at any time, live rings take the new one."""
        vring, fd = self._vring_and_fd(message)
        vring.set_call(fd)

    def set_vring_err(self, message: Message) -> None:
        """SET_VRING_ERR."""
        vring, fd = self._vring_and_fd(message)
        vring.set_error(fd)

    def set_vring_enable(self, message: Message) -> None:
        """SET_VRING_ENABLE. With in-band notifications it may be the only sign that a ring is complete."""
        state: VringState = message.payload
        if state.num not in (0, 1):
            raise TransportError(f"enable with {state.num}; there are 0 and 1")
        vring = self._vring(state.ring)
        vring.enabled = state.num == 1
        if vring.enabled and self.has(_P.INBAND_NOTIFICATIONS):
            vring.kick_in_band()
        self._update(vring)

    def vring_kick(self, message: Message) -> None:
        """VRING_KICK: an in-band notification of available buffers."""
        state: VringState = message.payload
        if not self.has(_P.INBAND_NOTIFICATIONS):
            raise TransportError("INBAND_NOTIFICATIONS was not negotiated")
        vring = self._vring(state.ring)
        vring.kick_in_band()
        self._update(vring)
        vring.queue.notify()

    def _vring(self, index: int) -> Vring:
        if index >= len(self.vrings):
            raise TransportError(f"there is no ring {index}; there are {len(self.vrings)}")
        return self.vrings[index]

    def _vring_and_fd(self, message: Message) -> tuple[Vring, int | None]:
        number: int = message.payload
        if number & ~(NO_DESCRIPTOR | 0xFF):
            raise TransportError(f"{number:#x} names no ring")
        vring = self._vring(number & 0xFF)
        if bool(number & NO_DESCRIPTOR) == bool(message.fds):
            raise TransportError("bit 8 and the number of descriptors contradict each other")
        return vring, message.fds[0] if message.fds else None

    def _update(self, vring: Vring) -> None:
        """Make the queue run if, and only if, its ring is started and enabled."""
        if vring.live and not vring.ready:
            vring.pause(self._timeout)
        elif vring.ready and not vring.live:
            if self._accepted is None:
                raise TransportError("a ring is started before features were negotiated")
            self.device.set_status(self.device.status & ~STATUS.DEVICE_NEEDS_RESET | LIVE_STATUS)
            in_band = self.has(_P.INBAND_NOTIFICATIONS)
            vring.start((lambda: self._call_in_band(vring.index)) if in_band else None, self._inflight)

    # --- device state

    def set_device_state_fd(self, message: Message) -> int:
        """SET_DEVICE_STATE_FD."""
        if self.active:
            raise TransportError("the device state, while rings are not stopped")
        return self.state.begin(message)

    def check_device_state(self, _: Message) -> int:
        """CHECK_DEVICE_STATE."""
        if self.active:
            raise TransportError("the device state, while rings are not stopped")
        return self.state.check()

    # --- configuration space

    def get_config(self, message: Message) -> ConfigAccess:
        """GET_CONFIG: the answer is as long as was asked for, whatever the device has."""
        access = self._access(message)
        data = self.device.read_config(access.offset, access.size)
        return ConfigAccess(access.offset, access.size, access.flags, data.ljust(access.size, b"\0"))

    def set_config(self, message: Message) -> None:
        """SET_CONFIG."""
        access = self._access(message)
        if access.flags not in (0, 1):
            raise TransportError(f"configuration access with flags {access.flags:#x}")
        self.device.write_config(access.offset, access.data)

    def _access(self, message: Message) -> ConfigAccess:
        access: ConfigAccess | None = message.payload
        if access is None or access.offset + access.size > MAX_CONFIG_SIZE:
            raise TransportError("configuration access out of bounds")
        return access

    # --- status

    def get_status(self, _: Message) -> int:
        """GET_STATUS: what the front end set, and what the device has to say about it."""
        status = self._status | (self.device.status & STATUS.DEVICE_NEEDS_RESET)
        return status if self._accepted is not None else status & ~STATUS.FEATURES_OK

    def set_status(self, message: Message) -> None:
        """SET_STATUS: 0 resets. The rest is kept to be read (quirk STATUS_OUT_OF_THIN_AIR)."""
        status: int = message.payload
        if status > 0xFF:
            raise TransportError(f"status {status:#x} has more than 8 bits")
        if status == 0:
            self.reset_device(message)
        self._status = status & ~STATUS.DEVICE_NEEDS_RESET

    def reset_device(self, _: Message) -> None:
        """RESET_DEVICE."""
        self._reset(enabled=False)
        self._inflight.reset()

    @property
    def _broken(self) -> bool:
        return bool(self.device.status & STATUS.DEVICE_NEEDS_RESET)

    def _reset(self, *, enabled: bool | None) -> None:
        for vring in self.vrings:
            try:
                vring.reset(enabled=enabled, timeout=self._timeout)
            except Error as error:
                # The requests are given up, so the queue stands still all the same: the reset goes on.
                _log.warning("%s: ring %d: %s", self.device.name, vring.index, error)
        self._inflight.clear_used()
        self.device.set_status(0)
        self._accepted = None
        self._status = 0


def is_socket(fd: int) -> bool:
    """Tell whether a descriptor can be a channel."""
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


_HANDLERS: dict[str, Callable[[BackEnd, Message], Any]] = {
    "GET_FEATURES": BackEnd.get_features,
    "SET_FEATURES": BackEnd.set_features,
    "SET_OWNER": BackEnd.set_owner,
    "RESET_OWNER": BackEnd.reset_owner,
    "SET_MEM_TABLE": BackEnd.set_mem_table,
    "SET_VRING_NUM": BackEnd.set_vring_num,
    "SET_VRING_ADDR": BackEnd.set_vring_addr,
    "SET_VRING_BASE": BackEnd.set_vring_base,
    "GET_VRING_BASE": BackEnd.get_vring_base,
    "SET_VRING_KICK": BackEnd.set_vring_kick,
    "SET_VRING_CALL": BackEnd.set_vring_call,
    "SET_VRING_ERR": BackEnd.set_vring_err,
    "GET_PROTOCOL_FEATURES": BackEnd.get_protocol_features,
    "SET_PROTOCOL_FEATURES": BackEnd.set_protocol_features,
    "GET_QUEUE_NUM": BackEnd.get_queue_num,
    "SET_VRING_ENABLE": BackEnd.set_vring_enable,
    "GET_CONFIG": BackEnd.get_config,
    "SET_CONFIG": BackEnd.set_config,
    "IOTLB_MSG": BackEnd.iotlb_msg,
    "RESET_DEVICE": BackEnd.reset_device,
    "VRING_KICK": BackEnd.vring_kick,
    "GET_MAX_MEM_SLOTS": BackEnd.get_max_mem_slots,
    "SET_LOG_BASE": BackEnd.set_log_base,
    "SET_LOG_FD": BackEnd.set_log_fd,
    "GET_INFLIGHT_FD": BackEnd.get_inflight_fd,
    "SET_INFLIGHT_FD": BackEnd.set_inflight_fd,
    "ADD_MEM_REG": BackEnd.add_mem_reg,
    "REM_MEM_REG": BackEnd.rem_mem_reg,
    "SET_STATUS": BackEnd.set_status,
    "GET_STATUS": BackEnd.get_status,
    "SET_DEVICE_STATE_FD": BackEnd.set_device_state_fd,
    "CHECK_DEVICE_STATE": BackEnd.check_device_state,
}
