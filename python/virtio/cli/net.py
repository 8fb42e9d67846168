"""``virtio net``: the frames of a network device, from the driver's end."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from virtio._native import PcapReader, PcapWriter
from virtio.cli.connected import connected
from virtio.cli.net_settings import settings

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def _net(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="For example vhost-user:/tmp/net.sock.")],
) -> None:
    """Use a network device as its driver."""
    context.obj = address


app.command()(settings)


@app.command()
def stats(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the device counts."""
    with connected(context.obj, "net") as card:
        found = card.statistics()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, count in found.items():
        print(f"{name:{width}}  {count}")


@app.command()
def capture(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A pcap or .pcapng file to write; - is standard output.")],
    count: Annotated[int, typer.Option(metavar="N", help="End after so many frames; 0: never.", min=0)] = 0,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End when none has come for so long.", min=0)
    ] = None,
) -> None:
    """Write frames that the device gives to a file. Ctrl-C ends it."""
    with connected(context.obj, "net") as card:
        out = sys.stdout.buffer if str(file) == "-" else file.open("wb")
        with out:
            writer = PcapWriter(out.fileno(), pcapng=file.suffix == ".pcapng")
            written = 0
            try:
                while not count or written < count:
                    for frame in card.receive_batch(count - written if count else 256, timeout=timeout):
                        writer.add(frame.data)
                        written += 1
                    writer.flush()
            except (TimeoutError, KeyboardInterrupt):
                pass
    print(f"{written} frames", file=sys.stderr)


@app.command()
def send(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A pcap or pcapng file.")],
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up on a frame after that.")] = 10.0,
) -> None:
    """Send the frames of a file, as fast as the device takes them."""
    with file.open("rb") as source, connected(context.obj, "net") as card:
        sent = card.send_batch((frame for _, frame in PcapReader(source.fileno())), timeout=timeout)
        card.flush(timeout=timeout)
    print(f"{sent} frames", file=sys.stderr)
