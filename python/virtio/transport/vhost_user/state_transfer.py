"""The device state's way through a descriptor that the front end made (VHOST_USER_SET_DEVICE_STATE_FD).

Neither direction ever waits, whatever the descriptor is and whoever else has it: a pipe is opened anew, so
that nobody can make it block again, and a socket is told with every call.
"""

import os
import selectors
import socket
import stat

from virtio.errors import TransportError

MAX_STATE = 16 << 20
"""Bytes of a state that is loaded. Who sends more does not send the state of a device."""

_CHUNK = 64 * 1024


class StateTransfer:
    """One transfer, done in steps whenever the descriptor is ready."""

    def __init__(self, fd: int, outgoing: bytes | None) -> None:
        """Take over ``fd``, to write ``outgoing`` to it, or to read to its end."""
        self.saving = outgoing is not None
        self.problem: str | None = None
        """Why the transfer failed."""
        self._data = bytearray(outgoing or b"")
        self._socket: socket.socket | None = None
        self._fd = -1
        try:
            self._open(fd)
        finally:
            os.close(fd)

    @property
    def finished(self) -> bool:
        """Whether all was written, or read, or nothing will be any more."""
        return self._fd < 0

    @property
    def fd(self) -> int:
        """What to wait for; -1 when it is finished."""
        return self._fd

    @property
    def events(self) -> int:
        """For what to wait."""
        return selectors.EVENT_WRITE if self.saving else selectors.EVENT_READ

    @property
    def loaded(self) -> bytes:
        """What was read."""
        return bytes(self._data)

    def step(self) -> bool:
        """Do what can be done at once, but not without end; tell whether there may be more at once."""
        if self.finished:
            return False
        try:
            moved = self._write() if self.saving else self._read()
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        return moved and not self.finished

    def run(self) -> None:
        """Do all that can be done without waiting."""
        while self.step():
            pass

    def close(self) -> None:
        """Let go of the descriptor; for what was written, this says that it was all."""
        if self._fd >= 0:
            if self._socket is not None:
                self._socket.close()
            else:
                os.close(self._fd)
            self._fd, self._socket = -1, None

    def _open(self, fd: int) -> None:
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
        elif stat.S_ISFIFO(kind):
            flags = os.O_WRONLY if self.saving else os.O_RDONLY
            try:
                self._fd = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise TransportError(f"the pipe for the device state: {error.strerror}") from error
        elif stat.S_ISREG(kind):
            self._fd = os.dup(fd)
        else:
            raise TransportError("the device state goes through a pipe, a socket or a file")

    def _write(self) -> bool:
        piece = memoryview(self._data)[:_CHUNK]
        try:
            if self._socket is not None:
                sent = self._socket.send(piece, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                sent = os.write(self._fd, piece) if piece else 0
        finally:
            piece.release()
        del self._data[:sent]
        if not self._data:
            self.close()
        return True

    def _read(self) -> bool:
        if self._socket is not None:
            piece = self._socket.recv(_CHUNK, socket.MSG_DONTWAIT)
        else:
            piece = os.read(self._fd, _CHUNK)
        self._data += piece
        if not piece:
            self.close()
        elif len(self._data) > MAX_STATE:
            self._data.clear()
            self._fail(f"more than {MAX_STATE} bytes of device state")
        return True

    def _fail(self, reason: str) -> None:
        self.problem = reason
        self.close()
