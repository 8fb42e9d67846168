"""The guest's root: static busybox, an init that obeys the host, modules, some of the host's programs."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.vm import cpio
from virtio.vm.modules import ModuleTree

#: Taken along where the host has them. busybox's own mke2fs makes ext2 only.
OPTIONAL_PROGRAMS = ("mkfs.ext4", "e2fsck", "resize2fs")


def build(
    *,
    token: str,
    modules: ModuleTree,
    load: Iterable[str],
    programs: Iterable[str] = (),
    optional_programs: Iterable[str] = OPTIONAL_PROGRAMS,
) -> bytes:
    """Return an initramfs.

    ``token`` begins each line by which init speaks to the host; ``load`` names the modules to load, without
    what they depend on; ``programs`` are looked up on the host and come with their shared libraries.
    """
    archive = cpio.Archive()
    for path in ("proc", "sys", "dev", "run", "tmp", "root", "mnt"):
        archive.add(cpio.directory(path))
    # The kernel opens these for init before anything is mounted.
    archive.add(cpio.character_device("dev/console", 5, 1))
    archive.add(cpio.character_device("dev/null", 1, 3))
    for program in programs:
        if (found := find_program(program)) is None:
            raise ConfigurationError(f"no program {program} on this host to put into the guest")
        _add_program(archive, program, found)
    for program in optional_programs:
        if (found := find_program(program)) is not None:
            _add_program(archive, program, found)
    _add_busybox(archive)
    order = modules.in_load_order(load)
    for name in order:
        archive.add(cpio.file(f"lib/modules/{name}.ko", modules.read(name)))
    archive.add(cpio.file("etc/modules", "".join(f"{name}\n" for name in order).encode()))
    archive.add(cpio.file("etc/token", token.encode()))
    init = resources.files("virtio.vm").joinpath("init.sh").read_bytes()
    archive.add(cpio.file("init", init, executable=True))
    lease = resources.files("virtio.vm").joinpath("lease.sh").read_bytes()
    archive.add(cpio.file("etc/udhcpc/default.script", lease, executable=True))
    return archive.to_bytes()


def find_program(program: str) -> Path | None:
    """Return a program of the host; those for file systems are often not on an unprivileged user's path."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return None if found is None else Path(found)


def find_busybox() -> Path:
    """Return the host's busybox, which has to do without shared libraries."""
    busybox = find_program("busybox")
    if busybox is None or _libraries(busybox):
        raise ConfigurationError("no static busybox here: apt-get install busybox-static")
    return busybox


def _add_busybox(archive: cpio.Archive) -> None:
    busybox = find_busybox()
    archive.add(cpio.file("bin/busybox", busybox.read_bytes(), executable=True))
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=10, check=True)
    for applet in listing.stdout.split():
        archive.add(cpio.symlink(f"bin/{applet}", "busybox"))


def _add_program(archive: cpio.Archive, name: str, path: Path) -> None:
    archive.add(cpio.file(f"sbin/{name}", path.read_bytes(), executable=True))
    for library in _libraries(path):
        archive.add(cpio.file(str(library).lstrip("/"), library.read_bytes(), executable=True))


def _libraries(path: Path) -> list[Path]:
    """Return the shared libraries that ``path`` is loaded with, the dynamic loader among them."""
    listing = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=10, check=False)
    if "not found" in listing.stdout:
        raise ConfigurationError(f"{path} lacks a library: {listing.stdout.strip()}")
    return [Path(found) for found in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listing.stdout, re.MULTILINE)]
