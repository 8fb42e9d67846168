"""Linux 7.2, which takes IN_ORDER, on disks that finish their requests in any order."""

import hashlib
import queue
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.interop import newer
from tests.interop.newer import newer_peers as newer_peers

import virtio
from virtio._native import BlockRequest
from virtio.spec.core import F
from virtio.vm import Guest, Monitor, serving

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120), pytest.mark.usefixtures("newer_peers")]

MIB = 1 << 20
SIZE = 96 * MIB
MASKS = {"split": "RING_PACKED", "packed": ""}


class Shuffled(virtio.BlockDevice):
    """A disk that finishes the requests that it has in an order by lot, on another thread."""

    def __init__(self, image: Path, mask: str) -> None:
        super().__init__(image, mask=mask)
        self.overtaken = 0
        self._requests: queue.SimpleQueue[BlockRequest | None] = queue.SimpleQueue()
        self._lot = random.Random(7)
        self._thread = threading.Thread(target=self._finish, daemon=True)
        self._thread.start()

    def answer(self, requests: Sequence[BlockRequest]) -> None:
        for request in requests:
            self._requests.put(request)

    def close(self) -> None:
        self._requests.put(None)
        self._thread.join()
        super().close()

    def _finish(self) -> None:
        """Wait for a few, so that there is something to shuffle; a lone one does not wait long."""
        while True:
            waiting: list[BlockRequest] = []
            try:
                while len(waiting) < 8:
                    request = self._requests.get(timeout=0.002 if waiting else None)
                    if request is None:
                        return
                    waiting.append(request)
            except queue.Empty:
                pass
            order = list(range(len(waiting)))
            self._lot.shuffle(order)
            self.overtaken += order != sorted(order)
            for index in order:
                super().answer([waiting[index]])


@contextmanager
def guest_with(disk: virtio.BlockDevice, monitor: Monitor, **options: object) -> Iterator[Guest]:
    disk.offered_features |= F.IN_ORDER
    with serving([disk]) as attachments:
        if monitor == "qemu":
            # QEMU takes part in the choice of features.
            properties: Mapping[str, str | int] = {**attachments[0].properties, "in_order": "on"}
            attachments = [replace(attachments[0], properties=properties)]
            options = {"kernel": newer.kernel(), **options}
        programs = ["dd", "mkfs.ext4", "e2fsck"]
        with Guest(attachments, monitor=monitor, programs=programs, timeout=100, **options) as guest:  # type: ignore[arg-type]
            yield guest


def use(guest: Guest, image: Path) -> None:
    """Make a file system, write from several sides at once, and read it all back, from both ends."""
    guest.check("mkfs.ext4 -q -E nodiscard /dev/vda 64M && mount -t ext4 /dev/vda /mnt", timeout=90)
    guest.check(
        """
        for number in 1 2 3 4; do
            (/sbin/dd if=/dev/urandom of=/mnt/$number bs=$((number * 40))k count=60 conv=fsync 2>/dev/null
             sha256sum </mnt/$number >/tmp/$number) &
        done
        /sbin/dd if=/dev/urandom of=/tmp/raw bs=1M count=8 2>/dev/null
        /sbin/dd if=/tmp/raw of=/dev/vda bs=4k seek=16384 oflag=direct 2>/dev/null
        wait
        sync; umount /mnt; mount -t ext4 /dev/vda /mnt
        for number in 1 2 3 4; do
            sha256sum </mnt/$number | cmp - /tmp/$number || exit $number
        done &
        /sbin/dd if=/dev/vda bs=64k skip=1024 count=128 iflag=direct 2>/dev/null | cmp - /tmp/raw || exit 9
        wait $! || exit 8
        umount /mnt
        e2fsck -fn /dev/vda >/dev/null || exit 7
        """,
        timeout=90,
    )
    written = guest.check("sha256sum </tmp/raw").split()[0]
    with image.open("rb") as file:
        file.seek(64 * MIB)
        assert hashlib.sha256(file.read(8 * MIB)).hexdigest() == written
    # The driver says so when it is told of a buffer that it does not have.
    assert "is not a head" not in guest.check("dmesg")


def check(disk: virtio.BlockDevice) -> None:
    (counters,) = (queue.counters for queue in disk.queues)
    assert counters is not None
    assert counters.chains > 200
    assert counters.errors == {}
    assert counters.handler_errors == 0
    assert not disk.needs_reset


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.parametrize("layout", MASKS)
@pytest.mark.parametrize("monitor", ["uml", "qemu"])
def test_a_disk_on_io_uring(monitor: Monitor, layout: str, image: Path) -> None:
    """Reads from the cache overtake writes and flushes."""
    disk = virtio.BlockDevice(image, mask=MASKS[layout])
    try:
        with guest_with(disk, monitor) as guest:
            taken = disk.negotiated_features
            assert taken & F.IN_ORDER
            assert bool(taken & F.RING_PACKED) == (layout == "packed")
            use(guest, image)
        check(disk)
    finally:
        disk.close()


@pytest.mark.parametrize("layout", MASKS)
def test_a_disk_that_shuffles_its_requests(layout: str, image: Path) -> None:
    disk = Shuffled(image, MASKS[layout])
    try:
        with guest_with(disk, "uml") as guest:
            assert disk.negotiated_features & F.IN_ORDER
            use(guest, image)
        check(disk)
        assert disk.overtaken > 20
    finally:
        disk.close()
