"""``virtio vm``: a small Linux guest with devices of this process."""

import inspect
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from virtio.vm.attachment import Transport
from virtio.vm.boot import boot, elsewhere
from virtio.vm.guest import Monitor
from virtio.vm.kinds import KINDS
from virtio.vm.terminal import interact

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


def vm(
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:CLASS", help="A device written in Python; also FILE.py:CLASS."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Run this instead of a shell; its status becomes ours."),
    ] = None,
    vmm: Annotated[
        Monitor | None, typer.Option(help="Which monitor; by default the first installed.")
    ] = None,
    kernel: Annotated[Path | None, typer.Option(help="Another kernel image.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MIB", help="The guest's memory.", min=64)] = None,
    cpus: Annotated[int, typer.Option(help="The guest's CPUs (QEMU).", min=1)] = 1,
    program: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A program of this host to put into the guest.")
    ] = None,
    transport: Annotated[
        Transport, typer.Option(help="How the devices are attached: vfio-user makes them PCI functions.")
    ] = "vhost-user",
    vfio_user: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A function that is served elsewhere, on this socket."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End the guest after so long.", min=0)
    ] = None,
    **wanted: Any,
) -> None:
    """Boot a small Linux guest with devices that this process serves.

    Without --run you get a shell, or, when standard input is no terminal, it is run as a script. Leaving the
    shell, or Ctrl-], ends the guest.
    """
    # So that whatever ends us also ends the guest and removes the sockets.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    devices = [KINDS[name].make(text) for name in KINDS for text in _values(wanted[name])]
    if python:
        from virtio.cli.author import make

        devices += [make(target, ()) for target in python]
    try:
        with boot(
            devices,
            transport=transport,
            more=[elsewhere(Path(path).absolute()) for path in vfio_user or ()],
            monitor=vmm,
            kernel=kernel,
            memory=memory,
            cpus=cpus,
            programs=program or (),
            timeout=timeout,
        ) as guest:
            if run is None and sys.stdin.isatty() and sys.stdout.isatty():
                status = interact(guest)
            else:
                script = sys.stdin.read() if run is None else run
                status = guest.run(script, timeout=None, sink=_write).status
    finally:
        for device in devices:
            device.close()
    raise typer.Exit(status)


def _values(given: Any) -> list[str]:
    """One entry for each device wanted of a kind."""
    if isinstance(given, bool):
        return [""] if given else []
    return list(given or ())


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _with_kinds() -> inspect.Signature:
    """Give the signature of :func:`vm`, with an option for each kind of device in the place of ``wanted``."""
    own = list(inspect.signature(vm).parameters.values())[:-1]
    kinds = []
    for name, kind in KINDS.items():
        annotation: Any = bool if kind.metavar is None else list[str] | None
        option = typer.Option(f"--{name}", metavar=kind.metavar, help=kind.help)
        kinds.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if kind.metavar is None else None,
                annotation=Annotated[annotation, option],
            )
        )
    return inspect.Signature(
        [*kinds, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    )


_signature = _with_kinds()
vm.__signature__ = _signature  # type: ignore[attr-defined]
vm.__annotations__ = {name: parameter.annotation for name, parameter in _signature.parameters.items()}
app.command()(vm)
