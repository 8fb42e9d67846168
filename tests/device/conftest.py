"""Both layouts of the rings, for tests that do not care which."""

import pytest
from tests.device.rig import Rig

from virtio.spec.core import F


@pytest.fixture(params=["packed", "split"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drive devices on packed rings, as by default, and on split ones."""
    found: str = request.param
    monkeypatch.setattr(Rig, "without", 0 if found == "packed" else F.RING_PACKED)
    return found
