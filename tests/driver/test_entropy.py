"""The entropy driver."""

from collections import Counter
from pathlib import Path

import pytest
from tests.driver.conftest import Drive

import virtio
from virtio.device.base import Device
from virtio.errors import DeviceError
from virtio.queue import Chain
from virtio.spec import entropy


def test_random_bytes(drive: Drive, layout: str) -> None:
    driver = drive(virtio.EntropyDevice(), mask=layout)
    data = driver.read(100_000)
    assert len(data) == 100_000
    assert len(Counter(data)) == 256
    assert driver.read(32) != driver.read(32)
    assert driver.read(0) == b""


def test_a_source(drive: Drive, tmp_path: Path) -> None:
    source = tmp_path / "bytes"
    source.write_bytes(bytes(range(256)) * 100)
    assert drive(virtio.EntropyDevice(source)).read(512) == bytes(range(256)) * 2


class Miser(Device):
    """Gives a few bytes at a time, or none."""

    spec = entropy
    gives = 3

    def on_requests(self, chain: Chain) -> None:
        chain.write(b"abc"[: min(self.gives, len(chain.writable))])


def test_short_answers(drive: Drive) -> None:
    device = Miser()
    driver = drive(device)
    assert driver.read(7) == b"abcabca"
    device.gives = 0
    with pytest.raises(DeviceError, match=r"5\.4\.6\.2"):
        driver.read(1)


class Later(Device):
    """Answers when it is told to."""

    spec = entropy

    def on_requests(self, chain: Chain) -> None:
        chain.hold()
        self.held = chain


def test_what_comes_late_is_not_lost(drive: Drive) -> None:
    device = Later()
    driver = drive(device)
    with pytest.raises(TimeoutError):
        driver.read(4, timeout=0.05)
    device.held.write(b"late")
    device.held.complete()
    assert driver.read(4, timeout=5) == b"late"
