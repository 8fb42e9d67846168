"""The stub file is the contract: the native module must be what it says."""

import subprocess
import sys
from pathlib import Path


def test_the_stub_and_the_module_agree() -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "virtio._native", "--concise"],
        capture_output=True,
        text=True,
        cwd=root,
        env={"MYPYPATH": str(root / "python"), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
