"""A PCI card in this process: what lspci says of it, and what each request costs on its bus."""

import os

import virtio
from virtio.spec import entropy
from virtio.transport import pci
from virtio.transport.pci.card import CardDevice
from virtio.transport.pci.hardware import CardFunction, HardwareProfile


class Noise(CardDevice):
    spec = entropy

    def answer(self, _queue: int, _data: bytes, room: int) -> bytes:
        return os.urandom(room)


def main() -> None:
    function = CardFunction(Noise(), profile=HardwareProfile(burst=64))
    print(function)
    with pci.start(function, "noise"), virtio.connect("pci:noise", "entropy") as driver:
        for _ in range(10):
            driver.read(64)
        print(function.traffic)  # all of it, from finding the card to the last byte


if __name__ == "__main__":
    main()
