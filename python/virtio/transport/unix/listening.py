"""Whether somebody listens at a path.

A server has its socket's file a moment before it listens, and some move the file to its place when they do:
so neither the file nor the name in /proc/net/unix tells. The kernel knows listening sockets by inode
(sock_diag(7)).
"""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_TCP_LISTEN = 10
_UDIAG_SHOW_VFS = 2
_UNIX_DIAG_VFS = 1
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ANSWER_SIZE = 16
_ATTRIBUTE = struct.Struct("=HH")


def listening(path: Path) -> bool:
    """Whether a connection to the socket at ``path`` would be taken."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
    try:
        return (found.st_ino & 0xFFFF_FFFF, device) in set(_listeners())
    except OSError:  # a kernel or container without sock_diag
        return path.is_socket()


def _listeners() -> Iterator[tuple[int, int]]:
    """Inode (its lower half) and device of all Unix sockets that listen, in this network namespace."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as kernel:
        none = 0xFFFF_FFFF
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _TCP_LISTEN, 0, _UDIAG_SHOW_VFS, none, none)
        kernel.send(
            _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request
        )
        while True:
            data = kernel.recv(1 << 17)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", data, _HEADER.size)[0], "sock_diag")
                yield from _places(data[_HEADER.size + _ANSWER_SIZE : size])
                data = data[_aligned(size) :]


def _places(attributes: bytes) -> Iterator[tuple[int, int]]:
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _UNIX_DIAG_VFS:
            yield struct.unpack_from("=II", attributes, _ATTRIBUTE.size)
        attributes = attributes[_aligned(size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3
