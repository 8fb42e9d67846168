"""What several folders of tests need: guests, or the reason why there are none, and what they left behind."""

import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from virtio.testing.lab import MissingError, require_monitor
from virtio.vm import Monitor

# An installation for development may be older than the plugin, and not know of it.
pytest_plugins = [] if metadata.entry_points(group="pytest11", name="virtio") else ["virtio.pytest_plugin"]

Needs = Callable[[Monitor], None]


@pytest.fixture(scope="session")
def needs() -> Needs:
    """Skip the test if a monitor is not installed, with the name of its package."""

    def look(monitor: Monitor) -> None:
        try:
            require_monitor(monitor)
        except MissingError as error:
            pytest.skip(str(error))

    return look


@pytest.fixture(scope="module")
def monitor(virtio_monitor: Monitor) -> Monitor:
    """Each monitor in turn."""
    return virtio_monitor


class Traces:
    """What guests leave in the system, told by the folder that they were given for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._memory = set(Path("/dev/shm").iterdir())

    @property
    def processes(self) -> list[int]:
        """Processes that name the folder in their command line, but this one."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(self.folder) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return [pid for pid in found if pid != os.getpid()]

    def check(self) -> None:
        """Assert that nothing is left. A killed process may take a moment."""
        deadline = time.monotonic() + 5
        while self.processes and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.processes == []
        assert list(self.folder.iterdir()) == []
        assert set(Path("/dev/shm").iterdir()) <= self._memory


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traces:
    """Give all temporary files of this process and its children a folder that is watched."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return Traces(folder)
