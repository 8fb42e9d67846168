"""The constants in Rust are those of the tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_rust_constants_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools/generate_spec.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_rustfmt_leaves_it_alone() -> None:
    rustfmt = shutil.which("rustfmt")
    if rustfmt is None:
        pytest.skip("rustfmt is not installed")
    source = ROOT / "crates/virtqueue/src/spec.rs"
    subprocess.run([rustfmt, "--check", "--config-path", ROOT, source], check=True)
