"""The two ends of the Python model, against each other and against hand-made rings."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue.model import Descriptor, SplitDevice, SplitDriver, SplitLayout
from virtio.queue.model.ring import EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, WRITE, passed

START = 0x10_0000


def pair(size: int, features: int = INDIRECT_DESC, memory: int = 1 << 16) -> tuple[SplitDriver, SplitDevice]:
    buffer = bytearray(memory)
    driver = SplitDriver(buffer, START, size, features, start=START)
    return driver, SplitDevice(buffer, driver.layout, features, start=START)


def test_layout_is_that_of_the_standard() -> None:
    layout = SplitLayout.at(0x1008, 8)
    assert layout.addresses == {"descriptors": 0x1010, "available": 0x1090, "used": 0x10A8}
    assert layout.end == 0x10A8 + 6 + 64


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_sizes_that_2_7_forbids(size: int) -> None:
    with pytest.raises(ConfigurationError, match="power of two"):
        SplitLayout.at(0, size)


def test_fields_lie_where_the_standard_puts_them() -> None:
    buffer = bytearray(4096)
    driver = SplitDriver(buffer, 0, 4, EVENT_IDX)
    head = driver.add([b"abc"], [16])
    driver.publish()
    layout = driver.layout
    first = buffer[16 * head :][:16]
    assert int.from_bytes(first[8:12], "little") == 3
    assert int.from_bytes(first[12:14], "little") == NEXT
    second = buffer[16 * first[14] :][:16]
    assert (int.from_bytes(second[8:12], "little"), second[12]) == (16, WRITE)
    assert buffer[layout.available + 2] == 1
    assert buffer[layout.available + 4] == head
    driver.ring.used_event = 0x1234
    assert buffer[layout.available + 4 + 8 :][:2] == b"\x34\x12"
    driver.ring.available_event = 0x5678
    assert buffer[layout.used + 4 + 32 :][:2] == b"\x78\x56"


def test_event_index_example_of_the_standard() -> None:
    # The note in 2.7.7.2: with used_event 0 the first buffer gives a notification, and again the 65536th.
    assert passed(0, 1, 0)
    assert not passed(0, 2, 1)
    assert passed(0, 1, 0xFFFF)


requests = st.lists(
    st.tuples(
        st.lists(st.binary(max_size=40), max_size=3),
        st.lists(st.integers(0, 40), max_size=3),
        st.integers(0, 6),
    ).filter(lambda request: bool(request[0] or request[1])),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(requests, st.sampled_from([8, 16]), st.booleans(), st.integers(1, 9))
def test_everything_comes_back_as_it_was_sent(
    work: list[tuple[list[bytes], list[int], int]], size: int, events: bool, batch: int
) -> None:
    driver, device = pair(size, INDIRECT_DESC | (EVENT_IDX if events else 0))
    waiting: dict[int, tuple[bytes, int]] = {}
    todo = deque(work)
    kicked = interrupted = True
    while todo or waiting:
        for _ in range(batch):
            if todo and driver.free_descriptors >= 6:
                readable, writable, prefix = todo.popleft()
                parts = len(readable) + len(writable)
                head = driver.add(readable, writable, indirect_after=min(prefix, parts))
                waiting[head] = (b"".join(readable), sum(writable))
        driver.publish()
        kicked = driver.needs_kick() or kicked
        # A device that asked for kicks and got none has nothing to do.
        if kicked:
            device.disarm()
            while True:
                while chain := device.pop():
                    sent, room = waiting[chain.head]
                    assert device.read(chain) == sent
                    assert chain.room == room
                    device.write(chain, bytes(range(room)))
                    device.push(chain.head, room)
                interrupted = device.publish() or interrupted
                if not device.arm():
                    break
            kicked = False
        if interrupted:
            interrupted = False
            while True:
                for used in driver.poll_used():
                    _, room = waiting.pop(used.head)
                    assert used.written == room
                    assert driver.data(used.head) == bytes(range(room))
                if not driver.enable_interrupts():
                    break
    assert driver.free_descriptors == size


def test_the_driver_says_what_it_cannot_do() -> None:
    driver, _ = pair(2, features=0)
    with pytest.raises(ConfigurationError, match="at least one"):
        driver.add()
    with pytest.raises(ConfigurationError, match="free descriptors"):
        driver.add([1, 1, 1])
    with pytest.raises(ConfigurationError, match="not negotiated"):
        driver.add([1], indirect_after=0)
    with pytest.raises(ConfigurationError, match="bytes left"):
        driver.add([1 << 20])
    assert driver.free_descriptors == 2


def test_the_driver_refuses_what_was_never_given() -> None:
    driver, device = pair(4)
    driver.add([], [4])
    driver.publish()
    device.push(3, 0)
    device.publish()
    with pytest.raises(ProtocolError, match=r"2\.7\.8"):
        driver.poll_used()


def test_the_driver_refuses_a_length_beyond_its_buffer() -> None:
    driver, device = pair(4)
    device.push(driver.add([], [4]), 5)
    device.publish()
    with pytest.raises(ProtocolError, match=r"2\.7\.8\.2"):
        driver.poll_used()


def test_the_write_flag_on_an_indirect_table_means_nothing() -> None:
    driver, device = pair(4)
    head = driver.add([b"xy"], indirect_after=0)
    table = driver.ring.descriptor(head)
    driver.ring.set_descriptor(head, Descriptor(table.address, table.length, INDIRECT | WRITE))
    driver.publish()
    chain = device.pop()
    assert chain is not None
    assert device.read(chain) == b"xy"


def test_memory_for_buffers_is_reused() -> None:
    driver, device = pair(2, memory=512)
    for _ in range(100):
        driver.add([b"x" * 100], [50])
        driver.publish()
        chain = device.pop()
        assert chain is not None
        device.push(chain.head, 0)
        device.publish()
        assert len(driver.poll_used()) == 1
