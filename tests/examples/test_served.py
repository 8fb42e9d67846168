"""Examples served as they are written, each a process of its own, to a front end that drives it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.machine import Machine, wait_for

from virtio.spec import block

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def served(name: str, folder: Path) -> Iterator[Path]:
    """Run an example, with the socket in ``folder`` instead of /tmp."""
    source = (EXAMPLES / name).read_text()
    assert source.count("vhost-user:/tmp/") == 1
    moved = folder / name
    moved.write_text(source.replace("vhost-user:/tmp/", f"vhost-user:{folder}/"))
    process = subprocess.Popen([sys.executable, str(moved)], stderr=subprocess.PIPE, text=True)
    socket = folder / source.split("vhost-user:/tmp/")[1].split('"')[0]
    try:
        wait_for(socket)
        yield socket
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert not socket.exists()
    finally:
        process.kill()
        process.wait()


def request(machine: Machine, kind: int, sector: int, size: int = 0, data: bytes = b"") -> tuple[int, bytes]:
    written = machine.ask(
        0,
        [block.HEADER.pack(type=kind, sector=sector), *([data] if data else [])],
        [*([size] if size else []), 1],
    )
    return written[-1], written[:-1]


def check_entropy(socket: Path) -> None:
    with Machine(socket) as machine:
        first, second = machine.ask(0, writable=[64]), machine.ask(0, writable=[32, 32])
        assert len(first) == len(second) == 64
        assert first != second


def check_console(socket: Path) -> None:
    with Machine(socket, queues=2) as machine:
        machine.ask(1, [b"hello"])
        assert machine.ask(0, writable=[64]) == b"HELLO"


def check_computed_disk(socket: Path) -> None:
    with Machine(socket) as machine:
        assert int.from_bytes(machine.end.get_config(0, 8), "little") == 1 << 31
        status, data = request(machine, block.T.IN, 1_000_000, 1024)
        assert status == block.S.OK
        assert data[:15] == b"sector 1000000\n"
        assert data[512:527] == b"sector 1000001\n"
        assert request(machine, block.T.OUT, 0, data=bytes(512))[0] == block.S.IOERR


CHECKS: dict[str, Callable[[Path], None]] = {
    "computed_disk.py": check_computed_disk,
    "console.py": check_console,
    "entropy.py": check_entropy,
}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_example(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as socket:
        CHECKS[name](socket)
        CHECKS[name](socket)  # and for the next front end
