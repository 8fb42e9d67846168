"""A Linux guest that does what it is told."""

import base64
import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from virtio.errors import ConfigurationError
from virtio.vm import initramfs, qemu, uml
from virtio.vm.attachment import Attachment
from virtio.vm.kernel import Kernel, qemu_kernel, uml_kernel
from virtio.vm.machine import GuestError, Machine

Monitor = Literal["uml", "qemu"]

_BOOT_TIMEOUT = 60.0
_POWEROFF_TIMEOUT = 10.0
#: How long a guest is left to answer a line before it is spoken to again.
_PATIENCE = 5.0
#: Characters of a script per line to the guest, each answered before the next: its terminal keeps 4096 that
#: have not been read yet, and UML's takes no more input ever after it has been offered more than that.
_CHUNK = 2048


class Result(NamedTuple):
    """What a command in the guest did: its exit status, and what it printed, errors among it."""

    status: int
    output: str


class Guest:
    """A guest with the devices behind some sockets, running from here to the end of its ``with`` block.

    ``monitor`` is ``"uml"`` or ``"qemu"``; without it, the first that is installed. ``memory`` is in MiB.
    ``programs`` of the host are put into the guest. ``modules`` are loaded besides the devices' drivers; one
    that is not there is taken to be built in. ``timeout`` limits its whole life, in seconds.
    ``hardware`` is for QEMU.
    """

    def __init__(
        self,
        attachments: Sequence[Attachment] = (),
        *,
        monitor: Monitor | None = None,
        kernel: Path | None = None,
        memory: int | None = None,
        cpus: int = 1,
        programs: Sequence[str] = (),
        modules: Sequence[str] = (),
        timeout: float | None = None,
        hardware: qemu.Hardware | None = None,
    ) -> None:
        """Boot it, and wait until it is ready."""
        self.monitor: Monitor = monitor or _suitable_monitor(attachments, hardware)
        self._token = secrets.token_hex(8)
        self._scratch = Path(tempfile.mkdtemp(prefix="pyvirtio-guest-"))
        self._machine: Machine | None = None
        self._obeys = True
        try:
            hardware = hardware or qemu.Hardware()
            command = self._prepare(attachments, kernel, memory, cpus, programs, modules, hardware)
            self._machine = Machine(command, timeout=timeout)
            if hardware.boot_disk:
                self._obeys = False
                return
            self._machine.receive_until(f"{self._token} ready\n".encode(), timeout or _BOOT_TIMEOUT)
        except BaseException:
            self.kill()
            raise

    def _prepare(
        self,
        attachments: Sequence[Attachment],
        kernel: Path | None,
        memory: int | None,
        cpus: int,
        programs: Sequence[str],
        modules: Sequence[str],
        hardware: qemu.Hardware,
    ) -> list[str]:
        image = self._scratch / "initramfs"
        found: Kernel
        if self.monitor == "uml":
            found, base = uml_kernel(kernel), uml.BASE_MODULES
            command = uml.command(
                found, image, attachments, memory=memory or 128, cpus=cpus, scratch=self._scratch
            )
        else:
            found, base = qemu_kernel(kernel), qemu.BASE_MODULES
            command = qemu.command(
                found,
                image,
                attachments,
                memory=memory or 256,
                cpus=cpus,
                program=qemu.qemu_for(attachments),
                hardware=hardware,
            )
        # A driver that is not a module here is taken to be built in; if it is not, its device is not found.
        wanted = [name for name in (*base, *modules) if name in found.modules]
        for device_id in {attachment.device_id: None for attachment in attachments}:
            if (driver := found.modules.driver_of(device_id)) is not None:
                wanted.append(driver)
        image.write_bytes(
            initramfs.build(token=self._token, modules=found.modules, load=wanted, programs=programs)
        )
        return command

    def run(
        self, command: str, *, timeout: float | None = 60.0, sink: Callable[[bytes], object] | None = None
    ) -> Result:
        """Run a shell command, or a whole script.

        ``sink``, if given, is called with the output as it comes, and the result then holds none.
        """
        machine = self._running
        self._obeys = False
        encoded = base64.b64encode(command.encode()).decode()
        for start in range(0, len(encoded), _CHUNK):
            machine.send(f"put {encoded[start : start + _CHUNK]}\n".encode())
            self._answer("put", timeout)
        machine.send(b"run\n")
        self._answer("begin", timeout)
        return self._finish(timeout, sink)

    def _answer(self, word: str, timeout: float | None) -> None:
        """Wait for the guest to say that it has got a line.

        Once in some hundred boots on a busy machine a guest of QEMU under TCG did not answer for a minute.
        Why is not known. Should its serial port have lost an interrupt, the next character makes up for
        that; an empty line means nothing to the guest.
        """
        machine, marker = self._running, f"{self._token} {word}\n".encode()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _PATIENCE if deadline is None else deadline - time.monotonic()
            try:
                machine.receive_until(marker, min(left, _PATIENCE))
                return
            except GuestError:
                if not machine.running:
                    raise
                if timeout is not None and left <= _PATIENCE:
                    raise GuestError(f"the guest did not answer within {timeout:g} s", machine.tail) from None
                machine.send(b"\n")

    def shell(self, columns: int, rows: int, sink: Callable[[bytes], object]) -> int:
        """Run a shell for a person until it ends; ``sink`` gets its output, :meth:`type_in` its input."""
        machine = self._running
        self._obeys = False
        machine.send(f"shell rows {rows} cols {columns}\n".encode())
        machine.receive_until(f"{self._token} begin".encode(), _BOOT_TIMEOUT)
        return self._finish(None, sink).status

    def type_in(self, data: bytes) -> None:
        """Give input to the shell, as if typed."""
        self._running.send(data)

    def _finish(self, timeout: float | None, sink: Callable[[bytes], object] | None) -> Result:
        machine = self._running
        output = machine.receive_until(f"{self._token} end ".encode(), timeout, sink)
        status = machine.receive_until(b"\n", timeout)
        self._obeys = True
        return Result(int(status), output.decode(errors="replace"))

    def check(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a command that has to succeed, and return what it printed."""
        result = self.run(command, timeout=timeout)
        if result.status != 0:
            raise GuestError(f"{command!r} ended with status {result.status}", result.output.strip())
        return result.output

    @property
    def machine(self) -> Machine:
        """The monitor's process."""
        return self._running

    @property
    def _running(self) -> Machine:
        if self._machine is None:
            raise ConfigurationError("this guest has been closed")
        return self._machine

    def power_off(self) -> None:
        """Shut the guest down in order: its file systems are synced, its drivers told."""
        # While a command runs, or after one that never ended, nobody reads what we say.
        if self._machine is not None and self._obeys:
            with contextlib.suppress(GuestError):
                self._machine.send(b"poweroff\n")
                self._machine.wait(_POWEROFF_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Stop the guest as a power cut does."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the guest."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut it down; after an error at once."""
        if kind is None:
            self.power_off()
        else:
            self.kill()


def _suitable_monitor(attachments: Sequence[Attachment], hardware: qemu.Hardware | None) -> Monitor:
    if hardware is not None or any(attachment.transport == "vfio-user" for attachment in attachments):
        return "qemu"
    return installed_monitor()


def installed_monitor() -> Monitor:
    """Return the monitor to use here: User Mode Linux, which boots faster, else QEMU."""
    if shutil.which("linux.uml"):
        return "uml"
    if shutil.which(qemu.PROGRAM):
        return "qemu"
    raise ConfigurationError(
        "no virtual machine monitor here: apt-get install user-mode-linux (or qemu-system-x86)"
        + ("" if os.geteuid() == 0 else ", as root")
    )
