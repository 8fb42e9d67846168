"""``virtio net``: the frames of a network device, from the driver's end."""

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from virtio.cli.connected import connected
from virtio.errors import ConfigurationError

app = typer.Typer(add_completion=False, no_args_is_help=True)

_MAGIC, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_ETHERNET = 1
_SNAP = 1 << 18


@app.callback()
def _net(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="For example vhost-user:/tmp/net.sock.")],
) -> None:
    """Use a network device as its driver."""
    context.obj = address


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
    file: Annotated[Path, typer.Argument(help="A pcap file to write; - is standard output.")],
    count: Annotated[int, typer.Option(metavar="N", help="End after so many frames; 0: never.", min=0)] = 0,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End when none has come for so long.", min=0)
    ] = None,
) -> None:
    """Write frames that the device gives to a pcap file. Ctrl-C ends it."""
    with connected(context.obj, "net") as card:
        out = sys.stdout.buffer if str(file) == "-" else file.open("wb")
        with out:
            out.write(struct.pack("<IHHiIII", _MAGIC, 2, 4, 0, 0, _SNAP, _ETHERNET))
            written = 0
            try:
                while not count or written < count:
                    for frame in card.receive_batch(count - written if count else 256, timeout=timeout):
                        now = time.time_ns() // 1000
                        size = len(frame.data)
                        out.write(struct.pack("<IIII", *divmod(now, 1_000_000), size, size) + frame.data)
                        written += 1
                    out.flush()
            except (TimeoutError, KeyboardInterrupt):
                pass
    print(f"{written} frames", file=sys.stderr)


@app.command()
def send(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A pcap file.")],
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up on a frame after that.")] = 10.0,
) -> None:
    """Send the frames of a pcap file, as fast as the device takes them."""
    with file.open("rb") as source, connected(context.obj, "net") as card:
        sent = card.send_batch(frames(source), timeout=timeout)
        card.flush(timeout=timeout)
    print(f"{sent} frames", file=sys.stderr)


def frames(source: BinaryIO) -> Iterator[bytes]:
    """Read a pcap file, of either byte order."""
    header = source.read(24)
    order = next(
        (
            order
            for order in "<>"
            if len(header) == 24 and struct.unpack(f"{order}I", header[:4])[0] in (_MAGIC, _NANOSECONDS)
        ),
        None,
    )
    if order is None:
        raise ConfigurationError("this is no pcap file (pcapng is another format)")
    if struct.unpack(f"{order}I", header[20:])[0] & 0xFFFF != _ETHERNET:
        raise ConfigurationError("these are no Ethernet frames")
    while len(record := source.read(16)) == 16:
        size, whole = struct.unpack(f"{order}8xII", record)
        data = source.read(min(size, _SNAP))
        if size > _SNAP or len(data) != size:
            raise ConfigurationError("the pcap file is cut short, or damaged")
        if size == whole:
            yield data
