"""``virtio lspci``: a PCI function in the words of ``lspci -vv``."""

import sys
from typing import Annotated

import typer

from virtio.errors import ConfigurationError

app = typer.Typer(add_completion=False)


@app.command()
def lspci(
    address: Annotated[str, typer.Argument(help="For example vfio-user:/run/function.sock.")],
    numbers: Annotated[bool, typer.Option("-n", "--numbers", help="Print ids instead of names.")] = False,
    dump: Annotated[bool, typer.Option("-x", "--dump", help="Print what lspci -F reads.")] = False,
) -> None:
    """Show the configuration space of a virtio PCI function. Nothing else may be driving it."""
    from virtio.transport.address import opener, parse
    from virtio.transport.pci import lspci as words

    scheme, rest = parse(address)
    open_bus = getattr(sys.modules[opener(scheme).__module__], "open_bus", None)
    if open_bus is None:
        raise ConfigurationError(f"{address} is no PCI function; one is at vfio-user:PATH, say")
    bus = open_bus(rest)
    try:
        if dump:
            print(words.dump(words.read(bus)), end="")
        else:
            print(words.text(words.read(bus), bus.regions, numbers=numbers), end="")
    finally:
        bus.close()
