"""Inputs that the fuzzer found worth keeping, once more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fuzz.vfio_user import Descriptors, run, seeds

CORPUS = sorted((Path(__file__).parents[3] / "fuzz/corpus/vfio_user").glob("*"))


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    made = Descriptors()
    yield made
    made.close()


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_the_corpus_holds(file: Path, descriptors: Descriptors) -> None:
    run(file.read_bytes(), descriptors)


def test_the_seeds_hold(descriptors: Descriptors) -> None:
    for data in seeds():
        run(data, descriptors)
