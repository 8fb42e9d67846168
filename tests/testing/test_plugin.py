"""The pytest plugin, used by small test suites of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")

DISK = """
import pytest
import virtio

@pytest.fixture
def disk(virtio_serve, virtio_connect):
    return virtio_connect(virtio_serve(virtio.BlockDevice(size=1 << 20)))
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for a test suite, whose fixtures are the plugin's."""
    pytester.makeconftest(DISK)
    return pytester


def run(suite: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(source)
    return suite.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments)


def test_a_device_and_its_driver(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import virtio

        def test_read(disk):
            disk.write(0, b"x" * 512)
            assert disk.read(0, 1) == b"x" * 512

        def test_by_memory(virtio_serve, virtio_connect):
            source = virtio_connect(virtio_serve(virtio.EntropyDevice(), "mem"))
            assert source.end.address.startswith("mem:")
            assert len(source.read(16)) == 16

        def test_in_a_process(virtio_serve_process, virtio_connect):
            back_end = virtio_serve_process("block", "null:1M")
            assert virtio_connect(back_end).capacity == 1 << 20
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_failure_shows_devices_and_logs(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import sys

        def test_wrong(disk, virtio_serve_command):
            script = "echo something to know; exec $1 -m virtio serve entropy --socket $0"
            virtio_serve_command("sh", "-c", script, "{socket}", sys.executable)
            assert disk.read(0, 1) == b"x"
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- virtio: BlockDevice at vhost-user:* -*",
            "status 0xf, features 0x*",
            "requestq*: running, 1 chains, *",
            "*- virtio: sh at vhost-user:* -*",
            "*(process *)",
            "something to know",
        ]
    )


def test_a_failed_set_up_shows_them_too(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import pytest

        @pytest.fixture
        def broken(disk):
            raise ValueError("no")

        def test_it(broken):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*- virtio: BlockDevice at vhost-user:* -*", "requestq*: running, *"])


def test_nothing_is_left_when_a_test_fails(suite: pytest.Pytester, tmp_path: Path) -> None:
    note = tmp_path / "note"
    result = run(
        suite,
        f"""
        import pathlib

        def test_wrong(disk, virtio_lab, virtio_serve_process):
            back_end = virtio_serve_process("entropy")
            pathlib.Path({str(note)!r}).write_text(f"{{virtio_lab.folder}} {{back_end.pid}}")
            assert False
        """,
    )
    result.assert_outcomes(failed=1)
    folder, pid = note.read_text().split()
    assert not Path(folder).exists()
    assert not Path("/proc", pid).exists()


def test_wider_scopes_have_labs_of_their_own(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import pytest
        import virtio

        @pytest.fixture(scope="module")
        def shared(virtio_lab_factory):
            with virtio_lab_factory() as lab:
                yield lab.connect(lab.serve(virtio.BlockDevice(size=4096)))

        def test_write(shared, disk):
            shared.write(0, b"x" * 512)
            assert disk.read(0, 1) == bytes(512)

        def test_read(shared):
            assert shared.read(0, 1) == b"x"
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.stdout.str().count("- virtio: BlockDevice at") == 1  # the other one has ended


@pytest.mark.parametrize(
    ("setting", "outcome"),
    [("", "skipped"), ("virtio_missing = skip", "skipped"), ("virtio_missing = fail", "failed")],
)
def test_what_is_not_installed(
    suite: pytest.Pytester, setting: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makeini(f"[pytest]\n{setting}\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = run(
        suite,
        """
        def test_boot(virtio_guest):
            virtio_guest()

        def test_back_end(virtio_serve_command):
            virtio_serve_command("no-such-program", "{socket}")
        """,
        "-ra",
    )
    result.assert_outcomes(**{outcome: 2})
    result.stdout.fnmatch_lines(["*no program no-such-program*"])


def test_the_device_under_test(suite: pytest.Pytester) -> None:
    source = """
        def test_it(virtio_address):
            assert virtio_address == "mem:under-test"
        """
    run(suite, source).assert_outcomes(skipped=1)
    run(suite, source, "--virtio-address", "mem:under-test").assert_outcomes(passed=1)


def test_it_can_be_turned_off(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_it(virtio_lab): pass", "-p", "no:virtio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'virtio_lab' not found*"])


def test_who_does_not_use_it_does_not_pay() -> None:
    """A run of pytest loads the plugin; that must not load what only its fixtures need."""
    script = (
        "import sys, pytest; before = set(sys.modules); import virtio.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["virtio", "virtio.errors", "virtio.pytest_plugin"]


@pytest.mark.guest
def test_a_guest(suite: pytest.Pytester, virtio_monitor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)  # pytester gives its suites another home
    result = run(
        suite,
        f"""
        import virtio

        def test_it(virtio_serve, virtio_guest):
            disk = virtio.BlockDevice(size=1 << 20)
            served = virtio_serve(disk)
            guest = virtio_guest([served, virtio.EntropyDevice()], monitor={virtio_monitor!r})
            assert guest.check("cat /sys/block/vda/size").strip() == "2048"
            assert disk.queues[0].counters.chains > 0
            guest.check("echo on the console >/dev/console; false")
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*- virtio: BlockDevice at *", f"*- virtio: console of the {virtio_monitor} guest -*"]
    )
    assert "on the console" in result.stdout.str()
