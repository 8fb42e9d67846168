"""The rules of the rings, from ``crates/virtqueue/src/fault.rs``: what is looked for, and its clause."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[2] / "crates" / "virtqueue" / "src" / "fault.rs"


class Rule(NamedTuple):
    """A rule that the other end of a queue can break."""

    name: str
    section: str
    text: str
    """As the log has it."""
    meaning: str
    """What exactly is looked for."""

    @property
    def broken_by(self) -> str:
        """Which end can break it."""
        return "device" if self.name.removeprefix("Packed").startswith(("Used", "Device")) else "driver"


def rules(source: str) -> list[Rule]:
    """Read all rules from the source of ``Rule``; a part that is not found is an error."""
    sections, texts = (_arms(source, method) for method in ("section", "text"))
    variants = _variants(_body(source, "enum Rule"))
    return [Rule(name, sections[name], texts[name], meaning) for name, meaning in variants]


def table() -> str:
    """All of them, for a page."""
    rows = ["| in the log | VIRTIO 1.4 | broken by the | what is looked for |", "| --- | --- | --- | --- |"]
    for rule in rules(SOURCE.read_text()):
        rows.append(f"| {rule.text} | {rule.section} | {rule.broken_by} | {rule.meaning} |")
    return "\n".join(rows)


def _variants(body: str) -> list[tuple[str, str]]:
    found = []
    comment: list[str] = []
    for line in map(str.strip, body.splitlines()):
        if line.startswith("///"):
            comment.append(line.removeprefix("///").strip())
        elif line:
            found.append((line.rstrip(","), " ".join(comment)))
            comment = []
    return found


def _arms(source: str, method: str) -> dict[str, str]:
    """The arms of a ``match`` whose values are text."""
    arms = re.findall(r'((?:Self::\w+[\s|]*)+)=> "([^"]*)"', _body(source, f"fn {method}("))
    return {name: value for names, value in arms for name in re.findall(r"Self::(\w+)", names)}


def _body(source: str, item: str) -> str:
    """What an item of the source has between its braces."""
    start = source.index("{", source.index(item))
    depth = 0
    for place in range(start, len(source)):
        depth += {"{": 1, "}": -1}.get(source[place], 0)
        if depth == 0:
            return source[start + 1 : place]
    raise ValueError(f"{item} does not end")
