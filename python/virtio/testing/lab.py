"""What a test has set up, and its end."""

import contextlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, Self

from virtio.device.base import Device
from virtio.errors import ConfigurationError, Error
from virtio.testing.backend import BackEnd
from virtio.testing.served import Served
from virtio.transport import connect, start
from virtio.vm.attachment import Attachment
from virtio.vm.guest import Guest, Monitor, installed_monitor
from virtio.vm.initramfs import find_busybox
from virtio.vm.kernel import qemu_kernel, uml_kernel
from virtio.vm.qemu import qemu_program

if TYPE_CHECKING:
    from virtio.spec.model import DeviceType

TIMEOUT = 60.0
"""Seconds that a process of a test may live, unless it says otherwise."""

Serve = Callable[..., Served]
ServeProcess = Callable[..., BackEnd]
ServeCommand = Callable[..., BackEnd]
Connect = Callable[..., Any]
StartGuest = Callable[..., Guest]
"""The lab's methods, as a test takes them for its parameters: see :class:`Lab`."""

_names = itertools.count()


class MissingError(ConfigurationError):
    """A program that is needed is not installed."""


class Attachable(Protocol):
    """What a guest can be given: :class:`Served`, :class:`BackEnd`."""

    @property
    def attachment(self) -> Attachment:
        """How the guest gets it."""


class Lab:
    """Devices, drivers and guests. They end in the reverse order of their beginning, with the lab."""

    def __init__(self, *, on_missing: Callable[[str], NoReturn] | None = None) -> None:
        """Begin with nothing.

        ``on_missing`` is called where a program is not installed, and raises what it likes; else that is
        :exc:`MissingError`.
        """
        self._on_missing = on_missing or _raise_missing
        # Not pytest's folder: its names are long, and a socket's has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="virtio-lab-"))
        self._stack = contextlib.ExitStack()
        self._reports: list[tuple[str, Callable[[], str]]] = []

    # --- devices

    def serve(self, device: Device, address: str | None = None) -> Served:
        """Serve a device of this process, at a socket in the lab's folder if no address is given.

        ``address`` may be just a scheme: ``"mem"`` makes up a name. The device is closed with the lab.
        """
        number = next(_names)
        self._stack.callback(device.close)
        socket: Path | None = None
        if address is None or address == "vhost-user":
            socket = self.folder / f"{number}.sock"
            address = f"vhost-user:{socket}"
        elif ":" not in address:
            address = f"{address}:lab{number}"
        elif address.startswith("vhost-user:/"):
            socket = Path(address.removeprefix("vhost-user:").partition("?")[0])
        served = Served(device, self._stack.enter_context(start(device, address)), address, socket)
        self._reports.append((f"{device.name} at {address}", served.report))
        return served

    def serve_command(
        self,
        *command: str | Path,
        type: str | None = None,  # noqa: A002
        queues: int = 1,
        timeout: float | None = TIMEOUT,
    ) -> BackEnd:
        """Run any program that serves a device: ``{socket}`` in its arguments becomes the socket's path.

        ``type`` and ``queues`` say what it serves, for :meth:`connect` and :meth:`guest`.
        """
        socket = self.folder / f"{next(_names)}.sock"
        filled = [str(part).replace("{socket}", str(socket)) for part in command]
        if filled == [str(part) for part in command]:
            raise ConfigurationError("the command does not say where the program is to listen: {socket}")
        program = shutil.which(filled[0])
        if program is None:
            self._on_missing(f"there is no program {filled[0]}")
        found = BackEnd([program, *filled[1:]], socket, type=type, queues=queues, timeout=timeout)
        self._stack.callback(found.stop)
        self._reports.append((f"{Path(program).name} at {found.address}", found.report))
        return found

    def serve_process(
        self,
        type: str,  # noqa: A002
        *arguments: str | Path,
        queues: int = 1,
        timeout: float | None = TIMEOUT,
    ) -> BackEnd:
        """Run ``virtio serve TYPE ARGUMENTS`` in a process of its own, which may be killed and restarted."""
        more = ("--queues", str(queues)) if queues > 1 else ()
        command = (sys.executable, "-m", "virtio", "serve", type, *arguments, *more, "--socket", "{socket}")
        return self.serve_command(*command, type=type, queues=queues, timeout=timeout)

    # --- drivers

    def connect(
        self,
        target: "str | Served | BackEnd",
        type: "str | int | DeviceType | ModuleType | None" = None,  # noqa: A002
        **options: Any,
    ) -> Any:
        """Connect a driver to what was served here, or to any address. It is closed with the lab.

        ``options`` are those of :func:`virtio.connect`.
        """
        address = target if isinstance(target, str) else target.address
        kind = type if type is not None or isinstance(target, str) else target.type
        return self._stack.enter_context(connect(address, kind, **options))

    # --- guests

    def guest(
        self,
        devices: "Sequence[Device | Attachable | Attachment]" = (),
        *,
        monitor: Monitor | None = None,
        timeout: float | None = TIMEOUT,
        **options: Any,
    ) -> Guest:
        """Boot a Linux guest with devices: of this process, served already, or behind any socket.

        Without ``monitor`` it is the first that is installed. ``options`` are those of
        :class:`virtio.vm.Guest`. The guest is shut down with the lab.
        """
        try:
            require_monitor(monitor or _any_monitor())
        except MissingError as error:
            self._on_missing(str(error))
        attachments = [self._attach(device) for device in devices]
        guest = Guest(attachments, monitor=monitor, timeout=timeout, **options)
        self._stack.push(guest)
        machine = guest.machine
        self._reports.append((f"console of the {guest.monitor} guest", lambda: machine.log))
        return guest

    def _attach(self, device: "Device | Attachable | Attachment") -> Attachment:
        if isinstance(device, Attachment):
            return device
        return (self.serve(device) if isinstance(device, Device) else device).attachment

    # --- the end

    def report(self) -> list[tuple[str, str]]:
        """What can be said of each part: its name, and its log or counters."""
        found = []
        for name, ask in self._reports:
            try:
                found.append((name, ask()))
            except Exception as error:
                found.append((name, f"nothing can be said of it: {error!r}"))
        return found

    def close(self) -> None:
        """End everything; the folder goes too."""
        try:
            self._stack.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the lab."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _raise_missing(what: str) -> NoReturn:
    raise MissingError(what)


def require_monitor(monitor: Monitor) -> None:
    """Raise :exc:`MissingError`, with the name of the package, if guests of this monitor cannot be booted."""
    try:
        find_busybox()
        if monitor == "uml":
            uml_kernel()
        else:
            qemu_program()
            qemu_kernel()
    except ConfigurationError as error:
        raise MissingError(str(error)) from error


def _any_monitor() -> Literal["uml", "qemu"]:
    try:
        return installed_monitor()
    except Error as error:
        raise MissingError(str(error)) from error
