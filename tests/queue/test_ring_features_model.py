"""What the model says about in-order use, queue reset and notifications with data."""

import pytest

from virtio.errors import ProtocolError
from virtio.queue.model import ModelChain, PackedDevice, PackedDriver, SplitDevice, SplitDriver
from virtio.queue.model.ring import IN_ORDER, NEXT

START = 0x10_0000


def split(size: int, features: int = 0) -> tuple[SplitDriver, SplitDevice]:
    memory = bytearray(1 << 14)
    driver = SplitDriver(memory, START, size, features, start=START)
    return driver, SplitDevice(memory, driver.layout, features, start=START)


def packed(size: int, features: int = 0) -> tuple[PackedDriver, PackedDevice]:
    memory = bytearray(1 << 14)
    driver = PackedDriver(memory, START, size, features, start=START)
    return driver, PackedDevice(memory, driver.layout, features, start=START)


def take(device: SplitDevice | PackedDevice, count: int) -> list[ModelChain]:
    chains = [device.pop() for _ in range(count)]
    assert all(chains)
    return [chain for chain in chains if chain]


def test_in_order_one_used_entry_stands_for_a_batch() -> None:
    # 2.7.9: it names the last of them, and lies where the first one was made available.
    driver, device = split(8, IN_ORDER)
    heads = [driver.add([b"x"], [4]) for _ in range(3)]
    driver.publish()
    for head in [chain.head for chain in take(device, 3)]:
        device.push(head, 4)
    device.publish()
    assert device.ring.used_index == 3
    assert [device.ring.used_entry(index) for index in range(3)] == [(heads[2], 4), (0, 0), (0, 0)]
    assert driver.poll_used() == [(head, 4) for head in heads]
    driver.add([], [4])
    driver.publish()
    device.push(take(device, 1)[0].head, 0)
    device.publish()
    assert device.ring.used_entry(3) == (6, 0)


def test_in_order_one_used_descriptor_stands_for_a_batch() -> None:
    # 2.8.8: it overwrites the first available descriptor of the batch.
    driver, device = packed(8, IN_ORDER)
    ids = [driver.add([b"x"], [4]) for _ in range(3)]
    driver.publish()
    before = [device.ring.head(offset) for offset in range(6)]
    for chain in take(device, 3):
        device.push(chain, 4)
    device.publish()
    after = [device.ring.head(offset) for offset in range(6)]
    assert after[1:] == before[1:]
    assert (after[0].id, after[0].length) == (ids[2], 4)
    assert driver.poll_used() == [(buffer_id, 4) for buffer_id in ids]
    assert driver.free_descriptors == 8


def test_in_order_nobody_hears_of_a_younger_buffer_first() -> None:
    for driver, device in (split(8, IN_ORDER), packed(8, IN_ORDER)):
        for _ in range(3):
            driver.add([], [4])
        driver.publish()
        chains = take(device, 3)
        for chain, written in [(chains[2], 4), (chains[1], 2)]:
            device.push(chain if isinstance(device, PackedDevice) else chain.head, written)  # type: ignore[arg-type]
        assert not device.publish()
        assert driver.poll_used() == []
        device.push(chains[0] if isinstance(device, PackedDevice) else chains[0].head, 4)  # type: ignore[arg-type]
        device.publish()
        # The second was not written to its end, so it has an entry of its own.
        assert [used.written for used in driver.poll_used()] == [4, 2, 4]


def test_in_order_descriptors_are_used_in_ring_order() -> None:
    # 2.7.5: from 0 on, and around; next is x + 1, and 0 at the end.
    driver, device = split(4, IN_ORDER)
    seen: list[tuple[int, int]] = []
    for count in (1, 2, 2, 3):
        head = driver.add([1] * count)
        for _ in range(count):
            descriptor = driver.ring.descriptor(head)
            if descriptor.flags & NEXT:
                seen.append((head, descriptor.next))
                head = descriptor.next
        driver.publish()
        device.push(take(device, 1)[0].head, 0)
        device.publish()
        assert len(driver.poll_used()) == 1
    assert seen == [(1, 2), (3, 0), (1, 2), (2, 3)]


def test_in_order_a_used_entry_beyond_the_index_is_found_out() -> None:
    driver, device = split(4, IN_ORDER)
    heads = [driver.add([1]) for _ in range(2)]
    driver.publish()
    device.ring.set_used_entry(0, heads[1], 0)
    device.ring.used_index = 1
    with pytest.raises(ProtocolError, match=r"2\.7\.9"):
        driver.poll_used()


@pytest.mark.parametrize("make", [split, packed])
@pytest.mark.parametrize("features", [0, IN_ORDER])
def test_a_reset_gives_all_buffers_back_and_the_queue_another_size(make: object, features: int) -> None:
    # 2.6.1: nothing is taken or announced from then on; afterwards all begins anew.
    driver, device = split(4, features) if make is split else packed(4, features)
    heads = [driver.add([b"a"], [1]) for _ in range(2)]
    driver.publish()
    (chain,) = take(device, 1)
    device.reset()
    assert driver.reset(8) == heads
    device.push(chain if isinstance(device, PackedDevice) else chain.head, 1)  # type: ignore[arg-type]
    assert not device.publish()
    assert device.pop() is None
    assert not device.arm()
    assert driver.poll_used() == []
    assert (driver.size, driver.free_descriptors, driver.outstanding) == (8, 8, 0)
    device.enable(driver.layout)  # type: ignore[arg-type]
    for _ in range(3):
        for _ in range(4):
            driver.add([b"b"], [1])
        driver.publish()
        for chain in take(device, 4):
            device.push(chain if isinstance(device, PackedDevice) else chain.head, 1)  # type: ignore[arg-type]
        device.publish()
        assert len(driver.poll_used()) == 4


def test_a_kick_says_how_much_there_is_in_a_split_ring() -> None:
    # 2.9: the available index, in 15 bits and a bit.
    driver, device = split(4)
    driver.add([1])
    driver.add([1])
    assert driver.notification_data == 0
    driver.publish()
    assert driver.notification_data == 2
    assert device.kicked(2) == 2
    # It was told, so it takes them without a look at the index.
    driver.ring.available_index = 0
    take(device, 2)
    assert device.kicked(1) == 0


def test_a_kick_says_how_much_there_is_in_a_packed_ring() -> None:
    # 2.9: offset of the next descriptor, and its wrap counter in bit 15.
    driver, device = packed(3)
    driver.add([1], [1])
    driver.publish()
    assert driver.notification_data == 0x8002
    assert device.kicked(0x8002) == 2
    device.push(take(device, 1)[0], 0)
    device.publish()
    driver.poll_used()
    assert device.kicked(0x8002) == 0
    driver.add([1], [1])
    driver.publish()
    assert driver.notification_data == 1
    assert device.kicked(1) == 2


def test_a_successor_takes_again_what_was_not_completed() -> None:
    driver, device = split(8)
    for _ in range(4):
        driver.add([1])
    driver.publish()
    chains = take(device, 4)
    assert device.base == 0
    device.push(chains[1].head, 0)
    assert device.base == 2
    other, packed_device = packed(8)
    for _ in range(3):
        other.add([1])
    other.publish()
    held = take(packed_device, 3)
    packed_device.push(held[0], 0)
    assert packed_device.base == 0x8001_8001
    packed_device.push(held[2], 0)
    # The second would be lost: a used descriptor was written behind it.
    assert packed_device.base == 0x8002_8003
