"""The client's side of migration: a function's state taken out of one server and put into another."""

from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user.client import Client
from virtio.transport.vfio_user.exchange import ViolationError
from virtio.transport.vfio_user.messages import Command, Feature, FeatureFlag, MigrationState
from virtio.transport.vfio_user.payloads import DeviceFeature, DeviceState, MigrationData

MAX_STATE = 256 << 20
"""Bytes of state that a server may hand over."""

_PIECE = 64 << 10


def change(client: Client, state: MigrationState) -> None:
    """Have the function go to another state; :exc:`~virtio.errors.RefusedError` if it does not."""
    wanted = DeviceState(state).pack()
    size = DeviceFeature.FORM.size + len(wanted)
    asked = DeviceFeature(size, FeatureFlag.SET | Feature.MIG_DEVICE_STATE).pack() + wanted
    close_all(client.call(Command.DEVICE_FEATURE, asked)[1])


def save(client: Client) -> bytes:
    """Stop the function, and return its state. It stays stopped."""
    change(client, MigrationState.STOP_COPY)
    head = MigrationData.FORM.size
    state = bytearray()
    while True:
        asked = MigrationData(head + _PIECE, _PIECE).pack()
        payload, fds = client.call(Command.MIG_DATA_READ, asked)
        close_all(fds)
        size = MigrationData.unpack(payload).size
        if size != len(payload) - head or size > _PIECE:
            raise ViolationError(f"{len(payload) - head} bytes of state where {size} were said")
        state += payload[head:]
        if len(state) > MAX_STATE:
            raise ViolationError(f"more than {MAX_STATE} bytes of state")
        if size < _PIECE:
            return bytes(state)


def load(client: Client, state: bytes) -> None:
    """Put a state into the function, and have it run."""
    change(client, MigrationState.RESUMING)
    for at in range(0, len(state), _PIECE):
        piece = state[at : at + _PIECE]
        payload = MigrationData(MigrationData.FORM.size + len(piece), len(piece)).pack() + piece
        close_all(client.call(Command.MIG_DATA_WRITE, payload)[1])
    change(client, MigrationState.RUNNING)


def resume(client: Client) -> None:
    """Have a function run again that was stopped."""
    change(client, MigrationState.RUNNING)
