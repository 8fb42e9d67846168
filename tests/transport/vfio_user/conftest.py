"""A client of a session, and memory for it."""

import os
from collections.abc import Iterator

import pytest

from .harness import Client, memory_file


@pytest.fixture
def client() -> Iterator[Client]:
    found = Client()
    yield found
    found.close()


@pytest.fixture
def fresh() -> Iterator[Client]:
    """A client that has not said anything yet."""
    found = Client(greet=False)
    yield found
    found.close()


@pytest.fixture
def memory() -> Iterator[int]:
    fd = memory_file()
    yield fd
    os.close(fd)
