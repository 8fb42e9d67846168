"""The command ``virtio``: parses, calls, prints.

Each command lives in a module of its own, imported when it is called and not before, so that ``virtio
--help`` answers at once. To add one, write ``virtio/cli/NAME.py`` with ``app = typer.Typer(...)`` and a line
in :data:`COMMANDS`.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from virtio.errors import Error

COMMANDS = {
    "serve": "Serve a device to a virtual machine.",
    "vm": "Boot a small Linux guest with devices.",
    "demo": "Show it all: a guest, a disk, a console, checked and measured.",
    "info": "Show what a device says about itself.",
    "lspci": "Show a PCI function as lspci -vv does.",
    "block": "Read, write and copy a disk that a block device offers.",
    "entropy": "Print random bytes from an entropy device.",
    "console": "Talk to a console device.",
    "net": "Send, capture and count frames of a network device.",
    "bench": "Measure what things cost on this machine.",
    "spec": "Show the standard: device types, feature bits, structures.",
    "features": "Decode a feature word.",
}

_USAGE: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors; which module holds it depends on typer's version."""

_log = logging.getLogger("virtio")


class _Commands(TyperGroup):
    """A group whose members are placeholders until one is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, help_line in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=help_line)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            module = importlib.import_module(f"virtio.cli.{args[0]}")
            self.commands[args[0]] = typer.main.get_command(module.app)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from virtio import __version__

        print(f"virtio {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Log what happens; -vv in detail.")
    ] = 0,
) -> None:
    """Both ends of the VIRTIO queue, attached to real machines."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="virtio: %(levelname)s: %(name)s: %(message)s", stream=sys.stderr)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Whatever the user can cause ends in one line on stderr and status 2, never in a traceback.
    """
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name="virtio", standalone_mode=False
        )
    except Error as error:
        _log.debug("the error in full", exc_info=True)
        print(f"virtio: {error}", file=sys.stderr)
        return 2
    except _USAGE as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from flushing into the void.
        sys.stdout = None
        return 141
    return result if isinstance(result, int) else 0


def _usage(error: Any) -> int:
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help())
        return 2
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    print(f"virtio: {error.format_message().rstrip('.')}{hint}", file=sys.stderr)
    return 2


def main() -> None:
    """Entry point of the command ``virtio``."""
    sys.exit(run())
