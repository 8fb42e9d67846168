"""Random requests, cut into random pieces, against a plain bytearray."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.device.rig import IOERR, OK, Disk

from virtio import BlockDevice
from virtio.spec.block import T

SECTORS = 64


class InPython(BlockDevice):
    def write(self, sector: int, data: memoryview) -> Any:
        return super().write(sector, data)


@pytest.fixture(params=["file", "memory", "python"], scope="module")
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    if request.param == "file":
        path = tmp_path_factory.mktemp("disk") / "disk.img"
        path.write_bytes(bytes(SECTORS * 512))
        device = BlockDevice(path)
    else:
        device = (InPython if request.param == "python" else BlockDevice)(size=SECTORS * 512)
    with Disk(device) as rig:
        yield rig
    device.close()


def cut(size: int, places: list[int]) -> list[int]:
    """Lengths of the pieces that a size is cut into."""
    edges = [0, *sorted({place % size for place in places} - {0}), size]
    return [end - begin for begin, end in pairwise(edges)]


requests = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "zero"]),
        st.integers(0, SECTORS + 1),
        st.integers(1, 9),
        st.lists(st.integers(1, 5000), max_size=6),
        st.lists(st.integers(1, 15), max_size=2),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests)
def test_any_sequence(disk: Disk, sequence: list[tuple[str, int, int, list[int], list[int], bytes]]) -> None:
    expected = bytearray(disk.request(T.IN, 0, into=[SECTORS * 512])[1])
    for kind, sector, sectors, places, header_places, seed in sequence:
        size = sectors * 512
        where = slice(sector * 512, sector * 512 + size)
        inside = sector + sectors <= SECTORS
        header = cut(16, header_places)
        if kind == "read":
            status, data = disk.request(T.IN, sector, into=cut(size, places), header=header)
            assert status == (OK if inside else IOERR)
            assert not inside or data == expected[where]
        elif kind == "write":
            data = (seed * size)[:size]
            pieces, at = [], 0
            for length in cut(size, places):
                pieces.append(data[at : at + length])
                at += length
            assert disk.request(T.OUT, sector, data=pieces, header=header)[0] == (OK if inside else IOERR)
            if inside:
                expected[where] = data
        else:
            assert disk.segments(T.WRITE_ZEROES, (sector, sectors, len(seed) & 1)) == (
                OK if inside else IOERR
            )
            if inside:
                expected[where] = bytes(size)
    assert disk.request(T.IN, 0, into=[SECTORS * 512]) == (OK, bytes(expected))
    assert disk.events.faults == []
