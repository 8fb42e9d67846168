"""From the start of QEMU to the first sector of our disk in a Linux guest, and what our function takes of it.

The same guest, over vhost-user and as a PCI function over vfio-user, in turns. What the guest itself counts
begins with its kernel: firmware and loading come on top.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import virtio
from virtio.bench import this_machine
from virtio.transport import vfio_user
from virtio.transport.pci import PciFunction
from virtio.vm import Guest
from virtio.vm.boot import attachment


class Watched(PciFunction):
    """A function that counts its accesses, and how long they take."""

    accesses = 0
    seconds = 0.0

    def read(self, region: int, offset: int, size: int) -> bytes:
        """Read from a region."""
        start = time.perf_counter()
        try:
            return super().read(region, offset, size)
        finally:
            self._note(start)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region."""
        start = time.perf_counter()
        try:
            super().write(region, offset, data)
        finally:
            self._note(start)

    def _note(self, start: float) -> None:
        self.accesses += 1
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Boot:
    """One start; seconds."""

    first_read: float
    in_guest: float
    """Of these, since its kernel began."""
    accesses: int = 0
    in_function: float = 0.0


def boot(transport: Literal["vhost-user", "vfio-user"], folder: Path) -> Boot:
    """Start a guest, and have it read."""
    image, path = folder / "disk.img", folder / f"{transport}.sock"
    image.write_bytes(b"x" * (1 << 20))
    disk = virtio.BlockDevice(image)
    function = Watched(disk)
    served = (
        vfio_user.start(function, str(path))
        if transport == "vfio-user"
        else virtio.start(disk, f"vhost-user:{path}")
    )
    start = time.perf_counter()
    try:
        with served, Guest([attachment(disk, path, transport)], monitor="qemu", timeout=100) as guest:
            guest.check("head -c 512 /dev/vda >/tmp/sector")
            first_read = time.perf_counter() - start
            in_guest = float(guest.check("cat /proc/uptime").split()[0])
            return Boot(first_read, in_guest, function.accesses, function.seconds)
    finally:
        disk.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each transport."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    options = parser.parse_args(arguments)
    found: dict[str, list[Boot]] = {"vhost-user": [], "vfio-user": []}
    with tempfile.TemporaryDirectory(prefix="boot-") as folder:
        for _ in range(options.rounds):
            found["vhost-user"].append(boot("vhost-user", Path(folder)))
            found["vfio-user"].append(boot("vfio-user", Path(folder)))
    print(this_machine())
    for transport, boots in found.items():
        times = sorted(each.first_read for each in boots)
        print(
            f"{transport}: first read after {statistics.median(times):.2f} s"
            f" ({times[0]:.2f} to {times[-1]:.2f}),"
            f" {statistics.median(each.in_guest for each in boots):.2f} of them since the kernel began"
        )
        if transport == "vfio-user":
            accesses = statistics.median(each.accesses for each in boots)
            seconds = statistics.median(each.in_function for each in boots)
            print(
                f"  in our function: {accesses:.0f} accesses of {seconds / accesses * 1e6:.0f} µs on average"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
