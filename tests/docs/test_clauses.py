"""The tables of clauses name tests and files that there are."""

import re
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "| clause | end | code | tests |"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if HEAD in page.read_text()]


def rows(page: Path) -> list[list[str]]:
    """The cells of each row of the page's table."""
    _, table = page.read_text().split(HEAD, 1)
    lines = takewhile(lambda line: line.startswith("|"), table.splitlines()[2:])
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


@cache
def functions() -> set[str]:
    """The names of all tests, in Python and in Rust."""
    python = [
        re.findall(r"(?:def|class) (test_\w+|Test\w+)", file.read_text())
        for file in (ROOT / "tests").rglob("*.py")
    ]
    rust = [re.findall(r"fn (\w+)\(\)", file.read_text()) for file in (ROOT / "crates").rglob("*.rs")]
    return {name for names in (*python, *rust) for name in names}


@cache
def files() -> list[str]:
    folders = ("python", "crates", "tests")
    return [
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".rs")
    ]


def exists(path: str) -> bool:
    if path.endswith("/"):
        return any(f"/{path}" in file for file in files())
    return any(f"/{file}".endswith(f"/{path}") for file in files())


def test_there_are_such_pages() -> None:
    assert {page.stem for page in PAGES} >= {"mmio", "network", "pci", "queues", "sriov"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_table_names_is_there(page: Path) -> None:
    missing = []
    for clause, _, code, tests in rows(page):
        assert re.match(r"\d+(\.\d+)+", clause), clause
        for name in re.findall(r"`([\w/.]+)`", code) + re.findall(r"`([\w/.]+)`", tests):
            if name.endswith((".py", ".rs", "/")):
                found = exists(name)
            else:
                found = name not in re.findall(r"`([\w/.]+)`", tests) or name in functions()
            if not found:
                missing.append(f"{clause}: {name}")
    assert missing == []
