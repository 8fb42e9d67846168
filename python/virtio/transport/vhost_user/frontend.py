"""The front end's side of a connection, as procedures without input or output.

Each procedure is a :data:`~.exchange.Script`: it yields requests and is sent their answers. Two kinds of
failure are told apart: :exc:`~virtio.errors.RefusedError`, after which the connection goes on, and
:exc:`~.exchange.ViolationError`, after which nothing that the back end says is believed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from virtio.errors import ConfigurationError, Error, RefusedError, TransportError
from virtio.memory.shared import SharedRegion
from virtio.queue.device import FRESH_BASE, FRESH_PACKED_BASE
from virtio.spec.core import STATUS, F
from virtio.transport.vhost_user.backend import CARRIED_FEATURES
from virtio.transport.vhost_user.exchange import (
    Ask,
    FrontEndChannel,
    Script,
    UnrecoverableError,
    ViolationError,
)
from virtio.transport.vhost_user.messages import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    VRING_F_LOG,
    ProtocolFeature,
)
from virtio.transport.vhost_user.payloads import (
    MAX_REGIONS,
    ConfigAccess,
    Inflight,
    Iotlb,
    LogArea,
    MemoryRegion,
    VringAddress,
    VringState,
)

_P = ProtocolFeature

WANTED_PROTOCOL = (
    _P.MQ.mask
    | _P.REPLY_ACK.mask
    | _P.BACKEND_REQ.mask
    | _P.CONFIG.mask
    | _P.RESET_DEVICE.mask
    | _P.CONFIGURE_MEM_SLOTS.mask
    | _P.STATUS.mask
    | _P.LOG_SHMFD.mask
    | _P.DEVICE_STATE.mask
)
"""The protocol features that are accepted wherever they are offered."""

IN_BAND_NEEDS = _P.INBAND_NOTIFICATIONS.mask | _P.BACKEND_REQ.mask | _P.REPLY_ACK.mask

MAX_QUEUES = 256
"""As many as the messages with descriptors can name."""

MAX_QUEUE_SIZE = 1024
"""Most entries of a queue. The protocol has no word for it; this is what back ends hold."""

MAX_CONFIG_SIZE = 256
"""Bytes of configuration space that back ends have room for."""

_MOST_QUEUES = 65536  # of any device (2.6): who says more is not to be believed
_MAX_SLOTS = 509


@dataclass(slots=True)
class Ring:
    """A queue, as it is told to the back end."""

    size: int
    descriptors: int
    available: int
    used: int
    base: int
    call: int
    kick: int
    error: int
    enabled: bool = False


class FrontEnd:
    """What was agreed with a back end, and the procedures that agree on it."""

    def __init__(self, *, in_band: bool = False, inflight: bool = False, iommu: bool = False) -> None:
        """Begin with nothing agreed.

        ``in_band``: notifications by messages. ``inflight``: have the back end write down which requests it
        has taken, if it can. ``iommu``: give the device I/O virtual addresses.
        """
        self.iommu = iommu
        self._want_in_band = in_band
        self._want_inflight = inflight
        self._start_over()

    def _start_over(self) -> None:
        self.offered = 0
        self.protocol_features = 0
        self.queues: int | None = None
        self.slots = MAX_REGIONS
        self.accepted: int | None = None
        self._status = 0
        self._failed_features = False
        self.broken = False
        self.rings: dict[int, Ring] = {}
        self._shared: list[SharedRegion] = []
        self.written: dict[int, bytes] = {}
        """What the driver has written to configuration space since the reset, by offset."""
        self.logging = False
        self.inflight: tuple[Inflight, int] | None = None
        """The in-flight memory, and its descriptor, which whoever forgets it closes."""

    def has(self, feature: ProtocolFeature) -> bool:
        """Tell whether a protocol feature is negotiated."""
        return bool(self.protocol_features & feature.mask)

    @property
    def in_band(self) -> bool:
        """Whether notifications are messages."""
        return self.has(_P.INBAND_NOTIFICATIONS)

    @property
    def device_features(self) -> int:
        """What the device offers and this transport carries."""
        features = self.offered & CARRIED_FEATURES
        return features if self.iommu else features & ~F.ACCESS_PLATFORM

    def channel(self) -> FrontEndChannel:
        """Return what understands the back end's own requests."""
        return FrontEndChannel(
            in_band=self.in_band,
            config=self.has(_P.CONFIG),
            iotlb=self.iommu,
            queues=self.queues or MAX_QUEUES,
        )

    # --- the beginning

    def negotiate(self) -> Script[None]:
        """Agree on what both can, up to the back end's own channel."""
        self._start_over()
        yield Ask("SET_OWNER")
        self.offered = (yield Ask("GET_FEATURES")).payload
        if not self.offered & F_PROTOCOL_FEATURES:
            return
        offered = (yield Ask("GET_PROTOCOL_FEATURES")).payload
        wanted = WANTED_PROTOCOL
        if self._want_in_band and offered & IN_BAND_NEEDS == IN_BAND_NEEDS:
            wanted |= IN_BAND_NEEDS
        if self._want_inflight:
            wanted |= _P.INFLIGHT_SHMFD.mask
        self.protocol_features = offered & wanted
        yield Ask("SET_PROTOCOL_FEATURES", self.protocol_features)
        if self._want_in_band and not self.in_band:
            raise TransportError("the back end does not offer in-band notifications")

    def ask_limits(self) -> Script[None]:
        """Ask how many queues and memory regions there may be."""
        if self.has(_P.MQ):
            count = (yield Ask("GET_QUEUE_NUM")).payload
            if not 0 < count <= _MOST_QUEUES:
                raise ViolationError(f"a device with {count} queues")
            self.queues = min(count, MAX_QUEUES)
        if self.has(_P.CONFIGURE_MEM_SLOTS):
            slots = (yield Ask("GET_MAX_MEM_SLOTS")).payload
            if slots == 0:
                raise ViolationError("a back end with room for no memory")
            self.slots = min(slots, _MAX_SLOTS)

    def open_channel(self, fd: int) -> Script[None]:
        """Hand over the back end's own channel."""
        yield Ask("SET_BACKEND_REQ_FD", None, (fd,))

    # --- features and status

    def accept(self, features: int) -> Script[None]:
        """Accept features. A refusal shows in the status, as it does on every transport."""
        if unexpected := features & ~self.device_features:
            raise ConfigurationError(f"features {unexpected:#x} are not offered")
        if self.iommu and not features & F.ACCESS_PLATFORM:
            raise ConfigurationError("VIRTIO_F_ACCESS_PLATFORM must be accepted: there is an IOMMU")
        self._failed_features = False
        try:
            yield Ask("SET_FEATURES", features | self._own_features())
        except RefusedError:
            self._failed_features = True
        self.accepted = features

    def _own_features(self) -> int:
        """Return the bits that are the protocol's and not the device's."""
        return self.offered & F_PROTOCOL_FEATURES | (F_LOG_ALL if self.logging else 0)

    def status(self) -> Script[int]:
        """Ask for the status; where the protocol has none, it is what the driver wrote."""
        status = self._status
        if self.has(_P.STATUS):
            answered = (yield Ask("GET_STATUS")).payload
            if answered > 0xFF:
                raise ViolationError(f"a status of {answered:#x}")
            # Back ends may set bits that stand for trouble, or refuse FEATURES_OK; the others are ours.
            refused = STATUS.FEATURES_OK & ~answered
            status = status & ~refused | answered & STATUS.DEVICE_NEEDS_RESET
        if self._failed_features:
            status &= ~STATUS.FEATURES_OK
        if self.broken:
            status |= STATUS.DEVICE_NEEDS_RESET
        return status

    def set_status(self, status: int) -> Script[None]:
        """Write the status. Rings are enabled with DRIVER_OK."""
        if not 0 < status <= 0xFF:
            raise ConfigurationError(f"status {status:#x}")
        live = bool(status & STATUS.DRIVER_OK)
        if live and not self._status & STATUS.DRIVER_OK:
            yield from self._track()
            for index, ring in self.rings.items():
                yield from self._enable(index, ring)
        if self.has(_P.STATUS):
            yield Ask("SET_STATUS", status)
        self._status = status
        if live:
            yield from self._settle()

    def reset(self) -> Script[None]:
        """Stop all rings and reset the device."""
        for index in list(self.rings):
            yield from self.stop(index)
        if self.has(_P.RESET_DEVICE):
            yield Ask("RESET_DEVICE")
        if self.has(_P.STATUS):
            yield Ask("SET_STATUS", 0)
            left = (yield Ask("GET_STATUS")).payload
            if left:
                raise ViolationError(f"the status is {left:#x} after a reset")
        self.accepted = None
        self.written.clear()
        self.logging = False
        self._status = 0
        self._failed_features = False
        self.broken = False
        yield from self._settle()

    # --- configuration space

    def read_config(self, offset: int, size: int) -> Script[bytes]:
        """Read configuration space.

        Always from its beginning: libvhost-user, and what is built on it, does not look at the offset.
        """
        end = self._config_end(offset, size)
        access = (yield Ask("GET_CONFIG", ConfigAccess(0, end, 0, bytes(end)))).payload
        if access is None:
            raise RefusedError(f"the back end does not show {end} bytes of configuration space")
        if (access.offset, access.size) != (0, end):
            raise ViolationError(
                f"configuration space: {access.size} bytes from {access.offset} instead of {end} from 0"
            )
        return bytes(access.data[offset:])

    def write_config(self, offset: int, data: bytes) -> Script[None]:
        """Write configuration space."""
        self._config_end(offset, len(data))
        yield Ask("SET_CONFIG", ConfigAccess(offset, len(data), 0, data))
        yield from self._settle()
        self.written[offset] = data

    def _config_end(self, offset: int, size: int) -> int:
        if not self.has(_P.CONFIG):
            raise RefusedError("the back end has no configuration space (protocol feature CONFIG)")
        if offset < 0 or size < 0 or offset + size > MAX_CONFIG_SIZE:
            raise RefusedError(f"configuration space has at most {MAX_CONFIG_SIZE} bytes over vhost-user")
        return offset + size

    # --- memory

    @property
    def sharing(self) -> bool:
        """Whether the back end knows the memory, and has to be told what is new in it."""
        return bool(self._shared)

    def share(self, regions: Sequence[SharedRegion]) -> Script[None]:
        """Tell the back end all regions; later, those that are new."""
        new = [region for region in regions if region not in self._shared]
        if not new:
            return
        if len(regions) > self.slots:
            raise RefusedError(f"{len(regions)} regions of memory; the back end takes {self.slots}")
        if self.has(_P.CONFIGURE_MEM_SLOTS):
            for region in new:
                yield Ask("ADD_MEM_REG", _region(region), (region.fd,))
        else:
            table = tuple(_region(region) for region in regions)
            yield Ask("SET_MEM_TABLE", table, tuple(region.fd for region in regions))
        yield from self._settle()
        self._shared = list(regions)

    # --- rings

    def start(self, index: int, ring: Ring, regions: Sequence[SharedRegion]) -> Script[None]:
        """Describe a ring; enable it as well if the driver is ready."""
        if self.accepted is None:
            raise ConfigurationError("a queue is started before features were accepted")
        if index in self.rings:
            raise ConfigurationError(f"queue {index} is started already")
        if self.inflight is not None and ring.size > self.inflight[0].queue_size:
            raise ConfigurationError(
                f"a queue of {ring.size}; in-flight memory was made for {self.inflight[0].queue_size}"
            )
        if not 0 <= index < (self.queues or MAX_QUEUES):
            raise ConfigurationError(f"there is no queue {index}; there are {self.queues or MAX_QUEUES}")
        yield from self.share(regions)
        yield from self._describe(index, ring)
        if self._status & STATUS.DRIVER_OK:
            yield from self._enable(index, ring)
        yield from self._settle()
        self.rings[index] = ring  # last: a connection that is lost before may be found again

    def _track(self) -> Script[None]:
        """Give the back end its in-flight memory: a new one, or that of its predecessor."""
        if not self.has(_P.INFLIGHT_SHMFD) or not self.rings:
            return
        if self.inflight is None:
            queues = self.queues or max(self.rings) + 1
            size = max(ring.size for ring in self.rings.values())
            answer = yield Ask("GET_INFLIGHT_FD", Inflight(0, 0, queues, size))
            self.inflight = _checked_inflight(answer.payload, answer.fd, queues, size)
        area, fd = self.inflight
        yield Ask("SET_INFLIGHT_FD", area, (fd,))

    def resume(
        self, lost: "FrontEnd", regions: Sequence[SharedRegion], bases: Mapping[int, int]
    ) -> Script[None]:
        """Take a new back end to where the lost one was, with rings going on from ``bases``."""
        if lost.accepted is None:
            self._status = lost._status
            return
        if missing := lost.accepted & ~self.device_features:
            raise UnrecoverableError(f"the back end came back without features {missing:#x}")
        yield from self.accept(lost.accepted)
        if self._failed_features:
            raise UnrecoverableError("the back end came back and refuses the features that it had")
        if lost.rings:
            yield from self.share(regions)
        # Before the rings: a disk that was told to write through must not answer a request otherwise.
        for offset, data in lost.written.items():
            try:
                yield from self.write_config(offset, data)
            except RefusedError as error:
                raise UnrecoverableError(
                    f"the back end came back with another configuration: {error}"
                ) from error
        self.inflight = lost.inflight
        for index, ring in lost.rings.items():
            self.rings[index] = replace(ring, base=bases[index], enabled=False)
            yield from self._describe(index, self.rings[index])
        if lost._status:
            yield from self.set_status(lost._status)

    # --- moving to another back end

    def suspend(self) -> Script[dict[int, int]]:
        """Stop all rings, to be started again here or elsewhere; return where each goes on."""
        bases = {}
        for index, ring in self.rings.items():
            bases[index] = (yield from self._base(index)) if ring.enabled else ring.base
        return bases

    def restart(self, bases: Mapping[int, int]) -> Script[None]:
        """Go on here after all."""
        for index, ring in self.rings.items():
            ring.base = bases[index]
            yield from self._describe(index, ring)
            if ring.enabled:
                yield from self._enable(index, ring)
        yield from self._settle()

    def _describe(self, index: int, ring: Ring) -> Script[None]:
        yield Ask("SET_VRING_NUM", VringState(index, ring.size))
        yield Ask("SET_VRING_BASE", VringState(index, ring.base))
        yield Ask("SET_VRING_ADDR", self._address(index, ring))
        if not self.in_band:
            yield Ask("SET_VRING_ERR", index, (ring.error,))
            yield Ask("SET_VRING_CALL", index, (ring.call,))

    def _address(self, index: int, ring: Ring) -> VringAddress:
        user = (lambda address: address) if self.iommu else self._to_user
        return VringAddress(
            index,
            VRING_F_LOG if self.logging else 0,
            user(ring.descriptors),
            user(ring.used),
            user(ring.available),
            self._region_of(ring.used).guest_address + ring.used - self._region_of(ring.used).address,
        )

    def translate(self, entry: Iotlb) -> Script[None]:
        """Tell the back end of a translation, or that it is gone; done when this returns."""
        answer = (yield Ask("IOTLB_MSG", entry)).payload
        if answer:
            raise RefusedError(
                f"the back end refuses the translation of {entry.iova:#x} (answer {answer:#x})"
            )

    def log_to(self, fd: int, size: int, notify: int | None = None) -> Script[None]:
        """Have written pages noted in ``size`` bytes of ``fd`` instead of an earlier log; signal news."""
        if not (self.has(_P.LOG_SHMFD) and self.offered & F_LOG_ALL):
            raise RefusedError("the back end has no dirty log (VHOST_F_LOG_ALL, protocol feature LOG_SHMFD)")
        if self.accepted is None:
            raise ConfigurationError("a dirty log before features were accepted")
        if notify is not None:
            yield Ask("SET_LOG_FD", fds=(notify,))
        yield Ask("SET_LOG_BASE", LogArea(size, 0), (fd,))
        if not self.logging:
            self.logging = True
            yield from self._tell_logging()

    def stop_logging(self) -> Script[None]:
        """Have nothing noted any more."""
        if self.logging:
            self.logging = False
            yield from self._tell_logging()

    def _tell_logging(self) -> Script[None]:
        yield Ask("SET_FEATURES", (self.accepted or 0) | self._own_features())
        for index, ring in self.rings.items():
            yield Ask("SET_VRING_ADDR", self._address(index, ring))
        yield from self._settle()

    def _to_user(self, address: int) -> int:
        region = self._region_of(address)
        return address - region.address + region.user_address

    def _region_of(self, address: int) -> SharedRegion:
        for region in self._shared:
            if region.address <= address < region.address + region.size:
                return region
        raise ConfigurationError(f"a ring at {address:#x}, which is not in shared memory")

    def _enable(self, index: int, ring: Ring) -> Script[None]:
        """Let the back end begin: by the kick descriptor, and the enable message where there is one."""
        if not self.in_band:
            yield Ask("SET_VRING_KICK", index, (ring.kick,))
        if self.offered & F_PROTOCOL_FEATURES:
            yield Ask("SET_VRING_ENABLE", VringState(index, 1))
        ring.enabled = True

    def stop(self, index: int) -> Script[int]:
        """Stop a ring and return where to continue."""
        ring = self.rings.get(index)
        if ring is None:
            raise ConfigurationError(f"queue {index} is not started")
        base = yield from self._base(index)
        # Disabled after it stopped, not before: a network device throws away what a disabled ring is given.
        if ring.enabled and self.offered & F_PROTOCOL_FEATURES:
            yield Ask("SET_VRING_ENABLE", VringState(index, 0))
        del self.rings[index]
        return base

    def _base(self, index: int) -> Script[int]:
        state = (yield Ask("GET_VRING_BASE", VringState(index, 0))).payload
        packed = bool((self.accepted or 0) & F.RING_PACKED)
        if state.ring != index:
            raise ViolationError(f"the base of ring {state.ring} instead of {index}")
        if not packed and state.num > 0xFFFF:
            raise ViolationError(f"a base of {state.num:#x} for a split ring")
        return int(state.num)

    def kick(self, index: int) -> Script[None]:
        """Notify in-band of available buffers."""
        if index in self.rings:
            yield Ask("VRING_KICK", VringState(index, 0))

    def fresh_base(self) -> int:
        """Return where a new ring begins."""
        return FRESH_PACKED_BASE if (self.accepted or 0) & F.RING_PACKED else FRESH_BASE

    def _settle(self) -> Script[None]:
        """Wait until the back end has done what it was told, where it does not say so by itself."""
        if not self.has(_P.REPLY_ACK):
            yield Ask("GET_FEATURES")


def _region(region: SharedRegion) -> MemoryRegion:
    return MemoryRegion(region.guest_address, region.size, region.user_address, 0)


def _checked_inflight(area: Inflight, fd: int | None, queues: int, size: int) -> tuple[Inflight, int]:
    """Check the in-flight memory that a back end made."""
    if fd is None:
        raise ViolationError("in-flight memory without its descriptor")
    try:
        if (area.queues, area.queue_size) != (queues, size):
            raise ViolationError(
                f"in-flight memory for {area.queues} queues of {area.queue_size}, not {queues} of {size}"
            )
        if not 0 < area.mmap_size <= os.fstat(fd).st_size - area.mmap_offset:
            raise ViolationError(f"in-flight memory of {area.mmap_size} bytes from {area.mmap_offset}")
    except Error:
        os.close(fd)
        raise
    return area, fd
