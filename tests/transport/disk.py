"""A disk in memory, in a few lines: transports are tested with it, not the block device."""

from virtio.device.base import Device
from virtio.queue import Chain
from virtio.spec import block

SECTOR = 512


class Disk(Device):
    """Reads and writes, and nothing else."""

    spec = block
    features = block.F.MQ

    def __init__(self, sectors: int = 64, queues: int = 2) -> None:
        super().__init__(name="disk", config={"capacity": sectors, "num_queues": queues})
        self.contents = bytearray(sectors * SECTOR)

    def on_requests(self, chain: Chain) -> None:
        kind = int.from_bytes(chain.read(4), "little")
        chain.read(4)
        start = int.from_bytes(chain.read(8), "little") * SECTOR
        if kind == 0:
            chain.write(self.contents[start : start + len(chain.writable) - 1])
        else:
            data = chain.read()
            self.contents[start : start + len(data)] = data
        chain.write(b"\0")
