"""Guests without devices: what a command's result is, and that nothing is left of them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.vm import Guest, GuestError, Monitor
from virtio.vm.kernel import qemu_kernel, uml_kernel

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]


def needs(monitor: Monitor) -> None:
    try:
        uml_kernel() if monitor == "uml" else qemu_kernel()
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["uml", "qemu"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    needs(request.param)
    with Guest(monitor=request.param, programs=["debugfs"], timeout=100) as guest:
        yield guest


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_output_and_status_are_the_commands(guest: Guest) -> None:
    assert guest.run("echo out; echo error >&2; exit 7") == (7, "out\nerror\n")
    assert guest.run("true") == (0, "")


def test_output_arrives_byte_for_byte(guest: Guest) -> None:
    # What a terminal would change: line ends, control characters, a missing last newline.
    assert guest.run(r"printf 'a\r\nb\tc\004\003\033[0m'") == (0, "a\r\nb\tc\x04\x03\x1b[0m")


def test_long_scripts_and_long_output(guest: Guest) -> None:
    words = " ".join(f"w{index}" for index in range(3000))
    assert guest.check(f"for word in {words}; do echo $word; done").split() == words.split()


def test_a_script_cannot_read_the_consoles_commands(guest: Guest) -> None:
    assert guest.run("cat") == (0, "")
    assert guest.run("echo still here") == (0, "still here\n")


def test_a_real_kernel_runs(guest: Guest) -> None:
    assert guest.check("uname -s -r").startswith("Linux ")
    # A program of the host with shared libraries, and the file system tools that come along by themselves.
    assert "debugfs 1." in guest.check("debugfs -V")
    assert "1." in guest.check("/sbin/mkfs.ext4 -V")


def test_a_failed_check_shows_the_output(guest: Guest) -> None:
    with pytest.raises(GuestError, match="ended with status 3") as caught:
        guest.check("echo because; exit 3")
    assert caught.value.console == "because"


def test_a_command_that_takes_too_long_is_an_error() -> None:
    needs("uml")
    with Guest(monitor="uml", timeout=60) as guest, pytest.raises(GuestError, match="did not answer"):
        guest.run("sleep 30", timeout=0.3)


@pytest.mark.parametrize("monitor", ["uml", "qemu"])
def test_a_killed_guest_leaves_nothing(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(monitor)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared_memory = set(Path("/dev/shm").iterdir())
    guest = Guest(monitor=monitor, timeout=60)
    assert processes_with(str(tmp_path))
    guest.kill()
    deadline = time.monotonic() + 5
    while processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) <= shared_memory
    with pytest.raises(ConfigurationError, match="closed"):
        guest.run("true")


def test_uml_has_one_cpu() -> None:
    needs("uml")
    with pytest.raises(ConfigurationError, match="one CPU"):
        Guest(monitor="uml", cpus=2)


def test_a_missing_program_is_named() -> None:
    needs("uml")
    with pytest.raises(ConfigurationError, match="no program no-such-program"):
        Guest(monitor="uml", programs=["no-such-program"])


def test_a_device_that_does_not_answer_ends_the_boot(tmp_path: Path) -> None:
    needs("qemu")
    from virtio.vm import Attachment

    with pytest.raises(GuestError, match=r"ended before it was done(.|\n)*No such file"):
        Guest([Attachment(2, tmp_path / "nobody.sock")], monitor="qemu", timeout=30)
