"""What a queue offers beside serving: 128 features, kicks with data, polling modes, reset, tables."""

import os
import threading
from typing import Literal

import pytest

from virtio.errors import ConfigurationError
from virtio.queue import CallHandler, Chain, IndirectPolicy, NullHandler, Queue
from virtio.queue.model.ring import EVENT_IDX

from .guest import Guest, wait


def _echo(chain: Chain) -> None:
    chain.write(bytes(chain.readable))


@pytest.mark.parametrize("high", [1 << 64, 1 << (64 + 34), 1 << 127], ids=["64", "98", "127"])
def test_features_above_63_change_nothing(high: int) -> None:
    """Bit 98 is that of the packed layout, were it cut to 64 bits and shifted."""
    with Guest(CallHandler(_echo), features=EVENT_IDX, start=False) as guest:
        guest.queue.configure(size=16, features=EVENT_IDX | high, **guest.driver.addresses)
        guest.queue.start()
        assert guest.ask([b"ping"], [8]) == (b"ping\0\0\0\0", 4)


def test_more_than_128_features_are_refused() -> None:
    with Guest(NullHandler(), start=False) as guest, pytest.raises(OverflowError):
        guest.queue.configure(size=16, features=1 << 128, **guest.driver.addresses)


def test_kicks_with_data() -> None:
    """VIRTIO 1.4, 2.9: true ones, old ones and nonsense."""
    with Guest(CallHandler(_echo), features=0) as guest:
        for index in range(1, 20):
            guest.driver.add([b"ping"], [8])
            guest.driver.publish()
            for following in (index - 1, index + 999, index):
                guest.queue.notify(following << 16)
            assert len(guest.collect(1)) == 1
        assert not guest.faults


def test_polling_modes() -> None:
    with Guest(CallHandler(_echo)) as guest:
        modes: tuple[Literal["busy", "adaptive", "off"], ...] = ("busy", "adaptive", "off", "busy", "off")
        for mode in modes:
            guest.queue.set_polling(mode, microseconds=100)
            for _ in range(5):
                assert guest.ask([b"ping"], [8])[1] == 4
        guest.queue.set_polling(20)
        assert guest.ask([b"ping"], [8])[1] == 4
        with pytest.raises(ConfigurationError, match="busy, adaptive or off"):
            guest.queue.set_polling("often")  # type: ignore[arg-type]


def test_a_busy_queue_needs_no_kick() -> None:
    with Guest(CallHandler(_echo), features=0) as guest:
        guest.queue.set_polling("busy")
        guest.driver.add([b"ping"], [8])
        guest.driver.publish()
        wait(guest.driver.poll_used)


def test_reset_returns_at_once_what_handlers_hold() -> None:
    """VIRTIO 1.4, 2.6.1.1.1: nothing is completed and nobody is notified afterwards."""
    held: list[Chain] = []
    there = threading.Event()

    def hold(chain: Chain) -> None:
        chain.hold()
        held.append(chain)
        there.set()

    with Guest(CallHandler(hold)) as guest:
        guest.driver.add([b"ping"], [8])
        guest.publish()
        assert there.wait(10)
        assert guest.queue.reset() == 1
        assert not guest.queue.running
        with pytest.raises(ConfigurationError, match="queue was stopped"):
            held[0].complete()
        with pytest.raises(ConfigurationError, match="not configured"):
            guest.queue.start()
        assert not guest.driver.poll_used()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(guest.call)


def test_when_tables_pay() -> None:
    policy = IndirectPolicy()
    assert [policy.pays(n, 32, 32) for n in (1, 15, 16, 32, 33)] == [False, False, True, True, False]
    assert policy.pays(2, 7, 32)
    assert IndirectPolicy.always().pays(1, 8, 8)
    assert not IndirectPolicy.never().pays(8, 1, 8)
    assert IndirectPolicy(5, spare=0) == IndirectPolicy(5, spare=0) != policy
    assert repr(policy) == "IndirectPolicy(16, spare=4)"


def test_several_workers() -> None:
    """Handlers that wait do so at the same time."""
    together = threading.Barrier(3, timeout=10)

    def meet(chain: Chain) -> None:
        together.wait()
        chain.write(bytes(chain.readable))

    with Guest(CallHandler(meet), features=EVENT_IDX, start=False) as guest:
        queue = Queue(guest.memory, 1, CallHandler(meet), on_fault=guest.faults.append, workers=3)
        queue.configure(size=16, features=EVENT_IDX, **guest.driver.addresses)
        queue.set_kick(guest.kick)
        queue.set_call(guest.call)
        for _ in range(6):
            guest.driver.add([b"ping"], [8])
        guest.driver.publish()
        queue.start()
        assert [used.written for used in guest.collect(6)] == [4] * 6
        queue.stop()
        assert not guest.faults
    with pytest.raises(ConfigurationError, match="workers"):
        Queue(guest.memory, 0, NullHandler(), on_fault=print, workers=0)
