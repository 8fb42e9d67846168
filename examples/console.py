"""A console that talks back. In the guest: ``cat /dev/hvc0 & echo hello > /dev/hvc0``."""

import virtio


class Shouting(virtio.ConsoleDevice):
    def output(self, data: bytes) -> None:
        self.send(data.upper())


if __name__ == "__main__":
    virtio.serve(Shouting(size=(80, 25)), "vhost-user:/tmp/console.sock")
