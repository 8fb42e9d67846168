"""Devices to drive: over each transport, with each layout of the ring."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from virtio.device.base import Device
from virtio.testing import Lab

Drive = Callable[..., Any]
"""Serve a device, connect to it, and return the driver; both end with the test."""

LAYOUTS = {
    "split": "RING_PACKED",
    "packed": "",
    "plain": "RING_PACKED,EVENT_IDX,INDIRECT_DESC",
    "packed-plain": "EVENT_IDX,INDIRECT_DESC",
}
"""What the driver does not accept."""


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
def drive(transport: str, virtio_lab: Lab) -> Drive:
    def serve(device: Device, kind: str | None = None, **options: Any) -> Any:
        return virtio_lab.connect(virtio_lab.serve(device, transport), kind, **options)

    return serve
