"""What a front end says of I/O virtual addresses, and what it is asked (VIRTIO_F_ACCESS_PLATFORM)."""

from virtio.errors import TransportError
from virtio.transport.interface import GuestMemory
from virtio.transport.vhost_user.payloads import Iotlb

MISS, UPDATE, INVALIDATE, ACCESS_FAIL = 1, 2, 3, 4
"""The types of :class:`~.payloads.Iotlb`."""


class Translations:
    """The device's side of the IOTLB messages; what is known is in the memory itself."""

    def __init__(self, memory: GuestMemory, timeout: float) -> None:
        """Begin without translation. ``timeout`` bounds the wait for who uses an address that goes."""
        self._memory = memory
        self._timeout = timeout
        self._wanted = False

    def start_over(self, wanted: bool) -> None:
        """Features were accepted: what was known before belongs to another driver."""
        if wanted or self._wanted:
            self._memory.translate(wanted, self._timeout)
        self._wanted = wanted

    def take(self, entry: Iotlb) -> None:
        """Learn what the front end says. When this returns, nobody uses what it has taken away."""
        if not self._wanted:
            raise TransportError("ACCESS_PLATFORM was not negotiated")
        if entry.type == UPDATE:
            self._memory.update_translation(
                entry.iova, entry.size, entry.user_address, entry.permission & 3, self._timeout
            )
        elif entry.type == INVALIDATE:  # quirk INVALIDATES_OUT_OF_THIN_AIR
            self._memory.invalidate_translation(entry.iova, entry.size, self._timeout)
        else:
            raise TransportError(f"IOTLB message type {entry.type} is not a front end's")

    def questions(self) -> list[Iotlb]:
        """Return what the front end is to be told next: misses, and accesses that failed."""
        return [
            Iotlb(address, 0, 0, access, ACCESS_FAIL if failed else MISS)
            for address, access, failed in self._memory.take_misses()
        ]

    def repeat(self) -> None:
        """There is a new channel: what was asked on an earlier one may not have arrived."""
        if self._wanted:
            self._memory.repeat_misses()

    def refused(self, entry: Iotlb) -> None:
        """Take a negative answer."""
        if entry.type == MISS:
            self._memory.refuse_translation(entry.iova, entry.permission)

    def close(self) -> None:
        """Ask no more."""
        self._memory.on_miss(None)
        self.start_over(False)
