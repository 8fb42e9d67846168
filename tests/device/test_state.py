"""The state that moves with a device: what it holds, and what cannot be one."""

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.device.rig import Rig

from virtio import (
    BlockDevice,
    ConfigurationError,
    ConsoleDevice,
    Device,
    EntropyDevice,
    FeatureNegotiationError,
    StateError,
)
from virtio.device.state import SavedState, unpack
from virtio.spec import block, console, core

S = core.STATUS
READY = S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK
LIVE = READY | S.DRIVER_OK
WRITEBACK = block.CONFIG.offset("writeback")


def stop(rig: Rig) -> list[int]:
    return [queue.stop() for queue in rig.device.queues]


def negotiate(device: Device, features: int) -> None:
    device.set_status(S.ACKNOWLEDGE | S.DRIVER)
    device.negotiate(features)
    device.set_status(READY)


def saved(device: Device, features: int | None = None) -> bytes:
    """What a device of this kind saves once a driver has set it up."""
    with Rig(device, features=features) as rig:
        stop(rig)
        return device.save_state()


def test_what_the_driver_wrote_goes_along() -> None:
    source, target = BlockDevice(size=1 << 20), BlockDevice(size=1 << 20)
    with Rig(source) as rig:
        source.write_config(WRITEBACK, b"\0")
        stop(rig)
        data, features = source.save_state(), rig.features
    with Rig(target, live=False):
        target.load_state(data)
        assert target.writeback, "nothing is taken before the features are there"
        negotiate(target, features)
        assert not target.writeback
        assert target.config["writeback"] == 0
        target.set_status(0)
        assert target.writeback


def test_it_is_taken_at_once_when_the_features_are_there() -> None:
    source, target = BlockDevice(size=1 << 20), BlockDevice(size=1 << 20)
    with Rig(source) as rig:
        source.write_config(WRITEBACK, b"\0")
        stop(rig)
        data = source.save_state()
    with Rig(target) as rig:
        with pytest.raises(ConfigurationError, match="queues run"):
            target.load_state(data)
        with pytest.raises(ConfigurationError, match="queues run"):
            target.save_state()
        stop(rig)
        target.load_state(data)
        assert not target.writeback
        assert target.config_generation == source.config_generation


def test_a_reset_forgets_what_was_loaded() -> None:
    source, target = BlockDevice(size=1 << 20), BlockDevice(size=1 << 20)
    with Rig(source) as rig:
        source.write_config(WRITEBACK, b"\0")
        stop(rig)
        data, features = source.save_state(), rig.features
    with Rig(target, live=False):
        target.load_state(data)
        target.set_status(0)
        negotiate(target, features)
        assert target.writeback


def test_features_must_be_those_that_it_was_saved_with() -> None:
    data = saved(BlockDevice(size=1 << 20))
    target = BlockDevice(size=1 << 20)
    with Rig(target, live=False):
        target.load_state(data)
        with pytest.raises(FeatureNegotiationError):
            negotiate(target, core.F.VERSION_1)
    with Rig(target, features=core.F.VERSION_1) as rig:
        stop(rig)
        with pytest.raises(StateError, match="other features"):
            target.load_state(data)


def test_without_a_driver_there_is_nothing_to_take_over() -> None:
    source, target = BlockDevice(size=1 << 20), BlockDevice(size=1 << 20)
    with Rig(target, live=False):
        target.load_state(source.save_state())
        negotiate(target, core.F.VERSION_1)


def test_a_disk_may_have_grown_and_then_the_driver_is_told() -> None:
    data = saved(BlockDevice(size=1 << 20))
    target = BlockDevice(size=2 << 20)
    with Rig(target, live=False) as rig:
        target.load_state(data)
        negotiate(target, rig.features)
        assert rig.events.config_changes == 0, "not before it runs"
        assert target.config_generation == unpack(data).generation + 1
        target.set_status(LIVE)
        assert rig.events.config_changes == 1


def test_a_device_that_needed_a_reset_does_so_there() -> None:
    source, target = BlockDevice(size=1 << 20), BlockDevice(size=1 << 20)
    with Rig(source) as rig:
        source.fail("a test")
        stop(rig)
        data, features = source.save_state(), rig.features
    with Rig(target, live=False):
        target.load_state(data)
        negotiate(target, features)
        assert target.needs_reset


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (lambda: BlockDevice(size=1 << 19), "2048 sectors; here are 1024"),
        (lambda: BlockDevice(size=1 << 20, block_size=4096), "blk_size"),
        (lambda: BlockDevice(size=1 << 20, seg_max=64), "seg_max"),
        (lambda: BlockDevice(size=1 << 20, read_only=True), "WRITE_ZEROES"),
        (lambda: BlockDevice(size=1 << 20, mask="EVENT_IDX"), "VIRTIO_F_EVENT_IDX"),
        (EntropyDevice, "device of type 2"),
    ],
)
def test_a_device_that_is_not_the_same_refuses(target: type[Device], why: str) -> None:
    data = saved(BlockDevice(size=1 << 20))
    with pytest.raises(StateError, match=why):
        target().load_state(data)


def test_only_fields_that_the_driver_sees_have_to_be_the_same() -> None:
    target = BlockDevice(size=1 << 20, queues=2)
    target.load_state(saved(BlockDevice(size=1 << 20)))
    with pytest.raises(StateError, match="num_queues"):
        target.load_state(saved(BlockDevice(size=1 << 20, queues=4)))


def test_input_that_was_not_read_goes_along() -> None:
    said: list[bytes] = []
    source, target = ConsoleDevice(said.append), ConsoleDevice(said.append, size=(80, 25))
    with Rig(source) as rig:
        source.send(b"hello")
        features = rig.features
        source.write_config(console.CONFIG.offset("emerg_wr"), b"x\0\0\0")
        stop(rig)
        data = source.save_state()
    assert said == [b"x"]
    target.send(b", world")
    with Rig(target, live=False) as rig:
        target.load_state(data)
        rig.features = features
        rig.go_live()
        head = rig.add(0, (), [64])
        (used,) = rig.used(0)
        assert (used.head, used.written) == (head, 12)
        assert rig.drivers[0].data(head)[:12] == b"hello, world"
    assert said == [b"x"], "what was written once is not written again"


def test_a_console_takes_no_more_than_it_keeps() -> None:
    device = ConsoleDevice(lambda _: None)
    data = unpack(saved(device))._replace(own=bytes((1 << 16) + 1)).pack()
    with pytest.raises(StateError, match="unread input"):
        device.load_state(data)


class Counter(Device):
    """A device of an author's, with something to remember."""

    spec = EntropyDevice.spec

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_requests(self, chain: object) -> None:
        self.count += 1

    def saved(self) -> bytes:
        return self.count.to_bytes(8, "little")

    def check_saved(self, own: bytes, config: object) -> None:
        if len(own) != 8:
            raise StateError("a count has 8 bytes")

    def restored(self, own: bytes) -> None:
        self.count = int.from_bytes(own, "little")


def test_an_author_adds_what_there_is_to_remember() -> None:
    source, target = Counter(), Counter()
    with Rig(source) as rig:
        for _ in range(3):
            rig.add(0, (), [16])
        rig.used(0, 3)
        stop(rig)
        data = source.save_state()
        features = rig.features
    with Rig(target, live=False):
        target.load_state(data)
        negotiate(target, features)
        assert target.count == 3
    with pytest.raises(StateError, match="8 bytes"):
        target.load_state(unpack(data)._replace(own=b"").pack())
    with pytest.raises(StateError, match="nothing to remember"):
        EntropyDevice().load_state(data)


# --- what is no state

GOOD = SavedState(4, LIVE, 7, core.F.VERSION_1, b"", b"").pack()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (GOOD[:39], "39 bytes"),
        (b"PYVIRTIO" + GOOD[8:], "no device state of ours"),
        (GOOD[:8] + b"\2\0" + GOOD[10:], "version 2"),
        (GOOD[:-1], "damaged"),
        (GOOD + b"\0", "damaged"),
        (GOOD[:20] + b"\xff" + GOOD[21:], "damaged"),
    ],
)
def test_bytes_that_are_no_state(data: bytes, why: str) -> None:
    with pytest.raises(StateError, match=why):
        EntropyDevice().load_state(data)


def checked(body: bytes) -> bytes:
    return struct.pack("<8sHHI", b"pyvirtio", 1, 4, zlib.crc32(body)) + body


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (b"", "cut off"),
        (b"\0\0\0", "cut off"),
        (b"\xff\xff\xff\xff" + bytes(8), "cut off"),
        (bytes(4), "cut off"),
        (bytes(4) + b"\1\0\0\0", "cut off"),
        (bytes(9), "1 bytes behind"),
    ],
)
def test_lengths_that_are_not_there(tail: bytes, why: str) -> None:
    with pytest.raises(StateError, match=why):
        unpack(checked(struct.pack("<II16s", LIVE, 0, bytes(16)) + tail))


@given(st.binary(max_size=200), st.booleans())
def test_anything_is_a_state_or_an_error(data: bytes, sealed: bool) -> None:
    try:
        state = unpack(checked(data) if sealed else data)
    except StateError:
        return
    assert unpack(state.pack()) == state


@given(
    st.builds(
        SavedState,
        st.sampled_from([2, 4]),
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**128 - 1) | st.just(int(core.F.VERSION_1)),
        st.binary(max_size=80),
        st.binary(max_size=80),
    )
)
def test_any_state_is_taken_or_refused(state: SavedState) -> None:
    device = EntropyDevice()
    with Rig(device, live=False) as rig:
        try:
            device.load_state(state.pack())
        except StateError:
            negotiate(device, rig.features)
            return
        assert unpack(state.pack()) == state


def test_a_disk_that_is_served_is_the_one_that_was(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    data = saved(BlockDevice(image))
    device = BlockDevice(image)
    device.load_state(data)
    device.close()
