"""Finds what answers a queue: ``on_<method>(chain)`` or ``on_<method>_batch(batch)`` of the device.

``<method>`` is what :mod:`virtio.spec` calls the queue: ``requests``, ``receive``, ``transmit``, …
"""

from typing import TYPE_CHECKING

from virtio._native import BatchHandler, CallHandler, Handler
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.device.base import Device


def check_names(device: "Device") -> None:
    """Raise if there is a handler for no queue: a slip of the pen that would else be served in silence."""
    methods = {queue.method for queue in device.type.queues}
    known = {f"on_{method}{tail}" for method in methods for tail in ("", "_batch")} | {*device.other_handlers}
    for name in dir(type(device)):
        if name.startswith("on_") and name not in known:
            raise ConfigurationError(
                f"{type(device).__name__}.{name} answers no queue of a {device.type.name} device, which has "
                + ", ".join(f"on_{method}" for method in sorted(methods))
            )


def find(device: "Device", method: str) -> Handler:
    """Make the handler for the queues of this name."""
    single = getattr(device, f"on_{method}", None)
    batch = getattr(device, f"on_{method}_batch", None)
    if single is not None and batch is not None:
        raise ConfigurationError(
            f"{type(device).__name__} has both on_{method} and on_{method}_batch: which one is meant?"
        )
    if batch is not None:
        return BatchHandler(batch, device.request_failed)
    if single is not None:
        return CallHandler(single, device.request_failed)
    raise ConfigurationError(
        f"{type(device).__name__} does not answer its queue: write on_{method}(self, chain) or "
        f"on_{method}_batch(self, batch)"
    )
