"""Every test of a transport leaves nothing open."""

from collections.abc import Iterator

import pytest
from tests.transport.frontend import nothing_left
from tests.transport.harness import Harness


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.close()
    assert not made.device.attached
