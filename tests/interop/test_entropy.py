"""Random bytes for QEMU's guest, whose kernel has a driver for them; UML's has none."""

import threading

import pytest

import virtio
from virtio.testing import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(60)]


class Counting:
    """A source that can be recognised, and remembers how much it was asked for."""

    def __init__(self) -> None:
        self.given = 0
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        with self._lock:
            start = self.given
            self.given += size
        return bytes((start + index) % 251 for index in range(size))


def test_the_guest_reads_what_the_source_gave(virtio_guest: StartGuest) -> None:
    source = Counting()
    device = virtio.EntropyDevice(source)
    guest = virtio_guest([device], monitor="qemu", timeout=50)
    assert guest.check("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    found = bytes.fromhex(guest.check("timeout 20 head -c 1024 /dev/hwrng | xxd -p | tr -d '\\n'"))
    counters = device.queues[0].counters
    # The kernel's own use takes some of it, in pieces; within one each byte follows the one before.
    follows = sum((found[index] + 1) % 251 == found[index + 1] for index in range(len(found) - 1))
    assert len(found) == 1024
    assert follows > len(found) * 9 // 10
    assert source.given >= 1024
    assert counters is not None
    assert counters.bytes_written >= 1024
