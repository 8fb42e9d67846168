"""Migration, version 2: a device that is stopped, its state as a stream of bytes, and back."""

import errno
import logging

from virtio.errors import Error
from virtio.transport.vfio_user.function import Function, Movable
from virtio.transport.vfio_user.messages import MIGRATION_STOP_COPY, MigrationState
from virtio.transport.vfio_user.payloads import DeviceState, MigrationData, pack_count
from virtio.transport.vfio_user.refusal import Refusal, invalid

_log = logging.getLogger("virtio.transport.vfio_user")

_S = MigrationState
_PATHS: dict[tuple[MigrationState, MigrationState], tuple[MigrationState, ...]] = {
    (_S.RUNNING, _S.STOP): (_S.STOP,),
    (_S.RUNNING, _S.STOP_COPY): (_S.STOP, _S.STOP_COPY),
    (_S.RUNNING, _S.RESUMING): (_S.STOP, _S.RESUMING),
    (_S.STOP, _S.RUNNING): (_S.RUNNING,),
    (_S.STOP, _S.STOP_COPY): (_S.STOP_COPY,),
    (_S.STOP, _S.RESUMING): (_S.RESUMING,),
    (_S.STOP_COPY, _S.STOP): (_S.STOP,),
    (_S.STOP_COPY, _S.RUNNING): (_S.STOP, _S.RUNNING),
    (_S.STOP_COPY, _S.RESUMING): (_S.STOP, _S.RESUMING),
    (_S.RESUMING, _S.STOP): (_S.STOP,),
    (_S.RESUMING, _S.RUNNING): (_S.STOP, _S.RUNNING),
    (_S.RESUMING, _S.STOP_COPY): (_S.STOP, _S.STOP_COPY),
}
"""The shortest way from one state to another, without a saving state on it."""

MAX_STATE = 256 << 20
"""Bytes of state that are taken in."""


class Migration:
    """The state of one device's migration."""

    def __init__(self, function: Function) -> None:
        """Begin with a device that runs."""
        self._function = function
        self.state = _S.RUNNING
        self._stream = bytearray()
        self._at = 0

    @property
    def stopped(self) -> bool:
        """Whether the device may do nothing."""
        return self.state is not _S.RUNNING

    @property
    def possible(self) -> bool:
        """Whether the function can be moved at all."""
        return isinstance(self._function, Movable)

    @property
    def _movable(self) -> Movable:
        if not isinstance(self._function, Movable):
            raise invalid("this function cannot be moved")
        return self._function

    def support(self) -> bytes:
        """Answer to MIGRATION."""
        return pack_count(MIGRATION_STOP_COPY)

    def report(self) -> bytes:
        """Return the state."""
        return DeviceState(self.state).pack()

    def change(self, data: bytes) -> bytes:
        """Go to another state, and return which it is."""
        wanted = DeviceState.unpack(data).state
        try:
            target = MigrationState(wanted)
        except ValueError:
            raise invalid(f"there is no state {wanted}") from None
        if target is not self.state:
            path = _PATHS.get((self.state, target))
            if path is None:
                raise invalid(f"there is no way from {self.state.name} to {target.name}")
            for state in path:
                self._enter(state)
        return self.report()

    def reset(self) -> None:
        """Run again, whatever was: DEVICE_RESET ends even an error."""
        self._drop()
        if self.stopped:
            self.state = _S.RUNNING
            self._function.dma_changed()

    def read(self, payload: bytes, most: int) -> bytes:
        """Answer MIG_DATA_READ."""
        asked = MigrationData.unpack(payload)
        if self.state is not _S.STOP_COPY:
            raise invalid(f"state {self.state.name} has no data")
        if asked.argsz < MigrationData.FORM.size:
            raise invalid(f"argsz is {asked.argsz}")
        size = min(asked.size, asked.argsz - MigrationData.FORM.size, most)
        data = bytes(self._stream[self._at : self._at + size])
        self._at += len(data)
        return MigrationData(MigrationData.FORM.size + len(data), len(data)).pack() + data

    def write(self, payload: bytes) -> None:
        """Take MIG_DATA_WRITE."""
        given = MigrationData.unpack(payload)
        data = payload[MigrationData.FORM.size :]
        if self.state is not _S.RESUMING:
            raise invalid(f"state {self.state.name} takes no data")
        if given.size != len(data):
            raise invalid(f"{len(data)} bytes of data where {given.size} were said")
        if len(self._stream) + len(data) > MAX_STATE:
            raise Refusal(errno.ENOSPC, f"more than {MAX_STATE} bytes of state")
        self._stream += data

    def _enter(self, state: MigrationState) -> None:
        previous = self.state
        if state is _S.STOP and previous is _S.RUNNING:
            self._function.dma_changing()
        elif state is _S.STOP and previous is _S.RESUMING:
            self._load()
        elif state is _S.STOP_COPY:
            self._stream[:] = self._movable.save()
        elif state is _S.RUNNING:
            self.state = state
            self._function.dma_changed()
        if state is not _S.STOP_COPY:
            self._drop()
        self.state = state

    def _load(self) -> None:
        try:
            self._movable.load(bytes(self._stream))
        except Error as error:
            self.state = _S.ERROR
            self._drop()
            raise invalid(f"the state cannot be loaded: {error}") from error

    def _drop(self) -> None:
        self._stream.clear()
        self._at = 0
