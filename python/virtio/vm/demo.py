"""What ``virtio demo`` shows: a real kernel uses our devices, and what it did is checked from the host."""

import hashlib
import queue
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from virtio.device import features
from virtio.device.base import Device
from virtio.device.block import BlockDevice
from virtio.device.console import ConsoleDevice
from virtio.device.entropy import EntropyDevice
from virtio.errors import ConfigurationError, Error
from virtio.vm.boot import boot
from virtio.vm.guest import Guest, Monitor
from virtio.vm.initramfs import find_busybox, find_program
from virtio.vm.kernel import qemu_kernel, uml_kernel
from virtio.vm.qemu import can_attach, qemu_program

MIB = 1 << 20
DISK_SIZE = 256 * MIB
FILE_SIZE = 64 * MIB
#: The file is held in the guest's memory too, so that writing it measures the disk and not its making.
_MEMORY = 320
_RANDOM_BYTES = 64
_PROGRAMS = ("mkfs.ext4", "e2fsck", "debugfs")


class VerificationError(Error):
    """The data that came back is not the data that was written."""


class Report(Protocol):
    """Who watches the demonstration."""

    def begin(self, title: str) -> None:
        """Start a step."""

    def done(self, detail: str) -> None:
        """End the step that was started last."""


@dataclass(frozen=True)
class Traffic:
    """What one device did for its driver."""

    device: str
    features: tuple[str, ...]
    requests: int
    bytes_to_driver: int
    bytes_from_driver: int
    kicks: int
    interrupts: int


@dataclass(frozen=True)
class Outcome:
    """What was seen; rates are in bytes per second."""

    release: str
    checksum: str
    write_rate: float
    read_rate: float
    traffic: tuple[Traffic, ...]


def demonstrate(monitor: Monitor, report: Report, *, kernel: Path | None = None) -> Outcome:
    """Run all of it with one monitor. Raises if anything is not as it must be."""
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="pyvirtio-demo-") as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            file.truncate(DISK_SIZE)
        disk = BlockDevice(image, name="block", serial="pyvirtio-demo")
        devices: list[Device] = [disk]
        # QEMU before 11.1 cannot attach a console, and UML's kernel has no driver for entropy.
        console: ConsoleDevice | None = None
        if monitor == "uml" or can_attach(ConsoleDevice.spec.DEVICE.id):
            console = ConsoleDevice(heard.put, name="console")
            devices.append(console)
        if monitor == "qemu":
            devices.append(EntropyDevice(name="entropy"))
        try:
            names = ", ".join(device.type.name for device in devices)
            report.begin(f"Booting Linux, with our {names}")
            start = time.monotonic()
            with boot(devices, monitor=monitor, kernel=kernel, memory=_MEMORY, timeout=180) as guest:
                release = guest.check("uname -r").strip()
                report.done(f"Linux {release} runs after {time.monotonic() - start:.1f} s")
                if console is not None:
                    _talk(guest, console, heard, report)
                if monitor == "qemu":
                    _draw(guest, report)
                checksum, write_rate, read_rate = _use_disk(guest, report)
                traffic = tuple(_traffic(device) for device in devices)
            _check_image(image, checksum, report)
        finally:
            for device in devices:
                device.close()
    return Outcome(release, checksum, write_rate, read_rate, traffic)


def _talk(guest: Guest, console: ConsoleDevice, heard: "queue.SimpleQueue[bytes]", report: Report) -> None:
    report.begin("Talking over the console")
    # Somebody has to keep it open, since the last to close it resets its modes.
    guest.check("exec 3<>/dev/hvc0; stty raw -echo <&3; sleep 1000 <&3 >/dev/null 2>&1 &")
    guest.check("echo 'hello, host' >/dev/hvc0")
    said = b""
    while not said.endswith(b"\n"):
        try:
            said += heard.get(timeout=10)
        except queue.Empty:
            raise VerificationError(f"the guest's greeting did not arrive, only {said!r}") from None
    console.send(b"hello, guest\n", timeout=10)
    answer = guest.check("timeout 10 head -n 1 </dev/hvc0")
    if (said, answer) != (b"hello, host\n", "hello, guest\n"):
        raise VerificationError(f"the console carried {said!r} and {answer!r}")
    report.done("/dev/hvc0 carried a greeting each way")


def _draw(guest: Guest, report: Report) -> None:
    report.begin("Drawing random numbers")
    driver = guest.check("cat /sys/class/misc/hw_random/rng_current").strip()
    drawn = guest.check(f"timeout 20 head -c {_RANDOM_BYTES} /dev/hwrng | xxd -p | tr -d '\\n'")
    if not driver.startswith("virtio_rng") or len(set(bytes.fromhex(drawn))) < _RANDOM_BYTES // 4:
        raise VerificationError(f"/dev/hwrng, by {driver!r}, gave {drawn!r}")
    report.done(f"/dev/hwrng gave {_RANDOM_BYTES} bytes: {drawn[:16]}…")


def _use_disk(guest: Guest, report: Report) -> tuple[str, float, float]:
    size = FILE_SIZE // MIB
    report.begin("Making a file system on /dev/vda")
    guest.check("mkfs.ext4 -q -L pyvirtio /dev/vda && mount -t ext4 /dev/vda /mnt")
    report.done(f"ext4 on {DISK_SIZE // MIB} MiB, mounted")

    report.begin(f"Making {size} MiB of random data in the guest's memory")
    guest.check(f"dd if=/dev/urandom of=/tmp/data bs=1M count={size} 2>/dev/null")
    checksum = _sum(guest, "/tmp/data")
    report.done(f"SHA-256 {checksum[:16]}…")

    report.begin(f"Writing {size} MiB, and syncing")
    write_rate = _rate(guest, "dd if=/tmp/data of=/mnt/data bs=1M 2>/dev/null && sync")
    report.done(f"{write_rate / 1e6:.0f} MB/s, the sync included")

    report.begin("Unmounting, dropping caches, mounting again, reading")
    guest.check("umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 -o ro /dev/vda /mnt")
    read_rate = _rate(guest, "cat /mnt/data >/dev/null")
    _compare("the guest reads back", checksum, _sum(guest, "/mnt/data"))
    guest.check("umount /mnt")
    report.done(f"{read_rate / 1e6:.0f} MB/s, the same SHA-256")
    return checksum, write_rate, read_rate


def _check_image(image: Path, checksum: str, report: Report) -> None:
    report.begin("Looking at the image from the host")
    check = subprocess.run(
        [_program("e2fsck"), "-f", "-n", image], capture_output=True, text=True, timeout=60, check=False
    )
    if check.returncode != 0:
        raise VerificationError(f"e2fsck finds fault with the image:\n{check.stdout}{check.stderr}")
    copy = image.with_name("copy")
    subprocess.run(
        [_program("debugfs"), "-R", f"dump /data {copy}", image], capture_output=True, timeout=60, check=True
    )
    with copy.open("rb") as file:
        _compare("the image holds", checksum, hashlib.file_digest(file, "sha256").hexdigest())
    report.done("e2fsck finds it clean, and its copy of the file has the same SHA-256")


def _sum(guest: Guest, path: str) -> str:
    return guest.check(f"sha256sum {path}").split()[0]


def _compare(where: str, expected: str, found: str) -> None:
    if found != expected:
        raise VerificationError(f"{where} SHA-256 {found}, but {expected} was written")


def _rate(guest: Guest, command: str) -> float:
    """Return how fast the guest ran through the file, by the guest's own clock."""
    script = (
        f"read before _ </proc/uptime; {command} || exit; read after _ </proc/uptime; echo $before $after"
    )
    before, after = (float(word) for word in guest.check(script, timeout=120).split())
    return FILE_SIZE / max(after - before, 0.01)


def _traffic(device: Device) -> Traffic:
    snapshots = [snapshot for queue in device.queues if (snapshot := queue.counters) is not None]
    return Traffic(
        device=device.type.name,
        features=tuple(feature.name for feature in features.known(device.type, device.negotiated_features)),
        requests=sum(snapshot.chains for snapshot in snapshots),
        bytes_to_driver=sum(snapshot.bytes_written for snapshot in snapshots),
        bytes_from_driver=sum(snapshot.bytes_read for snapshot in snapshots),
        kicks=sum(snapshot.kicks for snapshot in snapshots),
        interrupts=sum(snapshot.interrupts for snapshot in snapshots),
    )


def available(kernel: Path | None = None) -> tuple[Sequence[Monitor], Sequence[str]]:
    """Return the monitors that can be shown here, and what the others, or all of them, lack."""
    monitors: dict[Monitor, Sequence[Callable[[], object]]] = {
        "uml": [uml_kernel],
        "qemu": [qemu_program, lambda: qemu_kernel(kernel)],
    }
    common = _lacking([find_busybox, *(partial(_program, name) for name in _PROGRAMS)])
    found: list[Monitor] = []
    lacking: list[str] = []
    for monitor, requirements in monitors.items():
        if missing := _lacking(requirements):
            lacking += missing
        elif not common:
            found.append(monitor)
    return found, list(dict.fromkeys(common + lacking))


def _lacking(requirements: Sequence[Callable[[], object]]) -> list[str]:
    """Call each and return what those that fail say."""
    reasons = []
    for requirement in requirements:
        try:
            requirement()
        except ConfigurationError as error:
            reasons.append(str(error))
    return reasons


def _program(name: str) -> Path:
    found = find_program(name)
    if found is None:
        raise ConfigurationError(f"no {name} here: apt-get install e2fsprogs")
    return found
