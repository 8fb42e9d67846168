"""``virtio info``: what a device says about itself."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virtio.cli.tables import console, show
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.driver.survey import Survey

app = typer.Typer(add_completion=False)


@app.command()
def info(
    address: Annotated[str, typer.Argument(help="For example vhost-user:/run/disk.sock.")],
    kind: Annotated[
        str,
        typer.Option("--type", metavar="TYPE", help="If the transport does not tell: block, net, 5, …"),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a device's type, features, configuration and queues. Nothing else may be driving it."""
    from virtio import spec
    from virtio.driver.survey import survey
    from virtio.transport import open_driver_end

    wanted = spec.device_type(kind) if kind else None
    end = open_driver_end(address)
    try:
        if wanted is None:
            if end.device_id is None:
                raise ConfigurationError(f"{address} does not tell what it is: add --type block, say")
            wanted = spec.device_type(end.device_id)
        found = survey(end, wanted)
    finally:
        end.close()
    if as_json:
        print(json.dumps(_plain(address, found), indent=2))
    else:
        _print(address, found)


def _print(address: str, found: "Survey") -> None:
    out = console()
    kind = found.kind
    out.print(f"{address}: {kind.title}, device id {kind.id} (VIRTIO 1.4, {kind.section})", soft_wrap=True)
    rows = [(str(row.bit), row.name, str(row.since), row.doc) for row in found.features]
    rows += [(str(bit), "(unknown)", "", "not in VIRTIO 1.4") for bit in found.unknown]
    show(out, (">bit", "feature", "since", "meaning"), sorted(rows, key=lambda row: int(row[0])), "Offered")
    docs = {} if kind.config is None else {field.name: field.doc for field in kind.config.fields}
    values = [(name, _value(value), docs[name]) for name, value in found.config.items()]
    show(out, ("field", "value", "meaning"), values, "Configuration")
    queues = [(str(queue.index), queue.name, str(queue.max_size)) for queue in found.queues]
    show(out, (">queue", "name", ">entries"), queues, "Queues")


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex(" ")
    if hasattr(value, "__dict__"):
        return ", ".join(f"{name} {_value(part)}" for name, part in vars(value).items())
    return str(value)


def _plain(address: str, found: "Survey") -> dict[str, Any]:
    return {
        "address": address,
        "type": found.kind.name,
        "id": found.kind.id,
        "offered": f"{found.offered:#x}",
        "features": [row.name for row in found.features],
        "unknown": list(found.unknown),
        "config": {name: _simple(value) for name, value in found.config.items()},
        "queues": [
            {"index": queue.index, "name": queue.name, "max_size": queue.max_size} for queue in found.queues
        ],
    }


def _simple(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_simple(part) for part in value]
    if hasattr(value, "__dict__"):
        return {name: _simple(part) for name, part in vars(value).items()}
    return value
