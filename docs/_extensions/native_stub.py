"""Documents :mod:`virtio._native` from its stub file, which has the signatures and the text for users."""

from __future__ import annotations
import __future__

import importlib.machinery
import importlib.util
import sys
import typing
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import virtio

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NAME = "virtio._native"


class _StubLoader(importlib.machinery.SourceFileLoader):
    """Runs a stub file: its annotations name classes that come later, so they stay text."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        flags = __future__.annotations.compiler_flag
        code: CodeType = compile(data, path, "exec", flags=flags, dont_inherit=True, optimize=_optimize)
        return code


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, before anything imports the native module."""
    path = Path(virtio.__file__).parent / "_native.pyi"
    loader = _StubLoader(NAME, str(path))
    spec = importlib.util.spec_from_loader(NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    # A name that type checkers know and the interpreter does not.
    setattr(typing, "type_check_only", lambda thing: thing)  # noqa: B010
    loader.exec_module(module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
