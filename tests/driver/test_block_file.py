"""A disk as a file: whatever a plain file does, it does."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import virtio
from virtio.device.block import BlockDevice
from virtio.errors import ConfigurationError

SIZE = 16 << 10


@pytest.fixture(scope="module")
def disk() -> Any:
    device = BlockDevice(size=SIZE)
    with virtio.start(device, "mem:file"), virtio.connect("mem:file") as found:
        yield found
    device.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), st.integers(0, SIZE + 100)),
        st.tuples(st.just("read"), st.integers(0, 5000)),
        st.tuples(st.just("write"), st.binary(max_size=3000)),
    ),
    max_size=20,
)


@given(steps=steps)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_like_a_plain_file(disk: Any, tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    disk.write(0, bytes(SIZE))
    model = io.BytesIO(bytes(SIZE))
    with disk.open() as file:
        for name, argument in steps:
            if name == "seek":
                assert file.seek(argument) == model.seek(argument)
            elif name == "read":
                assert file.read(argument) == model.read(argument)
            elif model.tell() < SIZE or not argument:
                data = argument[: max(SIZE - model.tell(), 0)]
                assert file.write(argument) == model.write(data)
            assert file.tell() == model.tell()
        assert file.seek(0, os.SEEK_END) == SIZE
    assert disk.read(0, SIZE // 512) == model.getvalue()


def test_buffered_and_copied(disk: Any, tmp_path: Path) -> None:
    with io.BufferedRandom(disk.open()) as file:
        for number in range(100):
            file.seek(number * 37)
            file.write(b"%03d" % number)
        file.seek(37)
        assert file.read(3) == b"001"
    assert disk.read(0, 1)[:3] == b"000"


def test_modes(disk: Any) -> None:
    with disk.open("rb") as file, pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    with pytest.raises(ConfigurationError, match="rb or r"):
        disk.open("w")
    with disk.open() as file:
        file.seek(0, os.SEEK_END)
        assert file.read() == b""
        with pytest.raises(OSError, match="ends here"):
            file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
