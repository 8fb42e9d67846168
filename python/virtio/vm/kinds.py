"""The kinds of devices that can be asked for in a few characters: ``disk.img,read-only``.

A new kind is one more entry in :data:`KINDS`; ``virtio vm`` has an option for each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtio.device.base import Device
from virtio.errors import ConfigurationError


@dataclass(frozen=True)
class Kind:
    """How one kind of device is asked for. Without a ``metavar`` it takes no value."""

    make: Callable[[str], Device]
    help: str
    metavar: str | None = None


def _block(text: str) -> Device:
    from virtio.device.block import BlockDevice

    image, settings = _split(
        text, {"read-only": _flag, "direct": _flag, "cache": str, "serial": str, "queues": _number}
    )
    if image.startswith("memory:"):
        return BlockDevice(size=_size(image.removeprefix("memory:")), name="block", **settings)
    if not Path(image).exists():
        raise ConfigurationError(f"no image at {image} (make one: truncate -s 1G {image}; or use memory:1G)")
    return BlockDevice(image, name="block", **settings)


def _console(text: str) -> Device:
    from virtio.device.console import ConsoleDevice
    from virtio.device.console_line import Line, PtyLine, UnixLine

    where, _ = _split(text, {})
    line: Line = PtyLine() if where == "pty" else UnixLine(where)
    print(f"console: {line}", flush=True)
    return ConsoleDevice(line, name="console")


def _entropy(_text: str) -> Device:
    from virtio.device.entropy import EntropyDevice

    return EntropyDevice(name="entropy")


def _net(text: str) -> Device:
    from virtio.device.net import NetworkDevice
    from virtio.device.net_backends import open_backend

    where, settings = _split(
        text, {"mac": str, "pairs": _number, "mtu": _number, "speed": _number, "mask": str}
    )
    return NetworkDevice(open_backend(where), name="net", **settings)


KINDS: Mapping[str, Kind] = {
    "block": Kind(
        _block,
        "A disk: an image, or memory:SIZE. Settings: read-only, direct, cache=, serial=, queues=.",
        "IMAGE[,SETTING]",
    ),
    "console": Kind(
        _console, "A console, hvc0 in the guest, on a Unix socket, or on a new pty.", "SOCKET|pty"
    ),
    "entropy": Kind(_entropy, "A source of random numbers."),
    "net": Kind(
        _net,
        "A network card on user (passt), user:PORT:PORT, tap:NAME, stream:SOCKET, interface:NAME, pcap:OUT. "
        "Settings: mac=, pairs=, mtu=, speed=.",
        "NETWORK[,SETTING]",
    ),
}


def _split(text: str, settings: Mapping[str, Callable[[str], Any]]) -> tuple[str, dict[str, Any]]:
    """Divide ``value,flag,key=value`` into the value and the keyword arguments that the rest is."""
    value, *rest = text.split(",")
    given: dict[str, Any] = {}
    for setting in rest:
        key, _, argument = setting.partition("=")
        if key not in settings:
            known = ", ".join(settings) or "none"
            raise ConfigurationError(f"unknown setting {key!r} in {text!r} (known: {known})")
        given[key.replace("-", "_")] = settings[key](argument)
    return value, given


def _flag(text: str) -> bool:
    if text not in ("", "on", "off"):
        raise ConfigurationError(f"{text!r} is neither on nor off")
    return text != "off"


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is not a number") from None


def _size(text: str) -> int:
    shift = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper(), 0)
    return _number(text[:-1] if shift else text) << shift
