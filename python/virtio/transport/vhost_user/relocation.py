"""The device's state on its way from one back end to another, the front end's side."""

import os
import select
import time

from virtio.errors import RefusedError, TransportError
from virtio.transport.vhost_user.client import Client
from virtio.transport.vhost_user.exchange import Ask, Script, ViolationError
from virtio.transport.vhost_user.frontend import FrontEnd
from virtio.transport.vhost_user.messages import NO_DESCRIPTOR, ProtocolFeature
from virtio.transport.vhost_user.payloads import StateTransfer as Parameters
from virtio.transport.vhost_user.state_transfer import StateTransfer

SAVE, LOAD = 0, 1


def save(client: Client, front: FrontEnd, timeout: float) -> bytes:
    """Have a back end save the state of its device, whose rings are stopped."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    transfer = _begin(client, front, SAVE, ours, theirs, None)
    _finish(transfer, timeout)
    client.call(_check())
    return transfer.loaded


def load(client: Client, front: FrontEnd, data: bytes, timeout: float) -> None:
    """Have a back end load the state, before it gets features and rings."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    _finish(_begin(client, front, LOAD, ours, theirs, data), timeout)
    client.call(_check())


def _begin(
    client: Client, front: FrontEnd, direction: int, ours: int, theirs: int, data: bytes | None
) -> StateTransfer:
    try:
        # The back end may know a better channel than the pipe.
        own = client.call(_transfer(front, direction, theirs))
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    if own is not None:
        os.close(ours)
        ours = own
    try:
        return StateTransfer(ours, data)
    except TransportError as error:
        raise ViolationError(str(error)) from error


def _finish(transfer: StateTransfer, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    try:
        while True:
            transfer.run()
            if transfer.finished:
                break
            poll = select.poll()
            poll.register(transfer.fd, select.POLLIN if not transfer.saving else select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TransportError(f"the device state is not through within {timeout:g} s")
    finally:
        transfer.close()
    if transfer.problem is not None:
        raise TransportError(f"the device state: {transfer.problem}")


def _transfer(front: FrontEnd, direction: int, fd: int) -> Script[int | None]:
    """Hand over a descriptor for the state; return the back end's own, if it made one."""
    if not front.has(ProtocolFeature.DEVICE_STATE):
        raise RefusedError("the back end does not move its device's state (protocol feature DEVICE_STATE)")
    answer = yield Ask("SET_DEVICE_STATE_FD", Parameters(direction, 0), (fd,))
    failed, none = answer.payload & 0xFF, bool(answer.payload & NO_DESCRIPTOR)
    if answer.payload & ~(0xFF | NO_DESCRIPTOR) or none == (answer.fd is not None):
        if answer.fd is not None:
            os.close(answer.fd)
        raise ViolationError(f"SET_DEVICE_STATE_FD answered with {answer.payload:#x}")
    if failed:
        if answer.fd is not None:
            os.close(answer.fd)
        raise RefusedError(f"the back end does not {('save', 'load')[direction]} its device's state")
    return answer.fd


def _check() -> Script[None]:
    answer = (yield Ask("CHECK_DEVICE_STATE")).payload
    if answer:
        raise RefusedError(f"the back end could not move its device's state (answer {answer:#x})")
