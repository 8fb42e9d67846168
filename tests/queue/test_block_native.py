"""The native block target and its requests, below the device that Python authors see."""

import struct
import threading
from pathlib import Path
from typing import Literal

import pytest
from tests.queue.guest import FEATURES, Guest, wait

from virtio._native import BlockHandler, BlockRequest, BlockTarget
from virtio.errors import ConfigurationError
from virtio.spec.block import F

DISK = 1 << 20
ALL = FEATURES | F.FLUSH | F.DISCARD | F.WRITE_ZEROES
IN, OUT, FLUSH = 0, 1, 4


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def target(kind: str, path: Path) -> BlockTarget:
    if kind == "memory":
        return BlockTarget.memory(DISK)
    image = path / "image"
    image.write_bytes(bytes(DISK))
    return BlockTarget.file(image, engine="threads" if kind == "threads" else "auto")


@pytest.mark.parametrize("kind", ["memory", "file", "threads"])
def test_what_the_driver_writes_is_what_python_reads(kind: str, tmp_path: Path) -> None:
    disk = target(kind, tmp_path)
    with Guest(BlockHandler(disk), features=ALL) as guest:
        data = bytes(range(256)) * 4
        assert guest.ask([header(OUT, 3), data[:700], data[700:]], [1]) == (b"\0", 1)
        into = bytearray(len(data))
        disk.read(3 * 512, into)
        assert into == data
        disk.write(512, b"python".ljust(512, b"."))
        assert guest.ask([header(IN, 1)], [100, 412, 1])[0] == b"python".ljust(512, b".") + b"\0"
        assert guest.ask([header(FLUSH)], [1])[0] == b"\0"
        disk.write_zeroes(512, 512)
        disk.discard(3 * 512, 1024)
        disk.flush()
        assert guest.ask([header(IN, 1)], [512, 1])[0] == bytes(513)
    disk.close()
    for late in (disk.flush, lambda: disk.capacity, lambda: disk.read(0, bytearray(1))):
        with pytest.raises(ConfigurationError, match="closed"):
            late()


def test_settings_are_kept_and_checked(tmp_path: Path) -> None:
    disk = BlockTarget.memory(DISK)
    names = [
        f"max_{kind}_{unit}"
        for kind in ("discard", "write_zeroes", "secure_erase")
        for unit in ("sectors", "seg")
    ]
    for value, name in enumerate(["size_max", "seg_max", *names], start=7):
        setattr(disk, name, value)
        assert getattr(disk, name) == value
    disk.serial = "x" * 20
    disk.lifetime = (1, 2, 3)
    disk.block_size = 4096
    disk.writeback = False
    assert (disk.serial, disk.lifetime, disk.block_size, disk.writeback) == ("x" * 20, (1, 2, 3), 4096, False)
    assert (disk.capacity, disk.read_only, disk.engine) == (DISK, False, "memory")
    for name, wrong in (("serial", "x" * 21), ("block_size", 1000), ("capacity", 513)):
        with pytest.raises(ConfigurationError):
            setattr(disk, name, wrong)
    with pytest.raises(ConfigurationError, match="beyond"):
        disk.write(DISK - 1, b"xx")
    with pytest.raises(BufferError, match="read-only"):
        disk.read(0, b"1234")
    with pytest.raises(ConfigurationError, match="no-such"):
        BlockTarget.file(tmp_path / "no-such")
    with pytest.raises(ConfigurationError, match="cache mode"):
        BlockTarget.file(tmp_path, cache="none")  # type: ignore[arg-type]


def test_a_python_backend_answers_in_batches_and_from_other_threads() -> None:
    batches: list[list[BlockRequest]] = []
    store = bytearray(DISK)

    def answer(requests: list[BlockRequest]) -> None:
        batches.append(requests)
        thread = threading.Thread(target=finish, args=(requests,))
        thread.start()

    def finish(requests: list[BlockRequest]) -> None:
        for request in reversed(requests):
            place = slice(request.offset, request.offset + request.size)
            if request.kind == "write":
                assert request.data.readonly
                store[place] = request.data
            elif request.kind == "read":
                request.data[:] = store[place]
            request.complete()

    with Guest(BlockHandler(BlockTarget.python(answer, DISK)), features=ALL, start=False) as guest:
        # In pieces: what Python sees is contiguous all the same.
        guest.driver.add([header(OUT, 0), b"a" * 300, b"b" * 212], [1])
        guest.driver.add([header(OUT, 1), b"c" * 512], [1])
        guest.driver.publish()
        guest.queue.start()
        guest.collect(2)
        assert bytes(store[:1024]) == b"a" * 300 + b"b" * 212 + b"c" * 512
        assert [len(batch) for batch in batches] == [2]
        assert guest.ask([header(IN, 0)], [1000, 24, 1])[0] == bytes(store[:1024]) + b"\0"
        for request in batches[0]:
            with pytest.raises(ConfigurationError, match="answered before"):
                request.complete()
            with pytest.raises(ConfigurationError, match="answered before"):
                _ = request.data
            assert "answered" in repr(request)


@pytest.mark.parametrize(
    ("error", "status"), [(None, 0), ("io", 1), ("unsupported", 2), ("dropped", 1), ("raised", 1)]
)
def test_how_a_python_backend_fails(
    error: Literal["io", "unsupported", "dropped", "raised"] | None,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(requests: list[BlockRequest]) -> None:
        if error == "raised":
            raise RuntimeError("backend")
        if error != "dropped":
            with pytest.raises(ConfigurationError, match="neither"):
                requests[0].complete("other")  # type: ignore[arg-type]
            requests[0].complete(error)

    with Guest(BlockHandler(BlockTarget.python(answer, DISK)), features=ALL) as guest:
        assert guest.ask([header(OUT, 0), bytes(512)], [1])[0] == bytes([status])
        assert not guest.faults
    assert ("backend raised" in caplog.text) == (error == "raised")


def test_requests_that_are_no_requests_break_the_queue() -> None:
    with Guest(BlockHandler(BlockTarget.memory(DISK)), features=ALL) as guest:
        guest.driver.add([b"short"], [1])
        guest.publish()
        assert guest.fault.wait(10)
        assert guest.faults[0].clause.startswith("5")
        wait(lambda: guest.queue.broken)
