"""A function goes from one server to another while its driver uses it."""

import contextlib
import gc
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, READY, Mirror, S, live

import virtio
from virtio.driver.net import NetworkDriver
from virtio.errors import RefusedError
from virtio.spec import core
from virtio.transport.pci import PciDriverEnd
from virtio.transport.pci.interface import InterruptIndex
from virtio.transport.unix.connector import open_connection
from virtio.transport.vfio_user import VfioUserBus, open_bus

CONFIG = 7


@pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
def test_queues_go_on_in_another_server(tmp_path: Path, layout: int) -> None:
    with contextlib.ExitStack() as stack:
        devices = [Mirror(), Mirror()]
        places = [f"{tmp_path}/{index}.sock" for index in range(2)]
        for device, place in zip(devices, places, strict=True):
            stack.callback(device.close)
            stack.enter_context(virtio.start(device, f"vfio-user:{place}"))
        source = open_bus(places[0])
        end = PciDriverEnd(source)
        stack.callback(end.close)
        with live(end, BASIC | layout, [0]) as (ring,):
            for number in range(20):
                ring.mirror(b"before %d" % number)
            state = source.save()
            assert not devices[0].queues[0].running
            waiting = ring.offer(b"while it moves")
            # The same memory, and what the driver listens on, at another server.
            connection = open_connection(places[1], "vfio-user", 5.0)
            target = VfioUserBus(connection, source.memory, address="vfio-user:", timeout=5.0, share=True)
            try:
                assert ring.wire is not None
                target.set_interrupts(InterruptIndex.MSIX, 1, [ring.wire.call_fd])
                target.load(state)
                assert ring.wait() == [waiting]
                assert devices[1].queues[0].running
                assert devices[1].status == READY | S.DRIVER_OK
                assert target.read(CONFIG, 0, 64) == source.read(CONFIG, 0, 64)
            finally:
                target._client.close()


def test_flow_filters_go_with_a_card(tmp_path: Path) -> None:
    """What the administration virtqueue has set is in force where the card goes on."""
    move_a_card(tmp_path)
    gc.collect()  # a network device and its parts refer to each other


def move_a_card(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        devices = [virtio.NetworkDevice(mac="02:00:00:00:00:01", flow_filters=True) for _ in range(2)]
        places = [f"{tmp_path}/{index}.sock" for index in range(2)]
        for device, place in zip(devices, places, strict=True):
            stack.callback(device.close)
            stack.enter_context(virtio.start(device, f"vfio-user:{place}"))
        source = open_bus(places[0])
        card = stack.enter_context(NetworkDriver(PciDriverEnd(source)))
        card.flow_filters.add({"eth.type": 0x88B5}, queue=None)
        state = source.save()
        connection = open_connection(places[1], "vfio-user", 5.0)
        target = VfioUserBus(connection, source.memory, address="vfio-user:", timeout=5.0, share=True)
        try:
            target.load(state)
            for kind in (0x88B5, 0x88B6):
                frame = devices[1].mac + bytes(6) + kind.to_bytes(2, "big") + bytes(46)
                assert devices[1].send(frame) == (kind == 0x88B6)
            assert not devices[1].needs_reset
            assert not any(queue.running for queue in devices[0].queues)
        finally:
            target._client.close()


def test_a_function_that_was_saved_may_stay(tmp_path: Path) -> None:
    device = Mirror()
    with contextlib.closing(device), virtio.start(device, f"vfio-user:{tmp_path}/one.sock"):
        bus = open_bus(f"{tmp_path}/one.sock")
        with PciDriverEnd(bus) as end, live(end, BASIC, [0]) as (ring,):
            ring.mirror(b"before")
            assert bus.save()
            head = ring.offer(b"meanwhile")
            assert not device.queues[0].running
            bus.resume()
            assert ring.wait() == [head]
            ring.mirror(b"after")
            with pytest.raises(RefusedError):
                bus.load(b"nonsense")


def test_what_is_reached_by_messages_does_not_move(tmp_path: Path) -> None:
    device = Mirror()
    with contextlib.closing(device), virtio.start(device, f"vfio-user:{tmp_path}/far.sock"):
        bus = open_bus(f"{tmp_path}/far.sock", share=False)
        with contextlib.closing(bus), pytest.raises(RefusedError):
            bus.save()
