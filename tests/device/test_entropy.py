"""The entropy device, 5.4."""

import io
from pathlib import Path

import pytest
from tests.device.rig import Rig

from virtio import ConfigurationError, EntropyDevice

pytestmark = pytest.mark.usefixtures("layout")


def test_random_bytes_fill_the_buffer() -> None:
    with Rig(EntropyDevice()) as rig:
        first = rig.ask(0, writable=[100, 28])
        second = rig.ask(0, writable=[128])
        assert len(first) == len(second) == 128
        assert first != second
        assert len(set(first)) > 30


def test_a_source_may_give_less() -> None:
    with Rig(EntropyDevice(io.BytesIO(b"0123456789"))) as rig:
        assert rig.ask(0, writable=[3, 3]) == b"012345"
        assert rig.ask(0, writable=[64]) == b"6789"


def test_a_long_buffer_is_filled_in_part() -> None:
    with Rig(EntropyDevice()) as rig:
        assert len(rig.ask(0, writable=[100_000])) == 65536


def test_an_exhausted_source_never_gives_an_empty_buffer() -> None:
    with Rig(EntropyDevice(lambda size: b"")) as rig:
        rig.add(0, writable=[16])
        assert rig.events.happened.wait(5)
        assert rig.events.faults[0].clause == "5.4.6.2"
        assert rig.none_used(0)


def test_a_source_by_path(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    device = EntropyDevice(source)
    with Rig(device) as rig:
        assert rig.ask(0, writable=[4]) == b"from"
    device.close()
    with pytest.raises(ConfigurationError, match="no random bytes from"):
        EntropyDevice(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="has no read"):
        EntropyDevice(3)
