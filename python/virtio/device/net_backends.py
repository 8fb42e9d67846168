"""Back ends of the network device: what its frames go to and come from.

All of them move frames natively; here they are opened, configured and closed.
"""

import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from virtio._native import NetBackend, NetSwitch
from virtio.errors import ConfigurationError
from virtio.spec.net import F

_log = logging.getLogger("virtio.device.net")


class NetworkBackend(Protocol):
    """What a :class:`~virtio.NetworkDevice` is connected to."""

    @property
    def native(self) -> NetBackend:
        """The data path: frames in batches, with the offloads that they still need."""

    def close(self) -> None:
        """Let go of what it stands on."""


class Plug:
    """A back end that is just a native one: a place in a switch, or a descriptor that is open already."""

    def __init__(self, native: NetBackend) -> None:
        """Take the native back end."""
        self.native = native

    def close(self) -> None:
        """Nothing to do: the device lets go of it."""


class SwitchPort(Plug):
    """A place in a switch, and the wire that leads there from the device."""

    def wire(
        self,
        *,
        loss: float = 0,
        duplication: float = 0,
        reordering: float = 0,
        delay: float = 0,
        jitter: float = 0,
        rate: int = 0,
        seed: int = 1,
    ) -> None:
        """Say what happens to frames from the device; without arguments, nothing.

        Probabilities are from 0 to 1, times in seconds, ``rate`` in bits per second (0: no limit). A frame
        that is reordered is overtaken by those of the next millisecond. ``seed`` is where chance begins.
        """
        self.native.set_wire(
            loss=loss,
            duplication=duplication,
            reordering=reordering,
            delay=delay,
            jitter=jitter,
            rate=rate,
            seed=seed,
        )


class Switch:
    """Joins network devices of this process: learns addresses, keeps VLANs apart."""

    def __init__(self) -> None:
        """Begin without ports."""
        self._native = NetSwitch()

    def port(self, vlan: int | None = None) -> SwitchPort:
        """Add a port: an access port of a VLAN, or a trunk, whose frames are tagged as they belong."""
        return SwitchPort(self._native.port(vlan))

    @property
    def learnt(self) -> Sequence[tuple[int, bytes, int]]:
        """The addresses learnt: VLAN, address, number of the port."""
        return self._native.learnt


class UnixStream:
    """A connected Unix stream socket, as QEMU's ``-netdev stream`` and passt speak it.

    Each frame stands behind its length. ``listen``: wait here for the other end to connect, up to ``timeout``
    seconds; else connect to it.
    """

    def __init__(self, path: Path | str, *, listen: bool = False, timeout: float = 10) -> None:
        """Connect."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(timeout)
            try:
                if listen:
                    _make_way(Path(path))
                    end.bind(str(path))
                    end.listen(1)
                    connection, _ = end.accept()
                else:
                    end.connect(str(path))
                    connection = end.dup()
            except OSError as error:
                raise ConfigurationError(f"no network behind {path}: {error}") from None
        with connection:
            connection.settimeout(None)
            self.native = NetBackend.stream(connection.fileno())

    @property
    def closed(self) -> bool:
        """Whether the other end has gone, or has said nonsense."""
        return self.native.closed

    def close(self) -> None:
        """Nothing to do: the device lets go of the connection."""


class UnixDatagrams:
    """A Unix datagram socket, as QEMU's ``-netdev dgram`` speaks it: a frame for each datagram.

    ``own`` is where this end is bound, ``peer`` where the other end is or will be.
    """

    def __init__(self, own: Path | str, peer: Path | str) -> None:
        """Bind, and connect if the other end is there already."""
        self._own = Path(own)
        _make_way(self._own)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            try:
                end.bind(str(own))
                end.connect(str(peer))
            except OSError as error:
                raise ConfigurationError(f"no network behind {peer}: {error}") from None
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
            self.native = NetBackend.datagrams(end.fileno())

    def close(self) -> None:
        """Remove the socket."""
        with contextlib.suppress(OSError):
            self._own.unlink()


_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_HEADER = 10
_TUN_F = ((0x01, F.CSUM), (0x02, F.HOST_TSO4), (0x04, F.HOST_TSO6), (0x08, F.HOST_ECN))
_TUN_F_USO = 0x20 | 0x40


class Tap:
    """A TAP device of this host; checksums and segmentation are handed through.

    ``name`` may hold ``%d`` for a free number. Needs the right to make one (CAP_NET_ADMIN), unless the device
    is there and belongs to this user.
    """

    def __init__(self, name: str = "tap%d", *, offloads: bool = True) -> None:
        """Open it."""
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"no TAP devices here: {error}") from None
        try:
            flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if offloads else 0)
            answer = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            self.name = answer[:16].rstrip(b"\0").decode()
            accepts = self._agree(fd) if offloads else 0
            self.native = NetBackend.tap(fd, header=_HEADER if offloads else 0, accepts=accepts)
        except OSError as error:
            raise ConfigurationError(f"no TAP device {name}: {error}") from None
        finally:
            os.close(fd)

    @staticmethod
    def _agree(fd: int) -> int:
        """Tell the kernel that it may leave all to us, and return what we may leave to it."""
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER))
        wanted = sum(flag for flag, _ in _TUN_F)
        accepts = sum(feature for _, feature in _TUN_F)
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, wanted | _TUN_F_USO)
            accepts |= F.HOST_USO
        except OSError:  # before Linux 6.2
            fcntl.ioctl(fd, _TUNSETOFFLOAD, wanted)
        return accepts

    def close(self) -> None:
        """Nothing to do: the device lets go of it."""


class PacketSocket:
    """All frames of a network interface of this host (AF_PACKET). Needs CAP_NET_RAW."""

    def __init__(self, interface: str) -> None:
        """Bind to it."""
        every_protocol = socket.htons(3)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every_protocol) as end:
                end.bind((interface, 0))
                self.native = NetBackend.datagrams(end.fileno())
        except OSError as error:
            raise ConfigurationError(f"no frames of {interface}: {error}") from None

    def close(self) -> None:
        """Nothing to do: the device lets go of it."""


class PcapFile:
    """Files of frames, pcap or pcapng: what the driver sends goes to one, what it receives is in another.

    Frames that are sent come into the file complete: checksums computed, large packets cut. Frames of
    ``source`` are given to the driver from the moment on that it has receive buffers: as fast as it takes
    them, or, if they are ``timed``, as far apart as the file says, and lost if it falls behind. ``again``:
    begin anew at the end, until the device is closed.
    """

    def __init__(
        self,
        to: Path | str | None = None,
        source: Path | str | None = None,
        *,
        timed: bool = False,
        again: bool = False,
    ) -> None:
        """Open the files. ``to`` is made, or emptied; it is pcapng if its name ends in .pcapng."""
        with contextlib.ExitStack() as files:
            try:
                # The source first: should both be one file, that is seen before it is emptied.
                reads = files.enter_context(Path(source).open("rb")) if source is not None else None
                if source is not None and to is not None and Path(to).exists() and Path(to).samefile(source):
                    raise ConfigurationError(f"{to} cannot be read and written at once")
                writes = files.enter_context(Path(to).open("wb")) if to is not None else None
            except OSError as error:
                raise ConfigurationError(f"no frames: {error}") from None
            self.native = NetBackend.recording(
                writes.fileno() if writes else None,
                pcapng=Path(to or "").suffix == ".pcapng",
                source=reads.fileno() if reads else None,
                timed=timed,
                again=again,
            )

    @property
    def played(self) -> bool:
        """Whether all frames of the source were given to the driver."""
        return self.native.closed

    @property
    def failed(self) -> str | None:
        """Why a file is no longer written (the disk is full) or read (it is damaged)."""
        return self.native.failed

    def close(self) -> None:
        """Say if not all was written or read; the device lets go of the files."""
        if self.failed is not None:
            _log.warning("a file of frames: %s", self.failed)


_TEST_FRAME = bytes.fromhex("ffffffffffff 020000000002 88b5") + bytes(50)
"""Of an EtherType for local experiments."""


def open_backend(where: str) -> "NetworkBackend | NetBackend":
    """Open a back end by its name, as the command line has it.

    ``user``, ``user:PORT:PORT``, ``tap:NAME``, ``stream:SOCKET``, ``listen:SOCKET``, ``datagrams:OWN:PEER``,
    ``interface:NAME``, ``pcap:OUT``, ``pcap:IN:OUT`` (either may be empty; ``pcap:IN:OUT:timed:again`` as
    :class:`PcapFile` has it), ``loop``, ``sink`` or ``source``, which fills each receive buffer with a
    frame of 64 bytes.
    """
    kind, _, rest = where.partition(":")
    if kind == "user":
        from virtio.device.net_passt import Passt

        return Passt(tcp_ports=rest or "none")
    own, _, peer = rest.partition(":")
    if kind == "tap":
        return Tap(rest or "tap%d")
    if kind in ("stream", "listen") and rest:
        return UnixStream(rest, listen=kind == "listen", timeout=3600 if kind == "listen" else 10)
    if kind == "datagrams" and own and peer:
        return UnixDatagrams(own, peer)
    if kind == "interface" and rest:
        return PacketSocket(rest)
    if kind == "pcap" and rest:
        return _pcap(rest)
    if where == "loop":
        return NetBackend.loop()
    if where == "sink":
        return NetBackend.sink()
    if where == "source":
        source = NetBackend.source(_TEST_FRAME)
        source.run(True)
        return source
    raise ConfigurationError(
        f"{where!r} is no network: user, user:PORT:PORT, tap:NAME, stream:SOCKET, listen:SOCKET, "
        "datagrams:OWN:PEER, interface:NAME, pcap:[IN:]OUT, loop, sink or source"
    )


def _pcap(files: str) -> PcapFile:
    first, *more = files.split(":")
    if not more:
        return PcapFile(first)
    to, *options = more
    if set(options) - {"timed", "again"} or not (first or to):
        raise ConfigurationError(
            f"files of frames are pcap:OUT or pcap:IN:OUT[:timed][:again], not pcap:{files}"
        )
    return PcapFile(to or None, first or None, timed="timed" in options, again="again" in options)


def _make_way(path: Path) -> None:
    """Remove a socket that an earlier process has left; nothing else."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
