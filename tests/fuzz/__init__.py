"""What fuzz targets have in common: inputs that reach new code are kept and changed further."""

import argparse
import hashlib
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[[bytes], object]
Mutate = Callable[[bytes, list[bytes], random.Random], bytes]


class Coverage:
    """Pairs of lines, one after the other, within the code that is fuzzed."""

    def __init__(self, run: Run, sources: str) -> None:
        """Watch what lies below ``sources`` while ``run`` takes an input."""
        self.seen: set[tuple[int, int]] = set()
        self._run = run
        self._sources = sources
        self._new = False
        self._last = 0

    def run(self, data: bytes) -> bool:
        """Run an input; tell whether it went where none had gone."""
        self._new, self._last = False, 0
        sys.settrace(self._enter)
        try:
            self._run(data)
        finally:
            sys.settrace(None)
        return self._new

    def _enter(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._sources) else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        here = hash((frame.f_code, frame.f_lineno))
        pair = (self._last, here)
        self._last = here
        if pair not in self.seen:
            self.seen.add(pair)
            self._new = True
        return self._line


def spoil(changed: bytearray, choice: random.Random) -> None:
    """Change, or take away, a few bytes somewhere."""
    if not changed:
        return
    at = choice.randrange(len(changed))
    match choice.randrange(3):
        case 0:
            changed[at] = choice.choice((0, 1, 255, 128, choice.randrange(256)))
        case 1:
            width = choice.choice((2, 4, 8))
            value = choice.choice((0, 1, 2**15, 2**31, 2**63, 2**64 - 1, 4096)) & (1 << 8 * width) - 1
            changed[at : at + width] = value.to_bytes(width, "little")
        case _:
            del changed[at]


def fuzz(name: str, run: Run, *, seeds: Sequence[bytes], mutate: Mutate, sources: str) -> int:
    """Fuzz for a while; status 1, and a file in fuzz/NAME/artifacts, if something is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--corpus", type=Path, default=ROOT / f"fuzz/corpus/{name}")
    parser.add_argument("--found", type=Path, default=ROOT / f".cache/fuzz/{name}")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    options.found.mkdir(parents=True, exist_ok=True)
    choice = random.Random(options.seed)
    coverage = Coverage(run, sources)
    kept: list[bytes] = []
    folders = [folder for folder in (options.corpus, options.found) if folder.exists()]
    waiting = [file.read_bytes() for folder in folders for file in sorted(folder.iterdir())] + list(seeds)
    given, runs, fresh = len(waiting), 0, 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end or waiting:
        data = waiting.pop() if waiting else mutate(choice.choice(kept), kept, choice)
        runs += 1
        try:
            new = coverage.run(data)
        except Exception:
            traceback.print_exc()
            file = ROOT / f"fuzz/{name}/artifacts" / f"crash-{hashlib.sha1(data).hexdigest()[:16]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            print(f"  wrong: {file}")
            return 1
        if new:
            kept.append(data)
            if runs > given:
                fresh += 1
                (options.found / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)
    print(f"  inputs run: {runs}\n  of them new: {fresh}\n  pairs of lines: {len(coverage.seen)}")
    return 0
