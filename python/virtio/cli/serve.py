"""``virtio serve``: a device for whatever virtual machine connects."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from virtio.cli.sizes import parse_size
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.device.console_line import Line

app = typer.Typer(
    help="Serve a device to a virtual machine that speaks vhost-user or vfio-user.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_WHERE = "Where front ends connect"

Socket = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Listen here; @NAME is an abstract name.", rich_help_panel=_WHERE),
]
Fd = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Use this descriptor: a socket, listening or connected.", rich_help_panel=_WHERE
    ),
]
Systemd = Annotated[
    bool, typer.Option("--systemd", help="Use the socket that systemd passes in.", rich_help_panel=_WHERE)
]
VfioUser = Annotated[
    str | None,
    typer.Option(
        "--vfio-user",
        metavar="PATH",
        help="Be a PCI function on this socket, for vfio-user.",
        rich_help_panel=_WHERE,
    ),
]
Mask = Annotated[
    str, typer.Option(metavar="FEATURES", help="Do not offer these: names, bit numbers or 0x…, with commas.")
]

Features = Annotated[
    str,
    typer.Option(
        metavar="FEATURES", help="Offer these too: IN_ORDER, RING_RESET and others of no device type."
    ),
]


def _address(socket: str | None, fd: int | None, systemd: bool, vfio_user: str | None) -> str:
    if (socket is not None) + (fd is not None) + systemd + (vfio_user is not None) > 1:
        raise ConfigurationError("give one of --socket, --fd, --systemd and --vfio-user")
    if vfio_user is not None:
        return f"vfio-user:{vfio_user}"
    if socket is not None:
        return f"vhost-user:{socket}"
    if fd is not None:
        return f"vhost-user:fd={fd}"
    if systemd or os.environ.get("LISTEN_FDS"):
        return "vhost-user:systemd"
    raise ConfigurationError(
        "say where front ends connect: --socket PATH, --vfio-user PATH, --fd N or --systemd"
    )


@app.callback(invoke_without_command=True)
def python(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="MODULE:CLASS", help="Serve a device written in Python; also FILE.py:CLASS."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="[NAME=]VALUE", help="An argument for CLASS; may be repeated."),
    ] = None,
    socket: Socket = None,
    fd: Fd = None,
    systemd: Systemd = False,
    vfio_user: VfioUser = None,
) -> None:
    """Serve a device to a virtual machine that speaks vhost-user or vfio-user."""
    if context.invoked_subcommand is not None:
        if target is not None:
            raise ConfigurationError(f"--python and {context.invoked_subcommand} are two devices; serve one")
        if socket is not None or fd is not None or systemd or vfio_user is not None or arg:
            raise ConfigurationError(
                f"options of the device come behind its name: serve {context.invoked_subcommand} …"
            )
        return
    if target is None:
        raise ConfigurationError("say which device: block, entropy, console, net, or --python MODULE:CLASS")
    address = _address(socket, fd, systemd, vfio_user)
    from virtio.cli.author import make
    from virtio.cli.live import serve_until_signal

    device = make(target, arg or [])
    serve_until_signal(device, address, f"{device.type.name} {target}")


@app.command()
def block(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="A file, a block device, or null:SIZE, which keeps nothing (null:1G)."
        ),
    ],
    socket: Socket = None,
    fd: Fd = None,
    systemd: Systemd = False,
    vfio_user: VfioUser = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse writes.")] = False,
    queues: Annotated[int, typer.Option(metavar="N", help="Number of queues.")] = 1,
    direct: Annotated[bool, typer.Option("--direct", help="Bypass the page cache (O_DIRECT).")] = False,
    cache: Annotated[
        Literal["writeback", "writethrough", "unsafe"],
        typer.Option(
            help="Safe after a flush, after each write, or never. The driver may switch the first two."
        ),
    ] = "writeback",
    serial: Annotated[str, typer.Option(metavar="TEXT", help="Serial number, at most 20 characters.")] = "",
    block_size: Annotated[int, typer.Option(metavar="BYTES", help="Logical block size.")] = 512,
    physical_block_size: Annotated[int, typer.Option(metavar="BYTES", help="Physical block size.")] = 0,
    no_discard: Annotated[
        bool, typer.Option("--no-discard", help="Do not offer to give back space.")
    ] = False,
    poll: Annotated[
        int,
        typer.Option(
            metavar="MICROSECONDS", help="Look for requests this long before sleeping, at most.", min=0
        ),
    ] = 0,
    features: Features = "",
    mask: Mask = "",
) -> None:
    """Serve a disk. SIGHUP makes it look at the size of IMAGE again."""
    address = _address(socket, fd, systemd, vfio_user)
    null = str(image).removeprefix("null:") if str(image).startswith("null:") else None
    if null is None and not image.exists():
        raise ConfigurationError(f"there is no {image}; an empty disk is made by: truncate -s 1G {image}")
    if image.is_dir():
        raise ConfigurationError(f"{image} is a directory; a disk is a file or a block device")
    from virtio._native import BlockTarget
    from virtio.cli.live import serve_until_signal
    from virtio.device.block import BlockDevice

    device = BlockDevice(
        image if null is None else BlockTarget.null(parse_size(null), zeroes=False),
        read_only=read_only,
        queues=queues,
        direct=direct,
        cache=cache,
        serial=serial,
        block_size=block_size,
        physical_block_size=physical_block_size,
        discard=False if no_discard else None,
        polling=poll,
        features=features,
        mask=mask,
        name=f"block {image.name}",
    )
    serve_until_signal(device, address, f"block {image}", on_signal={signal.SIGHUP: device.resize})


@app.command()
def entropy(
    socket: Socket = None,
    fd: Fd = None,
    systemd: Systemd = False,
    vfio_user: VfioUser = None,
    source: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where random bytes come from; else the kernel's own.")
    ] = None,
    features: Features = "",
    mask: Mask = "",
) -> None:
    """Serve random bytes."""
    address = _address(socket, fd, systemd, vfio_user)
    from virtio.cli.live import serve_until_signal
    from virtio.device.entropy import EntropyDevice

    serve_until_signal(
        EntropyDevice(source, features=features, mask=mask, name="entropy"), address, "entropy"
    )


@app.command()
def console(
    socket: Socket = None,
    fd: Fd = None,
    systemd: Systemd = False,
    vfio_user: VfioUser = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="Behind it: this terminal (the default).")] = False,
    pty: Annotated[bool, typer.Option("--pty", help="Behind it: a new pseudoterminal.")] = False,
    unix: Annotated[
        str | None, typer.Option("--unix", metavar="PATH", help="Behind it: a Unix socket that listens here.")
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="COLSxROWS", help="Size in characters; a terminal's own by default.")
    ] = "",
    features: Features = "",
    mask: Mask = "",
) -> None:
    """Serve a console. At a terminal, Ctrl-] ends it."""
    address = _address(socket, fd, systemd, vfio_user)
    if stdio + pty + (unix is not None) > 1:
        raise ConfigurationError("give one of --stdio, --pty and --unix")
    dimensions = _size(size)
    from virtio.cli.live import serve_until_signal
    from virtio.device.console import ConsoleDevice
    from virtio.device.console_line import PtyLine, StdioLine, UnixLine

    line: Line
    follow = False
    if unix is not None:
        line = UnixLine(unix)
    elif pty:
        line = PtyLine()
    else:
        line = StdioLine()
        if dimensions is None and os.isatty(1):
            terminal = os.get_terminal_size(1)
            dimensions, follow = (terminal.columns, terminal.lines), True
    device = ConsoleDevice(line, size=dimensions, features=features, mask=mask, name="console")
    serve_until_signal(
        device,
        address,
        f"console ({line})",
        quiet=isinstance(line, StdioLine),
        on_signal={signal.SIGWINCH: device.resize_to_terminal} if follow else None,
    )


@app.command()
def net(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="user, tap:NAME, stream:SOCKET, listen:SOCKET, datagrams:OWN:PEER, interface:NAME, "
            "pcap:[IN:]OUT, loop, sink.",
        ),
    ],
    socket: Socket = None,
    fd: Fd = None,
    systemd: Systemd = False,
    vfio_user: VfioUser = None,
    mac: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Made up if not given.")] = None,
    pairs: Annotated[int, typer.Option(metavar="N", help="Pairs of queues.", min=1)] = 1,
    mtu: Annotated[int | None, typer.Option(metavar="BYTES", help="Tell the driver the largest MTU.")] = None,
    speed: Annotated[int | None, typer.Option(metavar="MBIT", help="Tell the driver a speed.")] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Offer to use buffers in order.")] = False,
    flow_filters: Annotated[
        bool, typer.Option("--flow-filters", help="Let the driver have rules about packets (--vfio-user).")
    ] = False,
    poll: Annotated[
        int,
        typer.Option(
            metavar="MICROSECONDS", help="Look for frames this long before sleeping, at most.", min=0
        ),
    ] = 0,
    features: Features = "",
    mask: Mask = "",
) -> None:
    """Serve a network card. SIGHUP takes its link away, or gives it back."""
    address = _address(socket, fd, systemd, vfio_user)
    if flow_filters and vfio_user is None:
        raise ConfigurationError(
            "--flow-filters needs an administration virtqueue, which vhost-user does not carry: "
            "serve the card with --vfio-user"
        )
    from virtio.cli.live import serve_until_signal
    from virtio.device.net import NetworkDevice
    from virtio.device.net_backends import open_backend

    device = NetworkDevice(
        open_backend(network),
        in_order=in_order,
        flow_filters=flow_filters,
        mac=mac,
        pairs=pairs,
        mtu=mtu,
        speed=speed,
        polling=poll,
        features=features,
        mask=mask,
        name="net",
    )

    def toggle() -> None:
        device.link = not device.link

    serve_until_signal(device, address, f"net {network}", on_signal={signal.SIGHUP: toggle})


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    columns, _, rows = text.partition("x")
    if not (
        columns.isdecimal() and rows.isdecimal() and 0 < int(columns) < 1 << 16 and 0 < int(rows) < 1 << 16
    ):
        raise ConfigurationError(f"a size is COLSxROWS, as 80x25, not {text!r}")
    return int(columns), int(rows)
