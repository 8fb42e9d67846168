"""Fixtures for pytest: devices, drivers and guests, that end with the test.

pytest finds this plugin by itself where the package is installed (``-p no:virtio`` turns it off). Loading it
imports next to nothing; what the fixtures need is imported by the first test that uses one.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from virtio.testing import Lab
    from virtio.testing.lab import Connect, Serve, ServeCommand, ServeProcess, StartGuest
    from virtio.vm import Monitor

LabFactory = Callable[[], AbstractContextManager["Lab"]]

_labs: pytest.StashKey[list["Lab"]] = pytest.StashKey()
"""Those that are open."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what can be set."""
    parser.getgroup("virtio").addoption(
        "--virtio-address",
        metavar="ADDRESS",
        help="the device under test, for the fixture virtio_address: vhost-user:/run/disk.sock, say",
    )
    parser.addini(
        "virtio_missing",
        "what becomes of a test whose guest or back end is not installed: skip or fail",
        default="skip",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add what can be said of devices, back ends and guests to the report of a failure."""
    report: pytest.TestReport = (yield).get_result()
    if report.failed:
        for lab in item.config.stash.get(_labs, ()):
            report.sections += [(f"virtio: {name}", text) for name, text in lab.report()]


@pytest.fixture(scope="session")
def virtio_lab_factory(pytestconfig: pytest.Config) -> LabFactory:
    """Make labs for fixtures of wider scope: ``with virtio_lab_factory() as lab: yield lab.guest(…)``."""
    from virtio.testing import Lab

    # Both end the test by an exception of their own.
    missing = pytest.fail if pytestconfig.getini("virtio_missing") == "fail" else pytest.skip
    labs = pytestconfig.stash.setdefault(_labs, [])

    @contextmanager
    def make() -> Iterator[Lab]:
        lab = Lab(on_missing=missing)
        labs.append(lab)
        try:
            yield lab
        finally:
            try:
                lab.close()
            finally:
                labs.remove(lab)

    return make


@pytest.fixture
def virtio_lab(virtio_lab_factory: LabFactory) -> Iterator["Lab"]:
    """All that a test sets up: a :class:`virtio.testing.Lab`."""
    with virtio_lab_factory() as lab:
        yield lab


@pytest.fixture
def virtio_serve(virtio_lab: "Lab") -> "Serve":
    """Serve a device of this process: ``virtio_serve(device)`` or ``virtio_serve(device, "mem")``."""
    return virtio_lab.serve


@pytest.fixture
def virtio_serve_process(virtio_lab: "Lab") -> "ServeProcess":
    """Serve a device from a process of its own: ``virtio_serve_process("block", "disk.img")``."""
    return virtio_lab.serve_process


@pytest.fixture
def virtio_serve_command(virtio_lab: "Lab") -> "ServeCommand":
    """Run any back end: ``virtio_serve_command("my-back-end", "--socket={socket}", type="block")``."""
    return virtio_lab.serve_command


@pytest.fixture
def virtio_connect(virtio_lab: "Lab") -> "Connect":
    """Connect a driver: ``virtio_connect(served)`` or ``virtio_connect("vhost-user:/a.sock", "block")``."""
    return virtio_lab.connect


@pytest.fixture
def virtio_guest(virtio_lab: "Lab") -> "StartGuest":
    """Boot a Linux guest with devices: ``virtio_guest([device], monitor="qemu")``."""
    return virtio_lab.guest


@pytest.fixture(scope="module", params=["uml", "qemu"])
def virtio_monitor(request: pytest.FixtureRequest) -> "Monitor":
    """Each monitor in turn, for tests that boot the same guest in all."""
    from virtio.testing.lab import MissingError, require_monitor

    monitor: Monitor = request.param
    try:
        require_monitor(monitor)
    except MissingError as error:
        (pytest.fail if request.config.getini("virtio_missing") == "fail" else pytest.skip)(str(error))
    return monitor


@pytest.fixture
def virtio_address(pytestconfig: pytest.Config) -> str:
    """Where the device under test is: what ``--virtio-address`` says; without it the test is skipped."""
    address: str | None = pytestconfig.getoption("--virtio-address")
    if address is None:
        pytest.skip("there is no device under test: --virtio-address")
    return address
