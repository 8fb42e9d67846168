"""The command line itself: quick, and never a traceback for what a user can do."""

import os
import subprocess
import sys

import pytest

import virtio
from virtio import cli


def call(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "virtio", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **settings},
        check=False,
    )


def test_help_names_every_command() -> None:
    done = call("--help", COLUMNS="100")
    assert done.returncode == 0
    for name, line in cli.COMMANDS.items():
        assert name in done.stdout
        assert line.split(":")[0][:20] in done.stdout


def test_help_loads_no_command() -> None:
    code = (
        "import sys; from virtio.cli import run; run(['--help']); "
        "print([name for name in sys.modules if name.startswith('virtio')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "['virtio.errors', 'virtio', 'virtio.cli']"


def test_importing_is_quick() -> None:
    # Processor time: what else the machine does is not ours to answer for.
    code = "import time; a = time.process_time(); import virtio; print(time.process_time() - a)"
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    )
    assert best < 0.060


def test_version() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"virtio {virtio.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option"),
        (["serve"], "say which device"),
        (["serve", "block"], "Missing argument 'IMAGE'"),
        (["serve", "entropy"], "say where front ends connect"),
        (
            ["serve", "entropy", "--socket", "x", "--fd", "3"],
            "give one of --socket, --fd, --systemd and --vfio-user",
        ),
        (["serve", "entropy", "--fd", "99"], "descriptor 99 is not an open socket"),
        (["serve", "entropy", "--socket", "/nowhere/x"], "No such file or directory"),
        (["serve", "entropy", "--socket", "x", "--source", "/nowhere"], "no random bytes from /nowhere"),
        (["serve", "entropy", "--socket", "x", "--mask", "magic"], "has no feature 'magic'"),
        (["serve", "block", "/nowhere/disk", "--socket", "x"], "truncate -s 1G /nowhere/disk"),
        (["serve", "block", "/", "--socket", "x"], "/ is a directory"),
        (["serve", "block", "/etc/hostname", "--socket", "x", "--queues", "0"], "1 to 1024 queues"),
        (
            ["serve", "block", "/etc/hostname", "--socket", "x", "--cache", "big"],
            "Invalid value for '--cache'",
        ),
        (["serve", "console", "--socket", "x", "--size", "big"], "a size is COLSxROWS"),
        (["serve", "console", "--socket", "x", "--pty", "--stdio"], "give one of --stdio, --pty and --unix"),
        (["serve", "--python", "virtio.spec", "--socket", "x"], "say which class"),
        (["serve", "--python", "no.such:Thing", "--socket", "x"], "ModuleNotFoundError"),
        (["serve", "--python", "no_such.py:Thing", "--socket", "x"], "there is no file no_such.py"),
        (["serve", "--python", "os:getcwd", "--socket", "x"], "makes a str, not a virtio.Device"),
        (["serve", "--python", "os:sep", "--socket", "x"], "is a str, not a class of device"),
        (["serve", "--python", "virtio:Nothing", "--socket", "x"], "has no 'Nothing'"),
        (["serve", "--python", "virtio:BlockDevice", "--socket", "x"], "needs an image, or a size"),
        (["serve", "--python", "virtio:EntropyDevice", "-a", "bad=1", "--socket", "x"], "TypeError"),
        (["serve", "--python", "virtio:EntropyDevice", "block", "disk"], "serve one"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("virtio: ")
    assert err.count("\n") == 1


def test_a_reader_that_stops_reading() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "virtio", "spec", "net"], stdout=subprocess.PIPE, stderr=-1
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=30)
    assert b"Traceback" not in errors
