"""The device's state on its way from one back end to another, the back end's side.

Loading takes two steps: CHECK_DEVICE_STATE says whether the state can be taken, and the device takes it with
the features that come afterwards.
"""

from virtio.errors import TransportError
from virtio.transport.interface import DeviceEnd
from virtio.transport.vhost_user.codec import Message
from virtio.transport.vhost_user.messages import NO_DESCRIPTOR
from virtio.transport.vhost_user.payloads import StateTransfer as Parameters
from virtio.transport.vhost_user.state_transfer import StateTransfer

_SAVE, _LOAD = 0, 1
_STOPPED = 0


class DeviceState:
    """What is saved and loaded over one connection."""

    def __init__(self, device: DeviceEnd) -> None:
        """Begin with nothing under way."""
        self.transfer: StateTransfer | None = None
        """Under way, or over and not asked about yet."""
        self._device = device
        self._loaded: bytes | None = None

    def begin(self, message: Message) -> int:
        """SET_DEVICE_STATE_FD, while all rings are stopped."""
        wanted: Parameters = message.payload
        if wanted.phase != _STOPPED or wanted.direction not in (_SAVE, _LOAD):
            raise TransportError(f"a transfer in direction {wanted.direction}, phase {wanted.phase}")
        self._drop()
        data = None
        if wanted.direction == _SAVE:
            data = self._device.save_state()
        self.transfer = StateTransfer(message.take_fd(), data)
        self.transfer.step()
        return NO_DESCRIPTOR

    def check(self) -> int:
        """CHECK_DEVICE_STATE: the front end has seen the end of the transfer, so we can get there now."""
        transfer = self.transfer
        if transfer is None:
            raise TransportError("no device state was transferred")
        transfer.run()
        finished = transfer.finished
        self._drop()
        if transfer.problem is not None:
            raise TransportError(f"the device state: {transfer.problem}")
        if not finished:
            raise TransportError("the device state is asked about before it is all there")
        if not transfer.saving:
            self._device.load_state(transfer.loaded)
            self._loaded = transfer.loaded
        return 0

    def negotiating(self) -> None:
        """Features come, for a device that was reset just now: hand it what was loaded for them."""
        data, self._loaded = self._loaded, None
        if data is not None:
            self._device.load_state(data)

    def close(self) -> None:
        """The front end is gone."""
        self._drop()

    def _drop(self) -> None:
        if self.transfer is not None:
            self.transfer.close()
            self.transfer = None
