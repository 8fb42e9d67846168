"""``virtio entropy``: random bytes from a device."""

import sys
from typing import Annotated

import typer

from virtio.cli.connected import connected

app = typer.Typer(add_completion=False)


@app.command()
def entropy(
    address: Annotated[str, typer.Argument(help="For example vhost-user:/run/rng.sock.")],
    size: Annotated[int, typer.Option("--size", "-n", metavar="BYTES", help="How many.", min=0)] = 32,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bytes themselves, not their digits.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after that.")] = 10.0,
) -> None:
    """Print random bytes from an entropy device."""
    with connected(address, "entropy") as device:
        data = device.read(size, timeout=timeout)
    if raw:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        print(data.hex())
