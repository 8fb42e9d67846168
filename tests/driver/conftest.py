"""Devices to drive: over each transport, with each layout of the ring."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import virtio
from virtio.device.base import Device

Drive = Callable[..., Any]
"""Serve a device, connect to it, and return the driver; both end with the test."""

LAYOUTS = {
    "split": "RING_PACKED",
    "packed": "",
    "plain": "RING_PACKED,EVENT_IDX,INDIRECT_DESC",
    "packed-plain": "EVENT_IDX,INDIRECT_DESC",
}
"""What the driver does not accept."""

_numbers = itertools.count()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


@pytest.fixture(params=["mem", "vhost-user"])
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    return LAYOUTS[request.param]


@pytest.fixture
def drive(transport: str, tmp_path: Path, stack: contextlib.ExitStack) -> Drive:
    def serve(device: Device, kind: str | None = None, **options: Any) -> Any:
        stack.callback(device.close)
        number = next(_numbers)
        place = f"mem:drive{number}" if transport == "mem" else f"vhost-user:{tmp_path}/{number}.sock"
        stack.enter_context(virtio.start(device, place))
        return stack.enter_context(virtio.connect(place, kind or device.type.name, **options))

    return serve
