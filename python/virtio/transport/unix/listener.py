"""Where a server is reached: a path, an abstract name, a descriptor passed in, or one from systemd."""

import contextlib
import errno
import itertools
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from virtio.errors import ConfigurationError, TransportError

_FIRST_SYSTEMD_FD = 3
_BACKLOG = 4
_MAX_PATH = 107
_drafts = itertools.count()


@dataclass
class Listener:
    """A listening socket, or one connection that is there already."""

    socket: socket.socket
    connected: bool
    """The socket is a connection, to be served once."""
    description: str
    _file: Path | None = None
    _identity: tuple[int, int] | None = None

    def close(self) -> None:
        """Stop listening; remove the socket's file, unless somebody put another one there."""
        self.socket.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                if _identity(self._file) == self._identity:
                    self._file.unlink()
            self._file = None


def open_listener(spec: str, scheme: str) -> Listener:
    """Open what an address says: ``PATH``, ``@NAME``, ``fd=NUMBER``, ``systemd`` or ``systemd=NAME``."""
    if not spec:
        raise ConfigurationError(f"the address has no path: write {scheme}:/run/disk.sock")
    if spec.startswith("fd="):
        number = spec.removeprefix("fd=")
        if not number.isdecimal():
            raise ConfigurationError(f"fd={number}: not a descriptor number")
        return _adopt(int(number), spec)
    if spec == "systemd" or spec.startswith("systemd="):
        return _adopt(_systemd(spec.removeprefix("systemd").removeprefix("="), scheme), spec)
    if spec.startswith("@"):
        return Listener(_listen("\0" + spec[1:], spec), connected=False, description=spec)
    path = Path(spec).absolute()
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigurationError(f"{path}: a socket's path has at most {_MAX_PATH} bytes")
    _check_free(path)
    listening = _listen_at(path)
    return Listener(listening, connected=False, description=str(path), _file=path, _identity=_identity(path))


def _listen_at(path: Path) -> socket.socket:
    """Listen under another name first: whoever sees the file may connect."""
    draft = path.with_name(f".{os.getpid():x}.{next(_drafts):x}")
    if len(os.fsencode(draft)) > _MAX_PATH:
        path.unlink(missing_ok=True)
        return _listen(str(path), str(path))
    listening = _listen(str(draft), str(path))
    try:
        draft.rename(path)
    except OSError as error:
        listening.close()
        draft.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    return listening


def _listen(name: str, spec: str) -> socket.socket:
    created = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        created.bind(name)
        created.listen(_BACKLOG)
    except OSError as error:
        created.close()
        if error.errno == errno.EADDRINUSE:
            raise TransportError(f"{spec}: another server listens there") from error
        raise ConfigurationError(f"{spec}: {error.strerror or error}") from error
    return created


def _check_free(path: Path) -> None:
    """Refuse if the file is something else than the socket of a dead server, which may be replaced."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} exists and is not a socket; it is left alone")
    # A datagram socket is refused by a living stream socket for its type, by a dead one for being dead:
    # unlike a real connection this does not disturb a server that serves one client only.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    raise TransportError(f"{path}: another server listens there")


def _adopt(fd: int, spec: str) -> Listener:
    """Use a descriptor that was passed in: it now belongs to the listener."""
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigurationError(f"{spec}: descriptor {fd} is not an open socket") from error
    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        adopted.detach()
        raise ConfigurationError(f"{spec}: descriptor {fd} is not a Unix stream socket")
    adopted.setblocking(False)
    os.set_inheritable(fd, False)
    listening = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return Listener(adopted, connected=not listening, description=spec)


def _systemd(name: str, scheme: str) -> int:
    """Find a socket that systemd passed in: the only one, or the one of that name (FileDescriptorName=)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise ConfigurationError("systemd passed no sockets to this process (LISTEN_PID)")
    try:
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError:
        count = 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if name:
        found = [index for index in range(count) if index < len(names) and names[index] == name]
        if len(found) != 1:
            raise ConfigurationError(f"systemd passed {len(found)} sockets with the name {name!r}")
        return _FIRST_SYSTEMD_FD + found[0]
    if count != 1:
        raise ConfigurationError(f"systemd passed {count} sockets; say which one: {scheme}:systemd=NAME")
    return _FIRST_SYSTEMD_FD


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
