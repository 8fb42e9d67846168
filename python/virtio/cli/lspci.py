"""``virtio lspci``: a PCI function in the words of ``lspci -vv``."""

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
    from virtio.transport import open_driver_end
    from virtio.transport.pci import PciDriverEnd
    from virtio.transport.pci import lspci as words

    end = open_driver_end(address)
    try:
        if not isinstance(end, PciDriverEnd):
            raise ConfigurationError(f"{address} is no PCI function; one is at vfio-user:PATH, say")
        if dump:
            print(words.dump(words.read(end.bus)), end="")
        else:
            print(words.text(words.read(end.bus), end.bus.regions, numbers=numbers), end="")
    finally:
        end.close()
