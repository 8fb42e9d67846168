"""Check the checks: put one-line bugs into a copy of the rings, one at a time, and see that a test notices.

Each mutant names the tests that are to notice it. One that survives them is a hole in the tests; one that
cannot be applied any more, because the code has changed, has to be written anew. Both fail the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".cache" / "mutants"
PATIENCE = 90.0
"""Seconds for the tests of one mutant: one that never ends has been noticed, too."""

WAKEUPS = "ring::tests::wakeups"
SEQUENCES = "ring::tests::properties"
PACKED = "ring::tests::malformed_packed"
SPLIT = "ring::tests::malformed::"
DEVICE = "ring::tests::hostile_device"
CRASHES = "ring::tests::crashes"


@dataclass(frozen=True)
class Mutant:
    """A line that is replaced in a file below ``crates/virtqueue/src``, and the tests that have to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def _fence(name: str, comment: str) -> Mutant:
    old = f"    // Pairs with the fence in `{comment}`.\n    fences.full();\n"
    return Mutant(f"no fence in {name}", "ring/wakeup.rs", old, "", WAKEUPS)


MUTANTS = [
    _fence("kick_wanted", "await_available"),
    _fence("await_available", "kick_wanted"),
    _fence("call_wanted", "await_used"),
    _fence("await_used", "call_wanted"),
    _fence("head_wanted", "await_head"),
    _fence("await_head", "head_wanted"),
    Mutant(
        "the device does not look again",
        "ring/wakeup.rs",
        "words.available_idx(Ordering::Relaxed) != next",
        "false",
        WAKEUPS,
    ),
    Mutant(
        "the driver does not look again",
        "ring/wakeup.rs",
        "words.used_idx(Ordering::Relaxed) != seen",
        "false",
        WAKEUPS,
    ),
    Mutant(
        "available idx without release",
        "ring/wakeup.rs",
        "words.set_available_idx(new, Ordering::Release)",
        "words.set_available_idx(new, Ordering::Relaxed)",
        WAKEUPS,
    ),
    Mutant(
        "available idx without acquire",
        "ring/wakeup.rs",
        "words.available_idx(Ordering::Acquire)",
        "words.available_idx(Ordering::Relaxed)",
        WAKEUPS,
    ),
    Mutant(
        "used idx without release",
        "ring/wakeup.rs",
        "words.set_used_idx(new, Ordering::Release)",
        "words.set_used_idx(new, Ordering::Relaxed)",
        WAKEUPS,
    ),
    Mutant(
        "packed flags without release",
        "ring/wakeup.rs",
        "words.set_head(offset, head, Ordering::Release)",
        "words.set_head(offset, head, Ordering::Relaxed)",
        WAKEUPS,
    ),
    Mutant(
        "packed flags without acquire",
        "ring/wakeup.rs",
        "words.head(offset, Ordering::Acquire)",
        "words.head(offset, Ordering::Relaxed)",
        WAKEUPS,
    ),
    Mutant(
        "need_event: one too many",
        "ring/split_layout.rs",
        "new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)",
        "new.wrapping_sub(event).wrapping_sub(1) <= new.wrapping_sub(old)",
        DEVICE,
    ),
    Mutant(
        "need_event: one too few",
        "ring/split_layout.rs",
        "new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)",
        "new.wrapping_sub(event) < new.wrapping_sub(old)",
        SEQUENCES,
    ),
    Mutant(
        "packed event: one too few",
        "ring/packed_layout.rs",
        "distance.wrapping_sub(1) < moved",
        "distance < moved",
        WAKEUPS,
    ),
    Mutant(
        "packed event: its wrap counter ignored",
        "ring/packed_layout.rs",
        "let lap = if event.wrap() == new.wrap() { 0 } else { size };",
        "let lap = 0;",
        SEQUENCES,
    ),
    Mutant(
        "the wrap counter stays",
        "ring/packed_layout.rs",
        "available: self.available ^ (AVAIL | USED),",
        "available: self.available,",
        SEQUENCES,
    ),
    Mutant(
        "wraps one too late", "ring/packed_layout.rs", "if offset < size {", "if offset <= size {", SEQUENCES
    ),
    Mutant(
        "used flags of the second lap",
        "ring/packed_layout.rs",
        "(self.available & AVAIL) + ((self.available & AVAIL) << 8)",
        "(self.available & AVAIL) + USED",
        SEQUENCES,
    ),
    Mutant(
        "a full available ring refused",
        "ring/split.rs",
        "if u32::from(ready) > self.config.size {",
        "if u32::from(ready) >= self.config.size {",
        SEQUENCES,
    ),
    Mutant(
        "available idx not checked",
        "ring/split.rs",
        "if u32::from(ready) > self.config.size {",
        "if u32::from(ready) > u32::MAX - 1 {",
        SPLIT,
    ),
    Mutant(
        "a head taken twice",
        "ring/split_walk.rs",
        "Some(state) if state & HELD != 0 => {",
        "Some(state) if state & HELD == 1 => {",
        SPLIT,
    ),
    Mutant(
        "more packed descriptors out than there are",
        "ring/packed_walk.rs",
        "if self.busy + u32::from(token.slots()) > self.config.size {",
        "if self.busy + u32::from(token.slots()) > u32::MAX - 1 {",
        PACKED,
    ),
    Mutant(
        "a packed list not available as a whole",
        "ring/packed_walk.rs",
        "if !head.available_at(at) {\n                return Err(",
        "if !head.available_at(at) && slots == 0 {\n                return Err(",
        PACKED,
    ),
    Mutant(
        "the same where lists are as they mostly are",
        "ring/packed_walk.rs",
        "if !head.available_at(at) {\n                return false;",
        "if !head.available_at(at) && size == 0 {\n                return false;",
        PACKED,
    ),
    Mutant(
        "more packed descriptors out than there are, one by one",
        "ring/packed_walk.rs",
        "let limit = max.min((size - self.busy) as usize).min(batch.room());",
        "let limit = max.min(batch.room());",
        PACKED,
    ),
    Mutant(
        "a buffer id in use, one by one",
        "ring/packed_walk.rs",
        "                Some(held) if held.slots == 0 => held,",
        "                Some(held) => held,",
        PACKED,
    ),
    Mutant(
        "a head taken twice where chains are as they mostly are",
        "ring/split_walk.rs",
        "        if self\n            .state\n            .get(usize::from(head))\n"
        "            .is_none_or(|state| state & HELD != 0)\n        {\n            return false;",
        "        if usize::from(head) >= self.state.len() {\n            return false;",
        SPLIT,
    ),
    Mutant(
        "readable behind writable where chains are as they mostly are",
        "ring/walk.rs",
        "            if !write {\n                return false;\n            }\n",
        "",
        SPLIT,
    ),
    Mutant(
        "longer than 2^32 bytes where chains are as they mostly are",
        "ring/walk.rs",
        "(self.readable_len + self.len <= 1 << 32)",
        "(self.readable_len + self.len <= 1 << 62)",
        SPLIT,
    ),
    Mutant(
        "a younger chain told before its turn",
        "ring/order.rs",
        "&& self.early == 0\n",
        "\n",
        SEQUENCES,
    ),
    Mutant(
        "the used index is not looked at again",
        "ring/split_driver.rs",
        "if usize::from(ready) < max {",
        "if ready == 0 && max > 1 {",
        SEQUENCES,
    ),
    Mutant(
        "a packed restart forgets that it was quiet",
        "ring/packed.rs",
        "self.quiet = parts.own_flags() == layout::EVENT_DISABLE;",
        "self.quiet = false;",
        SEQUENCES,
    ),
    Mutant("loops are followed", "ring/walk.rs", "if self.left == 0 {", "if self.left == u32::MAX {", SPLIT),
    Mutant(
        "half a descriptor at the end of a table",
        "ring/walk.rs",
        "if len == 0 || len % DESCRIPTOR_SIZE != 0 {",
        "if len < DESCRIPTOR_SIZE {",
        SPLIT,
    ),
    Mutant(
        "used lengths one too large",
        "ring/driver.rs",
        "if written > room {",
        "if written > room.saturating_add(1) {",
        DEVICE,
    ),
    Mutant(
        "split descriptors out of ring order",
        "ring/split_driver.rs",
        "        if self.order.is_some() {\n            // Free",
        "        if self.size == 0 {\n            // Free",
        DEVICE,
    ),
    Mutant(
        "a short chain within a group",
        "ring/order.rs",
        "if u64::from(written) != room {",
        "if u64::from(written) > room {",
        SEQUENCES,
    ),
    Mutant(
        "the last batch counts as in flight",
        "ring/inflight/split.rs",
        "            self.fields.set_u8(self.entry(head) + INFLIGHT, 0);\n            head =",
        "            head =",
        CRASHES,
    ),
    Mutant(
        "a packed list is never taken for good",
        "ring/inflight/packed.rs",
        "        // Until here the list lies in the free list that a successor begins with.\n"
        "        self.fields.set_u16(AT_OLD_FREE_HEAD, self.free_head);\n",
        "",
        CRASHES,
    ),
    Mutant(
        "completions after a reset",
        "worker/engine.rs",
        "        if self.run.discard.load(Ordering::SeqCst) {\n            // `Worker::reset`",
        "        if self.max == 0 {\n            // `Worker::reset`",
        "worker::tests::reset",
    ),
    Mutant(
        "hints are believed",
        "ring/split.rs",
        "if u32::from(ahead) > self.config.size {",
        "if ahead == 0 {",
        "ring::tests::notification",
    ),
    Mutant(
        "a packet's buffers one by one",
        "ring/order.rs",
        "if !complete || tied != 0 && self.tied_up() {",
        "if !complete {",
        "ring::tests::together",
    ),
    Mutant(
        "a late call makes up for nothing",
        "worker/engine.rs",
        "self.unasked = true;",
        "self.unasked = false;",
        "worker::tests::descriptors",
    ),
]


def copy() -> Path:
    """Copy the workspace, keeping what has not changed so that little is compiled."""
    tree = SCRATCH / "tree"
    for name in ("Cargo.toml", "Cargo.lock", "crates"):
        source, target = ROOT / name, tree / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("target", "proptest-regressions"))
    # The copies are as old as the originals: older than what was compiled last, which was a mutant.
    (tree / "crates/virtqueue/src/lib.rs").touch()
    return tree


def cargo(tree: Path, *arguments: str, patience: float | None = None) -> bool:
    """Run the tests of the copy; whether they pass."""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(SCRATCH / "target"),
        "CARGO_PROFILE_TEST_DEBUG": "0",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "PROPTEST_FAILURE_PERSISTENCE": "off",
    }
    command = ["cargo", "test", "--quiet", "--package", "virtqueue", "--lib", *arguments]
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:  # fmt: skip
        try:
            return process.wait(patience) == 0
        except subprocess.TimeoutExpired:
            # With all that it has started: these are its own processes.
            os.killpg(process.pid, 9)
            return False


def judge(tree: Path, mutant: Mutant) -> str:
    """Apply a mutant, run its tests, and take it back."""
    path = tree / "crates/virtqueue/src" / mutant.file
    original = path.read_text()
    if original.count(mutant.old) != 1:
        return f"does not apply: {original.count(mutant.old)} places"
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        if not cargo(tree, "--no-run"):
            return "does not compile"
        return "SURVIVED" if cargo(tree, mutant.tests, patience=PATIENCE) else "noticed"
    finally:
        path.write_text(original)


def main() -> int:
    """Judge all mutants, or those whose names contain one of the words given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their names")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(word in m.name for word in options.words)]
    width = max((len(mutant.name) for mutant in chosen), default=0)
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:{width}}  {mutant.file:24}  {mutant.tests}")
        return 0
    tree = copy()
    if not all(cargo(tree, tests) for tests in sorted({mutant.tests for mutant in chosen})):
        print("the tests fail without any mutant", file=sys.stderr)
        return 2
    bad = 0
    for mutant in chosen:
        start = time.monotonic()
        verdict = judge(tree, mutant)
        bad += verdict != "noticed"
        took = time.monotonic() - start
        print(f"{mutant.name:{width}}  {mutant.file:24}  {verdict}  {took:5.1f} s", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} noticed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
