"""A device that a command is connected to, and how its failures read."""

import contextlib
from collections.abc import Iterator
from typing import Any

import virtio
from virtio.errors import ConfigurationError, TransportError


@contextlib.contextmanager
def connected(address: str, kind: str, **options: Any) -> Iterator[Any]:
    """Drive the device within a block; everything that goes wrong there is an error with a plain text."""
    try:
        with virtio.connect(address, kind, **options) as driver:
            yield driver
    except TimeoutError as error:
        raise TransportError(f"{address}: {error}") from error
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise ConfigurationError(f"{name}{error.strerror or error}") from error
