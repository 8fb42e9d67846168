"""Either end is killed under load, again and again, and comes back: nothing is lost, wrong or stuck.

The slow ones are a soak of 100 cycles each, 1000 in all: six minutes on two processors without other work.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import virtio
from virtio.driver.block import BlockDriver
from virtio.spec.core import F
from virtio.transport.unix.listening import listening

SECONDS = 30.0
"""What never takes so long is stuck."""
MIB = 1 << 20
SIZE = 16 * MIB
CHUNK = 2000
"""Requests of a load; the next one begins when all of them are answered."""

LAYOUTS = {
    "split": (0, "RING_PACKED"),
    "packed": (0, ""),
    "split-in-order": (F.IN_ORDER, "RING_PACKED"),
    "packed-in-order": (F.IN_ORDER, ""),
}
"""What the device offers besides, and what the driver does not accept."""

CYCLES = [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]

# Served by a process of its own, so that there is something to kill. The shuffled one finishes requests in an
# order by lot: only in-flight memory tells which it had.
SERVER = """
import random, sys, threading, time, virtio

class Shuffled(virtio.BlockDevice):
    def __init__(self, *arguments, **options):
        self.waiting = []
        self.some = threading.Condition()
        super().__init__(*arguments, **options)
        threading.Thread(target=self.finish, daemon=True).start()

    def answer(self, requests):
        with self.some:
            self.waiting += requests
            self.some.notify()

    def finish(self):
        while True:
            with self.some:
                self.some.wait_for(lambda: self.waiting)
                if len(self.waiting) < 8:
                    self.some.wait(0.0005)
                random.shuffle(self.waiting)
                half = len(self.waiting) // 2
                now, self.waiting = self.waiting[half:], self.waiting[:half]
            super().answer(now)

image, socket, features, kind = sys.argv[1:]
disk = (Shuffled if kind == "shuffled" else virtio.BlockDevice)(image)
disk.offered_features |= int(features)
virtio.serve(disk, f"vhost-user:{socket}")
"""


def await_(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class Server:
    """A back end that can be killed and started again."""

    def __init__(self, image: Path, socket: Path, features: int = 0, kind: str = "native") -> None:
        self.socket = socket
        self._arguments = [sys.executable, "-c", SERVER, str(image), str(socket), str(features), kind]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._arguments)

    def wait(self) -> None:
        await_(lambda: listening(self.socket), "the back end does not listen")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def served(folder: Path, features: int = 0, kind: str = "native") -> Iterator[tuple[Server, Path]]:
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    server = Server(image, folder / "disk.sock", features, kind)
    server.start()
    try:
        server.wait()
        yield server, image
    finally:
        server.kill()


# --- the back end


class Load:
    """Reads and writes on a part of a disk, all reads verified, on a thread of its own."""

    def __init__(self, disk: BlockDriver, seed: int) -> None:
        self.requests = self.failed = self.mismatches = self.rounds = 0
        self.error: BaseException | None = None
        self._disk = disk
        self._seed = seed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            buffer = self._disk.allocate(16 * 4096)
            while not self._stop.is_set():
                self.rounds += 1
                result = self._disk.load(
                    "verify",
                    buffer,
                    depth=16,
                    requests=CHUNK,
                    sectors=2 * MIB // 512,
                    seed=self._seed + self.rounds,
                )
                self.requests += result.requests
                self.failed += result.failed
                self.mismatches += result.mismatches
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "requests are stuck"


def completions(disk: BlockDriver) -> int:
    return sum(queue.counters.completions for queue in disk.queues)


@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("kind", ["shuffled", pytest.param("native", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_back_end_that_is_killed_and_started_again(
    tmp_path: Path, layout: str, kind: str, cycles: int
) -> None:
    offered, masked = LAYOUTS[layout]
    lot = random.Random(cycles)
    with served(tmp_path, offered, kind) as (server, image):
        place = f"vhost-user:{server.socket}"
        with virtio.connect(place, "block", reconnect=SECONDS, timeout=SECONDS, mask=masked) as disk:
            assert isinstance(disk, BlockDriver)
            assert disk.features & offered == offered
            assert bool(disk.features & F.RING_PACKED) == ("packed" in layout)
            load = Load(disk, seed=cycles)
            killed_at_work = 0
            try:
                for _ in range(cycles):
                    target = completions(disk) + 100

                    def goes_on(target: int = target) -> bool:
                        return completions(disk) >= target or load.error is not None

                    await_(goes_on, "no request is answered any more")
                    assert load.error is None, load.error
                    time.sleep(lot.random() * 0.02)
                    server.kill()
                    killed_at_work += disk.queues[0].outstanding > 0
                    server.start()
            finally:
                load.stop()
            assert load.error is None, load.error
            assert (load.failed, load.mismatches) == (0, 0)
            assert load.requests == load.rounds * CHUNK, "requests are lost"
            assert killed_at_work > cycles // 2, "there was nothing to lose"
            disk.flush()
            assert disk.read(0, 2 * MIB // 512) == image.read_bytes()[: 2 * MIB]


# --- the front end

PLACES = 256
DRIVER = """
import os, struct, sys, virtio
address, mask, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with virtio.connect(address, "block", mask=mask) as disk:
    os.write(1, b"connected\\n")
    sys.stdin.readline()
    while True:
        going = []
        for number in range(number + 1, number + 17):
            place = number * 7919 % 256
            os.write(1, f"begin {place} {number}\\n".encode())
            data = struct.pack("<QQ", place, number) * 256
            going.append((place, number, disk.submit_write(place * 8, data)))
        for place, number, request in going:
            request.wait()
            os.write(1, f"done {place} {number}\\n".encode())
"""


@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("layout", ["split", "packed"])
def test_a_front_end_that_is_killed_leaves_the_back_end_free(
    tmp_path: Path, layout: str, cycles: int
) -> None:
    """What it was told to be written is there, and the next one is served at once."""
    lot = random.Random(cycles)
    done = [0] * PLACES
    begun: list[set[int]] = [set() for _ in range(PLACES)]
    number = total = 0
    with served(tmp_path) as (server, image):
        for _ in range(cycles):
            arguments = [
                *(sys.executable, "-c", DRIVER, f"vhost-user:{server.socket}"),
                *(LAYOUTS[layout][1], str(number)),
            ]
            pipe = subprocess.PIPE
            with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True, bufsize=1) as driver:
                assert driver.stdin is not None
                assert driver.stdout is not None
                # It connects while the back end may still be busy with the one before.
                assert driver.stdout.readline() == "connected\n"
                check(image, done, begun)
                driver.stdin.write("go\n")
                wanted = lot.randrange(1, 200)
                for line in driver.stdout:
                    what, place, version = line.split()
                    number = max(number, int(version))
                    begun[int(place)].add(int(version))
                    if what == "done":
                        done[int(place)] = int(version)
                        total += 1
                        wanted -= 1
                        if wanted == 0:
                            driver.kill()  # and what it has said until then is read as well
        with virtio.connect(f"vhost-user:{server.socket}", "block") as disk:
            check(image, done, begun)
            assert disk.read(0, PLACES * 8) == image.read_bytes()[: PLACES * 4096]
    assert total >= cycles


def check(image: Path, done: list[int], begun: list[set[int]]) -> None:
    """In each place there is what was acknowledged last, or what was under way after it."""
    with image.open("rb") as file:
        for place in range(PLACES):
            data = os.pread(file.fileno(), 4096, place * 4096)
            found, version = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
            assert data == data[:16] * 256
            assert found == (place if version else 0)
            assert version >= done[place], f"an acknowledged write to {place} is lost"
            assert version == 0 or version in begun[place]
