"""A network card whose driver has rules about packets: to a receive queue of their own, or nowhere."""

import contextlib

import virtio
from virtio.driver.net import NetworkDriver

ADDRESSES = bytes.fromhex("020000000001 020000000002")
UDP4 = bytes.fromhex("0800 4500 001c 0000 0000 4011 0000 0a000001 0a000002")


def packet(port: int) -> bytes:
    """An empty UDP packet to a port, whose checksums nobody looks at."""
    return ADDRESSES + UDP4 + bytes.fromhex("9c40") + port.to_bytes(2, "big") + b"\0\x08\0\0"


def queue_of(card: NetworkDriver) -> int:
    """The queue that a packet has come to."""
    while True:
        for queue in range(card.pairs):
            with contextlib.suppress(TimeoutError):
                card.receive(timeout=0.01, queue=queue)
                return queue


def main() -> None:
    device = virtio.NetworkDevice(pairs=4, flow_filters=True)
    with virtio.start(device, "pci:card"), virtio.connect("pci:card", "net", pairs=4) as card:
        flows = card.flow_filters
        flows.add({"udp.dst_port": 5000}, queue=3)
        flows.add({"udp.dst_port": 53}, queue=None)
        flows.add({"ipv4.dst": "10.0.0.0/8"}, queue=1)
        for port in (5000, 53, 80):
            came = device.send(packet(port))
            print(f"port {port}:", f"queue {queue_of(card)}" if came else "dropped")
    device.close()


if __name__ == "__main__":
    main()
