"""Handlers written in Python: chains, batches, what they raise, and what they hold."""

import gc
import logging
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.queue.guest import Guest, wait

from virtio.errors import ConfigurationError
from virtio.memory import Memory
from virtio.queue import Batch, BatchHandler, CallHandler, Chain, Handler, NullHandler, Queue


def test_a_chain_is_read_and_written_in_pieces() -> None:
    seen: list[object] = []

    def handle(chain: Chain) -> None:
        seen.extend([chain.read(2), chain.read(3), chain.read(), chain.read(), chain.read(0)])
        seen.extend([len(chain.readable), len(chain.writable), chain.readable.pieces, chain.writable.pieces])
        assert chain.write(b"abc") == 3
        assert chain.write(bytearray(b"de")) == 2
        assert chain.write(memoryview(b"-fgh")[1:]) == 3
        assert chain.write(np.array([0x3130], np.uint16)) == 2
        assert chain.written == 10
        assert not chain.completed

    with Guest(CallHandler(handle)) as guest:
        assert guest.ask([b"1", b"2345", b"67"], [4, 1, 7]) == (b"abcdefgh01\0\0", 10)
    assert seen == [b"12", b"345", b"67", b"", b"", 7, 12, 3, 3]


def test_views_are_the_memory_itself() -> None:
    def handle(chain: Chain) -> None:
        views = list(chain.readable)
        assert [bytes(view) for view in views] == [b"ab", b"cde"]
        assert all(view.readonly for view in views)
        assert bytes(chain.readable) == b"abcde"
        with pytest.raises(TypeError):
            views[0][0] = 1
        for number, view in enumerate(chain.writable):
            view[:] = bytes([number]) * len(view)
        chain.complete(5)

    with Guest(CallHandler(handle)) as guest:
        assert guest.ask([b"ab", b"cde"], [2, 3]) == (b"\0\0\1\1\1", 5)
        assert guest.queue.counters.handler_errors == 0


def test_what_does_not_fit_is_refused_and_nothing_is_written() -> None:
    errors: list[str] = []

    def handle(chain: Chain) -> None:
        for wrong in (
            lambda: chain.write(b"12345"),
            lambda: chain.complete(5),
            lambda: chain.write(np.zeros((4, 4))[:, 1]),
        ):
            with pytest.raises((ConfigurationError, BufferError)) as caught:
                wrong()
            errors.append(str(caught.value))

    with Guest(CallHandler(handle)) as guest:
        assert guest.ask([], [4]) == (bytes(4), 0)
    assert "room for 4" in errors[0]
    assert "into 4" in errors[1]
    assert "contiguous" in errors[2]


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr
)
def test_what_a_handler_raises_is_logged_and_the_queue_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(chain: Chain) -> None:
        if chain.read() == b"bad":
            chain.write(b"x")
            raise error
        chain.write(b"fine")

    with Guest(CallHandler(handle)) as guest:
        assert guest.ask([b"bad"], [4]) == (b"x\0\0\0", 1)
        assert guest.ask([b"good"], [4]) == (b"fine", 4)
        assert guest.queue.counters.handler_errors == 1
    (record,) = [record for record in caplog.records if record.name == "virtio.queue"]
    assert record.levelno == logging.ERROR
    assert "test: the handler raised" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.exc_info[2] is not None, "the traceback is there"


def test_on_error_puts_the_failure_into_the_chain(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[BaseException] = []

    def handle(chain: Chain) -> None:
        raise ValueError(chain.read().decode())

    def on_error(chain: Chain, error: BaseException) -> None:
        seen.append(error)
        if str(error) == "twice":
            raise RuntimeError("in on_error")
        chain.write(b"E")

    with Guest(CallHandler(handle, on_error)) as guest:
        assert guest.ask([b"once"], [1]) == (b"E", 1)
        assert guest.ask([b"twice"], [1]) == (b"\0", 0)
    assert [str(error) for error in seen] == ["once", "twice"]
    assert seen[0].__traceback__ is not None
    assert "on_error raised" in caplog.text


def test_a_batch_is_one_call() -> None:
    sizes: list[int] = []

    def handle(batch: Batch) -> None:
        sizes.append(len(batch))
        assert list(np.frombuffer(batch.readable_lengths, np.uint32)) == [4] * len(batch)
        assert batch.writable_lengths.tolist() == [2, 3] * (len(batch) // 2)
        rows = np.frombuffer(batch.gather(1, 5), np.uint8).reshape(len(batch), 5)
        assert not rows[:, 3:].any(), "filled up with zeros"
        assert rows[1, :3].tobytes() == b"001"
        batch.scatter(1, np.repeat(np.arange(len(batch), dtype=np.uint8), 2))
        np.frombuffer(batch.written, np.uint32)[:] = 2
        batch.written[0] = 1

    with Guest(BatchHandler(handle), start=False) as guest:
        heads = [guest.driver.add([b"%04d" % number], [2 + number % 2]) for number in range(8)]
        guest.driver.publish()
        guest.queue.start()
        used = guest.collect(8)
        assert [entry.written for entry in used] == [1] + [2] * 7
        assert [guest.driver.data(head) for head in heads[:3]] == [b"\0\0", b"\0\1\1", b"\0\2"]
        assert sizes == [8]
        assert guest.queue.counters.batches == 1
        wait(lambda: guest.queue.counters.interrupts == 1)


def test_a_batch_is_a_sequence() -> None:
    def handle(batch: Batch) -> None:
        assert [chain.read() for chain in batch] == [b"0", b"1", b"2"]
        assert batch[-1].read() == b""  # the chain's state, not the object's
        assert [len(chain.readable) for chain in batch[::-2]] == [1, 1]
        for wrong in (3, -4):
            with pytest.raises(IndexError):
                batch[wrong]
        with pytest.raises(TypeError):
            batch["0"]  # type: ignore[call-overload]
        with pytest.raises(ConfigurationError, match="3 rows"):
            batch.scatter(0, b"1234")
        batch[1].write(b"ab")
        batch[2].write(b"abc")
        batch.written[2] = 1

    with Guest(BatchHandler(handle), start=False) as guest:
        for number in range(3):
            guest.driver.add([b"%d" % number], [4])
        guest.driver.publish()
        guest.queue.start()
        assert [entry.written for entry in guest.collect(3)] == [0, 2, 1]
        assert guest.queue.counters.handler_errors == 0


def test_a_batch_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def handle(batch: Batch) -> None:
        batch[0].write(b"a")
        raise ValueError

    def on_error(batch: Batch, error: BaseException) -> None:
        batch[1].write(b"EE")

    with Guest(BatchHandler(handle, on_error), start=False) as guest:
        for _ in range(3):
            guest.driver.add([], [4])
        guest.driver.publish()
        guest.queue.start()
        assert [entry.written for entry in guest.collect(3)] == [1, 2, 0]


def test_claiming_to_have_written_more_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    def handle(batch: Batch) -> None:
        batch.written[0] = 5

    with Guest(BatchHandler(handle)) as guest:
        assert guest.ask([], [4]) == (bytes(4), 0)
        assert guest.queue.counters.handler_errors == 1
    assert "more than there is room" in caplog.text


def test_held_chains_are_completed_later_from_other_threads() -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold()
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        heads = [guest.driver.add([b"%d" % number], [4]) for number in range(4)]
        guest.publish()
        wait(lambda: len(held) == 4)
        assert guest.driver.poll_used() == []

        def finish(chain: Chain) -> None:
            chain.write(chain.read() * 2)
            chain.complete()

        for chain in reversed(held):
            thread = threading.Thread(target=finish, args=(chain,))
            thread.start()
            thread.join()
        used = guest.collect(4)
        assert [entry.head for entry in used] == heads[::-1]
        assert all(entry.written == 2 for entry in used)
        for chain in held:
            assert chain.completed
            with pytest.raises(ConfigurationError, match="completed before"):
                chain.complete()
            with pytest.raises(ConfigurationError, match="completed before"):
                chain.write(b"")
            with pytest.raises(ConfigurationError, match="completed before"):
                chain.hold()


def test_held_chains_of_a_batch() -> None:
    held: list[Chain] = []

    def handle(batch: Batch) -> None:
        for chain in batch[::2]:
            chain.hold()
            held.append(chain)

    with Guest(BatchHandler(handle), start=False) as guest:
        heads = [guest.driver.add([], [1]) for _ in range(4)]
        guest.driver.publish()
        guest.queue.start()
        assert [entry.head for entry in guest.collect(2)] == heads[1::2]
        for chain in held:
            chain.complete(1)
        assert [entry.head for entry in guest.collect(2)] == heads[::2]


@pytest.mark.parametrize("form", [CallHandler, BatchHandler])
def test_held_chains_that_are_dropped_are_completed(
    form: Callable[..., Handler], caplog: pytest.LogCaptureFixture
) -> None:
    def handle(chains: Chain | Batch) -> None:
        chain = chains if isinstance(chains, Chain) else chains[0]
        chain.write(b"x")
        chain.hold()

    with Guest(form(handle)) as guest:
        assert guest.ask([], [4]) == (b"x\0\0\0", 0)
    assert "dropped without completion" in caplog.text


def test_a_held_chain_in_a_cycle_is_completed_by_the_garbage_collector() -> None:
    def handle(chain: Chain) -> None:
        chain.hold()
        cycle: list[object] = [chain]
        cycle.append(cycle)

    with Guest(CallHandler(handle)) as guest:
        guest.driver.add([], [4])
        guest.publish()
        wait(lambda: guest.queue.counters.chains == 1)
        time.sleep(0.01)
        gc.collect()
        assert guest.collect(1)[0].written == 0


def test_a_stopping_queue_waits_for_held_chains() -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold()
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        guest.driver.add([], [4])
        guest.publish()
        wait(lambda: held)
        timer = threading.Timer(0.1, lambda: held[0].complete(3))
        begin = time.monotonic()
        timer.start()
        assert guest.queue.stop() == 1
        assert time.monotonic() - begin > 0.05
        assert guest.driver.poll_used()[0].written == 3
        timer.join()


def test_a_stopping_queue_gives_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold()
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        guest.driver.add([], [4])
        guest.publish()
        wait(lambda: held)
        begin = time.monotonic()
        guest.queue.stop(timeout=0.1)
        assert time.monotonic() - begin < 30
        assert "still under way" in caplog.text
        for late in (held[0].complete, lambda: held[0].write(b"x")):
            with pytest.raises(ConfigurationError, match="stopped"):
                late()
        assert bytes(held[0].writable) == bytes(4), "what was there can still be looked at"
        assert guest.driver.poll_used() == []


def test_idle_chains_are_offered_again() -> None:
    held: list[Chain] = []

    def handle(chain: Chain) -> None:
        chain.hold(idle=True)
        held.append(chain)

    with Guest(CallHandler(handle)) as guest:
        first, second, third = (guest.driver.add([], [4]) for _ in range(3))
        guest.publish()
        wait(lambda: len(held) == 3)
        held[0].write(b"now")
        held[0].complete()
        assert guest.collect(1)[0].head == first
        begin = time.monotonic()
        base = guest.queue.stop(timeout=60)
        assert time.monotonic() - begin < 30, "nobody waits for receive buffers"
        assert base == 1
        for late in (held[1].complete, lambda: held[1].write(b"x")):
            with pytest.raises(ConfigurationError, match="stopped"):
                late()
        held.clear()
        guest.queue.start()
        wait(lambda: len(held) == 2)
        for chain in held:
            chain.complete(0)
        assert [entry.head for entry in guest.collect(2)] == [second, third]


def test_chains_outlive_everything() -> None:
    kept: list[Chain | memoryview] = []

    def handle(chain: Chain) -> None:
        kept.append(chain)
        kept.extend(chain.readable)
        kept.extend(chain.writable)

    with Guest(CallHandler(handle)) as guest:
        assert guest.ask([b"data"], [4])[1] == 0
        guest.queue.stop()
        guest.memory.clear()
        assert guest.memory.regions == []
        memory = guest.memory
    del guest, memory
    gc.collect()
    chain, readable, writable = kept
    assert isinstance(chain, Chain)
    assert isinstance(readable, memoryview)
    assert isinstance(writable, memoryview)
    assert chain.read() == b"data"
    chain_bytes = bytes(chain.readable)
    assert chain_bytes == bytes(readable) == b"data"
    writable[:] = b"late"  # into memory that nobody looks at any more
    with pytest.raises(ConfigurationError):
        chain.write(b"x")


def test_a_handler_cannot_stop_its_own_queue() -> None:
    errors: list[Exception] = []

    def handle(chain: Chain) -> None:
        try:
            guest.queue.stop()
        except ConfigurationError as error:
            errors.append(error)

    with Guest(CallHandler(handle)) as guest:
        guest.ask([b"x"], [])
        guest.ask([b"x"], [])
    assert len(errors) == 2
    assert "own handler" in str(errors[0])


def test_a_slow_handler_lets_the_driver_see_what_is_done() -> None:
    release = threading.Event()

    def handle(chain: Chain) -> None:
        if chain.read() == b"slow":
            time.sleep(0.001)
        elif not release.wait(5):
            raise AssertionError("the first completion was not visible")

    with Guest(CallHandler(handle), start=False) as guest:
        guest.driver.add([b"slow"])
        guest.driver.add([b"next"])
        guest.driver.publish()
        guest.queue.start()
        guest.collect(1)
        release.set()
        guest.collect(1)


def test_a_handler_by_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="Handler"):
        Handler()


def test_a_queue_must_be_configured_first() -> None:
    queue = Queue(Memory(), 3, NullHandler(), on_fault=print)
    with pytest.raises(ConfigurationError, match="not configured"):
        queue.start()
    assert queue.stop() == 0
    assert not queue.running
    assert not queue.broken
    assert queue.index == 3
    assert queue.name == "queue 3"
