"""A connection of a front end, as a state machine: messages in, a device driven, answers out.

No sockets, no threads, no clocks of its own. All calls come from one thread; what other threads have to tell
(the device's :class:`~virtio.transport.interface.TransportEvents`, in-band calls) is posted and comes back
through :meth:`Session.notice`.

What cannot be acted on is logged, and answered with an error if an answer was asked for. The connection is
closed only where the front end would wait for something that cannot come, or where the next message cannot be
found.
"""

import logging
from collections.abc import Callable, Sequence

from virtio.errors import Error, ProtocolError, TransportError
from virtio.transport.interface import DeviceEnd, GuestMemory
from virtio.transport.unix.framing import close_all
from virtio.transport.vhost_user.actions import (
    Action,
    BuffersUsed,
    ConfigChanged,
    DeviceBroke,
    Disconnect,
    DropChannel,
    Notice,
    Send,
    SendRequest,
    TranslationMissed,
    UseChannel,
    WatchTransfer,
)
from virtio.transport.vhost_user.backend import PROTOCOL_FEATURES, Answer, BackEnd, FatalError, is_socket
from virtio.transport.vhost_user.channel import BackEndChannel
from virtio.transport.vhost_user.codec import Decoder, Message, encode_acknowledgement, encode_reply
from virtio.transport.vhost_user.messages import FRONT_END, ProtocolFeature
from virtio.transport.vhost_user.state_transfer import StateTransfer
from virtio.transport.vhost_user.translations import ACCESS_FAIL

_log = logging.getLogger("virtio.transport.vhost_user")

MAX_COMPLAINTS = 20
"""Log lines about bad messages, per connection: a front end must not fill the disk."""


class Session:
    """One front end. What it is given, it owns: descriptors are closed or handed on."""

    def __init__(
        self,
        device: DeviceEnd,
        memory: GuestMemory,
        post: Callable[[Notice], object],
        *,
        name: str = "vhost-user",
        protocol_features: int = PROTOCOL_FEATURES,
        timeout: float = 5.0,
    ) -> None:
        """Attach ``device`` to a new front end, with ``memory`` to be filled by it.

        ``post`` is called from any thread; what it was given must reach :meth:`notice` on the session's own.
        """
        self._name = name
        self._post = post
        self._decoder = Decoder(FRONT_END)
        self._channel: BackEndChannel | None = None
        self._complaints = 0
        self._config_news = False
        self._transfer: StateTransfer | None = None
        self._closed = False
        self._back_end = BackEnd(
            device,
            memory,
            self,
            call_in_band=lambda index: post(BuffersUsed(index)),
            missed=lambda: post(TranslationMissed()),
            protocol_features=protocol_features,
            timeout=timeout,
        )

    # --- TransportEvents, from any thread

    def config_changed(self) -> None:
        """The device changed its configuration space."""
        self._post(ConfigChanged())

    def needs_reset(self, fault: ProtocolError) -> None:
        """The device broke. Its queue has signalled the error descriptor; the rest follows here."""
        del fault  # logged by the device
        self._post(DeviceBroke())

    # --- the shell

    @property
    def wanted(self) -> int:
        """Bytes to read next, so that descriptors stay with their message."""
        return self._decoder.wanted

    @property
    def channel_wanted(self) -> int:
        """Bytes to read next on the back end's own channel."""
        return self._channel.wanted if self._channel is not None else 0

    def receive(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Action]:
        """Take what the front end sent; ``lost``: descriptors among it could not be delivered."""
        actions: list[Action] = []
        messages = self._decoder.receive(data, fds, lost=lost)
        for message in messages:
            if not any(isinstance(action, Disconnect) for action in actions):
                self._take(message, actions)
            message.close()
        if self._decoder.failure is not None:
            actions.append(Disconnect(self._decoder.failure))
        return actions

    def receive_channel(self, data: bytes, fds: Sequence[int] = (), *, lost: bool = False) -> list[Action]:
        """Take what the front end answered on the back end's own channel."""
        if self._channel is None:
            close_all(fds)
            return []
        answer = self._channel.receive(data, tuple(fds), lost=lost)
        for entry in self._channel.take_refused():
            self._back_end.translations.refused(entry)
        return self._request(answer)

    def channel_closed(self) -> None:
        """The front end closed the back end's own channel."""
        self._drop_channel()

    def notice(self, notice: Notice) -> list[Action]:
        """Take what another thread posted."""
        if self._channel is None:
            self._config_news = self._config_news or isinstance(notice, ConfigChanged | DeviceBroke)
            return []
        match notice:
            case ConfigChanged():
                self._config_news = True
                return self._tell_config()
            case BuffersUsed(queue):
                return self._request(self._channel.call(queue))
            case DeviceBroke():
                return self._tell_broken(self._channel)
            case TranslationMissed():
                return self._ask_translations(self._channel)

    def close(self) -> None:
        """The front end is gone: let go of everything."""
        if self._closed:
            return
        self._closed = True
        self._decoder.close()
        self._drop_channel()
        self._back_end.close()

    # --- requests of the front end

    def _take(self, message: Message, actions: list[Action]) -> None:
        name = FRONT_END.name(message.number)
        try:
            if message.is_reply:
                raise TransportError("an answer where a request belongs")
            if name == "SET_BACKEND_REQ_FD":
                payload = None
                self._set_channel(message, actions)
            else:
                payload = self._back_end.handle(message)
        except FatalError as error:
            actions.append(Disconnect(f"{name}: {error}"))
        except Error as error:
            self._complain(f"{name} refused: {error}")
            self._refuse(message, name, actions)
        except Exception:
            _log.exception("%s: %s failed in the device", self._name, name)
            self._refuse(message, name, actions)
        else:
            if message.kind is not None and message.kind.reply is not None:
                fds: tuple[int, ...] = ()
                if isinstance(payload, Answer):
                    payload, fds = payload.payload, (payload.fd,)
                actions.append(Send(encode_reply(message.kind, payload), fds))
            elif self._acknowledges(message):
                actions.append(Send(encode_acknowledgement(message.number, 0)))
        if self._back_end.state.transfer is not self._transfer:
            self._transfer = self._back_end.state.transfer
            actions.append(WatchTransfer(self._transfer))
        actions += self._tell_config()

    def _refuse(self, message: Message, name: str, actions: list[Action]) -> None:
        kind = message.kind
        if kind is not None and kind.reply is not None and not message.is_reply:
            if kind.failure:
                actions.append(Send(encode_reply(kind, kind.failure[0])))
            else:
                actions.append(Disconnect(f"{name} must be answered, but has no answer that says no"))
        elif self._acknowledges(message):
            actions.append(Send(encode_acknowledgement(message.number, 1)))

    def _acknowledges(self, message: Message) -> bool:
        # Asked after the message was handled: quirk ACKNOWLEDGED_TOO_EARLY.
        return message.needs_reply and not message.is_reply and self._back_end.has(ProtocolFeature.REPLY_ACK)

    def _complain(self, text: str) -> None:
        self._complaints += 1
        if self._complaints <= MAX_COMPLAINTS:
            _log.warning("%s: %s", self._name, text)
        if self._complaints == MAX_COMPLAINTS:
            _log.warning("%s: more complaints about this front end are not logged", self._name)

    # --- the back end's own channel

    def _set_channel(self, message: Message, actions: list[Action]) -> None:
        back_end = self._back_end
        if message.problem is not None:
            raise TransportError(message.problem)
        if not back_end.offered_protocol & ProtocolFeature.BACKEND_REQ.mask:
            raise TransportError("BACKEND_REQ is not offered")
        if not is_socket(message.fds[0]):
            raise TransportError("the descriptor is not a socket")
        self._drop_channel()
        self._channel = BackEndChannel(acknowledged=back_end.has(ProtocolFeature.REPLY_ACK))
        actions.append(UseChannel(message.take_fd()))
        back_end.translations.repeat()

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _tell_config(self) -> list[Action]:
        """Pass on that the configuration changed; a device whose rings are all stopped is silent."""
        back_end = self._back_end
        if not self._config_news or self._channel is None or not back_end.active:
            return []
        self._config_news = False
        if not back_end.has(ProtocolFeature.CONFIG):
            return []
        return self._request(self._channel.config_changed())

    def _ask_translations(self, channel: BackEndChannel) -> list[Action]:
        actions: list[Action] = []
        for entry in self._back_end.translations.questions():
            if entry.type == ACCESS_FAIL:
                self._complain(f"address {entry.iova:#x} may not be used so (permission {entry.permission})")
            actions += self._request(channel.translate(entry))
        return actions

    def _tell_broken(self, channel: BackEndChannel) -> list[Action]:
        actions: list[Action] = []
        if self._back_end.has(ProtocolFeature.INBAND_NOTIFICATIONS):
            for vring in self._back_end.vrings:
                if vring.queue.broken and not vring.error_set and not vring.failed:
                    vring.failed = True
                    actions += self._request(channel.error(vring.index))
        self._config_news = True  # the status is read together with the configuration (2.1.2)
        return actions + self._tell_config()

    def _request(self, data: bytes) -> list[Action]:
        channel = self._channel
        actions: list[Action] = [SendRequest(data)] if data else []
        if channel is not None and channel.failure is not None:
            actions.append(DropChannel(channel.failure))
            self._drop_channel()
        return actions
