"""Drive a disk: the one at the address that is given, else one that this process serves itself.

Try it on any back end: ``python examples/drive_a_disk.py vhost-user:/tmp/disk.sock``. It writes to the disk.
"""

import asyncio
import sys

import virtio
from virtio.driver.block import BlockDriver


def one_by_one(disk: BlockDriver) -> bytes:
    disk.write(8, b"hello".ljust(512))  # whole sectors
    disk.flush()
    return disk.read(8, 1).rstrip()


def under_way(disk: BlockDriver) -> int:
    requests = [disk.submit_read(sector, 8) for sector in range(0, 256, 8)]
    return sum(len(request.wait(timeout=5)) for request in requests)


def many(disk: BlockDriver) -> int:
    buffer = disk.allocate(1000 * 512)  # shared with the device: nothing is copied
    failed = disk.read_batch(range(1000), buffer, depth=64)
    return 0 if failed is None else sum(status != 0 for status in failed)


async def at_once(disk: BlockDriver) -> bytes:
    await asyncio.gather(*(disk.awrite(sector, bytes([sector]) * 512) for sector in range(16)))
    return b"".join(await asyncio.gather(*(disk.aread(sector, 1) for sector in range(16))))


def as_file(disk: BlockDriver) -> bytes:
    with disk.open("r+b") as file:
        file.seek(1000)
        file.write(b"anywhere")
        file.seek(1000)
        return file.read(8)


def what_may_fail(disk: BlockDriver) -> list[str]:
    said = []
    try:
        disk.read(disk.sectors, 1)
    except virtio.ConfigurationError as error:
        said.append(str(error))
    try:
        disk.write(0, bytes(512), timeout=5)
    except virtio.IOFailed as error:  # so says the device: error.status
        said.append(str(error))
    except TimeoutError:  # it has said nothing yet; the disk stays usable
        said.append("no answer")
    return said


def use(address: str) -> None:
    with virtio.connect(address, "block") as disk:
        print(f"{disk.capacity >> 20} MiB, {', '.join(disk.feature_names)}")
        print(one_by_one(disk), under_way(disk), many(disk), as_file(disk))
        print(len(asyncio.run(at_once(disk))), what_may_fail(disk))


if __name__ == "__main__":
    if sys.argv[1:]:
        use(sys.argv[1])
    else:
        with virtio.start(virtio.BlockDevice(size=16 << 20), "mem:disk"):
            use("mem:disk")
