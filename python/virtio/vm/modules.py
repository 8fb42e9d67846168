"""Kernel modules: which of them drive a virtio device, and in what order they are loaded.

Read from the modules themselves, because a tree that was unpacked and not installed has no ``modules.dep``.
"""

import lzma
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from virtio.errors import ConfigurationError

_SUFFIXES = (".ko", ".ko.xz")


class ModuleTree:
    """The modules below one directory, such as ``/lib/modules/6.1.0-1-amd64``."""

    def __init__(self, root: Path) -> None:
        """Look below ``root``."""
        self.root = root

    @cached_property
    def _paths(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for suffix in _SUFFIXES:
            for path in self.root.rglob("*" + suffix):
                found[_canonical(path.name.removesuffix(suffix))] = path
        return found

    def __contains__(self, name: str) -> bool:
        """Tell whether ``name`` is a module here; if not, it may be built into the kernel."""
        return _canonical(name) in self._paths

    def read(self, name: str) -> bytes:
        """Return the module itself, uncompressed."""
        try:
            path = self._paths[_canonical(name)]
        except KeyError:
            raise ConfigurationError(f"no kernel module {name} below {self.root}") from None
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def in_load_order(self, names: Iterable[str]) -> list[str]:
        """Return ``names`` and all that they depend on, each after what it needs."""
        order: list[str] = []
        for name in names:
            self._visit(_canonical(name), order)
        return order

    def _visit(self, name: str, order: list[str]) -> None:
        if name in order:
            return
        for needed in modinfo(self.read(name), "depends"):
            for dependency in filter(None, needed.split(",")):
                if dependency in self:
                    self._visit(_canonical(dependency), order)
        order.append(name)

    def driver_of(self, device_id: int) -> str | None:
        """Return the module that claims a virtio device id; None if none here does."""
        alias = f"virtio:d{device_id:08X}v*"
        for name in self._virtio_modules:
            if alias in modinfo(self.read(name), "alias"):
                return name
        return None

    @cached_property
    def _virtio_modules(self) -> list[str]:
        # Every virtio driver has "virt" in its name, and reading all modules of a distribution is slow.
        return sorted(name for name in self._paths if "virt" in name)


def modinfo(module: bytes, key: str) -> list[str]:
    """Return the values of ``key`` in a module's ``.modinfo``, a list of strings ``key=value``."""
    return [match.decode() for match in re.findall(rb"(?<=\0)%s=([^\0]*)\0" % key.encode(), module)]


def _canonical(name: str) -> str:
    return name.replace("-", "_")
