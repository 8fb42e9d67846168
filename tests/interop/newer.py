"""Peers that are newer than the system's, where ``make peers`` has got them."""

import os
from pathlib import Path

import pytest

from virtio.vm.kernel import cache_directory


def folder() -> Path:
    """Return where they are, or skip the test."""
    found = cache_directory() / "peers"
    if not (found / "complete").exists():
        pytest.skip("no newer peers here: make peers")
    return found


def kernel() -> Path:
    """Return the kernel for guests of QEMU."""
    (found,) = (folder() / "boot").glob("vmlinuz-*")
    return found


@pytest.fixture
def newer_peers(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put them before the system's programs for the time of a test."""
    found = folder()
    monkeypatch.setenv("PATH", f"{found / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return found
