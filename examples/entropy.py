"""A complete device: an unmodified guest finds it, and reads random bytes from /dev/hwrng."""

import os

import virtio
from virtio.spec import entropy


class Entropy(virtio.Device):
    spec = entropy

    def on_requests(self, chain: virtio.Chain) -> None:  # one buffer from the driver
        chain.write(os.urandom(len(chain.writable)))


if __name__ == "__main__":
    virtio.serve(Entropy(), "vhost-user:/tmp/rng.sock")
