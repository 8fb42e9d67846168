"""The demonstration's sequence: ext4 made, filled, synced, mounted again, read, checked on the host."""

import pytest

from virtio.vm import Monitor, demo

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self._title = ""

    def begin(self, title: str) -> None:
        self._title = title

    def done(self, detail: str) -> None:
        self.steps.append((self._title, detail))


def test_the_demonstration_holds(monitor: Monitor) -> None:
    recorder = Recorder()
    outcome = demo.demonstrate(monitor, recorder)
    assert recorder.steps[-1][0] == "Looking at the image from the host"
    assert len(outcome.checksum) == 64

    block, *others = outcome.traffic
    assert {"VIRTIO_BLK_F_FLUSH", "VIRTIO_F_EVENT_IDX", "VIRTIO_F_RING_PACKED"} <= set(block.features)
    # All data went through the queue once in each direction, in requests that say so.
    assert block.bytes_from_driver >= demo.FILE_SIZE
    assert block.bytes_to_driver >= demo.FILE_SIZE
    assert block.requests >= 2 * demo.FILE_SIZE // (4 << 20)
    assert block.kicks > 0
    assert 0 < block.interrupts <= block.requests

    assert ("console" if monitor == "uml" else "entropy") in [other.device for other in others]
    assert all(other.bytes_to_driver >= 13 for other in others)
