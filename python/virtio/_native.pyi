"""The native core: guest memory, queues with their worker threads, and native data paths.

All addresses and sizes are in bytes. Sections are those of VIRTIO 1.4. Errors are the classes of
:mod:`virtio.errors`. Every call that may wait (stopping, unmapping, file I/O) runs without the GIL.
File descriptors are duplicated where they are kept: the caller closes its own.
"""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Final, Literal, Protocol, Self, TypedDict, final, overload, type_check_only

from typing_extensions import Buffer

from virtio.errors import ProtocolError

__all__ = [
    "Batch",
    "BatchHandler",
    "BlockHandler",
    "BlockRequest",
    "BlockRequests",
    "BlockTarget",
    "Buffers",
    "CallHandler",
    "Chain",
    "Counters",
    "DriverCounters",
    "DriverQueue",
    "Handler",
    "IndirectPolicy",
    "LoadResult",
    "Loopback",
    "Memory",
    "NetBackend",
    "NetFrame",
    "NetFrames",
    "NetPort",
    "NetReceiver",
    "NetSwitch",
    "NetTransmitter",
    "NullHandler",
    "PcapReader",
    "PcapWriter",
    "Queue",
    "Region",
    "RingDevice",
    "RingDriver",
    "SharedBuffer",
    "measure_distance",
    "measure_pair",
    "measure_ring",
    "version",
]

_Space = Literal["guest", "user"]
"""An address space: guest physical addresses, or the front end's own (vhost-user's "user addresses")."""

@type_check_only
class _Addresses(TypedDict):
    """The parts of a ring by name."""

    descriptors: int
    available: int
    used: int

@type_check_only
class _Array(Protocol):
    """A NumPy array: a buffer too, but its own stubs say so from Python 3.12 on only."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...

_Bytes = Buffer | _Array

def version() -> str:
    """Return the version of the native core, equal to the package's."""

# --- guest memory ---------------------------------------------------------------------------------

@final
class Region:
    """A piece of guest memory, and where the front end says that its bytes are."""

    guest_address: Final[int]
    """Guest physical address of the first byte."""
    size: Final[int]
    """Length in bytes."""
    fd: Final[int]
    """Descriptor to map; -1 when read back from :attr:`Memory.regions`."""
    offset: Final[int]
    """Offset of the first byte in the descriptor."""
    user_address: Final[int | None]
    """The same byte in the front end's address space; None: it has no address there."""
    writable: Final[bool]
    """False for memory that the device may only read."""

    def __new__(
        cls,
        guest_address: int,
        size: int,
        fd: int,
        offset: int = 0,
        user_address: int | None = None,
        writable: bool = True,
    ) -> Self:
        """Describe a region; nothing is checked or mapped yet."""
    def __eq__(self, other: object, /) -> bool:
        """Return whether all fields are equal."""
    def __hash__(self, /) -> int:
        """Return a hash of all fields."""

@final
class Memory:
    """Guest memory: regions mapped from file descriptors, visible in two address spaces.

    May be changed while queues use it. A change is atomic for them: they see the regions before it or after.
    """

    def __new__(cls) -> Self:
        """Begin with no memory."""
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
        """Map ``size`` bytes of ``fd`` from ``offset`` at ``guest_address``.

        Raises :exc:`~virtio.ConfigurationError` for a region that is empty, overlaps another in either
        address space or wraps around, :exc:`~virtio.TransportError` for a descriptor that cannot be
        mapped or ends before the region does.
        """
    def remove(self, guest_address: int, size: int, timeout: float = 5.0) -> None:
        """Unmap the regions that make up exactly this range, once no queue works on them any more.

        Raises :exc:`~virtio.ConfigurationError` if there is no such region, :exc:`~virtio.TransportError`
        if a queue still worked on it after ``timeout`` seconds (the region is gone for new requests then).
        Views that Python still holds stay valid: they keep the mapping.
        """
    def replace(self, regions: Sequence[Region], timeout: float = 5.0) -> None:
        """Put ``regions`` in the place of all others: all of them, or none if one is wrong.

        Errors as for :meth:`add` and :meth:`remove`.
        """
    def clear(self, timeout: float = 5.0) -> None:
        """Unmap everything; errors as for :meth:`remove`."""
    def set_dirty_log(
        self,
        fd: int | None,
        size: int = 0,
        offset: int = 0,
        *,
        notify: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Note each page of 4096 bytes that is written to, by guest address, in ``size`` bytes of ``fd``.

        Bit ``n % 8`` of byte ``n / 8`` from ``offset`` on stands for page ``n``. The eventfd ``notify`` is
        signalled when a page that was clean is not any more. ``None`` ends it. When this returns, every queue
        does so. Errors as for :meth:`replace`.
        """
    def translate(self, on: bool, timeout: float = 5.0) -> None:
        """Take guest addresses to be I/O virtual ones from now on, of which nothing is known yet, or not.

        Everything that was known before is forgotten. Errors as for :meth:`replace`.
        """
    def update_translation(
        self, iova: int, size: int, user_address: int, access: int, timeout: float = 5.0
    ) -> None:
        """Learn where I/O virtual addresses lead, and what is allowed there: 1 read, 2 write, 3 both, 0 none.

        It takes the place of what was known of the range. Raises :exc:`~virtio.ConfigurationError` for a
        range that wraps around, is empty or is not in the regions, :exc:`~virtio.TransportError` if what it
        takes away was still in use after ``timeout`` seconds.
        """
    def invalidate_translation(self, iova: int, size: int, timeout: float = 5.0) -> None:
        """Forget a range; when this returns, no queue reads or writes there. 0 bytes from 0: everything.

        Errors as for :meth:`update_translation`.
        """
    def refuse_translation(self, iova: int, access: int) -> None:
        """Answer a miss: there is no such translation. The queue that needs it breaks."""
    def on_miss(self, listener: Callable[[], object] | None) -> None:
        """Call this, on a queue's thread, when there is something new in :meth:`take_misses`."""
    def take_misses(self) -> list[tuple[int, int, bool]]:
        """Return what queues wait for, each once: an address, the access, whether it has failed for good."""
    def repeat_misses(self) -> None:
        """Have :meth:`take_misses` return all that is not answered once more."""
    @property
    def translated(self) -> bool:
        """Whether guest addresses are I/O virtual ones."""
    @property
    def translations(self) -> list[tuple[int, int, int, int]]:
        """What is known, in order: I/O virtual address, size, user address, access."""
    @property
    def regions(self) -> list[Region]:
        """The regions in order of guest address."""
    @property
    def generation(self) -> int:
        """A number that grows with each change."""
    def read(self, address: int, size: int, space: _Space = "guest") -> bytes:
        """Copy ``size`` bytes out, across adjacent regions too.

        Raises :exc:`~virtio.ConfigurationError` if they are not all guest memory.
        """
    def write(self, address: int, data: _Bytes, space: _Space = "guest") -> None:
        """Copy ``data`` in, across adjacent regions too.

        Raises :exc:`~virtio.ConfigurationError` if the place is not all writable guest memory.
        """
    def view(self, address: int, size: int, space: _Space = "guest") -> memoryview:
        """Return the bytes themselves, without a copy; the view keeps their mapping alive.

        It is read-only for a region that is. Raises :exc:`~virtio.ConfigurationError` if the bytes are not
        contiguous in one region.
        """

# --- chains ---------------------------------------------------------------------------------------

@final
class Buffers:
    """The device-readable or device-writable part of a chain, as the driver cut it into pieces.

    ``len()`` is the number of bytes, iteration gives one memoryview per piece without a copy (views of the
    device-readable part are read-only, 2.7.5.1), ``bytes()`` copies all. How a driver cuts its requests has
    no meaning (2.7.4.1): prefer :meth:`Chain.read` and :meth:`Chain.write`.
    """

    def __len__(self, /) -> int:
        """Return the number of bytes."""
    def __iter__(self, /) -> Iterator[memoryview]:
        """Yield a memoryview per piece."""
    def __bytes__(self, /) -> bytes:
        """Copy everything."""
    @property
    def pieces(self) -> int:
        """Number of pieces, that is of descriptors."""

@final
class Chain:
    """One buffer from the driver: a device-readable part, then a device-writable part (2.7.4).

    Valid for as long as Python holds it, whatever becomes of the queue or the memory. It may be used from any
    thread. One that is held and dropped without completion is completed with 0 bytes and logged.
    """

    @property
    def readable(self) -> Buffers:
        """The device-readable part."""
    @property
    def writable(self) -> Buffers:
        """The device-writable part."""
    def read(self, size: int = -1) -> bytes:
        """Copy the next ``size`` bytes of the device-readable part; -1: all that are left.

        Returns fewer at its end, and ``b""`` behind it.
        """
    def write(self, data: _Bytes) -> int:
        """Put ``data`` into the device-writable part behind what was written before; return its length.

        Raises :exc:`~virtio.ConfigurationError`, having written nothing, if it does not fit or if the chain
        is completed or its queue was stopped.
        """
    @property
    def written(self) -> int:
        """Bytes written so far by :meth:`write`."""
    @property
    def completed(self) -> bool:
        """Whether the chain went back to the driver, or to the queue because it was stopped."""
    def hold(self, *, idle: bool = False) -> None:
        """Let the handler return without completing this chain; :meth:`complete` it later.

        A queue that stops waits for held chains, within its time. With ``idle`` it does not: the chain waits
        for something that may never come (a receive buffer), and a queue that stops forgets it, to offer it
        again when it is started from the base that it returned.
        """
    def complete(self, written: int | None = None) -> None:
        """Give the chain back to the driver, from any thread.

        ``written``: bytes written, by default those of :attr:`written`. Raises
        :exc:`~virtio.ConfigurationError` if it was completed before, its queue was stopped since, or
        ``written`` is more than the device-writable part has.
        """

@final
class Batch:
    """Chains that came together, in the order in which the driver made them available.

    All are completed with :attr:`written` when the handler returns, save those that were held. No object is
    made per chain unless it is asked for by index or iteration.
    """

    def __len__(self, /) -> int:
        """Return the number of chains."""
    def __iter__(self, /) -> Iterator[Chain]:
        """Yield the chains in order."""
    @overload
    def __getitem__(self, index: int, /) -> Chain:
        """Return one chain."""
    @overload
    def __getitem__(self, index: slice, /) -> list[Chain]:
        """Return several."""
    @property
    def readable_lengths(self) -> memoryview:
        """Bytes in the device-readable part of each chain, as uint32 (``numpy.frombuffer`` takes it)."""
    @property
    def writable_lengths(self) -> memoryview:
        """Bytes in the device-writable part of each chain, as uint32."""
    @property
    def written(self) -> memoryview:
        """Writable uint32 for each chain: the length it is completed with.

        0, the default, stands for what :meth:`Chain.write` wrote. More than there is room for counts as an
        error.
        """
    def gather(self, offset: int, size: int) -> bytearray:
        """Copy ``size`` bytes from ``offset`` of each device-readable part into ``len(self)`` rows.

        Where a chain is shorter, its row is filled up with zeros.
        """
    def scatter(self, offset: int, rows: _Bytes) -> None:
        """Copy ``len(self)`` rows of equal size to ``offset`` in each device-writable part.

        Bytes that do not fit into a shorter chain are dropped. :attr:`written` is not changed. Raises
        :exc:`~virtio.ConfigurationError` if ``rows`` is not a multiple of ``len(self)``.
        """

# --- handlers -------------------------------------------------------------------------------------

class Handler:
    """What answers the chains of a queue. One object may serve several queues."""

@final
class CallHandler(Handler):
    """Calls a function for each chain."""

    def __new__(
        cls,
        function: Callable[[Chain], object],
        on_error: Callable[[Chain, BaseException], object] | None = None,
    ) -> Self:
        """Call ``function`` with each chain, which is completed when it returns unless held.

        What it raises is logged to ``virtio.queue``; then ``on_error`` may put a failure status into the
        chain, which is completed with what was written.
        """

@final
class BatchHandler(Handler):
    """Calls a function for each batch of chains."""

    def __new__(
        cls,
        function: Callable[[Batch], object],
        on_error: Callable[[Batch, BaseException], object] | None = None,
    ) -> Self:
        """Call ``function`` with each batch, completed when it returns save for held chains.

        What it raises is treated as by :class:`CallHandler`.
        """

@final
class NullHandler(Handler):
    """Completes each chain at once with 0 bytes written, natively: what the queue itself costs."""

    def __new__(cls) -> Self:
        """Take no options."""

@final
class BlockHandler(Handler):
    """Answers the requests of a block device (5.2.6) natively."""

    def __new__(cls, target: BlockTarget) -> Self:
        """Serve ``target``; the queues of one device share it."""

# --- the network device ---------------------------------------------------------------------------

@final
class NetFrame:
    """One frame, with what is left to be done to it: the fields of ``struct virtio_net_hdr`` (5.1.9)."""

    flags: Final[int]
    gso_type: Final[int]
    hdr_len: Final[int]
    gso_size: Final[int]
    csum_start: Final[int]
    csum_offset: Final[int]
    outer_th_offset: Final[int]
    inner_nh_offset: Final[int]

    @property
    def data(self) -> memoryview:
        """Its bytes, to be read and changed; nothing is copied."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...

@final
class NetFrames(Sequence[NetFrame]):
    """Frames that came together. They live for as long as something refers to them."""

    @property
    def data(self) -> memoryview:
        """The bytes of all frames, to be read and changed; nothing is copied."""

    @property
    def starts(self) -> memoryview:
        """Where in :attr:`data` each frame begins, as uint32."""

    @property
    def sizes(self) -> memoryview:
        """How long each is, as uint32."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> NetFrame: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[NetFrame]: ...

@final
class NetBackend:
    """Where the frames of a network device go to and come from."""

    name: Final[str]

    @staticmethod
    def sink() -> NetBackend:
        """Forgets frames."""

    @staticmethod
    def source(frame: Buffer) -> NetBackend:
        """Fills each receive buffer with a copy of a frame while it runs; forgets what comes back."""

    @staticmethod
    def loop() -> NetBackend:
        """Gives the driver back what it sends."""

    @staticmethod
    def python(callback: Callable[[NetFrames, int], object], *, accepts: int = 0) -> NetBackend:
        """Calls a function with frames and the number of the pair that they came by.

        ``accepts``: which ``CSUM`` and ``HOST_…`` features frames may need; others are made complete first.
        """

    @staticmethod
    def stream(fd: int) -> NetBackend:
        """A stream socket that is connected: each frame behind its length, 4 bytes, big-endian."""

    @staticmethod
    def datagrams(fd: int) -> NetBackend:
        """A datagram or packet socket: a frame for each message."""

    @staticmethod
    def tap(fd: int, *, header: int, accepts: int = 0) -> NetBackend:
        """A TAP device, with a header of 10 or 12 bytes before each frame, or none."""

    @staticmethod
    def recording(
        to: int | None = None,
        *,
        pcapng: bool = False,
        source: int | None = None,
        timed: bool = False,
        again: bool = False,
    ) -> NetBackend:
        """Descriptors of files: what the driver sends is written ``to`` one, what it receives is another's.

        ``timed``: as far apart as the file says, else as fast as they are taken; ``again``: without an end.
        """

    def run(self, run: bool) -> None:
        """Start or stop a source; it begins when its queue next looks: at a frame, or if short of buffers."""

    @property
    def closed(self) -> bool:
        """Whether the other end of a descriptor has gone, or has said nonsense; or a file was played."""

    @property
    def failed(self) -> str | None:
        """Why a file is no longer read or written."""

    def set_wire(
        self,
        *,
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        delay: float = 0.0,
        jitter: float = 0.0,
        rate: int = 0,
        seed: int = 1,
    ) -> None:
        """Say what happens to frames on their way into a switch."""

    @property
    def packets(self) -> int:
        """Frames that a sink or source has taken."""

@final
class PcapReader(Iterator[tuple[int, bytes]]):
    """The frames of a pcap or pcapng file, each behind its time in nanoseconds since 1970."""

    def __new__(cls, fd: int) -> Self: ...
    def __next__(self) -> tuple[int, bytes]:
        """Raise :class:`~virtio.errors.ConfigurationError` where the file is damaged."""

@final
class PcapWriter:
    """Writes a pcap or pcapng file."""

    def __new__(cls, fd: int, *, pcapng: bool = False) -> Self: ...
    def add(self, frame: Buffer, time: int | None = None) -> None:
        """Add a frame of some time, in nanoseconds since 1970; by default, now."""

    def flush(self) -> None:
        """Write all that was added."""

@final
class NetSwitch:
    """Joins network devices of this process."""

    def __new__(cls) -> Self: ...
    def port(self, vlan: int | None = None) -> NetBackend:
        """Add an access port of a VLAN, or a trunk."""

    @property
    def learnt(self) -> list[tuple[int, bytes, int]]:
        """The addresses learnt: VLAN, address, number of the port."""

@final
class NetPort:
    """What the queues of one network device share."""

    link: bool
    """Whether there is a link; without one nothing passes."""

    def __new__(cls, pairs: int) -> Self: ...
    def set_backend(self, backend: NetBackend | None) -> None:
        """Change where frames go to and come from."""

    def negotiated(self, features: int, *, mtu: int | None = None) -> None:
        """A driver has chosen its features; all its offloads are switched on."""

    def set_offloads(self, offloads: int) -> None:
        """Switch on these of the negotiated ``GUEST_…`` offloads, and no others."""

    def set_filter(
        self,
        address: bytes,
        *,
        promiscuous: bool = False,
        all_multicast: bool = False,
        all_unicast: bool = False,
        no_multicast: bool = False,
        no_unicast: bool = False,
        no_broadcast: bool = False,
        macs: Sequence[bytes] = ...,
        vlans: Sequence[int] | None = None,
    ) -> None:
        """Say which frames the driver wants."""

    def set_rules(self, rules: Sequence[tuple[bytes, bytes, bytes, int | None]]) -> None:
        """Apply rules before frames are steered, in this order, until one matches (5.1.9.6).

        Of each: types of headers, their masks one after the other, their keys, and a receive queue, counted
        from 0, or None to drop.
        """

    def steer_automatically(self, pairs: int) -> None:
        """Spread frames over so many receive queues: each flow to where it is sent from."""

    def steer_by_table(self, table: Sequence[int], unclassified: int) -> None:
        """Spread frames by hash, through a table of receive queues."""

    def set_hash(self, types: int, key: bytes) -> None:
        """Compute hashes of these types with this key; no types: none."""

    def set_tunnels(self, tunnels: int) -> None:
        """Hash the inner headers of packets in these tunnels (5.1.9.4.4), and the outer ones of others."""

    def reset(self) -> None:
        """Forget what a driver has set, and frames that wait."""

    def deliver(
        self, frame: Buffer, offload: tuple[int, int, int, int, int, int, int, int] | None = None
    ) -> bool:
        """Give the driver a frame; False if it is filtered or dropped."""

    def deliver_batch(self, frames: NetFrames) -> int:
        """Give the driver frames as they are now; return how many it gets."""

    def statistics(self, pair: int) -> dict[str, int]:
        """What a pair of queues has done, by the names of the standard."""

@final
class NetReceiver(Handler):
    """Puts frames into the buffers of a receive queue natively."""

    def __new__(cls, port: NetPort, pair: int, *, otherwise: Handler | None = None) -> Self:
        """``otherwise`` answers the queue if the driver has negotiated neither MQ nor RSS."""

@final
class NetTransmitter(Handler):
    """Takes frames out of a transmit queue natively."""

    def __new__(cls, port: NetPort, pair: int) -> Self: ...

# --- queues ---------------------------------------------------------------------------------------

@final
class Counters:
    """What a queue has done since it was made; a snapshot."""

    chains: Final[int]
    """Chains taken from the ring."""
    bytes_read: Final[int]
    """Bytes in the device-readable parts of the chains that were taken."""
    bytes_written: Final[int]
    """Bytes written into device-writable parts."""
    kicks: Final[int]
    """Available buffer notifications received."""
    interrupts: Final[int]
    """Used buffer notifications sent."""
    interrupts_suppressed: Final[int]
    """Batches of completions that the driver wanted no notification for."""
    interrupts_lost: Final[int]
    """Used buffer notifications that had nobody to go to any more."""
    batches: Final[int]
    """Batches taken."""
    polls: Final[int]
    """Looks at the ring without having been kicked."""
    handler_errors: Final[int]
    """Exceptions raised by Python handlers."""
    errors: Final[dict[str, int]]
    """Rules broken by the driver: section of the standard to count."""

@final
class IndirectPolicy:
    """When a driver puts a chain into an indirect table instead of the ring's own descriptors."""

    def __new__(cls, descriptors: int = 16, *, spare: int = 4) -> Self:
        """Use tables for chains of at least ``descriptors``, and for what would not fit otherwise.

        Once less than ``1 / spare`` of the ring is free, for all of at least two; 0: not for that. The
        default is what ``virtio bench ring --tables`` speaks for.
        """
    @staticmethod
    def always() -> IndirectPolicy:
        """Use a table for every chain."""
    @staticmethod
    def never() -> IndirectPolicy:
        """Use no tables: a chain that does not fit waits."""
    def pays(self, descriptors: int, free: int, size: int) -> bool:
        """Return whether a table pays for so many descriptors, with ``free`` of the ring's ``size`` left."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Queue:
    """The device's end of one virtqueue, with a worker thread while it runs."""

    def __new__(
        cls,
        memory: Memory,
        index: int,
        handler: Handler,
        *,
        on_fault: Callable[[ProtocolError], object],
        name: str = "",
        workers: int = 1,
    ) -> Self:
        """Prepare queue ``index``.

        ``on_fault`` is called, on the worker's thread and with no lock held, when the driver broke a rule;
        the queue is :attr:`broken` from then on until it is configured again. ``name`` is for logs and
        threads.

        With several ``workers`` so many threads call the handler at once, each with other chains, which
        become complete in any order (unless VIRTIO_F_IN_ORDER was negotiated: then they wait for each other).
        """
    @property
    def index(self) -> int:
        """The number of the queue."""
    @property
    def name(self) -> str:
        """For logs and threads."""
    def configure(
        self,
        *,
        size: int,
        descriptors: int,
        available: int,
        used: int,
        space: _Space = "guest",
        base: int = 0,
        features: int = 0,
    ) -> None:
        """Say where the rings are; only while the queue is stopped.

        ``base`` is where to continue, in the form of vhost-user's VRING_BASE. ``features`` are the negotiated
        ones. Memory behind the addresses may appear later. Raises :exc:`~virtio.ConfigurationError` if the
        queue runs, the size is not a power of two up to 32768, or an address is not aligned as 2.7 demands.
        """
    def set_kick(self, fd: int | None) -> None:
        """Take available buffer notifications from an eventfd; None: only from :meth:`notify`.

        May be changed while running, as :meth:`set_call` and :meth:`set_error` may be. A descriptor of the
        wrong kind raises :exc:`~virtio.TransportError`.
        """
    def set_call(self, target: int | Callable[[], object] | None) -> None:
        """Send used buffer notifications to an eventfd, a stream socket (8 bytes each), or a function.

        The function is called on the worker's thread. Nothing that the other side does makes the worker wait.
        """
    def set_error(self, fd: int | None) -> None:
        """Signal this eventfd when the driver broke a rule."""
    def set_inflight(self, fd: int | None, offset: int = 0, size: int = 0, *, entries: int = 0) -> None:
        """Keep in memory that outlives this process what has been taken and not completed; None: nowhere.

        ``size`` bytes of ``fd`` from ``offset`` are this queue's part of vhost-user's in-flight memory, made
        for a queue of ``entries``. It holds from the next :meth:`start` on. What a predecessor left there is
        taken again first, and goes before the configured base; if that makes no sense the queue is broken.
        Raises :exc:`~virtio.TransportError` for a descriptor that cannot be mapped or is too short.
        """
    def notify(self, data: int | None = None) -> None:
        """Kick in-band: look at the ring now.

        ``data`` are the 32 bits of a notification under VIRTIO_F_NOTIFICATION_DATA (VIRTIO 1.4, 2.9).
        What they say of how much is available is a hint, and harmless when it is wrong.
        """
    def start(self) -> None:
        """Start the worker. Rings that are not guest memory yet are waited for.

        Raises :exc:`~virtio.ConfigurationError` if not configured or running, does nothing if broken.
        """
    def stop(self, timeout: float = 5.0) -> int:
        """Take no more chains, wait for those under way, and return the base to continue from.

        Requests still under way after ``timeout`` seconds are given up, which is logged. Not running: returns
        the last base. From within this queue's own handler it raises :exc:`~virtio.ConfigurationError`, for
        it would wait for itself.
        """
    @property
    def running(self) -> bool:
        """Whether the worker runs."""
    @property
    def broken(self) -> bool:
        """Whether the driver broke a rule; :meth:`configure` clears it."""
    @property
    def counters(self) -> Counters:
        """What has been done so far."""
    def reset(self, timeout: float = 5.0) -> int:
        """Stop at once and forget the rings (VIRTIO 1.4, 2.6.1): :meth:`configure` comes next.

        Once this returns, no completion is written and no notification sent, whatever handlers still
        do. Operations under way on guest memory are waited for until the time is up. Returns how many
        chains were taken and are not answered.
        """
    def complete_together(self, chains: Sequence[Chain], written: Sequence[int | None] | None = None) -> None:
        """Complete chains of this queue so that the driver finds all of them used at once, or none.

        The network device's mergeable receive buffers need it (5.1.9.4.1): a packet's first buffer must not
        be seen before the last. ``written`` are the lengths; None, for all or for one: those of
        :attr:`Chain.written`. They are used in the order given, or, under VIRTIO_F_IN_ORDER, in that in which
        they were made available; there they also wait for older chains between them. The rules are those
        of :meth:`Chain.complete`; if one is broken for any of the chains, none is completed.
        """
    def set_coalescing(self, packets: int, microseconds: int) -> None:
        """Put notifications off until so many chains are complete, or so long; with a 0, not at all."""

    def set_polling(self, mode: Literal["busy", "adaptive", "off"] | int, *, microseconds: int = 50) -> None:
        """Choose how the worker finds work, at any time.

        ``off``: it sleeps until it is kicked. ``adaptive``: it looks at an empty ring for at most so many
        ``microseconds``, as long as that has paid recently, then sleeps. ``busy``: it never sleeps, and needs
        no kicks. A number is ``adaptive`` with that limit.
        """

# --- block ----------------------------------------------------------------------------------------

_BlockKind = Literal["read", "write", "flush", "discard", "write_zeroes", "secure_erase"]
_BlockFailure = Literal["io", "unsupported"]

@final
class BlockRequest:
    """A request to a block device whose backend is written in Python (5.2.6)."""

    @property
    def kind(self) -> _BlockKind:
        """What is asked for."""
    @property
    def offset(self) -> int:
        """First byte on the device."""
    @property
    def size(self) -> int:
        """Number of bytes; 0 for a flush."""
    @property
    def unmap(self) -> bool:
        """For ``write_zeroes``: the space may be given back."""
    @property
    def data(self) -> memoryview:
        """What to write (read-only), or the place to read into; empty for other kinds.

        Contiguous always: copied where the driver's buffer is not.
        """
    def complete(self, error: _BlockFailure | None = None) -> None:
        """Answer the request, from any thread: done, or failed (VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP).

        Raises :exc:`~virtio.ConfigurationError` if it was answered before. One that is dropped without an
        answer fails with ``"io"``.
        """

@final
class BlockTarget:
    """What the queues of one block device share: the backend, the capacity, limits and the cache mode."""

    @staticmethod
    def file(
        path: str | PathLike[str] | int,
        *,
        read_only: bool = False,
        direct: bool = False,
        cache: Literal["writeback", "writethrough", "unsafe"] = "writeback",
        engine: Literal["auto", "io_uring", "threads"] = "auto",
    ) -> BlockTarget:
        """Serve a file or block device, given by path or open descriptor.

        ``direct``: O_DIRECT. ``cache``: whether the driver finds the write-back mode on, off, or whether even
        a flush is only pretended. Raises :exc:`~virtio.ConfigurationError` if it cannot be opened so.
        """
    @staticmethod
    def memory(size: int) -> BlockTarget:
        """Serve ``size`` bytes of zeros that are forgotten at the end."""
    @staticmethod
    def null(size: int, *, zeroes: bool = True) -> BlockTarget:
        """Answer everything at once and keep nothing; reads give zeros.

        Without ``zeroes`` they leave the driver's buffers as they were: for measurements only.
        """
    @staticmethod
    def python(
        callback: Callable[[list[BlockRequest]], object], size: int, *, read_only: bool = False
    ) -> BlockTarget:
        """Hand requests to ``callback`` in batches; each is answered by :meth:`BlockRequest.complete`.

        If it raises, what is still unanswered of the batch fails with ``"io"`` and the error is logged.
        """

    capacity: int
    """Size of the device in bytes. Setting it changes what requests are allowed, not the file."""
    writeback: bool
    """True: data is safe after a flush. False: after each write."""
    serial: str
    """Answer to VIRTIO_BLK_T_GET_ID: at most 20 bytes."""
    block_size: int
    """Logical block size in bytes; 512 unless set. Discards are aligned to it, transfers to 512."""
    size_max: int
    """Longest segment in bytes; 0: no limit."""
    seg_max: int
    """Most data segments of a request; 0: no limit."""
    max_discard_sectors: int
    """Longest discard, in sectors of 512 bytes; likewise below."""
    max_discard_seg: int
    """Most segments of a discard; likewise below."""
    max_write_zeroes_sectors: int
    """As for discard."""
    max_write_zeroes_seg: int
    """As for discard."""
    max_secure_erase_sectors: int
    """As for discard."""
    max_secure_erase_seg: int
    """As for discard."""
    lifetime: tuple[int, int, int] | None
    """Answer to VIRTIO_BLK_T_GET_LIFETIME: pre_eol_info, device_lifetime_est_typ_a, .._typ_b."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
    @property
    def engine(self) -> str:
        """What does the I/O: ``io_uring``, ``threads``, ``memory``, ``null`` or ``python``."""
    @property
    def can_discard(self) -> bool:
        """Whether discards give back space."""
    def read(self, offset: int, into: _Bytes) -> None:
        """Fill ``into`` from ``offset`` on.

        Raises OSError on failure, :exc:`~virtio.ConfigurationError` past the end.
        """
    def write(self, offset: int, data: _Bytes) -> None:
        """Write ``data`` at ``offset``; errors as for :meth:`read`."""
    def flush(self) -> None:
        """Make all that was written safe (fdatasync). Raises OSError on failure."""
    def discard(self, offset: int, size: int) -> None:
        """Give back the space of a range; its contents are zeros or as before."""
    def write_zeroes(self, offset: int, size: int, *, unmap: bool = True) -> None:
        """Make a range read as zeros, giving back its space if allowed."""
    def close(self) -> None:
        """Release the backend once no queue uses it; later use raises :exc:`~virtio.ConfigurationError`."""

# --- the driver's end --------------------------------------------------------------------------------

@type_check_only
class _Ring(TypedDict):
    """Where a ring lies, the queue's number, and the negotiated features, which say its layout."""

    size: int
    descriptors: int
    available: int
    used: int
    index: int
    features: int

_Tables = tuple[int, int, IndirectPolicy]
"""Memory for indirect descriptors, one table for each entry of the ring: the guest address of the first, the
number of descriptors in each, and when to use one."""

@final
class SharedBuffer(Buffer):
    """Memory that a driver shares with its device: an object with the buffer protocol."""

    def __new__(cls, memory: Memory, address: int, size: int, release: Callable[[], object]) -> Self:
        """Show ``size`` bytes at guest address ``address``.

        ``release`` is called once nothing refers to this object any more: no view, no array.
        """
    @property
    def address(self) -> int:
        """Guest address of the first byte."""
    def __len__(self, /) -> int:
        """Return the number of bytes."""

@final
class DriverCounters:
    """What a driver's end of a queue has done; a snapshot."""

    requests: Final[int]
    """Requests made available."""
    completions: Final[int]
    """Requests that came back."""
    indirect: Final[int]
    """Requests whose descriptors were in a table."""
    bytes_readable: Final[int]
    """Bytes in device-readable buffers."""
    bytes_written: Final[int]
    """Bytes that the device says it has written."""
    batches: Final[int]
    """Times that requests were made visible."""
    kicks: Final[int]
    """Of these, how often the device was notified."""
    kicks_suppressed: Final[int]
    """… and how often it did not want to be."""
    interrupts: Final[int]
    """Notifications received."""
    polls: Final[int]
    """Looks at the ring while polling."""
    sleeps: Final[int]
    """Times that a thread slept until it was notified."""

@final
class DriverQueue:
    """One virtqueue, from the driver's side. Any thread may use it, several at once.

    Tokens name requests, and never another one later. After an answer that breaks a rule, and after
    :meth:`fail`, every call raises :exc:`~virtio.ProtocolError` or :exc:`~virtio.TransportError`.
    """

    def __new__(
        cls,
        memory: Memory,
        ring: _Ring | dict[str, int],
        *,
        kick: int | Callable[[int], object],
        call: int | None,
        tables: _Tables | None = None,
        polling: int = 0,
    ) -> Self:
        """Take possession of a ring, which is zero.

        ``ring`` says where it is, with its features and the queue's ``index``.
        ``kick``: eventfd that notifies the device, or function that does, called with the data of
        VIRTIO_F_NOTIFICATION_DATA. ``call``: eventfd by which it notifies us;
        None: :meth:`notify` is called instead. ``polling``: microseconds for which to look at the ring before
        sleeping.
        """
    def submit(
        self,
        readable: Sequence[tuple[int, int]],
        writable: Sequence[tuple[int, int]],
        *,
        watched: bool = False,
    ) -> int | None:
        """Make a request of buffers, each an address and a length, available; return its token.

        None: there is no room now. ``watched``: its completion is for :meth:`collect`.
        """
    def wait_for_room(self, descriptors: int, timeout: float | None = None) -> None:
        """Wait until a request of so many descriptors fits. Raises ``TimeoutError``."""
    def poll(self, token: int) -> tuple[int, int] | None:
        """Return what the device answered, its length and status, once; None: nothing yet."""
    def wait(self, token: int, timeout: float | None = None) -> tuple[int, int]:
        """Wait for that. Raises ``TimeoutError``: then it may be waited for again."""
    def abandon(self, token: int) -> bool:
        """Give up a request. True: it is over, its buffers are free. False: the device still has them."""
    def returned(self) -> tuple[list[int], int]:
        """Return the tokens of abandoned requests that came back, and how many are still out."""
    def collect(self) -> list[tuple[int, int, int]]:
        """Return token, length and status of all watched requests that have finished."""
    @property
    def descriptors(self) -> tuple[int | None, int]:
        """Descriptors that become readable when there may be something to :meth:`collect`."""
    def notify(self) -> None:
        """The device has notified, in-band."""
    def hold(self, held: bool) -> None:
        """Make nothing available and send no kick, until called with False: the device is suspended."""
    def fail(self, reason: str, *, needs_reset: bool = False) -> None:
        """The device has gone, or needs a reset: raise this for everyone, now and later."""
    def set_polling(self, microseconds: int) -> None:
        """For how long to look at the ring before sleeping, at most."""
    @property
    def outstanding(self) -> int:
        """Requests that the device has."""
    @property
    def failed(self) -> str | None:
        """Why the queue is of no use any more; None: it is."""
    @property
    def counters(self) -> DriverCounters:
        """What has been done so far."""

@final
class LoadResult:
    """What a load came to."""

    requests: Final[int]
    """Requests that came back."""
    failed: Final[int]
    """Of these, with a status that is not 0."""
    mismatches: Final[int]
    """Reads that gave something else than was written."""
    nanoseconds: Final[int]
    """Time on the wall."""
    cpu_nanoseconds: Final[int]
    """Time of the calling thread on a processor."""

@final
class BlockRequests:
    """A request queue of a block device (5.2.6), from the driver's side. Any thread may use it.

    Addresses are guest addresses. Data that is not in shared memory goes through a bounce buffer.
    """

    def __new__(
        cls,
        memory: Memory,
        ring: _Ring | dict[str, int],
        *,
        kick: int | Callable[[int], object],
        call: int | None,
        area: tuple[int, int, int],
        tables: _Tables | None = None,
        polling: int = 0,
        segment: int = 4294967295,
        segments: int = 1,
    ) -> Self:
        """Take possession of a ring and of the ``area`` beside it, both zero.

        ``area``: its address, a multiple of 4096; the bytes of each piece of the bounce buffer; how many
        there are. ``segment``, ``segments``: the device's size_max and seg_max. The rest as for
        :class:`DriverQueue`.
        """
    @staticmethod
    def area_size(size: int, chunk: int, chunks: int) -> int:
        """Return how large the area of a queue of ``size`` entries must be."""
    @property
    def queue(self) -> DriverQueue:
        """The queue itself."""
    @property
    def longest(self) -> int:
        """Bytes of one request, at most."""
    def shared(self, buffer: _Bytes) -> int | None:
        """Return the guest address of these bytes; None: they are not in shared memory."""
    def submit(
        self,
        kind: int,
        sector: int,
        address: int,
        size: int,
        *,
        watched: bool = False,
        timeout: float | None = None,
    ) -> int | None:
        """Make a request available, when there is room, and return its token.

        ``watched``: its completion is for :meth:`DriverQueue.collect`; None if there is no room now.
        """
    def take(self, kind: int, sector: int, size: int, timeout: float | None = None) -> tuple[bytes, int, int]:
        """Make a request that the device answers with data, and wait for it.

        Returns the data, the status, and how many bytes came before the part that has this status.
        """
    def fill(self, kind: int, sector: int, buffer: _Bytes, timeout: float | None = None) -> tuple[int, int]:
        """The same into ``buffer``."""
    def give(self, kind: int, sector: int, data: _Bytes, timeout: float | None = None) -> tuple[int, int]:
        """The same for a request that hands data to the device."""
    def run(
        self,
        kind: int,
        sectors: _Bytes,
        buffer: _Bytes,
        *,
        depth: int | None = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """Make a request for each of ``sectors`` (uint64), each with its part of ``buffer``, which is shared.

        Returns None if all went well, else the status of each.
        """
    def load(
        self,
        mix: Literal["read", "write", "verify"],
        buffer: _Bytes,
        *,
        sectors: int,
        depth: int,
        requests: int = ...,
        seconds: float = ...,
        size: int = 4096,
        sequential: bool = False,
        seed: int = 1,
        timeout: float | None = None,
    ) -> LoadResult:
        """Make load on the first ``sectors``, with ``depth`` requests of ``size`` bytes out at once.

        ``verify``: reads and writes, each read compared with what was last written there. It ends after
        ``requests`` of them, or after ``seconds``. ``buffer`` is shared, ``depth`` times ``size`` bytes.
        ``TimeoutError``: for ``timeout`` seconds nothing came back.
        """

# --- measuring ------------------------------------------------------------------------------------

@final
class Loopback:
    """Guest memory with one split ring, and a native driver for it: feeds a queue as fast as it can."""

    def __new__(cls, size: int = 256, *, features: int = 0, readable: int = 16, writable: int = 16) -> Self:
        """Make a ring of ``size`` entries.

        Each chain has one device-readable and one device-writable element of these lengths; 0: none.
        """
    @property
    def memory(self) -> Memory:
        """What to make the queue with."""
    @property
    def size(self) -> int:
        """Number of entries."""
    @property
    def addresses(self) -> _Addresses:
        """Where the ring lies, as :meth:`Queue.configure` takes it."""
    def drive(self, queue: Queue, chains: int, *, batch: int = 64, depth: int | None = None) -> int:
        """Send chains through ``queue``, which runs on this ring; return the time in nanoseconds.

        ``batch`` of them are made available at once, ``depth`` (default: ``batch``) are outstanding at most.
        The calling thread is the driver; it polls for what comes back. Raises
        :exc:`~virtio.TransportError` if nothing does for ten seconds.
        """

def measure_ring(
    ends: Literal["device", "both"],
    *,
    chains: int,
    batch: int,
    size: int = 256,
    descriptors: int = 1,
    indirect: bool = False,
    features: int = 0,
) -> tuple[int, int]:
    """Run a ring without a worker, on this thread; return nanoseconds and chains.

    ``device``: take, walk and complete only, over descriptors that never change. ``both``: the driver too.
    """

def measure_pair(
    *,
    requests: int,
    batch: int,
    outstanding: int,
    processors: tuple[int, int],
    size: int = 256,
    descriptors: int = 1,
    indirect: bool = False,
    features: int = 0,
    wait: Literal["poll", "check", "notify"] = "poll",
    precedence: bool = False,
) -> tuple[float, float, float, int, int]:
    """Run both ends of a ring on two threads, pinned to ``processors`` (the driver's, the device's).

    ``wait``: ``poll``, where neither can be notified; ``check``, the same, but each looks whether the other
    wants to be; ``notify``, by eventfds. ``precedence`` keeps other threads off the processors meanwhile (for
    the privileged). Returns nanoseconds for all requests, then a cache line's round trip between the two
    processors before and after, in nanoseconds, then the number of kicks and of calls.
    """

def measure_distance(processors: tuple[int, int], *, precedence: bool = False) -> float:
    """Return how long a cache line takes from one processor to another and back, in nanoseconds."""

# --- rings without a worker -----------------------------------------------------------------------

@final
class RingDevice:
    """The device's end of one ring, step by step: for tests and tools. Devices use :class:`Queue`.

    ``features`` say the layout. Each method raises :exc:`~virtio.ProtocolError` for what the driver broke.
    """

    def __new__(
        cls,
        memory: Memory,
        *,
        size: int,
        descriptors: int,
        available: int,
        used: int,
        base: int | None = None,
        features: int = 0,
    ) -> Self:
        """Continue at ``base``, in the form of vhost-user's VRING_BASE; None: a new ring."""
    def take(self, limit: int = 1) -> list[tuple[int, int, list[tuple[int, int]], list[tuple[int, int]]]]:
        """Take up to ``limit`` chains: head or buffer id, slots, and the device-readable and device-writable
        buffers as ``(address, length)``; those of no bytes are left out."""
    def complete(self, head: int, slots: int, written: int) -> None:
        """Record a completion; the driver does not see it before :meth:`publish`."""
    def publish(self) -> bool:
        """Show the driver all completions; return whether it wants a notification."""
    def arm(self) -> bool:
        """Ask for kicks; True: something came already."""
    def disarm(self) -> None:
        """Advise the driver that no kick is needed."""
    @property
    def base(self) -> int:
        """Where a successor continues."""
    @property
    def outstanding(self) -> int:
        """Chains taken and not completed."""

@final
class RingDriver:
    """The driver's end of one ring, step by step: for tests and tools.

    ``features`` say the layout. The memory of the ring is zero at first, and is kept mapped.
    """

    def __new__(
        cls, memory: Memory, *, size: int, descriptors: int, available: int, used: int, features: int = 0
    ) -> Self:
        """Begin with an empty ring."""
    def add(
        self,
        readable: Sequence[tuple[int, int]],
        writable: Sequence[tuple[int, int]],
        table: int | None = None,
    ) -> int | None:
        """Add a chain of buffers given as ``(address, length)``, in an indirect table at address ``table`` if
        there is one; return its head or buffer id, None: there is no room."""
    def publish(self) -> bool:
        """Show the device all chains added; return whether it wants a kick."""
    def reap(self, limit: int = ...) -> list[tuple[int, int]]:
        """Take back up to ``limit`` used chains: head or buffer id, and bytes written.

        Raises :exc:`~virtio.ProtocolError` for what the device broke.
        """
    def arm(self) -> bool:
        """Ask for a notification of the next used chain; True: there is one already."""
    def disarm(self) -> None:
        """Advise the device that no notification is needed."""
    @property
    def outstanding(self) -> int:
        """Chains that the device has."""
    @property
    def free(self) -> int:
        """Descriptors that are free."""
