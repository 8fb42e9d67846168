"""A disk with one bad sector: reading it is an I/O error in the guest, all else works."""

import sys

import virtio

BAD = 2048


class Flaky(virtio.BlockDevice):
    def read(self, sector: int, into: memoryview) -> object:
        if sector <= BAD < sector + len(into) // 512:
            raise virtio.IOFailed
        return super().read(sector, into)


if __name__ == "__main__":
    virtio.serve(Flaky(sys.argv[1]), "vhost-user:/tmp/flaky.sock")
