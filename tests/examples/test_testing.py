"""The example of a test bench, run by pytest as its users do."""

import subprocess
import sys
from pathlib import Path

import pytest

import virtio

EXAMPLE = Path(__file__).parents[2] / "examples" / "test_a_disk.py"


@pytest.mark.guest
def test_the_test_bench(tmp_path: Path) -> None:
    device = virtio.BlockDevice(size=1 << 20)
    address = f"vhost-user:{tmp_path}/disk.sock"
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(EXAMPLE)]
    try:
        with virtio.start(device, address):
            done = subprocess.run(
                [*line, "--virtio-address", address], capture_output=True, text=True, timeout=110, check=False
            )
    finally:
        device.close()
    # Without a monitor or qemu-storage-daemon there is less to run.
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
