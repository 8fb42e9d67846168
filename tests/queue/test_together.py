"""Chains that the driver has to find used at once, completed by handlers in Python."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.queue.guest import FEATURES, Guest, wait

from virtio.errors import ConfigurationError
from virtio.queue import Batch, BatchHandler, CallHandler, Chain, Handler
from virtio.spec.core import F


@contextmanager
def holding(count: int, features: int = FEATURES) -> Iterator[tuple[Guest, list[Chain], list[int]]]:
    """Yield a guest, and so many chains of room for 4 bytes that its device holds, with their heads."""
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold()
        held.append(chain)

    with Guest(CallHandler(handle), features=features) as guest:
        heads = [guest.driver.add([], [4]) for _ in range(count)]
        guest.publish()
        wait(lambda: len(held) == count)
        yield guest, held, heads
        for chain in held:
            if not chain.completed:
                chain.complete(0)


def test_they_are_used_in_the_order_given_with_their_lengths() -> None:
    with holding(3) as (guest, chains, heads):
        chains[0].write(b"ab")
        chains[2].write(b"c")
        guest.queue.complete_together([chains[2], chains[0], chains[1]], [None, None, 3])
        used = [(entry.head, entry.written) for entry in guest.collect(1)]
        assert used == [(heads[2], 1), (heads[0], 2), (heads[1], 3)]
        assert all(chain.completed for chain in chains)


def test_in_order_they_wait_for_older_ones_between_them() -> None:
    with holding(3, FEATURES | F.IN_ORDER) as (guest, chains, heads):
        guest.queue.complete_together([chains[0], chains[2]])
        wait(lambda: guest.queue.counters.interrupts_suppressed or guest.queue.counters.interrupts)
        assert guest.driver.poll_used() == []
        chains[1].complete()
        assert [entry.head for entry in guest.collect(1)] == heads


@pytest.mark.parametrize("form", [CallHandler, BatchHandler])
def test_a_handler_may_do_it_before_it_returns(form: Callable[..., Handler]) -> None:
    waiting: list[Chain] = []

    def handle(chains: Chain | Batch) -> None:
        for chain in [chains] if isinstance(chains, Chain) else chains:
            waiting.append(chain)
            if len(waiting) == 4:
                guest.queue.complete_together(waiting)
                waiting.clear()
            else:
                chain.hold()

    with Guest(form(handle)) as guest:
        heads = [guest.driver.add([], [4]) for _ in range(8)]
        guest.publish()
        assert [entry.head for entry in guest.collect(8)] == heads


def test_all_or_none() -> None:
    with holding(3) as (guest, chains, heads), holding(1) as (_, others, _):
        chains[2].complete(4)
        guest.collect(1)
        for wrong, lengths, message in [
            ([chains[0], chains[2]], None, "completed before"),
            ([chains[0], chains[0]], None, "given twice"),
            ([chains[0], others[0]], None, "not one of this queue"),
            ([chains[0], chains[1]], [0], "1 lengths for 2 chains"),
            ([chains[0], chains[1]], [0, 5], "cannot have been written"),
        ]:
            with pytest.raises(ConfigurationError, match=message):
                guest.queue.complete_together(wrong, lengths)
        assert guest.driver.poll_used() == []
        guest.queue.complete_together([])
        guest.queue.complete_together(chains[:2])
        assert [entry.head for entry in guest.collect(2)] == heads[:2]


def test_not_after_the_queue_was_stopped() -> None:
    with holding(2) as (guest, chains, _):
        guest.queue.stop(timeout=0)
        with pytest.raises(ConfigurationError, match="stopped"):
            guest.queue.complete_together(chains)
        chains.clear()
