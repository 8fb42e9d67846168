"""The device status machine, against a table written out by hand from 2.1, 3.1 and 3.4."""

import itertools
import os

import pytest
from tests.device.rig import Rig

from virtio import ConfigurationError, Device, FeatureNegotiationError, ProtocolError
from virtio._native import Chain
from virtio.device.status import State, StatusMachine
from virtio.queue.model import SplitDriver
from virtio.spec import core, entropy

ACK, DRIVER, OK, FEATURES, SUSPEND, NEEDS_RESET, FAILED = 1, 2, 4, 8, 16, 64, 128
BITS = (ACK, DRIVER, OK, FEATURES, SUSPEND, FAILED)

# What each state takes: status written -> status then read. All else that sets bits is refused.
GOOD = {
    State.RESET: {1: 1, 3: 3, 11: 11, 15: 15},
    State.ACKNOWLEDGED: {1: 1, 3: 3, 11: 11, 15: 15},
    State.DRIVEN: {3: 3, 11: 11, 15: 15},
    State.NEGOTIATED: {11: 11, 15: 15},
    State.RUNNING: {15: 15, 31: 27},
    State.SUSPENDED: {27: 27, 31: 15},
}
# SUSPEND is to be ignored, not refused, until the device is fully set up (3.4.2).
for _state in (State.RESET, State.ACKNOWLEDGED, State.DRIVEN, State.NEGOTIATED):
    GOOD[_state] |= {written | SUSPEND: read for written, read in GOOD[_state].items()}
GOOD[State.RESET][SUSPEND] = 0


def machine_in(state: State) -> StatusMachine:
    machine = StatusMachine()
    machine.commit(state)
    return machine


def write(machine: StatusMachine, value: int, *, suspend: bool = True) -> int:
    for step in machine.plan(value, suspend=suspend):
        machine.commit(step)
    return machine.value


@pytest.mark.parametrize("state", State)
def test_every_write_in_every_state(state: State) -> None:
    for bits in itertools.product((0, 1), repeat=5):
        value = sum(bit for bit, chosen in zip(BITS, bits, strict=False) if chosen)
        if value == 0:
            continue
        machine = machine_in(state)
        if value in GOOD[state]:
            assert write(machine, value) == GOOD[state][value], (state, value)
        else:
            with pytest.raises(ProtocolError):
                write(machine, value)
            assert machine.state is state, (state, value)


@pytest.mark.parametrize("state", State)
def test_failed_is_final(state: State) -> None:
    machine = machine_in(state)
    assert machine.plan(machine.value | FAILED, suspend=True) == ()
    machine.failed = True
    assert machine.plan(machine.value, suspend=True) == ()
    for bit in BITS:
        if bit & ~machine.value and bit != SUSPEND:
            with pytest.raises(ProtocolError) as caught:
                machine.plan(machine.value | bit, suspend=True)
            assert caught.value.clause == "2.1.1"


@pytest.mark.parametrize("state", [State.RESET, State.RUNNING])
def test_unknown_bits_are_refused(state: State) -> None:
    for bit in (0x20, 0x100, 1 << 31):
        machine = machine_in(state)
        with pytest.raises(ProtocolError, match=r"unknown status bits.*2\.1\)"):
            machine.plan(machine.value | bit, suspend=True)


def test_needs_reset_is_the_device_s_own_bit() -> None:
    machine = machine_in(State.NEGOTIATED)
    assert write(machine, 11 | NEEDS_RESET) == 11  # a driver cannot set it
    machine.needs_reset = True
    assert write(machine, 15) == 15 | NEEDS_RESET  # nor clear it


def test_suspend_is_ignored_unless_negotiated() -> None:
    machine = machine_in(State.RUNNING)
    assert write(machine, 31, suspend=False) == 15


class Rng(Device):
    spec = entropy

    def on_requests(self, chain: Chain) -> None:
        chain.write(os.urandom(len(chain.writable)))


def test_features_ok_is_refused_for_a_bad_set() -> None:
    device = Rng()
    device.set_status(ACK | DRIVER)
    with pytest.raises(FeatureNegotiationError) as caught:
        device.set_status(ACK | DRIVER | FEATURES)  # no features were written at all: no VERSION_1
    assert caught.value.missing == core.F.VERSION_1
    assert device.status == ACK | DRIVER
    with pytest.raises(FeatureNegotiationError) as caught:
        device.negotiate(core.F.VERSION_1 | 1 << 99)
    assert caught.value.unexpected == 1 << 99
    assert caught.value.clause == "2.2.1"
    with pytest.raises(FeatureNegotiationError):
        device.set_status(ACK | DRIVER | FEATURES)
    assert device.status == ACK | DRIVER
    device.negotiate(core.F.VERSION_1)
    device.set_status(ACK | DRIVER | FEATURES)
    assert device.status == ACK | DRIVER | FEATURES
    with pytest.raises(ProtocolError) as late:
        device.negotiate(device.offered_features)
    assert late.value.clause == "3.1.1"
    device.negotiate(core.F.VERSION_1)  # the same again is no change
    device.set_status(0)
    assert (device.status, device.negotiated_features) == (0, 0)


def test_nothing_runs_before_driver_ok() -> None:
    with Rig(Rng(), live=False) as rig:
        device = rig.device
        device.negotiate(rig.features)
        device.set_status(ACK | DRIVER | FEATURES)
        rig.enable_queues()
        rig.add(0, writable=[16])
        assert rig.none_used(0)
        assert not device.queues[0].running
        device.set_status(ACK | DRIVER | FEATURES | OK)
        assert rig.used(0)[0].written == 16


def test_queues_may_be_enabled_after_driver_ok() -> None:
    with Rig(Rng(), live=False) as rig:
        rig.device.negotiate(rig.features)
        rig.device.set_status(15)
        rig.enable_queues()
        assert len(rig.ask(0, writable=[16])) == 16


def test_reset_stops_queues_and_forgets_them() -> None:
    with Rig(Rng()) as rig:
        assert len(rig.ask(0, writable=[16])) == 16
        rig.device.set_status(0)
        queue = rig.device.queues[0]
        assert (rig.device.status, queue.running, queue.size) == (0, False, 0)
        rig.add(0, writable=[16])
        assert rig.none_used(0)


def test_suspend_and_resume() -> None:
    device = Rng(features=core.F.SUSPEND)
    with Rig(device) as rig:
        rig.ask(0, writable=[16])
        device.set_status(31)
        assert device.status == 27
        assert not device.queues[0].running
        rig.add(0, writable=[16])
        assert rig.none_used(0)
        device.set_status(31)
        assert device.status == 15
        assert rig.used(0)[0].written == 16


def test_a_broken_ring_asks_for_a_reset_once() -> None:
    with Rig(Rng(), without=core.F.RING_PACKED) as rig:
        driver = rig.drivers[0]
        assert isinstance(driver, SplitDriver)
        driver.ring.set_available_entry(0, 999)  # an index outside the descriptor table
        driver.ring.available_index = 1
        rig.device.queues[0].notify()
        assert rig.events.happened.wait(5)
        assert rig.device.needs_reset
        assert rig.device.status == 15 | NEEDS_RESET
        assert rig.device.queues[0].broken
        (fault,) = rig.events.faults
        assert fault.clause.startswith("2.7")
        rig.device.fail("and another")
        assert len(rig.events.faults) == 1
        rig.device.set_status(0)
        assert rig.device.status == 0


def test_a_device_serves_one_driver_at_a_time() -> None:
    device = Rng()
    with Rig(device), pytest.raises(ConfigurationError, match="attached already"):
        Rig(device)
    with Rig(device) as rig:  # and then the next
        assert len(rig.ask(0, writable=[4])) == 4


def test_counters_outlive_the_driver() -> None:
    device = Rng()
    assert device.queues[0].counters is None
    with Rig(device) as rig:
        rig.ask(0, writable=[100])
    counters = device.queues[0].counters
    assert counters is not None
    assert (counters.chains, counters.bytes_written) == (1, 100)
