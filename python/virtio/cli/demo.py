"""``virtio demo``: the first thing that a stranger sees."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status
from rich.table import Table

from virtio.errors import ConfigurationError, Error
from virtio.vm.demo import Outcome, Traffic, available, demonstrate
from virtio.vm.guest import Monitor

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

_TITLES: dict[Monitor, str] = {
    "uml": "User Mode Linux: a Linux kernel that is an ordinary process",
    "qemu": "QEMU: a Linux kernel on an emulated PC",
}


class _Screen:
    """Shows each step: turning while it lasts, one line when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._title = ""
        self._start = 0.0

    def begin(self, title: str) -> None:
        self._title, self._start = title, time.monotonic()
        self._status = self._console.status(escape(title) + " …")
        self._status.start()

    def done(self, detail: str) -> None:
        self._stop()
        took = time.monotonic() - self._start
        self._console.print(f"  [green]✓[/] {escape(self._title)} [dim]({took:.1f} s)[/]")
        self._console.print(f"    [bold]{escape(detail)}[/]", highlight=False)

    def failed(self, error: BaseException) -> None:
        self._stop()
        self._console.print(f"  [red]✗[/] {escape(self._title)}")
        self._console.print(f"    {escape(str(error))}", highlight=False)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


@app.command()
def demo(
    vmm: Annotated[
        Monitor | None, typer.Option(help="Only this monitor; by default all that are here.")
    ] = None,
) -> None:
    """Boot unmodified Linux on devices that this Python process serves, and verify what it does with them."""
    console = Console(highlight=False)
    monitors, lacking = available()
    if vmm is not None:
        monitors = [monitor for monitor in monitors if monitor == vmm]
    if not monitors:
        raise ConfigurationError("no guest can run here:\n  " + "\n  ".join(lacking))
    console.print(
        "\n[bold]pyvirtio[/]: devices written in Python, in real virtual machines, over vhost-user\n",
        highlight=False,
    )
    failures = 0
    for monitor in monitors:
        console.print(f"[bold cyan]{_TITLES[monitor]}[/]")
        screen = _Screen(console)
        try:
            outcome = demonstrate(monitor, screen)
        except Error as error:
            screen.failed(error)
            failures += 1
        except BaseException:
            screen.failed(KeyboardInterrupt("interrupted; the guest and its devices are gone"))
            raise
        else:
            console.print()
            _show(console, outcome)
        console.print()
    if vmm is None:
        for line in lacking:
            console.print(f"[dim]Not shown, since there is {escape(line)}[/]")
    if failures:
        raise typer.Exit(1)
    console.print("All data verified. Next: [bold]virtio vm --block IMAGE[/], or write a device: docs/\n")


def _show(console: Console, outcome: Outcome) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("  device")
    heads = (
        "requests",
        "to guest",
        "from guest",
        "write\nMB/s",
        "read\nMB/s",
        "kicks per\nrequest",
        "interrupts\nper request",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for traffic in outcome.traffic:
        table.add_row(
            f"  {traffic.device}",
            f"{traffic.requests:,}",
            _bytes(traffic.bytes_to_driver),
            _bytes(traffic.bytes_from_driver),
            *_rates(outcome, traffic),
            _per_request(traffic.kicks, traffic),
            _per_request(traffic.interrupts, traffic),
        )
    console.print(table)
    console.print()
    for traffic in outcome.traffic:
        names = ", ".join(_short(name) for name in traffic.features)
        console.print(Padding(f"[dim]{traffic.device} negotiated[/] {names}", (0, 2)))


def _rates(outcome: Outcome, traffic: Traffic) -> tuple[str, str]:
    if traffic.device != "block":
        return "", ""
    return f"{outcome.write_rate / 1e6:.0f}", f"{outcome.read_rate / 1e6:.0f}"


def _short(name: str) -> str:
    return name.split("_F_", 1)[-1]


def _per_request(count: int, traffic: Traffic) -> str:
    return f"{count / traffic.requests:.2f}" if traffic.requests else "-"


def _bytes(count: int) -> str:
    if count < 10_000:
        return f"{count:,} B"
    return f"{count / 1e3:,.0f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"
