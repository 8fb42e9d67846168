"""What a device author gets: handlers found by name, and errors that say what to write."""

import logging
import threading
from typing import Any

import pytest
from tests.device.rig import Rig

from virtio import ConfigurationError, Device
from virtio._native import Batch, Chain, Handler, NullHandler
from virtio.spec import console, core, entropy


def test_one_call_per_chain() -> None:
    class Echo(Device):
        spec = entropy

        def on_requests(self, chain: Chain) -> None:
            chain.write(chain.read()[::-1])

    with Rig(Echo()) as rig:
        assert rig.ask(0, [b"abc", b"def"], [2, 4]) == b"fedcba"


def test_one_call_per_batch() -> None:
    sizes = []

    class Count(Device):
        spec = entropy.DEVICE  # the type itself does as well as its module

        def on_requests_batch(self, batch: Batch) -> None:
            sizes.append(len(batch))
            for chain in batch:
                chain.write(b"!")

    with Rig(Count(), live=False) as rig:
        for _ in range(20):
            rig.drivers[0].add(writable=[1])
        rig.drivers[0].publish()
        rig.go_live()
        assert [used.written for used in rig.used(0, 20)] == [1] * 20
        assert sizes == [20]


def test_a_native_handler() -> None:
    class Fast(Device):
        spec = entropy

        def handler(self, queue_index: int) -> Handler:
            assert queue_index == 0
            return NullHandler()

    with Rig(Fast()) as rig:
        assert rig.ask(0, writable=[8]) == b""


def test_the_worker_survives_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    failures = []

    class Clumsy(Device):
        spec = entropy

        def on_requests(self, chain: Chain) -> None:
            chain.write(b"x")
            if chain.read() == b"fall":
                raise RuntimeError("tripped")

        def request_failed(self, request: Chain | Batch, error: BaseException) -> None:
            failures.append(error)
            assert isinstance(request, Chain)
            request.write(b"F")

    with Rig(Clumsy()) as rig, caplog.at_level(logging.ERROR):
        assert rig.ask(0, [b"fall"], [2]) == b"xF"
        assert rig.ask(0, [b"walk"], [2]) == b"x"
    assert [str(failure) for failure in failures] == ["tripped"]
    assert "tripped" in caplog.text


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "does not say what it is"),
        ({"spec": entropy}, r"write on_requests\(self, chain\) or on_requests_batch\(self, batch\)"),
        ({"spec": entropy, "on_request": print}, "on_request answers no queue.*has on_requests"),
        ({"spec": entropy, "on_requests": print, "on_requests_batch": print}, "which one is meant"),
        ({"spec": console, "on_receive": print}, "on_transmit"),
        ({"spec": entropy, "on_requests": print, "features": 1 << 3}, "VIRTIO 1.4 has no such feature"),
        (
            {"spec": entropy, "on_requests": print, "features": core.F.SR_IOV},
            "does not have VIRTIO_F_SR_IOV",
        ),
    ],
)
def test_mistakes_are_told_at_once(members: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        type("Mistaken", (Device,), members)()


def test_a_forgotten_super_call() -> None:
    class Forgetful(Device):
        spec = entropy

        def __init__(self) -> None:
            self.mine = 1

        def on_requests(self, chain: Chain) -> None: ...

    device = Forgetful()
    with pytest.raises(ConfigurationError, match=r"Forgetful\.__init__ does not call super"):
        device.offered_features  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        device.other  # noqa: B018


def test_masked_features_are_not_offered() -> None:
    class Small(Device):
        spec = entropy

        def on_requests(self, chain: Chain) -> None: ...

    everything = core.F.VERSION_1 | core.F.EVENT_IDX | core.F.INDIRECT_DESC | core.F.RING_PACKED
    assert Small().offered_features == everything
    assert Small(mask="event_idx, 28, RING_PACKED").offered_features == core.F.VERSION_1
    assert Small(mask="0xffffffffffffffff").offered_features == core.F.VERSION_1  # a must (6.2)
    with pytest.raises(ConfigurationError, match="no feature 'nonsense'"):
        Small(mask="nonsense")


def test_several_workers_answer_one_queue_at_once() -> None:
    both = threading.Barrier(2)

    class Pair(Device):
        spec = entropy

        def on_requests(self, chain: Chain) -> None:
            both.wait(10)  # passes only while another call is under way
            chain.write(bytes(len(chain.writable)))

    with Rig(Pair(workers=2)) as rig:
        rig.add(0, writable=[8])
        rig.add(0, writable=[8])
        assert [used.written for used in rig.used(0, 2)] == [8, 8]
    with pytest.raises(ConfigurationError, match="0 workers"):
        Pair(workers=0)
