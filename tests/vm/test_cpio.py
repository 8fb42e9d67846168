"""Archives are read back by another implementation: busybox's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from virtio.vm import cpio


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs the package busybox-static")
def test_another_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    archive = cpio.Archive()
    archive.add(cpio.file("a/b/text", b"odd"))
    archive.add(cpio.file("a/b/run", b"#!/bin/sh\n", executable=True))
    archive.add(cpio.symlink("a/link", "b/text"))
    archive.add(cpio.file("empty", b""))
    subprocess.run(
        ["busybox", "cpio", "-i", "-d"], cwd=tmp_path, input=archive.to_bytes(), check=True, timeout=10
    )
    assert (tmp_path / "a/b/text").read_bytes() == b"odd"
    assert (tmp_path / "a/b/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/link").resolve() == tmp_path / "a/b/text"
    assert (tmp_path / "empty").read_bytes() == b""


def test_the_first_entry_of_a_path_stays() -> None:
    archive = cpio.Archive()
    archive.add(cpio.file("bin/tool", b"first"))
    archive.add(cpio.file("bin/tool", b"second"))
    packed = archive.to_bytes()
    assert b"first" in packed
    assert b"second" not in packed
    assert "bin" in archive


def test_members_and_names_are_aligned() -> None:
    archive = cpio.Archive()
    for length in range(9):
        archive.add(cpio.file("n" * (length + 1), b"d" * length))
    packed = archive.to_bytes()
    starts = [index for index in range(len(packed)) if packed.startswith(b"070701", index)]
    assert len(starts) == 9 + 1
    assert all(start % 4 == 0 for start in starts)


def test_a_device_node_carries_its_numbers() -> None:
    archive = cpio.Archive()
    archive.add(cpio.character_device("console", 5, 1))
    header = archive.to_bytes()[:110]
    fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
    assert fields[1] == 0o020600
    assert fields[9:11] == [5, 1]
