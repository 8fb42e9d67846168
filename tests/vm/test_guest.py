"""Guests without devices: what a command's result is, and that nothing is left of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from virtio.errors import ConfigurationError
from virtio.vm import Attachment, Guest, GuestError, Monitor

Needs = Callable[[Monitor], None]

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def guest(monitor: Monitor) -> Iterator[Guest]:
    with Guest(monitor=monitor, programs=["debugfs"], timeout=100) as guest:
        yield guest


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


def test_a_guest_that_is_slow_to_answer_is_spoken_to_again(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtio.vm.guest._PATIENCE", 0.001)
    for number in range(5):
        assert guest.run(f"echo {number}; exit {number}") == (number, f"{number}\n")


def test_a_real_kernel_runs(guest: Guest) -> None:
    assert guest.check("uname -s -r").startswith("Linux ")
    # A program of the host with shared libraries, and the file system tools that come along by themselves.
    assert "debugfs 1." in guest.check("debugfs -V")
    assert "1." in guest.check("/sbin/mkfs.ext4 -V")


def test_a_failed_check_shows_the_output(guest: Guest) -> None:
    with pytest.raises(GuestError, match="ended with status 3") as caught:
        guest.check("echo because; exit 3")
    assert caught.value.console == "because"


def test_a_command_that_takes_too_long_is_an_error(needs: Needs) -> None:
    needs("uml")
    with Guest(monitor="uml", timeout=60) as guest, pytest.raises(GuestError, match="did not answer"):
        guest.run("sleep 30", timeout=0.3)


def test_a_killed_guest_leaves_nothing(monitor: Monitor, traces: Any) -> None:
    guest = Guest(monitor=monitor, timeout=60)
    assert traces.processes
    guest.kill()
    traces.check()
    with pytest.raises(ConfigurationError, match="closed"):
        guest.run("true")


def test_uml_has_one_cpu(needs: Needs) -> None:
    needs("uml")
    with pytest.raises(ConfigurationError, match="one CPU"):
        Guest(monitor="uml", cpus=2)


def test_a_missing_program_is_named(needs: Needs) -> None:
    needs("uml")
    with pytest.raises(ConfigurationError, match="no program no-such-program"):
        Guest(monitor="uml", programs=["no-such-program"])


def test_a_device_that_does_not_answer_ends_the_boot(needs: Needs, tmp_path: Path) -> None:
    needs("qemu")
    with pytest.raises(GuestError, match=r"ended before it was done(.|\n)*No such file"):
        Guest([Attachment(2, tmp_path / "nobody.sock")], monitor="qemu", timeout=30)
