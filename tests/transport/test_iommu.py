"""Both ends with an IOMMU between them: data that arrives, memory that goes, and what devices may not do."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.transport.contract import BASIC, SECONDS, Failures, Mirror, Ring, live

import virtio
from virtio.errors import ConfigurationError, FeatureNegotiationError
from virtio.queue import Chain
from virtio.spec import core
from virtio.transport import open_driver_end
from virtio.transport.interface import DriverEnd
from virtio.transport.vhost_user import VhostUserDriverEnd
from virtio.transport.vhost_user.dirty_pages import DirtyPages

F = core.F
PAGE = 4096
LAYOUTS = pytest.mark.parametrize(
    "layout",
    [0, F.RING_PACKED, F.IN_ORDER, F.RING_PACKED | F.IN_ORDER],
    ids=["split", "packed", "split-in-order", "packed-in-order"],
)


@pytest.fixture(params=["mem", "vhost-user"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    scheme: str = request.param
    return f"{scheme}:{tmp_path}/device" if scheme == "vhost-user" else "mem:iommu"


@contextlib.contextmanager
def mirror(address: str, domain: virtio.IommuDomain, device: Mirror | None = None) -> Iterator[DriverEnd]:
    """A device of two queues, connected through a domain."""
    device = device or Mirror()
    device.offered_features |= F.ACCESS_PLATFORM | F.IN_ORDER
    with contextlib.ExitStack() as stack:
        stack.callback(device.close)
        stack.enter_context(virtio.start(device, address))
        yield stack.enter_context(contextlib.closing(open_driver_end(address, iommu=domain)))


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


@LAYOUTS
def test_data_arrives_while_mappings_come_and_go(address: str, layout: int) -> None:
    device = virtio.BlockDevice(None, size=1 << 20, queues=2)
    device.offered_features &= ~F.RING_PACKED
    device.offered_features |= F.ACCESS_PLATFORM | layout
    domain = virtio.IommuDomain(granule=PAGE, unmapped="wait")
    chance, contents = random.Random(layout), bytearray(1 << 20)
    done = threading.Event()
    rounds = 0

    def disturb() -> None:
        nonlocal rounds
        chance = random.Random(1)
        (everything,) = domain.mappings
        while not done.is_set():
            # Somewhere in what is in use, the rings among it, and somewhere else.
            start = everything.iova + chance.randrange(64) * PAGE
            size = chance.randint(1, 8) * PAGE
            domain.unmap(start, size)
            domain.map(start, size, everything.user_address + start - everything.iova)
            domain.map(1 << 40, 1 << 16, everything.user_address)
            domain.unmap(1 << 40, 1 << 15)
            domain.unmap((1 << 40) + (1 << 15), 1 << 15)
            rounds += 1

    with contextlib.ExitStack() as stack:
        stack.callback(device.close)
        stack.enter_context(virtio.start(device, address))
        disk = stack.enter_context(virtio.connect(address, "block", iommu=domain))
        assert disk.features & (F.ACCESS_PLATFORM | layout) == F.ACCESS_PLATFORM | layout
        thread = threading.Thread(target=disturb)
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        number = 0
        while number < 150 or rounds < 20:
            number += 1
            sector, count = chance.randrange(2000), chance.randint(1, 40)
            if chance.random() < 0.5:
                data = chance.randbytes(count * 512)
                disk.write(sector, data)
                contents[sector * 512 : (sector + count) * 512] = data
            else:
                assert disk.read(sector, count) == contents[sector * 512 : (sector + count) * 512]
        done.set()
        thread.join()
        assert disk.read(0, 2048) == contents
        assert domain.misses > 20
    assert domain.failures == []


@pytest.mark.parametrize("options", [{}, {"eager": True}, {"allocations": True, "granule": PAGE}], ids=str)
def test_drivers_do_not_notice(address: str, options: dict[str, Any]) -> None:
    device = virtio.BlockDevice(None, size=1 << 20)
    device.offered_features |= F.ACCESS_PLATFORM
    domain = virtio.IommuDomain(**options)
    with contextlib.closing(device), virtio.start(device, address):
        for _ in range(2):  # A domain outlives its device.
            with virtio.connect(address, "block", iommu=domain) as disk:
                buffer = disk.allocate(8192)
                data = os.urandom(8192)
                memoryview(buffer)[:] = data
                disk.write(8, buffer)
                disk.flush()
                assert disk.read(8, 16) == data
                assert bool(domain.misses) != bool(options.get("eager"))
            assert domain.mappings == []


@LAYOUTS
def test_a_question_without_an_answer_holds_up_nobody_else(address: str, layout: int) -> None:
    domain = virtio.IommuDomain(granule=PAGE, unmapped="wait")
    features = BASIC | F.ACCESS_PLATFORM | layout
    with mirror(address, domain) as end, live(end, features, [0, 1]) as (first, second):
        for ring in (first, second):
            ring.mirror(b"to begin with")
        start, size = second.memory.address, second.memory.size
        user = second.memory.user_address  # type: ignore[attr-defined]
        domain.unmap(start, size)
        head = second.offer(b"waits")
        for number in range(20):
            first.mirror(b"%d" % number * 100)
        assert second.wait(0.0) == []
        begun = time.monotonic()
        base = end.stop_queue(1)
        assert time.monotonic() - begun < SECONDS / 2
        domain.map(start, size, user)
        second.start(base)
        assert second.wait() == [head]
        assert second.model.data(head) == b"waits"[::-1]


def test_an_unmapped_address_costs_the_device_its_queue(address: str) -> None:
    domain, failures = virtio.IommuDomain(granule=PAGE), Failures()
    with mirror(address, domain) as end, live(end, BASIC | F.ACCESS_PLATFORM, [0]) as (ring,):
        end.on_failure(failures.take)
        ring.mirror(b"to begin with")
        region = end.memory.regions[0]  # type: ignore[attr-defined]
        # Not the ring, but the buffers behind it.
        domain.unmap(ring.memory.address + PAGE, ring.memory.size - PAGE)
        ring.model.enable_interrupts()
        ring.offer(bytes(PAGE * 2))
        assert failures.wait()
        assert eventually(lambda: domain.failures != [])
        iova, access = domain.failures[0]
        assert region.address <= iova < region.address + region.size
        assert access == 1


def test_permissions_hold(address: str) -> None:
    domain, failures = virtio.IommuDomain(granule=PAGE), Failures()
    with mirror(address, domain) as end, live(end, BASIC | F.ACCESS_PLATFORM, [0]) as (ring,):
        end.on_failure(failures.take)
        ring.mirror(b"to begin with")
        start, size = ring.memory.address + PAGE, ring.memory.size - PAGE
        user = ring.memory.user_address + PAGE  # type: ignore[attr-defined]
        domain.unmap(start, size)
        domain.map(start, size, user, "r")
        ring.offer(bytes(PAGE * 2))
        assert failures.wait()
        assert eventually(lambda: domain.failures != [])
        assert domain.failures[0][1] == 2


class Slow(Mirror):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Chain] = []

    def on_requests(self, chain: Chain) -> None:
        chain.hold()
        self.held.append(chain)


def test_nothing_is_written_after_unmap_returns(address: str) -> None:
    domain, device = virtio.IommuDomain(), Slow()
    with mirror(address, domain, device) as end, live(end, BASIC | F.ACCESS_PLATFORM, [0]) as (ring,):
        head = ring.offer(b"data")
        assert eventually(lambda: len(device.held) == 1)
        (everything,) = domain.mappings
        gone = threading.Event()

        def unmap() -> None:
            domain.unmap(everything.iova, everything.size)
            gone.set()

        thread = threading.Thread(target=unmap)
        thread.start()
        assert not gone.wait(0.1), "it was unmapped while a chain was under way"
        chain = device.held[0]
        chain.write(chain.read()[::-1])
        chain.complete()
        del chain
        device.held.clear()
        thread.join(SECONDS)
        assert gone.is_set()
        assert ring.model.data(head) == b"atad"
        domain.map(everything.iova, everything.size, everything.user_address)
        ring.kick()
        assert ring.wait() == [head]


def test_dirty_pages_are_guest_physical(tmp_path: Path) -> None:
    address = f"vhost-user:{tmp_path}/device"
    domain = virtio.IommuDomain(granule=PAGE)
    with mirror(address, domain) as end, live(end, BASIC | F.ACCESS_PLATFORM, [0]) as (ring,):
        assert isinstance(end, VhostUserDriverEnd)
        ring.mirror(b"before")
        with DirtyPages(end) as dirty:
            dirty.collect()
            ring.mirror(bytes(3 * PAGE))
            pages = set(dirty.collect())
        (region,) = end.memory.regions
        to_guest = region.guest_address - region.address
        start = ring.memory.address + to_guest
        assert pages
        assert pages <= set(range(start, start + ring.memory.size, PAGE))
        assert len(pages) >= 4  # three of data, and the used ring's


def test_there_is_no_iommu_without_the_feature(address: str) -> None:
    with contextlib.closing(Mirror()) as device, virtio.start(device, address):
        with pytest.raises(FeatureNegotiationError, match="ACCESS_PLATFORM"):
            open_driver_end(address, iommu=True)
        device.offered_features |= F.ACCESS_PLATFORM
    with contextlib.closing(Mirror()) as device:
        device.offered_features |= F.ACCESS_PLATFORM
        with virtio.start(device, address):
            with contextlib.closing(open_driver_end(address)) as end:
                assert not end.device_features & F.ACCESS_PLATFORM
            with contextlib.closing(open_driver_end(address, iommu=True)) as end:
                assert end.device_features & F.ACCESS_PLATFORM
                end.set_status(core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER)
                with pytest.raises(ConfigurationError, match="ACCESS_PLATFORM"):
                    end.accept(BASIC)


def test_a_domain_is_for_one_memory(address: str) -> None:
    domain = virtio.IommuDomain()
    with mirror(address, domain), pytest.raises(ConfigurationError, match="mapped already"):
        open_driver_end(address, iommu=domain)


def test_pages_of_a_ring_can_be_mapped_one_by_one(address: str) -> None:
    domain = virtio.IommuDomain(granule=PAGE, unmapped="wait")
    with mirror(address, domain) as end, live(end, BASIC | F.ACCESS_PLATFORM, [0]) as (ring,):
        assert isinstance(ring, Ring)
        ring.mirror(b"in order")
        (whole,) = domain.mappings
        for page in range(0, whole.size, PAGE)[:32]:
            domain.unmap(whole.iova + page, PAGE)
            domain.map(whole.iova + page, PAGE, whole.user_address + page)
        for number in range(10):
            ring.mirror(os.urandom(PAGE * 2 + number))
