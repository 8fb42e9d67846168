"""The process around a guest, shown with a shell in the guest's place: all of it always ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from virtio.vm.machine import GuestError, Machine


def shell(script: str, timeout: float | None = 20) -> Machine:
    return Machine(["/bin/sh", "-c", script], timeout=timeout)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_comes_before_a_marker_is_returned_once() -> None:
    machine = shell("printf 'one MARK two MA'; sleep 0.1; printf 'RK rest'")
    assert machine.receive_until(b"MARK", 10) == b"one "
    assert machine.receive_until(b"MARK", 10) == b" two "
    assert machine.wait(10)
    assert machine.remaining_output() == b" rest"
    assert machine.remaining_output() == b""


def test_a_sink_gets_output_as_it_comes_and_never_the_marker() -> None:
    machine = shell("printf 'prompt'; read -r line; printf ' MA MARMARK after'; read -r line")
    pieces: list[bytes] = []

    def sink(piece: bytes) -> None:
        pieces.append(piece)
        if b"".join(pieces) == b"prompt":  # was shown although more could come
            machine.send(b"go on\n")

    assert machine.receive_until(b"MARK", 10, sink) == b""
    assert b"".join(pieces) == b"prompt MA MAR"
    machine.kill()


def test_input_reaches_it() -> None:
    machine = shell('read -r line; echo "got $line."')
    machine.send(b"this\n")
    assert machine.receive_until(b".", 10) == b"got this"
    machine.kill()


def test_an_early_end_is_an_error_that_shows_the_console() -> None:
    machine = shell("echo 'Kernel panic'")
    with pytest.raises(GuestError, match="ended before it was done") as caught:
        machine.receive_until(b"ready", 10)
    assert caught.value.console == "Kernel panic"
    machine.kill()


def test_silence_is_an_error_after_the_given_time() -> None:
    machine = shell("sleep 30")
    start = time.monotonic()
    with pytest.raises(GuestError, match=r"within 0\.2 s"):
        machine.receive_until(b"ready", 0.2)
    assert time.monotonic() - start < 25
    machine.kill()


def test_the_whole_group_is_killed() -> None:
    machine = shell("sleep 30 & echo $!; wait")
    child = int(machine.receive_until(b"\n", 10))
    assert alive(child)
    machine.kill()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
    assert not machine.running


def test_helpers_do_not_outlive_a_leader_that_ends() -> None:
    machine = shell("sleep 30 >/dev/null 2>&1 </dev/null & echo $!")
    child = int(machine.receive_until(b"\n", 10))
    assert machine.wait(10)
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_it_does_not_outlive_the_process_that_started_it() -> None:
    program = (
        "import sys, time; from virtio.vm.machine import Machine;"
        "machine = Machine(['/bin/sh', '-c', 'sleep 30 & echo $!; wait']);"
        "print(machine.receive_until(b'\\n', 10).decode(), machine.pid, flush=True); time.sleep(30)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    owner.kill()  # nothing that could be caught
    owner.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in pids)


def test_the_time_limit_ends_it_without_anyone_waiting() -> None:
    machine = shell("sleep 30", timeout=0.2)
    deadline = time.monotonic() + 10
    while machine.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not machine.running
    with pytest.raises(GuestError, match=r"took longer than its 0\.2 s"):
        machine.receive_until(b"ready", 1)


def test_writing_to_one_that_has_ended_is_an_error() -> None:
    machine = shell("exit 0")
    assert machine.wait(10)
    with pytest.raises(GuestError, match="gone"):
        machine.send(b"run\n" * 100000)
