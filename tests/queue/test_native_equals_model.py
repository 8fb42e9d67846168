"""Each native end of a ring beside the model's: after every step the rings must be the same, byte for byte.

Both play against the same other end, the model's, in two copies of memory. Not compared is ``next`` of a
split ring's descriptor that has no NEXT flag: it means nothing (2.7.5), and the native driver leaves in it
where its free list goes on. Which descriptor or buffer id is used next is the driver's choice, and the same
in both: what came back last is taken first, in order what came back first.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from virtio._native import Memory, RingDevice, RingDriver
from virtio.queue.model import ModelChain, PackedDevice, PackedDriver, SplitDevice, SplitDriver
from virtio.queue.model.ring import EVENT_IDX, IN_ORDER, INDIRECT_DESC, NEXT, WRITE

START = 0x1_0000_0000
ROOM = 1 << 16
RING_PACKED = 1 << 34
SPLIT_SIZES = [1, 2, 4, 8, 16]
PACKED_SIZES = [1, 2, 3, 4, 5, 7, 8, 16]

Driver = SplitDriver | PackedDriver
Device = SplitDevice | PackedDevice


class Guest:
    """A copy of guest memory with the model's driver in it."""

    def __init__(self, size: int, features: int) -> None:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, ROOM)
        self.map = mmap.mmap(fd, ROOM)
        self.memory = Memory()
        self.memory.add(START, ROOM, fd)
        os.close(fd)
        self.features = features
        make = PackedDriver if features & RING_PACKED else SplitDriver
        self.driver: Driver = make(self.map, START, size, features, start=START)

    def native_device(self, base: int | None = None) -> RingDevice:
        layout = self.driver.addresses
        return RingDevice(self.memory, size=self.driver.size, features=self.features, base=base, **layout)

    def native_driver(self) -> RingDriver:
        layout = self.driver.addresses
        return RingDriver(self.memory, size=self.driver.size, features=self.features, **layout)

    def device(self) -> Device:
        if isinstance(self.driver, PackedDriver):
            return PackedDevice(self.map, self.driver.layout, self.features, start=START)
        return SplitDevice(self.map, self.driver.layout, self.features, start=START)

    def ring(self, *, mask: bool = False) -> bytes:
        """The bytes of all parts; ``mask``: without what means nothing."""
        layout = self.driver.layout
        found = bytearray(self.map[layout.descriptors - START : layout.end - START])
        if mask and isinstance(self.driver, SplitDriver):
            for index in range(self.driver.size):
                if not found[16 * index + 12] & NEXT:
                    found[16 * index + 14 : 16 * index + 16] = b"\0\0"
        return bytes(found)

    def tables(self) -> list[bytes]:
        return [
            self.map[placed.table - START :][: 16 * len(placed.elements)]
            for placed in self.driver.buffers.out.values()
            if placed.table is not None
        ]


@contextmanager
def guests(size: int, features: int) -> Iterator[tuple[Guest, Guest]]:
    pair = Guest(size, features), Guest(size, features)
    yield pair
    for guest in pair:
        guest.driver.close()


def add(driver: Driver, readable: list[int], writable: list[int], indirect: bool) -> int:
    if isinstance(driver, PackedDriver):
        return driver.add(readable, writable, indirect=indirect)
    return driver.add(readable, writable, indirect_after=0 if indirect else None)


def push(device: Device, chain: ModelChain, written: int) -> None:
    if isinstance(device, PackedDevice):
        device.push(chain, written)
    else:
        device.push(chain.head, written)


@dataclass(frozen=True)
class Step:
    what: str
    readable: tuple[int, ...] = ()
    writable: tuple[int, ...] = ()
    indirect: bool = False
    number: int = 0
    share: float = 1.0
    """How much of the device-writable part is written."""


lengths = st.lists(st.integers(0, 32), max_size=3).map(tuple)
shares = st.sampled_from([0.0, 0.5, 1.0, 1.0])
steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("add"), readable=lengths, writable=lengths, indirect=st.booleans()).filter(
            lambda step: bool(step.readable or step.writable)
        ),
        st.builds(Step, st.sampled_from(["publish", "take"]), number=st.integers(1, 4)),
        st.builds(Step, st.just("complete"), number=st.integers(0, 15), share=shares),
        st.builds(Step, st.sampled_from(["announce", "collect"])),
        st.builds(Step, st.sampled_from(["arm", "disarm", "arm driver", "disarm driver"])),
        # A round in one step, so that the rings go round.
        st.builds(Step, st.just("round"), indirect=st.booleans(), number=st.integers(1, 4), share=shares),
        st.builds(Step, st.just("round"), indirect=st.booleans(), number=st.integers(1, 4), share=shares),
        st.builds(Step, st.just("reset"), number=st.integers(0, 15)),
    ),
    max_size=100,
)
features = st.tuples(
    st.sampled_from([0, RING_PACKED]),
    st.sampled_from([0, EVENT_IDX]),
    st.sampled_from([0, INDIRECT_DESC]),
    st.sampled_from([0, IN_ORDER]),
).map(sum)


class Play:
    """Steps on two copies; subclasses say which end is native in the first copy."""

    def __init__(self, one: Guest, two: Guest) -> None:
        self.one, self.two = one, two
        self.packed = bool(one.features & RING_PACKED)
        self.held: list[ModelChain] = []
        self.devices: list[Device] = []
        self.enable()

    def enable(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError

    def step(self, step: Step) -> None:
        match step.what:
            case "add":
                indirect = step.indirect and bool(self.one.features & INDIRECT_DESC)
                elements = len(step.readable) + len(step.writable)
                free = self.two.driver.free_descriptors
                if (1 if indirect else elements) <= free and elements <= self.two.driver.size:
                    self.add(list(step.readable), list(step.writable), indirect)
            case "publish":
                self.publish()
            case "take":
                self.take(step.number)
            case "complete":
                if self.held:
                    chain = self.held.pop(step.number % len(self.held))
                    self.complete(chain, int(chain.room * step.share))
            case "announce":
                self.announce()
            case "collect":
                self.collect()
            case "arm":
                self.arm()
            case "disarm":
                self.disarm()
            case "arm driver":
                self.arm_driver()
            case "disarm driver":
                self.disarm_driver()
            case "round":
                for _ in range(step.number):
                    self.step(Step("add", (8,), (8,)))
                self.step(Step("publish"))
                self.step(Step("take", number=step.number))
                for turn in range(step.number):
                    # Some of them not written to the end, and not in the order in which they came.
                    share = step.share if turn % 2 == 0 else 1.0
                    self.step(Step("complete", number=turn if step.indirect else 0, share=share))
                self.step(Step("announce"))
                self.step(Step("collect"))
            case "reset":
                sizes = PACKED_SIZES if self.packed else SPLIT_SIZES
                self.reset(sizes[step.number % len(sizes)])
        self.check()

    def reset(self, size: int) -> None:
        for device in self.devices:
            device.reset()
            assert device.pop() is None
            assert not device.publish()
        for guest in (self.one, self.two):
            expected = list(guest.driver.buffers.out)
            assert guest.driver.reset(size) == expected
            assert guest.driver.free_descriptors == size
        self.held.clear()
        self.enable()

    def add(self, readable: list[int], writable: list[int], indirect: bool) -> None: ...
    def publish(self) -> None: ...
    def take(self, count: int) -> None: ...
    def complete(self, chain: ModelChain, written: int) -> None: ...
    def announce(self) -> None: ...
    def collect(self) -> None: ...
    def arm(self) -> None: ...
    def disarm(self) -> None: ...
    def arm_driver(self) -> None: ...
    def disarm_driver(self) -> None: ...


class NativeDevice(Play):
    """The first copy has the native device's end, the second the model's."""

    def enable(self) -> None:
        self.native = self.one.native_device()
        if self.devices:
            enable(self.device, self.two.driver)
        else:
            self.devices = [self.two.device()]

    @property
    def device(self) -> Device:
        return self.devices[0]

    def check(self) -> None:
        assert self.one.ring() == self.two.ring()
        assert self.native.base == self.device.base
        assert self.native.outstanding == len(self.held)

    def add(self, readable: list[int], writable: list[int], indirect: bool) -> None:
        first, second = (add(guest.driver, readable, writable, indirect) for guest in (self.one, self.two))
        assert first == second

    def publish(self) -> None:
        for guest in (self.one, self.two):
            guest.driver.publish()
        assert self.one.driver.needs_kick() == self.two.driver.needs_kick()
        data = self.two.driver.notification_data
        assert self.one.driver.notification_data == data
        # What the kick says is what there is to take.
        waiting = self.two.driver.buffers.out
        descriptors = sum(len(placed.descriptors) for placed in waiting.values())
        assert 0 <= self.device.kicked(data) <= (descriptors if self.packed else len(waiting))

    def take(self, count: int) -> None:
        for taken in self.native.take(count):
            chain = self.device.pop()
            assert chain is not None
            assert taken == (
                chain.head,
                chain.slots,
                [part for part in chain.readable if part[1]],
                [part for part in chain.writable if part[1]],
            )
            self.held.append(chain)
            count -= 1
        if count:
            assert self.device.pop() is None

    def complete(self, chain: ModelChain, written: int) -> None:
        self.native.complete(chain.head, chain.slots, written)
        push(self.device, chain, written)

    def announce(self) -> None:
        assert self.native.publish() == self.device.publish()

    def collect(self) -> None:
        assert self.one.driver.poll_used() == self.two.driver.poll_used()

    def arm(self) -> None:
        assert self.native.arm() == self.device.arm()

    def disarm(self) -> None:
        self.native.disarm()
        self.device.disarm()

    def arm_driver(self) -> None:
        assert self.one.driver.enable_interrupts() == self.two.driver.enable_interrupts()

    def disarm_driver(self) -> None:
        for guest in (self.one, self.two):
            guest.driver.disable_interrupts()


class NativeDriver(Play):
    """The first copy has the native driver's end, the second the model's."""

    def enable(self) -> None:
        self.native = self.one.native_driver()
        if self.devices:
            for device, guest in zip(self.devices, (self.one, self.two), strict=True):
                enable(device, guest.driver)
        else:
            self.devices = [guest.device() for guest in (self.one, self.two)]

    def check(self) -> None:
        assert self.one.ring(mask=True) == self.two.ring(mask=True)
        assert self.native.outstanding == self.two.driver.outstanding
        assert self.native.free == self.two.driver.free_descriptors

    def add(self, readable: list[int], writable: list[int], indirect: bool) -> None:
        head = add(self.two.driver, readable, writable, indirect)
        placed = self.two.driver.buffers.out[head]
        parts = [[], []]  # type: list[list[tuple[int, int]]]
        for address, length, flags in placed.elements:
            parts[bool(flags & WRITE)].append((address, length))
        assert self.native.add(parts[0], parts[1], placed.table) == head
        if placed.table is not None:
            size = 16 * len(placed.elements)
            ours, theirs = (guest.map[placed.table - START :][:size] for guest in (self.one, self.two))
            assert ours == theirs

    def publish(self) -> None:
        self.two.driver.publish()
        assert self.native.publish() == self.two.driver.needs_kick()

    def take(self, count: int) -> None:
        for _ in range(count):
            first, second = (device.pop() for device in self.devices)
            assert first == second
            if first is None:
                return
            self.held.append(first)

    def complete(self, chain: ModelChain, written: int) -> None:
        for device in self.devices:
            push(device, chain, written)

    def announce(self) -> None:
        first, second = (device.publish() for device in self.devices)
        assert first == second

    def collect(self) -> None:
        assert self.native.reap() == [tuple(used) for used in self.two.driver.poll_used()]

    def arm(self) -> None:
        first, second = (device.arm() for device in self.devices)
        assert first == second

    def disarm(self) -> None:
        for device in self.devices:
            device.disarm()

    def arm_driver(self) -> None:
        assert self.native.arm() == self.two.driver.enable_interrupts()

    def disarm_driver(self) -> None:
        self.native.disarm()
        self.two.driver.disable_interrupts()


def enable(device: Device, driver: Driver) -> None:
    if isinstance(device, PackedDevice):
        assert isinstance(driver, PackedDriver)
        device.enable(driver.layout)
    else:
        assert isinstance(driver, SplitDriver)
        device.enable(driver.layout)


@pytest.mark.parametrize("play", [NativeDevice, NativeDriver])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, features, st.integers(0, 15))
def test_after_every_step_the_rings_are_the_same(
    play: type[Play], work: list[Step], features: int, size: int
) -> None:
    sizes = PACKED_SIZES if features & RING_PACKED else SPLIT_SIZES
    with guests(sizes[size % len(sizes)], features) as (one, two):
        table = play(one, two)
        for step in work:
            table.step(step)
        event(f"{'packed' if features & RING_PACKED else 'split'}, {len(work) // 20 * 20} steps and more")
        for device in table.devices:
            device.close()


@pytest.mark.parametrize("in_order", [0, IN_ORDER])
@pytest.mark.parametrize("events", [0, EVENT_IDX])
@pytest.mark.parametrize("play", [NativeDevice, NativeDriver])
def test_the_free_running_index_wraps(play: type[Play], events: int, in_order: int) -> None:
    """Once around 65536, natively; then the model joins in, a little before the wrap."""
    size, before = 4, 65536 - 6
    with guests(size, events | in_order) as (one, two):
        driver, device = one.native_driver(), one.native_device()
        for _ in range(before):
            assert driver.add([(START + 0x8000, 1)], []) is not None
            driver.publish()
            ((head, slots, _, _),) = device.take()
            device.complete(head, slots, 0)
            device.publish()
            assert len(driver.reap()) == 1
        table = play(one, two)
        two.map[:] = one.map[:]
        for guest in (one, two):
            model = guest.driver
            assert isinstance(model, SplitDriver)
            model._next_available = model._published = model._next_used = model._kicked = before
            model._free = (
                model._free[before % size :] + model._free[: before % size] if in_order else model._free
            )
        for ended in table.devices:
            assert isinstance(ended, SplitDevice)
            ended.enable(ended.layout, base=before)
        if isinstance(table, NativeDriver):
            table.native = driver
        elif isinstance(table, NativeDevice):
            table.native = device
        table.check()
        for turn in range(12):
            for step in (
                Step("arm driver"),
                Step("arm"),
                Step("round", number=1 + turn % 3),
                Step("disarm driver"),
                Step("disarm"),
            ):
                table.step(step)
        for ended in table.devices:
            ended.close()
