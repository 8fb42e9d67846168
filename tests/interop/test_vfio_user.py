"""A PCI function of ours in an unmodified guest: its firmware, its kernel and its lspci see a virtio card."""

import dataclasses
import hashlib
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtio
from virtio.errors import ConfigurationError
from virtio.spec.core import F
from virtio.transport import vfio_user
from virtio.transport.pci import Layout, PciFunction, SharedMemory
from virtio.transport.relayed import RelayedDevice
from virtio.vm import Guest, Hardware
from virtio.vm.boot import attachment
from virtio.vm.initramfs import find_program
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def qemu(needs: Needs) -> None:
    needs("qemu")
    try:
        vfio_user_program()
    except ConfigurationError as error:
        pytest.skip(str(error))
    if find_program("lspci") is None:
        pytest.skip("no lspci here: apt-get install pciutils")


@dataclasses.dataclass(frozen=True)
class Machine:
    """One way to meet a function."""

    name: str
    packed: bool = True
    queues: int = 1
    cpus: int = 1
    msix: bool = True
    hardware: Hardware = dataclasses.field(default_factory=Hardware)
    layout: Layout = dataclasses.field(default_factory=Layout)
    shared_memory: int = 0
    """Bytes of a shared memory region; 0: none."""

    def __str__(self) -> str:
        return self.name


MACHINES = [
    Machine("q35-packed"),
    Machine("pc-split-intx", packed=False, msix=False, hardware=Hardware(board="pc", append="pci=nomsi")),
    Machine("no-shared-memory", hardware=Hardware(shared_memory=False)),
    Machine("root-port-packed-four-queues", queues=4, cpus=4, hardware=Hardware(root_ports=True)),
]
MORE_MACHINES = [
    Machine("q35-split-four-queues", packed=False, queues=4, cpus=4),
    Machine("pc-split", packed=False, hardware=Hardware(board="pc")),
    Machine("pc-packed-four-queues", queues=4, cpus=4, hardware=Hardware(board="pc")),
    Machine("q35-packed-intx", msix=False, hardware=Hardware(append="pci=nomsi")),
    Machine(
        "q35-notifications-mapped", queues=2, cpus=2, layout=Layout(notify_mapped=True), shared_memory=MIB
    ),
]


@dataclasses.dataclass
class Card:
    machine: Machine
    guest: Guest
    disk: virtio.BlockDevice
    image: Path
    contents: bytes
    function: PciFunction


@pytest.fixture(
    scope="module",
    params=[*MACHINES, *(pytest.param(machine, marks=pytest.mark.slow) for machine in MORE_MACHINES)],
    ids=str,
)
def card(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Card]:
    machine: Machine = request.param
    image = tmp_path_factory.mktemp("card") / "disk.img"
    contents = random.Random(5).randbytes(2 * MIB)
    image.write_bytes(contents.ljust(16 * MIB, b"\0"))
    disk = virtio.BlockDevice(image, queues=machine.queues, mask="" if machine.packed else "RING_PACKED")
    shared = _shared(machine.shared_memory)
    function = PciFunction(RelayedDevice(disk), layout=machine.layout, shared_memory=shared)
    try:
        with (
            vfio_user.start(function, f"{image.parent / 'card.sock'}"),
            Guest(
                [attachment(disk, image.parent / "card.sock", "vfio-user")],
                programs=["lspci"],
                cpus=machine.cpus,
                hardware=machine.hardware,
                timeout=100,
            ) as guest,
        ):
            yield Card(machine, guest, disk, image, contents, function)
    finally:
        disk.close()
        for memory in shared:
            os.close(memory.fd)


def _shared(size: int) -> list[SharedMemory]:
    if not size:
        return []
    fd = os.memfd_create("shared", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return [SharedMemory(0, fd, size)]


def address(guest: Guest) -> str:
    """Where the function is, for sysfs."""
    return guest.check("basename $(readlink -f /sys/bus/virtio/devices/virtio0/..)").strip()


def test_the_kernel_takes_what_is_offered(card: Card) -> None:
    taken = card.disk.negotiated_features
    assert bool(taken & F.RING_PACKED) is card.machine.packed
    assert len([queue for queue in card.disk.queues if queue.running]) == card.machine.queues


def test_the_interrupts_are_of_the_kind_that_the_machine_has(card: Card) -> None:
    lines = card.guest.check("grep virtio0 /proc/interrupts").splitlines()
    if card.machine.msix:
        assert len(lines) == card.machine.queues + 1
        assert all("PCI-MSI" in line for line in lines)
    else:
        assert len(lines) == 1
        assert "IO-APIC" in lines[0]


def test_what_is_read_and_written_is_in_the_image(card: Card) -> None:
    found = card.guest.check(f"head -c {len(card.contents)} /dev/vda | sha256sum").split()[0]
    expected = card.guest.check(
        "dd if=/dev/urandom of=/tmp/piece bs=64k count=4 2>/dev/null; sha256sum /tmp/piece"
    )
    card.guest.check("dd if=/tmp/piece of=/dev/vda bs=64k seek=64 2>/dev/null; sync")
    import hashlib

    assert found == hashlib.sha256(card.contents).hexdigest()
    written = card.image.read_bytes()[64 * 65536 : 68 * 65536]
    assert hashlib.sha256(written).hexdigest() == expected.split()[0]


def test_pciutils_in_the_guest_says_what_we_say(card: Card) -> None:
    theirs = _paragraphs(card.guest.check("lspci -vv -d 1af4: 2>/dev/null"))
    ours = _paragraphs(card.function.lspci())
    assert {name for name in ours if name.startswith("Region")} == {
        name for name in theirs if name.startswith("Region")
    }
    places = [name for name in ours if name.startswith("Capabilities: [")]
    assert len(places) > 6
    for place in places:
        if "Express" in place and not card.machine.hardware.root_ports:
            continue  # QEMU hides it on pc, and without a root port it makes an integrated endpoint of it
        # pciutils has no name for these.
        known = re.sub("VirtIO: (PciCfg|SharedMemory)", "VirtIO: <unknown>", place)
        assert known in theirs
        lines = [line.removesuffix(" id=0") for line in ours[place]]  # nor does it tell regions apart
        assert lines == theirs[known][: len(lines)]


def _paragraphs(text: str) -> dict[str, list[str]]:
    """The lines of a description, each with those that are indented more."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("\t\t"):
            found[next(reversed(found))].append(line.strip())
        elif line.startswith("\t"):
            found[line.strip()] = []
    return found


def test_the_driver_can_be_taken_off_and_put_back(card: Card) -> None:
    where = "/sys/bus/pci/drivers/virtio-pci"
    function = address(card.guest)
    card.guest.check(f"echo {function} > {where}/unbind; test ! -e /dev/vda")
    assert not any(queue.running for queue in card.disk.queues)
    card.guest.check(f"echo {function} > {where}/bind; head -c 4096 /dev/vda | cmp -n 4096 - /dev/vda")


def test_the_function_can_be_reset(card: Card) -> None:
    """FLR, by sysfs, while no driver has it."""
    where = "/sys/bus/pci/drivers/virtio-pci"
    function = address(card.guest)
    methods = card.guest.check(f"cat /sys/bus/pci/devices/{function}/reset_method").split()
    if card.machine.hardware.board == "q35":
        assert "flr" in methods
    card.guest.check(
        f"echo {function} > {where}/unbind; echo 1 > /sys/bus/pci/devices/{function}/reset;"
        f"echo {function} > {where}/bind"
    )
    found = card.guest.check(f"head -c {len(card.contents)} /dev/vda | sha256sum").split()[0]
    assert found == hashlib.sha256(card.contents).hexdigest()
