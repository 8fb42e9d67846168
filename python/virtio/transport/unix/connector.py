"""How a server is reached that listens on a Unix socket."""

import errno
import os
import socket
import time

from virtio.errors import ConfigurationError, TransportError

_RETRY_SECONDS = 0.02


def unanswered(question: str, seconds: float, *, first: bool) -> TransportError:
    """Return what to raise for a question without an answer, of which ``first`` was the first of all."""
    hint = "; it may have another driver, of which it takes one at a time" if first else ""
    return TransportError(f"no answer to {question} within {seconds:g} s{hint}")


def open_connection(place: str, scheme: str, timeout: float) -> socket.socket:
    """Connect to ``PATH``, ``@NAME`` or ``fd=NUMBER``."""
    if place.startswith("fd="):
        return _adopt(place)
    if not place:
        raise ConfigurationError(f"the address has no path: write {scheme}:/run/disk.sock")
    name = "\0" + place[1:] if place.startswith("@") else place
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + timeout
    try:
        connection.setblocking(False)
        while True:
            code = connection.connect_ex(name)
            if code == 0:
                return connection
            if code != errno.EAGAIN or time.monotonic() > deadline:
                break
            time.sleep(_RETRY_SECONDS)  # Too many others are waiting to be accepted.
    except OSError as error:
        connection.close()
        raise ConfigurationError(f"{place}: {error}") from error
    except BaseException:
        connection.close()
        raise
    connection.close()
    raise TransportError(f"{place}: nobody answers there: {os.strerror(code)}")


def _adopt(place: str) -> socket.socket:
    number = place.removeprefix("fd=")
    if not number.isdecimal():
        raise ConfigurationError(f"{place}: not a descriptor number")
    try:
        adopted = socket.socket(fileno=int(number))
    except OSError as error:
        raise ConfigurationError(f"{place}: not an open socket") from error
    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        adopted.detach()
        raise ConfigurationError(f"{place}: not a Unix stream socket")
    os.set_inheritable(adopted.fileno(), False)
    return adopted
