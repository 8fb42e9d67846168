"""``virtio vm`` and ``virtio demo`` as commands, from outside: status, output, and what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from virtio.vm import Monitor

pytestmark = [pytest.mark.guest, pytest.mark.timeout(90)]

FLAKY = '''
import virtio


class Flaky(virtio.BlockDevice):
    """A disk that fails on purpose."""

    def __init__(self):
        super().__init__(size=4 << 20)

    def read(self, sector, into):
        raise virtio.IOFailed if sector == 2048 else super().read(sector, into)
'''


def run(*arguments: str | Path, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "virtio", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )


def test_status_and_output_are_the_commands(monitor: Monitor, traces: Any, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * 4096)
    command = "head -c 4 /dev/vda; echo; cat /sys/block/vda/ro; echo on stderr >&2; exit 42"
    result = run("vm", "--vmm", monitor, "--block", f"{image},read-only", "--run", command)
    assert (result.returncode, result.stdout) == (42, "xxxx\n1\non stderr\n")
    traces.check()


def test_a_script_on_standard_input(needs: Callable[[Monitor], None], traces: Any) -> None:
    needs("uml")
    result = run("vm", "--vmm", "uml", "--block", "memory:8M", stdin="cat /sys/block/vda/size\nexit 3\n")
    assert (result.returncode, result.stdout) == (3, f"{(8 << 20) // 512}\n")
    traces.check()


def test_a_users_own_device(needs: Callable[[Monitor], None], tmp_path: Path) -> None:
    needs("uml")
    (tmp_path / "flaky.py").write_text(FLAKY)
    command = "cd /dev; dd if=vda of=/dev/null bs=4k count=1; dd if=vda of=/dev/null bs=4k skip=256 count=1"
    result = run("vm", "--vmm", "uml", "--python", f"{tmp_path}/flaky.py:Flaky", "--run", command)
    assert "1+0 records in" in result.stdout
    assert "dd: vda: Input/output error" in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cleans_up_everything(
    monitor: Monitor, traces: Any, tmp_path: Path, number: int, status: int
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    line = [sys.executable, "-m", "virtio", "vm", "--vmm", monitor, "--block", str(image)]
    if monitor == "uml":
        line += ["--console", str(tmp_path / "c.sock")]
    line += ["--run", "echo started; dd if=/dev/zero of=/dev/vda bs=4k; sleep 100"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    while (said := process.stdout.readline()) != b"started\n":
        assert said, "it ended before the guest ran"
    assert traces.processes
    # To the whole group, as a terminal does it: the guest must not see a Ctrl-C before we do.
    os.killpg(process.pid, number)
    start = time.monotonic()
    assert process.wait(timeout=20) == status
    assert time.monotonic() - start < 10
    traces.check()
    assert not (tmp_path / "c.sock").exists()


def test_the_time_limit_ends_the_guest(needs: Callable[[Monitor], None], traces: Any) -> None:
    needs("uml")
    result = run("vm", "--vmm", "uml", "--timeout", "4", "--run", "sleep 60")
    assert result.returncode == 2
    assert "took longer than its 4 s" in result.stderr
    assert "Traceback" not in result.stderr
    traces.check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block", "/no/such.img"], "no image at /no/such.img"),
        (["--block", "memory:1M,colour=red"], "unknown setting 'colour'"),
        (["--block", "memory:many"], "is not a number"),
        (["--vmm", "qemu", "--kernel", "/no/such/kernel"], "no kernel image at /no/such/kernel"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    result = run("vm", *arguments, "--run", "true")
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demonstration_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("demo")
    assert result.returncode == 2
    for package in ("busybox-static", "user-mode-linux", "qemu-system-x86"):
        assert f"apt-get install {package}" in result.stderr


def test_the_demonstration(needs: Callable[[Monitor], None], traces: Any) -> None:
    needs("uml")
    result = run("demo", "--vmm", "uml")
    assert result.returncode == 0, result.stdout + result.stderr
    for word in ("e2fsck finds it clean", "kicks per", "block negotiated", "FLUSH", "All data verified"):
        assert word in result.stdout
    traces.check()
