"""Archives in the "newc" form of cpio, which is what the Linux kernel unpacks as its initramfs.

The cpio program cannot make device nodes without being root; writing the few header fields can.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One member: ``mode`` has the file type's bits, as in ``stat.st_mode``."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return a directory."""
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    """Return the node of a character device."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


class Archive:
    """Collects entries; parents are added by themselves, and a path is stored once."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add one entry, and the directories above it; the first entry of a path stays."""
        for parent in _parents(entry.path):
            self._entries.setdefault(parent, directory(parent))
        self._entries.setdefault(entry.path, entry)

    def __contains__(self, path: str) -> bool:
        """Tell whether the archive holds ``path``."""
        return path in self._entries

    def to_bytes(self) -> bytes:
        """Return the archive, padded as the kernel wants it."""
        parts = [_member(inode, entry) for inode, entry in enumerate(self._entries.values(), start=1)]
        parts.append(_member(0, Entry("TRAILER!!!", 0)))
        return b"".join(parts)


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        yield "/".join(parts[:depth])


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode mode uid gid links mtime size, device's major and minor, node's, name's size, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
