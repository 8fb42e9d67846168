"""Inputs that the fuzzer of functions found worth keeping, once more."""

from pathlib import Path

import pytest
from tests.fuzz.pci_function import run, seeds

CORPUS = sorted((Path(__file__).parents[3] / "fuzz/corpus/pci_function").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_the_corpus_holds(file: Path) -> None:
    run(file.read_bytes())


def test_the_seeds_hold() -> None:
    for data in seeds():
        run(data)
