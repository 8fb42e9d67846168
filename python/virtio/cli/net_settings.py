"""``virtio net ADDRESS settings``: what a network device has, and what its driver can set.

No command asks a device for what was set, but for coalescing: the rest is what this connection has set.
"""

import json
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virtio.cli.connected import connected
from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.driver.net import NetworkDriver

_KEY_SIZE = 40
MOST_PAIRS = 16
"""Pairs of queues that are set up unless more are asked for."""


def settings(  # one parameter for each option
    context: typer.Context,
    mac: Annotated[str | None, typer.Option(metavar="MAC", help="Change the address.")] = None,
    promisc: Annotated[bool | None, typer.Option(help="Take all frames.")] = None,
    allmulti: Annotated[bool | None, typer.Option(help="Take all multicast.")] = None,
    alluni: Annotated[bool | None, typer.Option(help="Take all unicast.")] = None,
    nomulti: Annotated[bool | None, typer.Option(help="Take no multicast.")] = None,
    nouni: Annotated[bool | None, typer.Option(help="Take no unicast.")] = None,
    nobcast: Annotated[bool | None, typer.Option(help="Take no broadcast.")] = None,
    addresses: Annotated[
        list[str] | None, typer.Option("--filter", metavar="MAC", help="Take frames to this address too.")
    ] = None,
    vlans: Annotated[
        list[int] | None,
        typer.Option("--vlan", metavar="ID", min=0, max=4095, help="Let frames of a VLAN in."),
    ] = None,
    removed_vlans: Annotated[
        list[int] | None,
        typer.Option("--remove-vlan", metavar="ID", min=0, max=4095, help="Let them in no longer."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=0x8000, help="Use so many pairs of queues.")
    ] = None,
    rx_ring: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Entries of receive queues (RING_RESET).")
    ] = None,
    tx_ring: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Entries of transmit queues (RING_RESET).")
    ] = None,
    offloads: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Receive offloads that stay on, as GUEST_CSUM,GUEST_TSO4; none."),
    ] = None,
    coalesce_rx: Annotated[
        str | None,
        typer.Option(metavar="PACKETS,USECS", help="Put off the notifications of receive queues."),
    ] = None,
    coalesce_tx: Annotated[
        str | None,
        typer.Option(metavar="PACKETS,USECS", help="Put off the notifications of transmit queues."),
    ] = None,
    coalesce_queue: Annotated[
        list[str] | None,
        typer.Option(metavar="rxN=PACKETS,USECS", help="The same for one queue, rx0 or tx0 and so on."),
    ] = None,
    rss_table: Annotated[
        str | None, typer.Option(metavar="QUEUES", help="Spread frames by hash over these, as 0,1,2,3.")
    ] = None,
    rss_key: Annotated[
        str | None, typer.Option(metavar="HEX", help="The key of the hash; without one it is random.")
    ] = None,
    rss_types: Annotated[
        str | None, typer.Option(metavar="NAMES", help="What is hashed, as IPv4,TCPv4; without it, all.")
    ] = None,
    rss_unclassified: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="The queue for frames without a hash.")
    ] = None,
    rss_transmit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Use so many transmit queues.")
    ] = None,
    hash_types: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Report hashes of these types (HASH_REPORT).")
    ] = None,
    hash_key: Annotated[
        str | None, typer.Option(metavar="HEX", help="Their key; without one it is random.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the device has, after setting what options say.

    All of it lasts as long as the connection: when the command ends, the device is reset, whatever the
    transport, and forgets what was set. It tells what a device takes and what it refuses.
    """
    wanted = max(pairs or 0, MOST_PAIRS)
    modes = {
        "PROMISC": promisc,
        "ALLMULTI": allmulti,
        "ALLUNI": alluni,
        "NOMULTI": nomulti,
        "NOUNI": nouni,
        "NOBCAST": nobcast,
    }
    changes = _Changes(
        mac=mac,
        modes={mode: on for mode, on in modes.items() if on is not None},
        addresses=addresses or [],
        vlans=vlans or [],
        removed_vlans=removed_vlans or [],
        pairs=pairs,
        rings={"RX": rx_ring, "TX": tx_ring},
        offloads=offloads,
        coalescing={"RX": coalesce_rx, "TX": coalesce_tx},
        coalesced_queues=coalesce_queue or [],
        table=rss_table,
        key=rss_key,
        types=rss_types,
        unclassified=rss_unclassified,
        transmit=rss_transmit,
        hash_types=hash_types,
        hash_key=hash_key,
    )
    with connected(context.obj, "net", pairs=wanted) as card:
        changes.apply(card)
        found = describe(card, changes)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


class _Changes:
    """What the options say, read before a device is touched."""

    def __init__(
        self,
        *,
        mac: str | None,
        modes: dict[str, bool],
        addresses: list[str],
        vlans: list[int],
        removed_vlans: list[int],
        pairs: int | None,
        rings: dict[str, int | None],
        offloads: str | None,
        coalescing: dict[str, str | None],
        coalesced_queues: list[str],
        table: str | None,
        key: str | None,
        types: str | None,
        unclassified: int | None,
        transmit: int | None,
        hash_types: str | None,
        hash_key: str | None,
    ) -> None:
        from virtio.spec import net, net_control

        self.mac = None if mac is None else _address(mac)
        self.modes = modes
        self.addresses = [_address(one) for one in addresses]
        self.vlans = vlans
        self.removed_vlans = removed_vlans
        self.pairs = pairs
        self.rings = rings
        self.offloads = None if offloads is None else _bits(net_control.OFFLOADS, offloads)
        self.coalescing = {
            direction: _coalescing(text) for direction, text in coalescing.items() if text is not None
        }
        self.coalesced_queues = [_coalesced_queue(text) for text in coalesced_queues]
        self.table = None if table is None else [_number(part) for part in table.split(",")]
        self.key = None if key is None else _hex(key, "a key")
        self.types = None if types is None else _bits(net.HASH_TYPE, types)
        self.unclassified = unclassified
        self.transmit = transmit
        self.hash_types = None if hash_types is None else _bits(net.HASH_TYPE, hash_types)
        self.hash_key = b"" if hash_key is None else _hex(hash_key, "a key")
        numbers = (unclassified, transmit)
        if table is None and (key or types or any(number is not None for number in numbers)):
            raise ConfigurationError("the other --rss options go with --rss-table")
        if hash_key is not None and hash_types is None:
            raise ConfigurationError("--hash-key goes with --hash-types")

    def apply(self, card: "NetworkDriver") -> None:
        """Set it all."""
        if self.pairs is not None:
            if self.pairs > card.pairs:
                raise ConfigurationError(f"{self.pairs} pairs of queues: the device has {card.pairs}")
            if card.pairs > 1:
                card.use_pairs(self.pairs)
        for queue in card.queues[: 2 * card.pairs]:
            size = self.rings["TX" if queue.index % 2 else "RX"]
            if size is not None:
                queue.reset(size)
        if self.mac is not None:
            card.set_mac(self.mac)
        for mode, on in self.modes.items():
            card.set_mode(mode, on)
        if self.addresses:
            unicast = [one for one in self.addresses if not one[0] & 1]
            card.set_filter(unicast, [one for one in self.addresses if one[0] & 1])
        for vlan in self.vlans:
            card.add_vlan(vlan)
        for vlan in self.removed_vlans:
            card.remove_vlan(vlan)
        if self.offloads is not None:
            card.set_offloads(self.offloads)
        for direction, values in self.coalescing.items():
            card.set_coalescing("RX" if direction == "RX" else "TX", *values)
        for direction, number, values in self.coalesced_queues:
            card.set_coalescing("RX" if direction == "RX" else "TX", *values, queue=number)
        if self.hash_types is not None:
            most = card.config.values()["rss_max_key_size"] if _hashes(card) else 0
            self.hash_key = self.hash_key or secrets.token_bytes(min(most, _KEY_SIZE))
            card.set_hash(self.hash_types, self.hash_key)
        if self.table is not None:
            card.set_rss(
                self.table,
                types=self.types,
                key=self.key,
                unclassified=self.unclassified or 0,
                transmit=self.transmit,
            )


def describe(card: "NetworkDriver", changes: _Changes) -> dict[str, Any]:
    """Return all that there is to know, in the form of ``--json``."""
    from virtio.spec import net
    from virtio.spec.net import F

    values = card.config.values()
    both = card.features & (F.MQ | F.RSS)
    speed = values["speed"] if card.features & F.SPEED_DUPLEX else None
    duplexes = {0: "half", 1: "full"}
    rss = card.rss
    return {
        "mac": card.mac.hex(":") if card.mac else None,
        "mtu": values["mtu"] if card.features & F.MTU else None,
        "link": card.link,
        "speed": speed if speed is not None and speed < 1 << 31 else None,
        "duplex": duplexes.get(values["duplex"]) if card.features & F.SPEED_DUPLEX else None,
        "pairs": {
            "in_use": card.used_pairs,
            "set_up": card.pairs,
            "max": values["max_virtqueue_pairs"] if both else 1,
        },
        "queues": _queues(card),
        "transmit_offloads": _names(card, lambda name: name == "CSUM" or name.startswith("HOST_")),
        "receive_offloads": _receive_offloads(card),
        "rss": {
            "possible": bool(card.features & F.RSS),
            "types": _codes(net.HASH_TYPE, values["supported_hash_types"] if _hashes(card) else 0),
            "max_key_size": values["rss_max_key_size"] if _hashes(card) else 0,
            "max_table_size": values["rss_max_indirection_table_length"] if card.features & F.RSS else 0,
            "set": None
            if rss is None
            else {
                "table": list(rss.table),
                "key": rss.key.hex(),
                "types": _codes(net.HASH_TYPE, rss.types),
                "unclassified": rss.unclassified,
                "transmit": rss.transmit,
            },
        },
        "hash_report": {
            "possible": bool(card.features & F.HASH_REPORT),
            "set": None
            if changes.hash_types is None
            else {"types": _codes(net.HASH_TYPE, changes.hash_types), "key": changes.hash_key.hex()},
        },
        "receive_modes": {
            "possible": bool(card.features & F.CTRL_RX),
            "more": bool(card.features & F.CTRL_RX_EXTRA),
            "set": changes.modes,
            "addresses": [one.hex(":") for one in changes.addresses],
        },
        "vlans": {
            "possible": bool(card.features & F.CTRL_VLAN),
            "set": [one for one in changes.vlans if one not in changes.removed_vlans],
        },
        "flow_filters": _flow_filters(card),
        "features": _names(card, lambda _: True),
    }


def _flow_filters(card: "NetworkDriver") -> dict[str, Any] | None:
    """Return what there can be of them; None: the device or the transport has none."""
    if card.administration is None:
        return None
    from virtio.spec import net_flow

    try:
        flows = card.flow_filters
    except ConfigurationError:
        return None
    headers = [net_flow.HEADERS[kind].name for kind in flows.selectors if kind in net_flow.HEADERS]
    limits = {
        name.removesuffix("_limit"): most for name, most in vars(flows.limits).items() if name != "reserved"
    }
    actions = [_short(net_flow.ACTION, action) for action in sorted(flows.actions)]
    return {**limits, "headers": headers, "actions": actions}


def _short(codes: Any, value: int) -> str:
    return (codes.name(value) or str(value)).removeprefix(codes.prefix)


def _hashes(card: "NetworkDriver") -> bool:
    from virtio.spec.net import F

    return bool(card.features & (F.RSS | F.HASH_REPORT))


def _queues(card: "NetworkDriver") -> list[dict[str, Any]]:
    from virtio.spec.net import F

    found = []
    for queue in card.queues:
        row: dict[str, Any] = {
            "index": queue.index,
            "name": queue.name,
            "size": queue.size,
            "max_size": card.end.max_queue_size(queue.index),
        }
        pair, transmit = divmod(queue.index, 2)
        if card.features & F.VQ_NOTF_COAL and pair < (card.used_pairs if transmit else card.pairs):
            row["coalescing"] = card.coalescing("TX" if transmit else "RX", queue=pair)._asdict()
        found.append(row)
    return found


def _names(card: "NetworkDriver", wanted: Any) -> list[str]:
    from virtio.spec import selection

    features = selection.known(card.type, card.features)
    found = (feature.name.partition("_F_")[2] for feature in features)
    return [name for name in found if wanted(name)]


def _receive_offloads(card: "NetworkDriver") -> dict[str, bool]:
    from virtio.spec import net_control, selection

    found = {}
    for code in net_control.OFFLOADS:
        if card.features & selection.parse(card.type, code.name):
            found[code.name.removeprefix("VIRTIO_NET_F_")] = bool(card.offloads & code.value)
    return found


def _codes(codes: Any, bits: int) -> list[str]:
    return [code.name.removeprefix(codes.prefix) for code in codes if code.value & bits]


# --- reading options


def _address(text: str) -> bytes:
    found = _hex(text.replace("-", ":").replace(":", ""), "an address")
    if len(found) != 6:
        raise ConfigurationError(f"an address has 6 bytes, such as 02:00:00:00:00:01, not {text!r}")
    return found


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise ConfigurationError(f"{what} is written in hexadecimal digits, not {text!r}") from None


def _bits(codes: Any, text: str) -> int:
    known = {code.name.removeprefix(codes.prefix).upper(): code.value for code in codes}
    bits = 0
    for name in () if text.lower() == "none" else text.upper().split(","):
        if name not in known:
            raise ConfigurationError(f"no {codes.title} {name!r}: there are {', '.join(known)}")
        bits |= known[name]
    return bits


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"{text!r} is no number")
    return int(text)


def _coalescing(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2:
        raise ConfigurationError(f"coalescing is PACKETS,USECS, not {text!r}")
    packets, usecs = (_number(part) for part in parts)
    if max(packets, usecs) >= 1 << 32:
        raise ConfigurationError(f"coalescing by {text}: 32 bits each")
    return packets, usecs


def _coalesced_queue(text: str) -> tuple[str, int, tuple[int, int]]:
    queue, _, values = text.partition("=")
    direction, number = queue[:2].upper(), queue[2:]
    if direction not in ("RX", "TX") or not number.isdecimal():
        raise ConfigurationError(f"a queue's coalescing is rx0=PACKETS,USECS or the like, not {text!r}")
    return direction, int(number), _coalescing(values)


# --- printing


def _print(found: dict[str, Any]) -> None:
    out = console()
    pairs, rss, modes = found["pairs"], found["rss"], found["receive_modes"]
    speed = "unknown" if found["speed"] is None else f"{found['speed']} Mbit/s"
    rows = [
        ("address", found["mac"] or "none"),
        ("MTU", str(found["mtu"]) if found["mtu"] else ""),
        ("link", "up" if found["link"] else "down"),
        ("speed", f"{speed}, {found['duplex'] or 'unknown'} duplex"),
        ("pairs of queues", f"{pairs['in_use']} in use, {pairs['max']} in the device"),
        ("transmit offloads", ", ".join(found["transmit_offloads"]) or "none"),
        ("receive offloads", _switches(found["receive_offloads"]) or "none"),
        ("receive modes", _modes(modes)),
        ("VLANs", _vlans(found["vlans"])),
        ("hash types", ", ".join(rss["types"]) or "none"),
        ("RSS", _rss(rss)),
    ]
    if report := found["hash_report"]["set"]:
        rows.append(("hash report", f"{', '.join(report['types']) or 'none'}, key {report['key']}"))
    if flows := found["flow_filters"]:
        told = f"{flows['rules']} rules in {flows['groups']} groups, {flows['classifiers']} classifiers"
        rows.append(("flow filters", f"{told}; {', '.join(flows['headers'])}"))
    if rss["set"]:
        rows += [
            ("RSS table", ",".join(map(str, rss["set"]["table"]))),
            ("RSS key", rss["set"]["key"]),
        ]
    show(out, ("setting", "value"), [row for row in rows if row[1]])
    queues = [
        (
            str(queue["index"]),
            queue["name"],
            str(queue["size"]),
            str(queue["max_size"]),
            "{max_packets},{max_usecs}".format(**queue["coalescing"]) if "coalescing" in queue else "",
        )
        for queue in found["queues"]
    ]
    show(out, (">queue", "name", ">entries", ">most", ">packets,usecs"), queues, "Queues")


def _switches(switches: dict[str, bool]) -> str:
    return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in switches.items())


def _modes(modes: dict[str, Any]) -> str:
    if not modes["possible"]:
        return "cannot be set"
    told = [_switches({mode.lower(): on for mode, on in modes["set"].items()}), *modes["addresses"]]
    return ", ".join(filter(None, told)) or "as after a reset"


def _vlans(vlans: dict[str, Any]) -> str:
    if not vlans["possible"]:
        return "cannot be filtered"
    return ", ".join(map(str, vlans["set"])) or "none let in by us"


def _rss(rss: dict[str, Any]) -> str:
    if not rss["possible"]:
        return "cannot be set"
    room = f"tables to {rss['max_table_size']} entries, keys to {rss['max_key_size']} bytes"
    return f"on, {room}" if rss["set"] else f"off, {room}"
