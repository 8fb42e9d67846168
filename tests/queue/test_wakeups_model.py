"""No wake-up is lost: every interleaving of the accesses of both ends of the model.

A driver makes buffers available and sleeps until they are used; a device sleeps until some are available.
Each asks for notifications before it sleeps and gives one when the other asked. If either can sleep while
there is something for it to do, and nobody is left to wake it, the search finds it.
"""

from collections.abc import Callable

import pytest
from tests.queue.interleavings import Fence, Program, Shared, StuckError, explore

from virtio.errors import ProtocolError
from virtio.queue.model import PackedDevice, PackedDriver, PackedLayout, SplitDevice, SplitDriver, SplitLayout
from virtio.queue.model.ring import EVENT_IDX, IN_ORDER

ROOM = 4096
"""Memory for buffers behind the ring. Of what lies there only :data:`DATA` is shared."""
DATA = 8
"""A byte for each buffer that the driver writes, and as many that the device writes."""
FEW = 2
"""With more buffers than this their contents are left out: the states would be too many."""

Ends = tuple[type[SplitDriver] | type[PackedDriver], type[SplitDevice] | type[PackedDevice]]
SPLIT: Ends = (SplitDriver, SplitDevice)
PACKED: Ends = (PackedDriver, PackedDevice)


def driver(ends: Ends, size: int, features: int, batches: list[int]) -> Callable[[Shared], None]:
    """Sends the batches, one after the other as far as there is room, and waits for all of them."""

    def run(memory: Shared) -> None:
        end = ends[0](memory, 0, size, features)
        data = end.layout.end
        contents = sum(batches) <= FEW
        todo = list(batches)
        sent = waiting = 0
        while todo or waiting:
            end.disable_interrupts()
            while todo and todo[0] <= end.free_descriptors:
                for _ in range(todo[0]):
                    end.add([0])
                    if contents:
                        memory.store(data + sent, b"?")
                    sent += 1
                waiting += todo.pop(0)
                end.publish()
                if end.needs_kick():
                    memory.notify()
            while True:
                used = len(end.poll_used())
                for number in range(sent - waiting, sent - waiting + used) if contents else ():
                    assert memory.load(data + DATA + number, 1) == b"!"
                waiting -= used
                if used:
                    break
                if not end.enable_interrupts():
                    memory.sleep()

    return run


def device(ends: Ends, size: int, features: int, contents: bool) -> Callable[[Shared], None]:
    """Uses what there is, each by itself or in order all at once, and sleeps."""

    def run(memory: Shared) -> None:
        if issubclass(ends[1], PackedDevice):
            end: SplitDevice | PackedDevice = ends[1](memory, PackedLayout.at(0, size), features)
        else:
            end = ends[1](memory, SplitLayout.at(0, size), features)
        data = end.layout.end
        number = 0
        while True:
            end.disarm()
            while chain := end.pop():
                assert chain.readable[0][0] >= data
                if contents:
                    assert memory.load(data + number, 1) == b"?"
                    memory.store(data + DATA + number, b"!")
                number += 1
                if isinstance(end, PackedDevice):
                    end.push(chain, 0)
                else:
                    end.push(chain.head, 0)
                if not features & IN_ORDER and end.publish():
                    memory.notify()
            if end.publish():
                memory.notify()
            if not end.arm():
                memory.sleep()

    return run


def search(ends: Ends, size: int, features: int, batches: list[int], dropped: Fence | None = None) -> int:
    layout = PackedLayout.at(0, size) if issubclass(ends[0], PackedDriver) else SplitLayout.at(0, size)
    programs = (
        Program(driver(ends, size, features, batches), layout.end + ROOM, "driver", dropped),
        Program(device(ends, size, features, sum(batches) <= FEW), layout.end + ROOM, "device", dropped),
    )
    return explore(programs, layout.end + 2 * DATA)


LAYOUTS = pytest.mark.parametrize("ends", [SPLIT, PACKED], ids=["split", "packed"])
EVENTS = pytest.mark.parametrize("events", [0, EVENT_IDX], ids=["flags", "event index"])


@pytest.mark.parametrize("in_order", [0, IN_ORDER], ids=["any order", "in order"])
@EVENTS
@LAYOUTS
@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (1, [1, 1]),
        (2, [1, 1]),
        (2, [2]),
        pytest.param(2, [1, 1, 1], marks=pytest.mark.slow),
        pytest.param(4, [1, 2], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_wakeup_is_lost(ends: Ends, events: int, in_order: int, size: int, batches: list[int]) -> None:
    # So many states: neither end just ran to its end before the other began.
    assert search(ends, size, events | in_order, batches) > 300


class CarelessSplitDevice(SplitDevice):
    def arm(self) -> bool:
        super().arm()
        return False


class CarelessPackedDevice(PackedDevice):
    def arm(self) -> bool:
        super().arm()
        return False


class CarelessSplitDriver(SplitDriver):
    def enable_interrupts(self) -> bool:
        super().enable_interrupts()
        return False


class CarelessPackedDriver(PackedDriver):
    def enable_interrupts(self) -> bool:
        super().enable_interrupts()
        return False


@EVENTS
@pytest.mark.parametrize(
    "ends",
    [
        (SplitDriver, CarelessSplitDevice),
        (CarelessSplitDriver, SplitDevice),
        (PackedDriver, CarelessPackedDevice),
        (CarelessPackedDriver, PackedDevice),
    ],
    ids=lambda ends: f"{ends[0].__name__}, {ends[1].__name__}",
)
def test_without_the_second_look_a_wakeup_is_lost(ends: Ends, events: int) -> None:
    with pytest.raises(StuckError):
        search(ends, 2, events, [1, 1])


@pytest.mark.parametrize(
    "fence",
    [
        ("driver", "publish", "release"),
        ("driver", "needs_kick", "fence"),
        ("driver", "enable_interrupts", "fence"),
        ("device", "publish", "release"),
        ("device", "publish", "fence"),
        ("device", "arm", "fence"),
    ],
    ids=" ".join,
)
@EVENTS
@LAYOUTS
def test_no_fence_can_be_left_out(ends: Ends, events: int, fence: Fence) -> None:
    # Without it somebody sleeps for ever, or sees what is not there yet.
    with pytest.raises((AssertionError, ProtocolError)):
        search(ends, 2, events, [1, 1], dropped=fence)
