"""Two cards joined by a switch, one of them on a wire that loses, repeats and reorders.

Here both are driven from this process; with ``vhost-user:`` addresses two virtual machines are.
"""

import contextlib

import virtio
from virtio.driver.net import NetworkDriver
from virtio.driver.net_queues import Frame

FRAMES = 1000


def frame(source: virtio.NetworkDevice, target: virtio.NetworkDevice, number: int) -> bytes:
    return target.mac + source.mac + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(42)


def received(card: NetworkDriver) -> list[Frame]:
    found = []
    with contextlib.suppress(TimeoutError):  # nothing comes any more
        while True:
            found += card.receive_batch(timeout=0.2)
    return found


def main() -> None:
    switch = virtio.Switch()
    port = switch.port()
    port.wire(loss=0.05, duplication=0.01, reordering=0.02, seed=1)
    one = virtio.NetworkDevice(port, mac="02:00:00:00:00:01")
    two = virtio.NetworkDevice(switch.port(), mac="02:00:00:00:00:02")
    with (
        virtio.start(one, "mem:one"),
        virtio.start(two, "mem:two"),
        virtio.connect("mem:one", "net") as sender,
        virtio.connect("mem:two", "net") as receiver,
    ):
        came = []
        for number in range(FRAMES):
            sender.send(frame(one, two, number))
            if number % 100 == 99:
                came += received(receiver)
        numbers = [int.from_bytes(one.data[14:18], "big") for one in came]
        different = len(set(numbers))
        print(f"{different} of {FRAMES} frames came, {len(numbers) - different} of them twice")
        print("in order" if numbers == sorted(numbers) else "out of order")


if __name__ == "__main__":
    main()
