"""Back ends of other people, driven by the model of the rings: what they answer is what the files hold."""

import contextlib
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.transport.contract import BASIC, Ring, live

from virtio.errors import RefusedError, TransportError
from virtio.transport import open_driver_end
from virtio.transport.interface import DriverEnd
from virtio.transport.unix.listening import listening

SECTOR = 512
SECONDS = 10.0

Daemon = tuple[DriverEnd, Path, subprocess.Popen[bytes]]


def programs(name: str) -> list[Path | None]:
    """The installed program, and a newer one that tools/fetch-peers got; None stands for nothing at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    found = [shutil.which(name), shutil.which(name, path="/usr/libexec"), cache / "pyvirtio/peers/bin" / name]
    return [Path(path) for path in found if path is not None and Path(path).is_file()] or [None]


@contextlib.contextmanager
def running(arguments: Sequence[str | Path], socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a back end until the end of the block; it is ready when it listens."""
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + SECONDS
            while not listening(socket):
                assert process.poll() is None, f"{arguments[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.fixture(params=programs("qemu-storage-daemon"), ids=str)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    if request.param is None:
        pytest.skip("qemu-storage-daemon is not installed (Debian: qemu-system-common)")
    image, socket = tmp_path / "image", tmp_path / "disk.sock"
    image.write_bytes(os.urandom(64 * SECTOR))
    node = f"driver=file,node-name=f0,filename={image}"
    export = (
        f"type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={socket},writable=on,num-queues=2"
    )
    with (
        running([request.param, "--blockdev", node, "--export", export], socket) as process,
        contextlib.closing(open_driver_end(f"vhost-user:{socket}", memory_size=1 << 20)) as end,
    ):
        yield end, image, process


def read(ring: Ring, sector: int) -> bytes:
    ring.model.enable_interrupts()
    head = ring.model.add([struct.pack("<IIQ", 0, 0, sector)], [SECTOR, 1])
    ring.model.publish()
    if ring.model.needs_kick():
        ring.kick()
    assert ring.wait() == [head]
    answer = ring.model.data(head)
    assert answer[-1] == 0
    return answer[:-1]


def write(ring: Ring, sector: int, data: bytes) -> None:
    ring.model.enable_interrupts()
    head = ring.model.add([struct.pack("<IIQ", 1, 0, sector) + data], [1])
    ring.model.publish()
    if ring.model.needs_kick():
        ring.kick()
    assert ring.wait() == [head]
    assert ring.model.data(head) == b"\0"


def test_sectors_of_the_storage_daemon(daemon: Daemon) -> None:
    end, image, _ = daemon
    assert int.from_bytes(end.read_config(0, 8), "little") == 64
    assert end.max_queues == 2
    with live(end, BASIC, [0, 1]) as rings:
        for sector in range(64):
            assert read(rings[sector % 2], sector) == image.read_bytes()[sector * SECTOR :][:SECTOR]
        data = os.urandom(SECTOR)
        write(rings[1], 7, data)
        assert read(rings[0], 7) == data
        assert image.read_bytes()[7 * SECTOR :][:SECTOR] == data


def test_queues_of_the_storage_daemon_stop_and_go_on(daemon: Daemon) -> None:
    end, image, _ = daemon
    with live(end, BASIC, [0]) as (ring,):
        for sector in range(20):
            assert read(ring, sector) == image.read_bytes()[sector * SECTOR :][:SECTOR]
            ring.start(end.stop_queue(0))
    with live(end, BASIC, [1]) as (ring,):  # after a reset
        assert read(ring, 3) == image.read_bytes()[3 * SECTOR :][:SECTOR]


def test_the_storage_daemon_takes_memory_that_is_added(daemon: Daemon) -> None:
    end, image, _ = daemon
    with live(end, BASIC, [0]) as (ring,):
        assert read(ring, 0) == image.read_bytes()[:SECTOR]
        end.memory.allocate(4 << 20)
        late = Ring(end, 1, BASIC)
        late.start()
        assert read(late, 1) == image.read_bytes()[SECTOR:][:SECTOR]
        late.close()
        end.reset()


def test_configuration_that_the_storage_daemon_does_not_have(daemon: Daemon) -> None:
    end, _, _ = daemon
    with pytest.raises(RefusedError):
        end.read_config(0, 256)
    assert int.from_bytes(end.read_config(0, 8), "little") == 64


def test_a_storage_daemon_that_is_killed(daemon: Daemon) -> None:
    end, _, process = daemon
    with live(end, BASIC, [0]) as (ring,):
        read(ring, 0)
        process.kill()
        assert ring.wire is not None
        assert select.select([ring.wire.call_fd], [], [], SECONDS)[0], "who waits is woken"
        with pytest.raises(TransportError):
            end.stop_queue(0)


@pytest.mark.parametrize("program", programs("virtiofsd"), ids=str)
def test_a_file_system_daemon(program: Path | None, tmp_path: Path) -> None:
    if program is None:
        pytest.skip("virtiofsd is not installed")
    socket, shared = tmp_path / "fs.sock", tmp_path / "shared"
    shared.mkdir()
    arguments: list[str | Path] = [
        program,
        f"--socket-path={socket}",
        f"--shared-dir={shared}",
        "--sandbox",
        "none",
        "--tag",
        "ours",
    ]
    with running(arguments, socket), contextlib.closing(open_driver_end(f"vhost-user:{socket}")) as end:
        assert end.read_config(0, 40) == b"ours".ljust(36, b"\0") + struct.pack("<I", 1)
        with live(end, BASIC, [0, 1]) as rings:
            assert fuse_init(rings[1]) == 7
            assert end.stop_queue(1) == 1
            end.reset()


def fuse_init(ring: Ring) -> int:
    """Ask for the major version of the protocol, as a kernel does first."""
    request = (
        struct.pack("<IIQQIIII", 104, 26, 1, 0, 0, 0, 0, 0)
        + struct.pack("<IIII", 7, 38, 65536, 0)
        + bytes(48)
    )
    ring.model.enable_interrupts()
    head = ring.model.add([request], [16 + 64])
    ring.model.publish()
    ring.kick()
    assert ring.wait() == [head]
    length, error, unique, major = struct.unpack_from("<IiQI", ring.model.data(head))
    assert (length, error, unique) == (80, 0, 1)
    return int(major)
