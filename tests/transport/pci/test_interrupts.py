"""Interrupts: MSI-X with masks and pending bits, INTx with the ISR status."""

import os
import select
from collections.abc import Iterator

import pytest
from tests.transport.pci.rig import BASIC, CONFIG, MASTER, READY, Card, S, card, wait_for_used

from virtio.errors import ConfigurationError
from virtio.spec import pci_bus
from virtio.transport.pci import InterruptIndex, Layout

MSIX, INTX = InterruptIndex.MSIX, InterruptIndex.INTX
STATUS_INTERRUPT = 0x8


@pytest.fixture
def live() -> Iterator[Card]:
    with card() as made:
        made.negotiate()
        made["device_status"] = READY | S.DRIVER_OK
        yield made


def change(made: Card) -> None:
    made.device.config["capacity"] = made.device.config["capacity"] + 1


def isr(made: Card) -> int:
    return made.get(made.layout.isr.bar, made.layout.isr.offset, 1)


def table(made: Card, vector: int, *, masked: bool) -> None:
    place = made.layout.msix_table
    at = place.offset + 16 * vector
    made.put(place.bar, at, 0xFEE0_0000, 4)
    made.put(place.bar, at + 4, 0, 4)
    made.put(place.bar, at + 8, 0x4000 + vector, 4)
    made.put(place.bar, at + 12, int(masked), 4)


def pending(made: Card) -> int:
    return made.get(made.layout.msix_table.bar, 0x1000, 8)


# --- INTx


def test_the_pin_is_signalled_once_until_it_is_looked_at(live: Card) -> None:
    live.listen(INTX)
    change(live)
    change(live)
    assert live.take() == [(INTX, 0)]
    assert live.get(CONFIG, 6, 2) & STATUS_INTERRUPT
    assert isr(live) == 2
    assert isr(live) == 0
    assert not live.get(CONFIG, 6, 2) & STATUS_INTERRUPT
    change(live)  # still masked, as it masks itself
    assert live.take() == []
    live.function.unmask(INTX, 0, 1)
    assert live.take() == [(INTX, 0)]
    live.function.unmask(INTX, 0, 1)  # nobody has read the status: it is still on
    assert live.take() == [(INTX, 0)]
    isr(live)
    live.function.unmask(INTX, 0, 1)
    assert live.take() == []


def test_the_pin_can_be_switched_off(live: Card) -> None:
    live.listen(INTX)
    live.put(CONFIG, 4, MASTER | pci_bus.COMMAND.INTERRUPT_DISABLE, 2)
    change(live)
    assert live.take() == []
    assert live.get(CONFIG, 6, 2) & STATUS_INTERRUPT  # whatever the switch (PCI 6.2.3)
    live.put(CONFIG, 4, MASTER, 2)
    assert live.take() == [(INTX, 0)]


def test_the_pin_waits_for_a_target(live: Card) -> None:
    change(live)
    live.listen(INTX)
    assert live.take() == [(INTX, 0)]


def test_a_used_buffer_is_told_by_the_pin() -> None:
    with card() as made:
        made.negotiate()
        fd = os.eventfd(0)
        made.function.set_interrupts(INTX, 0, [fd])
        ring = made.queue(0)
        made["device_status"] = READY | S.DRIVER_OK
        ring.enable_interrupts()
        head = ring.add([b"abc"], [3])
        ring.publish()
        made.notify(0)
        assert select.select([fd], [], [], 10)[0]
        assert isr(made) == 1
        assert wait_for_used(ring) == [head]
        ring.close()
        os.close(fd)


def test_a_reset_takes_interrupts_back(live: Card) -> None:
    change(live)
    live["device_status"] = 0
    assert isr(live) == 0


# --- MSI-X


def test_vectors_are_mapped_or_not(live: Card) -> None:
    live["config_msix_vector"] = 2
    assert live["config_msix_vector"] == 2
    for wrong in (3, 0x7FF, 0xFFFE):
        with live.ignores("4.1.5.1.2.2"):
            live["config_msix_vector"] = wrong
        assert live["config_msix_vector"] == 0xFFFF
        live["queue_select"] = 1
        with live.ignores("4.1.5.1.2.2"):
            live["queue_msix_vector"] = wrong
        assert live["queue_msix_vector"] == 0xFFFF
    live["queue_msix_vector"] = 0
    assert live["queue_msix_vector"] == 0


def test_without_a_vector_nothing_is_sent(live: Card) -> None:
    live.listen()
    live.enable_msix()
    change(live)
    assert live.take() == []
    live["config_msix_vector"] = 1
    change(live)
    assert live.take() == [(MSIX, 1)]
    assert isr(live) == 2  # set for configuration changes whatever is in use (4.1.4.5.1)


def test_what_is_masked_is_pending(live: Card) -> None:
    live.listen()
    live["config_msix_vector"] = 1
    live.enable_msix(mask_all=True)
    change(live)
    assert live.take() == []
    assert pending(live) == 2
    live.enable_msix()
    assert live.take() == [(MSIX, 1)]
    assert pending(live) == 0
    table(live, 1, masked=True)
    change(live)
    change(live)
    assert (live.take(), pending(live)) == ([], 2)
    table(live, 1, masked=False)
    assert (live.take(), pending(live)) == ([(MSIX, 1)], 0)
    live.function.mask(MSIX, 0, 3)
    change(live)
    assert (live.take(), pending(live)) == ([], 2)
    live.function.unmask(MSIX, 1, 1)
    assert live.take() == [(MSIX, 1)]


def test_without_bus_mastering_no_message_is_sent(live: Card) -> None:
    live.listen()
    live["config_msix_vector"] = 0
    live.enable_msix()
    live.put(CONFIG, 4, 0, 2)
    change(live)
    assert live.take() == []
    live.put(CONFIG, 4, MASTER, 2)
    assert live.take() == [(MSIX, 0)]


def test_vectors_without_a_target_wait(live: Card) -> None:
    live["config_msix_vector"] = 1
    live.enable_msix()
    live.function.set_interrupts(MSIX, 0, [None])  # "no eventfd yet", which clients do say
    change(live)
    live.listen()
    assert live.take() == [(MSIX, 1)]
    live.function.set_interrupts(MSIX, 0, [])
    change(live)
    live.function.set_interrupts(MSIX, 0, [])  # off: what waited is forgotten
    live.listen()
    assert live.take() == []


def test_the_table_is_kept(live: Card) -> None:
    place = live.layout.msix_table
    assert live.get(place.bar, place.offset + 12, 4) == 1  # masked at first
    table(live, 2, masked=False)
    assert live.function.read(place.bar, 32, 16).hex() == "0000e0fe000000000240000000000000"
    for offset, data in ((0, b"\xff"), (2, b"\xff" * 4), (4, b"\xff" * 8), (0, b"\xff" * 16)):
        with live.ignores("4.1.5.1.2"):
            live.function.write(place.bar, offset, data)
    with live.ignores("4.1.5.1.2"):
        live.put(place.bar, 0x1000, 0xFF, 4)
    live.function.write(place.bar, 8, b"\xff" * 8)
    assert live.get(place.bar, 12, 4) == 1


@pytest.mark.parametrize("packed", [0, 1 << 34], ids=["split", "packed"])
def test_masking_while_buffers_are_used_loses_nothing(packed: int) -> None:
    """Vectors go by eventfd while nothing stands between, by the table's rules else."""
    with card() as made:
        made.negotiate(BASIC | packed)
        fd = os.eventfd(0, os.EFD_NONBLOCK)
        made.function.set_interrupts(MSIX, 0, [None, fd])
        made.enable_msix()
        ring = made.queue(0, BASIC | packed)
        made["queue_msix_vector"] = 1
        made["device_status"] = READY | S.DRIVER_OK
        for round_ in range(40):
            ring.enable_interrupts()
            table(made, 1, masked=round_ % 2 == 0)
            head = ring.add([b"abc"], [3])
            ring.publish()
            made.notify(0)
            if round_ % 2 == 0:
                assert wait_for_used(ring) == [head]
                table(made, 1, masked=False)
                if not select.select([fd], [], [], 10)[0]:
                    pytest.fail("the interrupt was lost")
            else:
                assert select.select([fd], [], [], 10)[0]
                assert wait_for_used(ring) == [head]
            os.eventfd_read(fd)
        ring.close()
        os.close(fd)


def test_the_user_is_asked_to_let_go(live: Card) -> None:
    live.function.request_release()
    live.listen(InterruptIndex.REQUEST)
    live.function.request_release()
    assert live.take() == [(InterruptIndex.REQUEST, 0)]


# --- what a bus asks for in vain


@pytest.mark.parametrize(
    ("index", "start", "count"), [(0, 0, 2), (0, 1, 1), (1, 0, 1), (2, 3, 1), (5, 0, 1), (-1, 0, 1)]
)
def test_vectors_that_are_not_there(live: Card, index: int, start: int, count: int) -> None:
    function = live.function
    with pytest.raises(ConfigurationError):
        function.set_interrupts(index, start, [None] * count)
    with pytest.raises(ConfigurationError):
        function.mask(index, start, count)
    with pytest.raises(ConfigurationError):
        function.unmask(index, start, count)


def test_a_function_without_vectors_and_one_without_a_pin() -> None:
    with card(layout=Layout(vectors=0)) as made:
        assert made.function.interrupts[:3] == (1, 0, 0)
        with pytest.raises(LookupError):
            made.capability(pci_bus.CAP_ID.MSIX)
        made.negotiate()
        with made.ignores("4.1.5.1.2.2"):
            made["config_msix_vector"] = 0
    with card(layout=Layout(intx=False)) as made:
        assert made.function.interrupts[0] == 0
        assert made.get(CONFIG, 0x3D, 1) == 0
