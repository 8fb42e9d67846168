"""Each mutant still has its place: `make mutants` itself takes too long for every run of the tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools/mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_every_mutant_applies_to_one_place() -> None:
    mutants = load().MUTANTS
    assert len(mutants) >= 20
    places = {
        mutant.name: (ROOT / "crates/virtqueue/src" / mutant.file).read_text().count(mutant.old)
        for mutant in mutants
    }
    assert {name: count for name, count in places.items() if count != 1} == {}
