"""The network device (VIRTIO 1.4, 5.1).

Frames go to a back end (:mod:`virtio.device.net_backends`), or to Python, one by one or as they come::

    class Mirror(virtio.NetworkDevice):
        def on_frame(self, frame):
            data = frame.data                                  # a memoryview, nothing is copied
            data[:6], data[6:12] = bytes(data[6:12]), bytes(data[:6])
            self.send(data)

    class Counter(virtio.NetworkDevice):
        def on_frames(self, frames):
            self.bytes += sum(frames.sizes)

Checksums and segments that neither the back end nor the driver takes care of are made in software.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from virtio._native import (
    CallHandler,
    Chain,
    Counters,
    Handler,
    NetBackend,
    NetFrame,
    NetFrames,
    NetPort,
    NetReceiver,
    NetTransmitter,
)
from virtio.device.admin import Administrator
from virtio.device.base import Device
from virtio.device.features import extra
from virtio.device.net_backends import NetworkBackend
from virtio.device.net_control import MAX_COMMAND, Control, is_saved
from virtio.device.net_flow import FlowFilters, split_saved
from virtio.device.net_rss import MAX_KEY, MAX_TABLE, SUPPORTED_HASH_TYPES, SUPPORTED_TUNNEL_TYPES
from virtio.errors import ConfigurationError, StateError
from virtio.queue.device import DeviceQueue
from virtio.spec import net
from virtio.spec.core import F as CORE
from virtio.spec.net import F, S

UNKNOWN_SPEED = 0xFFFF_FFFF
_DUPLEX = {"half": 0, "full": 1, "unknown": 0xFF}

OFFERED = (
    F.CSUM | F.GUEST_CSUM | F.CTRL_GUEST_OFFLOADS | F.MAC | F.MRG_RXBUF | F.STATUS
    | F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_ECN | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6
    | F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO | F.HOST_USO | F.GUEST_HDRLEN
    | F.GUEST_UDP_TUNNEL_GSO | F.GUEST_UDP_TUNNEL_GSO_CSUM
    | F.HOST_UDP_TUNNEL_GSO | F.HOST_UDP_TUNNEL_GSO_CSUM
    | F.CTRL_VQ | F.CTRL_RX | F.CTRL_RX_EXTRA | F.CTRL_VLAN | F.CTRL_MAC_ADDR | F.GUEST_ANNOUNCE
    | F.HASH_REPORT | F.HASH_TUNNEL | F.DEVICE_STATS | F.NOTF_COAL | F.VQ_NOTF_COAL
)  # fmt: skip
"""What every network device offers unless told otherwise."""


class NetworkDevice(Device):
    """A network card."""

    spec = net
    other_handlers = ("on_frame", "on_frames")
    frame_offloads: int = 0
    """What frames that come to :meth:`on_frame` may need (``CSUM`` and ``HOST_…``); others come complete."""

    def __init__(
        self,
        backend: NetworkBackend | NetBackend | None = None,
        *,
        mac: str | bytes | None = None,
        pairs: int = 1,
        mtu: int | None = None,
        speed: int | None = None,
        duplex: Literal["half", "full", "unknown"] = "full",
        link: bool = True,
        standby: bool = False,
        coalescing: bool = False,
        in_order: bool = False,
        flow_filters: bool = False,
        administration: Administrator | None = None,
        polling: int = 0,
        name: str = "",
        features: int | str = 0,
        mask: int | str = 0,
    ) -> None:
        """Connect ``backend``; without one, frames come to :meth:`on_frames` or :meth:`on_frame`.

        ``mac`` is made up if it is not given. ``pairs`` of queues are offered; with more than one, frames are
        steered automatically or by RSS, as the driver likes. ``speed`` in Mbit/s. ``standby``: there is
        another device with this address (STANDBY). ``coalescing``: count segments for the driver (RSC_EXT).
        ``in_order``: promise to use buffers in the driver's order (IN_ORDER).
        ``flow_filters``: let the driver have rules about packets (5.1.9.6), by administration commands, on
        transports that carry those. ``administration`` carries out commands for the group that it owns.
        ``polling``: microseconds for which a queue looks for frames before it sleeps.
        ``features`` are offered too: those that belong to no device type (``"RING_RESET"``).
        """
        if not 1 <= pairs <= 0x8000:
            raise ConfigurationError(f"a network device has 1 to 32768 pairs of queues, not {pairs}")
        if mtu is not None and not 68 <= mtu <= 65535:
            raise ConfigurationError(f"an MTU is 68 to 65535, not {mtu}")
        self.pairs = pairs
        self.mac = parse_mac(mac) if mac is not None else random_mac()
        self.port = NetPort(pairs)
        self.backend = backend
        offered = OFFERED | extra(net.DEVICE, features)
        offered |= F.MQ | F.RSS | F.RSS_CONTEXT if pairs > 1 else 0
        offered |= F.MTU if mtu is not None else 0
        offered |= F.SPEED_DUPLEX if speed is not None else 0
        offered |= F.STANDBY if standby else 0
        offered |= F.RSC_EXT if coalescing else 0
        offered |= CORE.IN_ORDER if in_order else 0
        self._mtu = mtu
        self._link = link
        config = {
            "mac": self.mac,
            "status": S.LINK_UP if link else 0,
            "max_virtqueue_pairs": pairs,
            "mtu": mtu or 0,
            "speed": UNKNOWN_SPEED if speed is None else speed,
            "duplex": _DUPLEX[duplex],
            "rss_max_key_size": MAX_KEY,
            "rss_max_indirection_table_length": MAX_TABLE,
            "supported_hash_types": SUPPORTED_HASH_TYPES,
            "supported_tunnel_types": SUPPORTED_TUNNEL_TYPES,
        }
        self._control = Control(self, self.mac)
        self._flow_filters: FlowFilters | None = None
        if flow_filters:
            self._flow_filters = FlowFilters(self)
            administration = administration or Administrator([])
            self._flow_filters.join(administration)
        super().__init__(name=name, features=offered, mask=mask, config=config, administration=administration)
        self.port.link = link
        self.port.set_backend(self._native_backend())
        if polling:
            for queue in self.queues:
                queue.set_polling(polling)

    # --- for the program that serves the device

    @property
    def link(self) -> bool:
        """Whether there is a link. Without one no frame passes."""
        return self._link

    @link.setter
    def link(self, up: bool) -> None:
        self._link = self.port.link = up
        status = self.config.status & ~S.LINK_UP
        self.config.status = status | S.LINK_UP if up else status

    def set_speed(self, speed: int | None, duplex: Literal["half", "full", "unknown"] = "full") -> None:
        """Change speed (Mbit/s; None: not known) and duplex. Not while the link is up (5.1.4.1)."""
        if self.link and self.negotiated_features & F.STATUS and self.negotiated_features & F.SPEED_DUPLEX:
            raise ConfigurationError("speed and duplex change while the link is down")
        self.config.update(speed=UNKNOWN_SPEED if speed is None else speed, duplex=_DUPLEX[duplex])

    def announce(self) -> bool:
        """Ask the driver to announce its addresses in the network; False if it cannot."""
        if not self.negotiated_features & F.GUEST_ANNOUNCE:
            return False
        self.config.status |= S.ANNOUNCE
        return True

    def send(
        self,
        frame: bytes | bytearray | memoryview,
        *,
        flags: int = 0,
        gso_type: int = 0,
        hdr_len: int = 0,
        gso_size: int = 0,
        csum_start: int = 0,
        csum_offset: int = 0,
        outer_th_offset: int = 0,
        inner_nh_offset: int = 0,
    ) -> bool:
        """Give the driver a frame; False if it was filtered or dropped.

        The fields are those of ``struct virtio_net_hdr``: what a driver has not negotiated is done before it
        gets the frame.
        """
        if not (flags or gso_type):
            return self.port.deliver(frame)
        fields = (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)
        return self.port.deliver(frame, (*fields, outer_th_offset, inner_nh_offset))

    def send_frames(self, frames: NetFrames) -> int:
        """Give the driver frames that came from a driver, as they are now; return how many it gets."""
        return self.port.deliver_batch(frames)

    def on_frame(self, frame: NetFrame) -> None:
        """Take a frame from the driver. Override this or :meth:`on_frames`."""

    def on_frames(self, frames: NetFrames) -> None:
        """Take frames that came together."""
        for frame in frames:
            self.on_frame(frame)

    # --- the device

    movable = frozenset({"mac", "status", "speed", "duplex"})

    def saved(self) -> bytes:
        """What the driver has set by commands: those that make another device what this one is."""
        return self._control.saved() + (self._flow_filters.saved() if self._flow_filters is not None else b"")

    def check_saved(self, own: bytes, config: Mapping[str, Any]) -> None:
        """Any commands will do: one that makes no sense here is refused like the driver's own."""
        control, filters = split_saved(own)
        if not is_saved(control):
            raise StateError("these are no control commands of a network device")
        if filters and self._flow_filters is None:
            raise StateError("a state with flow filters, for a network device without")

    def restored(self, own: bytes) -> None:
        """Carry the commands out again; the data path forgets what it had of another driver."""
        self.negotiated(self.negotiated_features)
        control, filters = split_saved(own)
        self._control.restore(control)
        if self._flow_filters is not None and self.administration is not None:
            self._flow_filters.restore(filters, self.administration)

    def handler(self, queue_index: int) -> Handler:
        """All queues but the last are served natively."""
        if queue_index == 2 * self.pairs and self.offered_features & F.CTRL_VQ:
            return CallHandler(self._on_control, self.request_failed)
        pair, transmit = divmod(queue_index, 2)
        if transmit:
            return NetTransmitter(self.port, pair)
        if pair == 1 and self.offered_features & F.CTRL_VQ:
            # The third queue is the control queue of a driver that uses one pair only (5.1.2).
            return NetReceiver(self.port, pair, otherwise=CallHandler(self._on_control, self.request_failed))
        return NetReceiver(self.port, pair)

    def _on_control(self, chain: Chain) -> None:
        room = len(chain.writable)
        if room == 0:
            self.fail("a control command without room for its acknowledgement", "5.1.9.5")
            return
        chain.write(self._control.handle(chain.read(MAX_COMMAND + 1))[:room])

    def negotiated(self, features: int) -> None:
        """The data path follows."""
        self.port.negotiated(features, mtu=self._mtu if features & F.MTU else None)

    def driver_reset(self) -> None:
        """Everything that the driver has set is forgotten."""
        self.port.reset()
        for queue in self.queues:
            queue.set_coalescing(0, 0, default=True)
        self._control.reset(self.mac)
        self.config.store("mac", self.mac)
        self.config.store("status", S.LINK_UP if self._link else 0)

    def mac_changed(self, mac: bytes) -> None:
        """The driver has set its address; it shows in the configuration (5.1.9.5.2.1)."""
        if self.negotiated_features & F.MAC:
            self.config.store("mac", mac)

    def announced(self) -> None:
        """The driver has seen that it shall announce itself."""
        self.config.store("status", self.config.status & ~S.ANNOUNCE)

    def counters(self, queue_index: int) -> Counters | None:
        """What a queue has done for its driver."""
        return self.queues[queue_index].counters

    @property
    def data_queues(self) -> Sequence[DeviceQueue]:
        """The receive and transmit queues that this driver may use."""
        both = self.negotiated_features & (F.MQ | F.RSS)
        return self.queues[: 2 * self.pairs if both else 2]

    def statistics(self) -> dict[str, int]:
        """Counts of all queues together, by the names of the standard (5.1.9.5.11)."""
        total: dict[str, int] = {}
        for pair in range(self.pairs):
            for name, count in self.port.statistics(pair).items():
                total[name] = total.get(name, 0) + count
        return total

    def close(self) -> None:
        """Detach, and close the back end."""
        super().close()
        self.port.set_backend(None)
        if self.backend is not None and not isinstance(self.backend, NetBackend):
            self.backend.close()

    def _native_backend(self) -> NetBackend:
        if isinstance(self.backend, NetBackend):
            return self.backend
        if self.backend is not None:
            return self.backend.native
        own = type(self)
        if own.on_frame is NetworkDevice.on_frame and own.on_frames is NetworkDevice.on_frames:
            return NetBackend.sink()
        return NetBackend.python(self._frames, accepts=self.frame_offloads)

    def _frames(self, frames: NetFrames, _pair: int) -> None:
        self.on_frames(frames)


def parse_mac(mac: str | bytes) -> bytes:
    """Return a unicast MAC address as bytes, from ``02:00:00:00:00:01`` or from bytes."""
    try:
        found = bytes.fromhex(mac.replace(":", "").replace("-", "")) if isinstance(mac, str) else bytes(mac)
    except ValueError:
        found = b""
    if len(found) != 6 or found[0] & 1:
        raise ConfigurationError(f"{mac!r} is no address of a network card, such as 02:00:00:00:00:01")
    return found


def random_mac() -> bytes:
    """Make up a locally administered address."""
    return bytes([0x52, 0x54, 0x00]) + secrets.token_bytes(3)
