"""A connection of a client, as a state machine: messages in, a function driven, answers out.

No sockets, no threads, no clocks of its own. All calls come from one thread; other threads that want to reach
the client's memory by messages post a notice, which comes back through :meth:`Session.notice`.

Whatever a client sends that cannot be done is logged and refused with an error number. The connection is
closed only where the next message cannot be found, or where there can be no understanding.

Memory comes and goes while queues run: firmware makes a virtual machine take all of its memory away and give
it back in pieces. The queues it may concern are held from DMA_UNMAP on, and are released by :meth:`settle`:
with the first message that is about something else, or when the shell sees that no more messages come.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from virtio.errors import Error, TransportError
from virtio.transport.vfio_user import version
from virtio.transport.vfio_user.actions import Action, Disconnect, Notice, Send, TransferWaits
from virtio.transport.vfio_user.codec import Decoder, Message, encode_error, encode_reply
from virtio.transport.vfio_user.dirty import DirtyLog
from virtio.transport.vfio_user.dma import DmaTable
from virtio.transport.vfio_user.function import Function
from virtio.transport.vfio_user.irqs import Irqs
from virtio.transport.vfio_user.messages import COMMANDS, MAJOR, Command, Feature, FeatureFlag
from virtio.transport.vfio_user.migration import Migration
from virtio.transport.vfio_user.payloads import DeviceFeature, DmaMap, DmaUnmap, PayloadError
from virtio.transport.vfio_user.refusal import Refusal, invalid
from virtio.transport.vfio_user.regions import Regions
from virtio.transport.vfio_user.transfers import Reach, Transfers

_log = logging.getLogger("virtio.transport.vfio_user")

MAX_COMPLAINTS = 20
"""Log lines about bad messages, per connection: a client must not fill the disk."""

Answer = tuple[bytes, tuple[int, ...]]
_MEMORY = (Command.DMA_MAP, Command.DMA_UNMAP)


class Session:
    """One client. What it is given, it owns: descriptors are closed or handed on."""

    def __init__(
        self,
        function: Function,
        post: Callable[[Notice], object],
        *,
        name: str = "vfio-user",
        ours: version.Capabilities = version.OURS,
        open_twin: Callable[[], int] | None = None,
    ) -> None:
        """Attach ``function`` to a new client.

        ``post`` is called from any thread; what it was given must reach :meth:`notice` on the session's own.
        ``open_twin`` makes a second socket, on which the server asks, and returns the client's end of it.
        """
        self._function = function
        self._name = name
        self._ours = ours
        self._theirs: version.Capabilities | None = None
        self._decoder = Decoder()
        self._twin_decoder = Decoder()
        self._open_twin = open_twin
        self._twin: int | None = None
        self._complaints = 0
        self._closed = False
        self._unsettled = False
        self._shares = False  # a window came with a descriptor: queues depend on what is mapped
        self.dma = DmaTable(function.memory, ours.max_dma_maps)
        self.transfers = Transfers(
            lambda: post(TransferWaits()),
            lambda address, size, write: self.dma.reaches(address, size, write=write),
        )
        self._regions = Regions(function)
        self._irqs = Irqs(function)
        self._log = DirtyLog(function.memory, self.dma)
        self.migration = Migration(function)
        function.attach()

    # --- the shell

    @property
    def wanted(self) -> int:
        """Bytes to read next, so that descriptors stay with their message."""
        return self._decoder.wanted

    @property
    def unsettled(self) -> bool:
        """Whether memory is being exchanged: if nothing comes for a while, :meth:`settle` is to be called."""
        return self._unsettled

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Action]:
        """Take what the client sent; ``lost``: descriptors among it could not be delivered."""
        actions: list[Action] = []
        for message in self._decoder.receive(data, fds, lost=lost):
            with contextlib.closing(message):
                if not any(isinstance(action, Disconnect) for action in actions):
                    self._take(message, actions)
        if self._decoder.failure is not None:
            actions.append(Disconnect(self._decoder.failure))
        return actions

    @property
    def twin_wanted(self) -> int:
        """The same as :attr:`wanted`, for the second socket."""
        return self._twin_decoder.wanted

    def receive_twin(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Action]:
        """Take what the client sent by the second socket: nothing but answers."""
        actions: list[Action] = []
        for message in self._twin_decoder.receive(data, fds, lost=lost):
            with contextlib.closing(message):
                self._take_answer(message, actions)
        if self._twin_decoder.failure is not None:
            actions.append(Disconnect(self._twin_decoder.failure))
        return actions

    def far_memory(self) -> Reach | None:
        """Return what reaches the client's memory, if only messages do."""
        return Reach(self.transfers) if self.dma.by_messages else None

    def notice(self, notice: Notice) -> list[Action]:
        """Take what another thread posted."""
        del notice  # there is only one
        return self._transfers()

    def settle(self) -> list[Action]:
        """Memory is as it is to be: let the queues run that have what they need."""
        if self._unsettled:
            self._unsettled = False
            if self._shares and not self.migration.stopped:
                self._function.dma_changed()
        return self._transfers()

    def close(self) -> None:
        """The client is gone: let go of everything."""
        if self._closed:
            return
        self._closed = True
        self._decoder.close()
        self._twin_decoder.close()
        if self._twin is not None:
            os.close(self._twin)
        self.transfers.fail("the client is gone")
        # Each step, whatever becomes of the others (the last one comes first): what stays behind would be the
        # next client's.
        with contextlib.ExitStack() as steps:
            steps.callback(self.migration.reset)
            steps.callback(self._clear_memory)
            steps.callback(self._regions.close)
            steps.callback(self._irqs.close)
            steps.callback(self._function.detach)

    def _clear_memory(self) -> None:
        self._log.stop()
        self.dma.clear()

    # --- messages

    def _take(self, message: Message, actions: list[Action]) -> None:
        if not message.is_command:
            if self._twin is None:
                self._take_answer(message, actions)
            else:
                self._complain(f"{message.name}: an answer that belongs on the other socket")
            return
        if message.command not in _MEMORY:
            actions += self.settle()
        try:
            payload, passed = self._handle(message)
        except Refusal as error:
            self._refuse(message, error.error, str(error), actions)
        except PayloadError as error:
            self._refuse(message, errno.EINVAL, str(error), actions)
        except Error as error:
            self._refuse(message, errno.EIO, str(error), actions)
        except Exception:
            _log.exception("%s: %s failed in the device", self._name, message.name)
            self._refuse(message, errno.EIO, "an error of our own", actions)
        else:
            if message.wants_reply:
                actions.append(Send(encode_reply(message, payload), passed))
        if self._theirs is None:
            actions.append(Disconnect("it does not begin with a version that can be spoken"))

    def _take_answer(self, message: Message, actions: list[Action]) -> None:
        try:
            if not message.is_reply:
                raise TransportError(f"a message of type {message.flags & 0xF} where only answers come")
            self.transfers.answered(message)
        except TransportError as error:
            self._complain(f"{message.name}: {error}")
        actions += self._transfers()

    def _handle(self, message: Message) -> Answer:
        try:
            command = Command(message.command)
            expected = COMMANDS[command]
        except (ValueError, KeyError):
            raise Refusal(errno.ENOTSUP, "not a command of a client") from None
        if message.problem is not None:
            raise invalid(message.problem)
        if (self._theirs is None) is not (command is Command.VERSION):
            raise invalid("VERSION comes once, and first")
        if not expected.least <= len(message.payload) <= expected.most:
            raise invalid(f"{len(message.payload)} bytes of payload")
        if len(message.fds) > expected.descriptors:
            raise invalid(f"{len(message.fds)} descriptors came where at most {expected.descriptors} may")
        found = self._dispatch(command, message)
        return (found, ()) if isinstance(found, bytes) else found

    def _dispatch(self, command: Command, message: Message) -> bytes | Answer:
        payload = message.payload
        match command:
            case Command.VERSION:
                return self._agree(payload)
            case Command.DMA_MAP:
                return self._map(message)
            case Command.DMA_UNMAP:
                return self._unmap(payload)
            case Command.DEVICE_GET_INFO:
                return self._regions.device(payload)
            case Command.DEVICE_GET_REGION_INFO:
                return self._regions.info(payload)
            case Command.DEVICE_GET_REGION_IO_FDS:
                assert self._theirs is not None
                return self._regions.io_fds(payload, min(self._theirs.max_msg_fds, self._ours.max_msg_fds))
            case Command.DEVICE_GET_IRQ_INFO:
                return self._irqs.info(payload)
            case Command.DEVICE_SET_IRQS:
                self._irqs.set(payload, message.fds)
                return b""
            case Command.REGION_READ:
                return self._regions.read(payload, self.transfers.limit)
            case Command.REGION_WRITE:
                return self._regions.write(payload, self._ours.max_data_xfer_size)
            case Command.REGION_WRITE_MULTI:
                return self._regions.write_multiple(payload)
            case Command.DEVICE_RESET:
                self._log.stop()
                self._function.reset()
                self.migration.reset()
                return b""
            case Command.DEVICE_FEATURE:
                return self._feature(payload)
            case Command.MIG_DATA_READ:
                return self.migration.read(payload, self.transfers.limit)
            case Command.MIG_DATA_WRITE:
                self.migration.write(payload)
                return b""
            case _:
                raise Refusal(errno.ENOTSUP, "not a command of a client")

    def _agree(self, payload: bytes) -> Answer:
        hello = version.decode(payload)
        if hello.major != MAJOR:
            raise Refusal(errno.ENOTSUP, f"version {hello.major}.{hello.minor}")
        self._theirs = hello.capabilities
        self.transfers.limit = min(hello.capabilities.max_data_xfer_size, self._ours.max_data_xfer_size)
        if self._open_twin is None or not hello.capabilities.twin_socket:
            return version.answer(hello, self._ours), ()
        self._twin = self._open_twin()
        return version.answer(hello, self._ours, twin_index=0), (self._twin,)

    # --- memory

    def _map(self, message: Message) -> bytes:
        self.dma.add(DmaMap.unpack(message.payload), message.fds[0] if message.fds else None)
        self._unsettled = True
        self._shares = self._shares or bool(message.fds)
        if self._log.on:
            self._log.follow_memory()
        return b""

    def _unmap(self, payload: bytes) -> bytes:
        windows = self.dma.check_removal(DmaUnmap.unpack(payload))
        self._unsettled = True
        if any(window.mapped for window in windows):
            self._function.dma_changing()
        self.dma.remove(windows)
        return payload

    def _transfers(self) -> list[Action]:
        if self._unsettled or self._closed:
            return []  # what is not there may be about to come back
        return [Send(data, twin=self._twin is not None) for data in self.transfers.outgoing()]

    # --- migration

    def _feature(self, payload: bytes) -> bytes:
        asked = DeviceFeature.unpack(payload)
        data = payload[DeviceFeature.FORM.size :]
        flags = FeatureFlag(asked.flags & ~0xFFFF)
        get, set_, probe = (bool(flags & flag) for flag in FeatureFlag)
        try:
            feature = Feature(asked.flags & 0xFFFF)
        except ValueError:
            raise Refusal(errno.ENOTTY, f"there is no feature {asked.flags & 0xFFFF}") from None
        if asked.flags >> 19 or not (get or set_ or probe) or (get and set_ and not probe):
            raise invalid(f"flags are {asked.flags:#x}")
        gets = feature in (Feature.MIGRATION, Feature.MIG_DEVICE_STATE, Feature.DMA_LOGGING_REPORT)
        sets = feature in (Feature.MIG_DEVICE_STATE, Feature.DMA_LOGGING_START, Feature.DMA_LOGGING_STOP)
        if self.dma.by_messages:
            raise Refusal(errno.ENOTTY, "no migration where memory is reached by messages")
        if feature in (Feature.MIGRATION, Feature.MIG_DEVICE_STATE) and not self.migration.possible:
            raise Refusal(errno.ENOTTY, "this function cannot be moved")
        if (get and not gets) or (set_ and not sets):
            raise Refusal(errno.ENOTTY, f"{feature.name} cannot be {'got' if get else 'set'}")
        if probe:
            return payload
        answer = payload[: DeviceFeature.FORM.size] + self._feature_data(feature, get, data)
        if len(answer) > asked.argsz:
            raise invalid(f"argsz is {asked.argsz}, {len(answer)} are needed")
        return DeviceFeature(len(answer), asked.flags).pack() + answer[DeviceFeature.FORM.size :]

    def _feature_data(self, feature: Feature, get: bool, data: bytes) -> bytes:
        match feature:
            case Feature.MIGRATION:
                return self.migration.support()
            case Feature.MIG_DEVICE_STATE:
                return self.migration.report() if get else self.migration.change(data)
            case Feature.DMA_LOGGING_START:
                return self._log.start(data, most=self._ours.max_dma_maps)
            case Feature.DMA_LOGGING_STOP:
                self._log.stop()
                return data
            case Feature.DMA_LOGGING_REPORT:
                return self._log.report(data, most=self.transfers.limit)

    # --- what is wrong

    def _refuse(self, message: Message, error: int, reason: str, actions: list[Action]) -> None:
        self._complain(f"{message.name} refused: {reason}")
        if message.wants_reply:
            actions.append(Send(encode_error(message, error)))

    def _complain(self, text: Any) -> None:
        self._complaints += 1
        if self._complaints <= MAX_COMPLAINTS:
            _log.warning("%s: %s", self._name, text)
        if self._complaints == MAX_COMPLAINTS:
            _log.warning("%s: more complaints about this client are not logged", self._name)
