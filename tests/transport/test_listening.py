"""A socket's file is there before anybody listens."""

import socket
from pathlib import Path

import pytest

from virtio.transport.unix import listening as module
from virtio.transport.unix.listening import listening


def test_a_file_is_not_yet_somebody_who_listens(tmp_path: Path) -> None:
    path, moved = tmp_path / "a.sock", tmp_path / "b.sock"
    assert not listening(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert not listening(path)
        server.listen()
        assert listening(path)
        path.rename(moved)
        assert listening(moved)
        assert not listening(path)
    assert moved.exists()
    assert not listening(moved)


def test_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not listening(tmp_path / "file")


def test_where_the_kernel_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NETLINK_SOCK_DIAG", 31)  # no such family
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert listening(path)
