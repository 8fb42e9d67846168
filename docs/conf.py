"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_extensions"), str(ROOT / "python")]

project = "pyvirtio"
author = "the pyvirtio authors"
copyright = f"2026, {author}"  # noqa: A001 - the name that Sphinx reads
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "native_stub",
    "spec_pages",
]
exclude_patterns = ["_build", "_extensions"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"


html_theme = "furo"
html_title = f"pyvirtio {release}"
html_show_sourcelink = False
