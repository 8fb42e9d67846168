"""The native device end against the model: the same requests must leave the same used ring behind."""

import mmap
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.queue.guest import START, Guest

from virtio.queue import Batch, BatchHandler, CallHandler, Chain, Handler
from virtio.queue.model import SplitDevice, SplitDriver
from virtio.queue.model.ring import EVENT_IDX, INDIRECT_DESC


@dataclass(frozen=True)
class Request:
    readable: tuple[bytes, ...]
    writable: tuple[int, ...]
    indirect_after: int | None
    written: int

    @property
    def elements(self) -> int:
        return len(self.readable) + len(self.writable)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    readable = draw(st.lists(st.binary(max_size=70), max_size=4))
    writable = draw(st.lists(st.integers(0, 70), min_size=not readable, max_size=4))
    elements = len(readable) + len(writable)
    return Request(
        tuple(readable),
        tuple(writable),
        draw(st.none() | st.integers(0, elements)),
        draw(st.integers(0, sum(writable))),
    )


def answer(sent: bytes, room: int, order: int) -> bytes:
    """What the device writes: depends on what it read, and on how many it has answered."""
    seed = sum(sent) + len(sent) + order
    return bytes((seed + index) & 0xFF for index in range(room))


class Answers:
    """The handler, in both forms."""

    def __init__(self, written: list[int]) -> None:
        self.written = written
        self.order = 0

    def one(self, chain: Chain) -> None:
        length = self.written[self.order]
        chain.write(answer(chain.read(), len(chain.writable), self.order)[:length])
        self.order += 1

    def many(self, batch: Batch) -> None:
        for chain in batch:
            self.one(chain)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    work=st.lists(requests(), min_size=1, max_size=60),
    size=st.sampled_from([8, 16, 32]),
    features=st.sampled_from([0, INDIRECT_DESC, EVENT_IDX, INDIRECT_DESC | EVENT_IDX]),
    group=st.integers(1, 8),
    batches=st.booleans(),
    polling=st.sampled_from([0, 50]),
)
def test_the_used_ring_is_what_the_model_writes(
    work: list[Request], size: int, features: int, group: int, batches: bool, polling: int
) -> None:
    answers = Answers([request.written for request in work])
    handler: Handler = BatchHandler(answers.many) if batches else CallHandler(answers.one)
    # The model's side: an own copy of the same memory, the same driver doing the same.
    shadow = mmap.mmap(-1, 1 << 20)
    other = SplitDriver(shadow, START, size, features, start=START)
    device = SplitDevice(shadow, other.layout, features, start=START)
    with Guest(handler, size=size, features=features) as guest:
        guest.queue.set_polling(polling)
        todo, order = deque(work), 0
        while todo:
            heads = []
            for _ in range(group):
                if not todo or guest.driver.free_descriptors < 8:
                    break
                request = todo.popleft()
                indirect = request.indirect_after if features & INDIRECT_DESC else None
                arguments = (request.readable, request.writable)
                heads.append(guest.driver.add(*arguments, indirect_after=indirect))
                assert other.add(*arguments, indirect_after=indirect) == heads[-1]
            guest.publish()
            other.publish()
            used = guest.collect(len(heads))

            while chain := device.pop():
                length = work[order].written
                device.write(chain, answer(device.read(chain), chain.room, order)[:length])
                device.push(chain.head, length)
                order += 1
            device.publish()
            assert other.poll_used() == used
            assert [entry.head for entry in used] == heads
            for head in heads:
                assert guest.driver.data(head) == other.data(head)
            for index in range(order - len(heads), order):
                assert guest.driver.ring.used_entry(index) == device.ring.used_entry(index)
            assert guest.driver.ring.used_index == order & 0xFFFF
        assert not guest.faults
        counters = guest.queue.counters
        assert counters.chains == len(work)
        assert counters.bytes_read == sum(len(b"".join(request.readable)) for request in work)
        assert counters.bytes_written == sum(request.written for request in work)
        assert guest.queue.stop() == len(work)
    device.close()
    other.close()


@pytest.mark.parametrize("size", [1, 2, 256, 4096, 32768])
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_all_sizes_and_the_wrap_of_the_index(size: int, features: int) -> None:
    """Around 65536 both indices wrap; the queue goes on from a base just below."""
    with Guest(
        BatchHandler(lambda batch: None), size=size, features=features, memory=1 << 22, start=False
    ) as guest:
        base = 65536 - 3
        guest.queue.configure(size=size, features=features, base=base, **guest.driver.addresses)
        ring = guest.driver.ring
        ring.available_index = ring.used_index = base
        guest.driver._next_available = guest.driver._next_used = guest.driver._kicked = base
        guest.driver.enable_interrupts()
        guest.queue.start()
        for _ in range(10):
            count = min(size, 4)
            heads = [guest.driver.add([b"x"]) for _ in range(count)]
            guest.publish()
            assert [used.head for used in guest.collect(count)] == heads
        assert guest.queue.stop() == (base + 10 * count) & 0xFFFF


def test_a_full_ring_at_once() -> None:
    with Guest(
        CallHandler(lambda chain: chain.write(chain.read()[::-1])), size=1024, memory=1 << 22
    ) as guest:
        for _ in range(3):
            heads = [guest.driver.add([b"%04d" % number], [4]) for number in range(512)]
            guest.publish()
            assert len(guest.collect(512)) == 512
            assert [guest.driver.data(head)[::-1] for head in heads] == [b"%04d" % n for n in range(512)]
