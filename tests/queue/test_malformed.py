"""What a driver can do wrong with a split ring: each case has a stated end, and none is a crash.

The native ring and the model must name the same clause of the standard.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.queue.guest import FEATURES, START, Guest, wait

from virtio.errors import ConfigurationError, ProtocolError
from virtio.queue import CallHandler, Chain, Queue
from virtio.queue.model import Descriptor, SplitDevice, SplitDriver
from virtio.queue.model.ring import EVENT_IDX, INDIRECT, NEXT, WRITE

SIZE = 8
SPARE = START + 0x8000
"""An address for buffers and tables, behind the ring."""


@dataclass
class Case:
    name: str
    clause: str
    break_it: Callable[[SplitDriver], None]
    features: int = field(default=FEATURES)


def descriptors(*chain: Descriptor) -> Callable[[SplitDriver], None]:
    """Write a chain by hand, from descriptor 0."""

    def build(driver: SplitDriver) -> None:
        for index, descriptor in enumerate(chain):
            driver.ring.set_descriptor(index, descriptor)
        offer(driver, 0)

    return build


def table(length: int, *chain: Descriptor, flags: int = INDIRECT) -> Callable[[SplitDriver], None]:
    """Write an indirect table by hand."""

    def build(driver: SplitDriver) -> None:
        for index, descriptor in enumerate(chain):
            driver.ring.set_descriptor(index, descriptor, table=SPARE)
        driver.ring.set_descriptor(0, Descriptor(SPARE, length, flags))
        offer(driver, 0)

    return build


def offer(driver: SplitDriver, head: int) -> None:
    driver.ring.set_available_entry(0, head)
    driver.ring.available_index = 1


def jump(distance: int) -> Callable[[SplitDriver], None]:
    def build(driver: SplitDriver) -> None:
        driver.ring.available_index = distance

    return build


TEXT = Descriptor(SPARE + 0x100, 4)
CASES = [
    Case("head out of range", "2.7.5", lambda driver: offer(driver, SIZE)),
    Case("head far out of range", "2.7.5", lambda driver: offer(driver, 0xFFFF)),
    Case("next out of range", "2.7.5", descriptors(TEXT._replace(flags=NEXT, next=SIZE))),
    Case("loop of one", "2.7.5.3.1", descriptors(TEXT._replace(flags=NEXT, next=0))),
    Case(
        "loop of two",
        "2.7.5.3.1",
        descriptors(TEXT._replace(flags=NEXT, next=1), TEXT._replace(flags=NEXT, next=0)),
    ),
    Case(
        "longer than the queue",
        "2.7.5.3.1",
        table(16 * (SIZE + 1), *(TEXT._replace(flags=NEXT, next=index + 1) for index in range(SIZE)), TEXT),
    ),
    Case("loop in a table", "2.7.5.3.1", table(16, TEXT._replace(flags=NEXT, next=0))),
    Case("next outside the table", "2.7.5", table(32, TEXT._replace(flags=NEXT, next=2), TEXT)),
    Case("indirect in indirect", "2.7.5.3.1", table(16, Descriptor(SPARE, 16, INDIRECT))),
    Case("indirect and next", "2.7.5.3.1", table(16, TEXT, flags=INDIRECT | NEXT)),
    Case("indirect of length 0", "2.7.5.3", table(0, TEXT)),
    Case("indirect of 15 bytes", "2.7.5.3", table(15, TEXT)),
    Case("indirect of 17 bytes", "2.7.5.3", table(17, TEXT)),
    Case("indirect not negotiated", "2.7.5.3.1", table(16, TEXT), features=EVENT_IDX),
    Case("table unmapped", "2.7.5", descriptors(Descriptor(0x1000, 16, INDIRECT))),
    Case("table wraps", "2.7.5", descriptors(Descriptor(2**64 - 16, 32, INDIRECT))),
    Case("buffer unmapped", "2.7.5", descriptors(Descriptor(0x1000, 4))),
    Case("buffer beyond the end", "2.7.5", descriptors(Descriptor(START + (1 << 20) - 2, 4))),
    Case("buffer of 4 GiB", "2.7.5", descriptors(Descriptor(SPARE, 0xFFFF_FFFF))),
    Case("buffer wraps", "2.7.5", descriptors(Descriptor(2**64 - 2, 4))),
    Case(
        "readable after writable",
        "2.7.4.2",
        descriptors(TEXT._replace(flags=WRITE | NEXT, next=1), TEXT),
    ),
    Case("available index jumps", "2.7.6.1", jump(SIZE + 1)),
    Case("available index goes back", "2.7.6.1", jump(0xFFFF)),
]


def never(chain: Chain) -> None:
    raise AssertionError(f"{chain} came through")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_a_broken_rule_costs_the_driver_its_queue(case: Case) -> None:
    with Guest(CallHandler(never), size=SIZE, features=case.features) as guest:
        case.break_it(guest.driver)
        model = SplitDevice(guest.map, guest.driver.layout, case.features, start=START)
        with pytest.raises(ProtocolError) as expected:
            model.pop()
        model.close()
        assert expected.value.clause == case.clause

        os.eventfd_write(guest.kick, 1)
        assert guest.fault.wait(10)
        (fault,) = guest.faults
        assert isinstance(fault, ProtocolError)
        assert fault.clause == case.clause
        assert case.clause in str(fault)
        assert guest.queue.broken
        assert not guest.queue.running
        assert guest.queue.counters.errors == {case.clause: 1}
        assert guest.queue.counters.chains == 0
        assert os.eventfd_read(guest.error) == 1
        assert guest.driver.poll_used() == []
        # It stays broken: starting it again does nothing before it is configured anew.
        guest.queue.stop()
        guest.queue.start()
        assert not guest.queue.running


@pytest.mark.parametrize("case", CASES[:-2], ids=lambda case: str(case.name))
def test_good_chains_before_a_bad_one_are_answered(case: Case) -> None:
    handler = CallHandler(lambda chain: chain.write(b"ok"))
    with Guest(handler, size=SIZE, features=case.features, start=False) as guest:
        case.break_it(guest.driver)
        ring = guest.driver.ring
        ring.set_descriptor(SIZE - 1, Descriptor(SPARE + 0x200, 2, WRITE))
        ring.set_available_entry(1, ring.available_entry(0))
        ring.set_available_entry(0, SIZE - 1)
        ring.available_index = 2
        guest.queue.start()
        assert guest.fault.wait(10)
        assert guest.faults[0].clause == case.clause
        assert ring.used_index == 1
        assert ring.used_entry(0) == (SIZE - 1, 2)
        assert bytes(ring.bytes_at(SPARE + 0x200, 2)) == b"ok"
        assert guest.queue.stop() == 1


def test_a_broken_queue_works_again_once_it_is_configured() -> None:
    with Guest(CallHandler(lambda chain: chain.write(b"ok")), size=SIZE) as guest:
        offer(guest.driver, 99)
        os.eventfd_write(guest.kick, 1)
        assert guest.fault.wait(10)
        guest.driver.close()
        guest.driver = SplitDriver(guest.map, START, SIZE, FEATURES, start=START)
        guest.queue.configure(size=SIZE, features=FEATURES, **guest.driver.addresses)
        assert not guest.queue.broken
        guest.queue.start()
        assert guest.ask([b"?"], [2]) == (b"ok", 2)


def test_zero_lengths_are_no_error() -> None:
    # The standard does not forbid them: such an element has no bytes, and that is all.
    with Guest(CallHandler(lambda chain: chain.write(chain.read())), size=SIZE) as guest:
        assert guest.ask([b"", b"ab", b""], [0, 3, 0]) == (b"ab\0", 2)
        assert guest.ask([b""], []) == (b"", 0)
        assert not guest.faults


def test_read_only_memory_is_not_written_to() -> None:
    with Guest(CallHandler(never), size=SIZE) as guest:
        guest.memory.add(0x10_0000, 0x1000, guest.fd, 0x4000, writable=False)
        descriptors(Descriptor(0x10_0000, 4, WRITE))(guest.driver)
        os.eventfd_write(guest.kick, 1)
        assert guest.fault.wait(10)
        assert guest.faults[0].clause == "2.7.5"


def test_an_exception_in_on_fault_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(CallHandler(never), size=SIZE) as guest:

        def on_fault(fault: ProtocolError) -> None:
            raise RuntimeError("no")

        queue = Queue(guest.memory, 1, CallHandler(never), on_fault=on_fault)
        guest.queue.stop()
        queue.configure(size=SIZE, features=FEATURES, **guest.driver.addresses)
        offer(guest.driver, 99)
        queue.start()
        wait(lambda: "on_fault raised" in caplog.text)
        assert queue.broken


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"size": 0}, "power of two"),
        ({"size": 3}, "power of two"),
        ({"size": 65536}, "power of two"),
        ({"descriptors": 8}, "misaligned"),
        ({"available": 1}, "misaligned"),
        ({"used": 2}, "misaligned"),
        ({"used": 2**64 - 4}, "wraps"),
        ({"base": 0x10000}, "base"),
    ],
)
def test_rings_that_cannot_be(wrong: dict[str, int], text: str) -> None:
    with Guest(CallHandler(never), size=SIZE, start=False) as guest:
        good: dict[str, Any] = {"size": SIZE, "features": FEATURES, **guest.driver.addresses}
        with pytest.raises(ConfigurationError, match=text):
            guest.queue.configure(**{**good, **wrong})
