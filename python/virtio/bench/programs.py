"""Programs of other people to compare with: the system's, and those that our tools put into the cache."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

STORAGE_DAEMON = "qemu-storage-daemon"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyvirtio"


def _output(*command: str | Path) -> str | None:
    """What a program prints, if it succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@functools.cache
def storage_daemons() -> dict[str, Path]:
    """By name and version: the system's, and a newer one that ``make peers`` has got."""
    found: dict[str, Path] = {}
    for program in (shutil.which(STORAGE_DAEMON), _cache() / "peers/bin" / STORAGE_DAEMON):
        version = re.search(r"version (\d+\.\d+)", _output(program, "--version") or "") if program else None
        if program is not None and version is not None:
            found.setdefault(f"{STORAGE_DAEMON} {version[1]}", Path(program))
    return found


@functools.cache
def fio() -> Path | None:
    """Fio with an engine for libblkio, which Debian's lacks: ``make fio`` builds one."""
    for program in (shutil.which("fio"), _cache() / "fio/bin/fio"):
        if program is not None and "libblkio_path" in (_output(program, "--enghelp=libblkio") or ""):
            return Path(program)
    return None
