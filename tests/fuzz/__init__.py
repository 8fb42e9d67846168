"""What fuzz targets have in common: inputs that reach new code are kept and changed further.

Those that fuzz sessions share a form of input, too: steps of bytes that come with descriptors.
"""

import argparse
import gc
import hashlib
import logging
import os
import random
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_STEP = struct.Struct("<BBH")

Run = Callable[[bytes], object]
Mutate = Callable[[bytes, list[bytes], random.Random], bytes]


class Coverage:
    """Pairs of lines, one after the other, within the code that is fuzzed."""

    def __init__(self, run: Run, sources: str | tuple[str, ...]) -> None:
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


def step(kind: int, fds: int, data: bytes) -> bytes:
    """Make a step: what happens, which descriptors come with it, and its bytes."""
    return _STEP.pack(kind, fds, len(data)) + data


def steps(data: bytes, kinds: int) -> Iterator[tuple[int, int, bytes]]:
    """Read an input as steps of so many kinds."""
    position = 0
    while position + _STEP.size <= len(data):
        kind, fds, size = _STEP.unpack_from(data, position)
        position += _STEP.size
        yield kind % kinds, fds, data[position : position + size]
        position += size


def cuts(data: bytes) -> list[int]:
    """Find where an input may be cut between two steps, its beginning and end included."""
    found = [0]
    for _, _, content in steps(data, 1):
        found.append(min(found[-1] + _STEP.size + len(content), len(data)))
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Find descriptors that an input left open: then the lowest free number is another."""
    before = _lowest_free()
    yield
    if _lowest_free() != before:
        gc.collect()  # what refers to itself may keep some for a while
        assert _lowest_free() == before, "a descriptor was left open"


def _lowest_free() -> int:
    number = os.dup(0)
    os.close(number)
    return number


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


def fuzz(
    name: str, run: Run, *, seeds: Sequence[bytes], mutate: Mutate, sources: str | tuple[str, ...]
) -> int:
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
