"""The dirty log under load: every page that differs between two snapshots is in it, and few others."""

import contextlib
import os
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, SECONDS, Mirror, Ring, live
from tests.transport.rogue import Rogue, silence

import virtio
from virtio.errors import ConfigurationError, RefusedError
from virtio.spec import core
from virtio.transport.vhost_user import VhostUserDriverEnd, open_driver_end
from virtio.transport.vhost_user.dirty_pages import PAGE, DirtyPages

LAYOUTS = pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])


def snapshot(end: VhostUserDriverEnd) -> bytes:
    (region,) = end.memory.regions
    return end.memory.native.read(region.guest_address, region.size)


def differing(end: VhostUserDriverEnd, before: bytes, after: bytes) -> set[int]:
    start = end.memory.regions[0].guest_address
    return {
        start + at for at in range(0, len(before), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]
    }


@LAYOUTS
def test_no_page_that_was_written_is_missing(tmp_path: Path, layout: int) -> None:
    with contextlib.ExitStack() as stack:
        device = Mirror()
        stack.callback(device.close)
        stack.enter_context(virtio.start(device, f"vhost-user:{tmp_path}/mirror.sock"))
        end = stack.enter_context(
            contextlib.closing(open_driver_end(f"{tmp_path}/mirror.sock", memory_size=4 << 20))
        )
        features = BASIC | layout
        with live(end, features, [0, 1]) as rings:
            for ring in rings:
                ring.mirror(os.urandom(3000))
            with DirtyPages(end) as dirty:
                for _ in range(5):
                    before = snapshot(end)
                    written: set[int] = set()
                    for number in range(40):
                        ring = rings[number % 2]
                        written |= one_request(ring, os.urandom(100 + number * 150))
                    after = snapshot(end)
                    noted = set(dirty.collect())
                    changed = differing(end, before, after)
                    # The device wrote these for certain; what else changed, the driver wrote.
                    assert written <= noted
                    assert written <= changed
                    everything = {
                        page
                        for ring in rings
                        for page in range(ring.memory.address, ring.memory.address + ring.memory.size, PAGE)
                    }
                    assert noted <= everything
                ring.mirror(b"the last")
                assert dirty.close()
                assert dirty.close() == []
                with pytest.raises(ConfigurationError):
                    dirty.collect()
            rings[0].mirror(b"after it")


@LAYOUTS
def test_news_are_signalled(tmp_path: Path, layout: int) -> None:
    """SET_LOG_FD: the eventfd is readable when a page is not clean any more, and not for ever."""
    with contextlib.ExitStack() as stack:
        device = Mirror()
        stack.callback(device.close)
        stack.enter_context(virtio.start(device, f"vhost-user:{tmp_path}/mirror.sock"))
        end = stack.enter_context(contextlib.closing(open_driver_end(f"{tmp_path}/mirror.sock")))
        with live(end, BASIC | layout, [0]) as (ring,), DirtyPages(end, notify=True) as dirty:
            for _ in range(3):
                # A queue that goes to sleep writes once where it wants to be woken, and then no more.
                assert [] in [dirty.collect() for _ in range(100)]
                assert not dirty.wait(0)
                ring.mirror(b"news")
                assert dirty.wait(SECONDS)
                assert dirty.collect()
            with DirtyPages(end) as silent, pytest.raises(ConfigurationError, match="notify=True"):
                silent.wait(0)


def one_request(ring: Ring, data: bytes) -> set[int]:
    """Make one request; return the pages that the device wrote for it, for certain."""
    memory = ring.end.memory.native
    ring.model.enable_interrupts()
    head = ring.model.add([data], [len(data)])
    ring.model.publish()
    start, size = ring.memory.address, ring.memory.size
    before = memory.read(start, size)
    ring.kick()
    assert ring.wait() == [head]
    after = memory.read(start, size)
    assert ring.model.data(head) == data[::-1]
    # Between the kick and here the driver writes nothing but what asks for notifications.
    quiet = {ring.model.addresses["available"] // PAGE * PAGE}
    found = {start + at for at in range(0, size, PAGE) if before[at : at + PAGE] != after[at : at + PAGE]}
    return found - quiet


def test_a_back_end_without_a_log_says_so() -> None:
    with (
        Rogue("", silence) as rogue,
        contextlib.closing(open_driver_end(rogue.place)) as end,
        live(end, BASIC, [0]),
        pytest.raises(RefusedError),
    ):
        DirtyPages(end)
