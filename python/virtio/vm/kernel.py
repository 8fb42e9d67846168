"""Kernels to boot, and where their modules are."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.vm.modules import ModuleTree

_UML_MODULES = Path("/usr/lib/uml/modules")


@dataclass(frozen=True)
class Kernel:
    """A kernel image, and the modules that were built with it."""

    image: Path
    modules: ModuleTree


def cache_directory() -> Path:
    """Return where kernels for guests are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyvirtio"


def uml_kernel(image: Path | None = None) -> Kernel:
    """Return User Mode Linux, which is a kernel and its machine in one program."""
    found = image or _program("linux.uml")
    if found is None:
        raise ConfigurationError("no User Mode Linux here: apt-get install user-mode-linux")
    release = subprocess.run(
        [found, "--version"],
        capture_output=True,
        text=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
        check=False,
    ).stdout.strip()
    # Those of a UML that is not the system's are beside it, as bin/ and lib/ are.
    beside = found.resolve().parent.parent / "lib/uml/modules" / release
    return Kernel(found, ModuleTree(beside if beside.is_dir() else _UML_MODULES / release))


def qemu_kernel(image: Path | None = None) -> Kernel:
    """Return ``image``, or the kernel in the cache, or one of the host's, with its modules."""
    if image is not None:
        if not image.is_file():
            raise ConfigurationError(f"no kernel image at {image}")
        return Kernel(image, _modules_of(image) or ModuleTree(Path("/nonexistent")))
    for candidate in _candidates():
        if os.access(candidate, os.R_OK) and (modules := _modules_of(candidate)) is not None:
            return Kernel(candidate, modules)
    raise ConfigurationError(
        "no kernel for a QEMU guest: run tools/fetch-guest-kernel, or "
        "apt-get install linux-image-cloud-amd64, or name one with --kernel"
    )


def _candidates() -> Iterator[Path]:
    for folder in (cache_directory() / "kernel/boot", Path("/boot")):
        yield from sorted(folder.glob("vmlinuz-*"), reverse=True)


def _modules_of(image: Path) -> ModuleTree | None:
    release = _release(image)
    if release is None:
        return None
    # A package unpacked to a folder of its own has boot/ and lib/modules/ beside each other.
    for root in (image.resolve().parent.parent / "lib/modules", Path("/lib/modules")):
        if (root / release).is_dir():
            return ModuleTree(root / release)
    return None


def _release(image: Path) -> str | None:
    """Read the release from the header of an x86 bzImage; a raw image has none."""
    with image.open("rb") as file:
        header = file.read(0x210)
        if header[0x202:0x206] != b"HdrS":
            return None
        file.seek(0x200 + int.from_bytes(header[0x20E:0x210], "little"))
        return file.read(256).split(b"\0")[0].split(b" ")[0].decode("ascii", "replace")


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    return None if found is None else Path(found)
