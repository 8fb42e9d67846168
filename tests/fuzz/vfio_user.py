"""Fuzzes the vfio-user codec and session: bytes and descriptors in any order, on a real function.

``tools/fuzz vfio_user`` runs it. An input is a list of steps (see ``steps``); mutations work on bytes and
on whole messages. What must hold after every step is in :class:`Scene`.
"""

# ruff: noqa: E402 - the path to the tests comes first

import os
import random
import socket
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.fuzz import cuts, fuzz, nothing_left_open, spoil, step, steps
from tests.transport.vfio_user.harness import Client

from virtio.transport import vfio_user
from virtio.transport.vfio_user import version
from virtio.transport.vfio_user.codec import HEADER, encode
from virtio.transport.vfio_user.messages import (
    COMMANDS,
    MAX_PAYLOAD,
    Command,
    Feature,
    FeatureFlag,
    Flag,
    MigrationState,
)
from virtio.transport.vfio_user.payloads import (
    DeviceFeature,
    DeviceInfo,
    DeviceState,
    DmaAccess,
    DmaMap,
    DmaUnmap,
    IrqInfo,
    IrqSetting,
    LoggingReport,
    LoggingStart,
    MigrationData,
    RegionAccess,
    RegionInfo,
    RegionIoFds,
    pack_writes,
)

_MAX_INPUT = 4096
MESSAGE, SETTLE, TWIN = range(3)

FEATURES = [
    DeviceFeature(4096, FeatureFlag.GET | Feature.MIGRATION).pack(),
    DeviceFeature(4096, FeatureFlag.PROBE | FeatureFlag.SET | Feature.MIG_DEVICE_STATE).pack(),
    *(
        DeviceFeature(4096, FeatureFlag.SET | Feature.MIG_DEVICE_STATE).pack() + DeviceState(state).pack()
        for state in MigrationState
    ),
    DeviceFeature(4096, FeatureFlag.GET | Feature.MIG_DEVICE_STATE).pack(),
    DeviceFeature(4096, FeatureFlag.SET | Feature.DMA_LOGGING_START).pack() + LoggingStart(4096, 0).pack(),
    DeviceFeature(4096, FeatureFlag.SET | Feature.DMA_LOGGING_STOP).pack(),
    DeviceFeature(4096, FeatureFlag.GET | Feature.DMA_LOGGING_REPORT).pack()
    + LoggingReport(0, 1 << 20, 4096).pack(),
]
PAYLOADS: dict[Command, list[bytes]] = {
    Command.VERSION: [
        version.propose(),
        version.encode(0, 0, {}),
        b"\0\0\0\0",
        b'\0\0\0\0{"capabilities":[]}\0',
        version.propose(twin=True),
    ],
    Command.DMA_MAP: [
        DmaMap(32, 3, 0, 0, 1 << 20).pack(),
        DmaMap(32, 3, 4096, 1 << 32, 8192).pack(),
        DmaMap(32, 1, 0, (1 << 64) - 4096, 4096).pack(),
    ],
    Command.DMA_UNMAP: [DmaUnmap(24, 0, 0, 1 << 20).pack(), DmaUnmap(24, 2, 0, 0).pack()],
    Command.DEVICE_GET_INFO: [DeviceInfo(16).pack()],
    Command.DEVICE_GET_REGION_INFO: [RegionInfo(32, 0, index).pack() for index in (0, 2, 7, 9)],
    Command.DEVICE_GET_REGION_IO_FDS: [RegionIoFds(4096, 0, 0, 0).pack(), RegionIoFds(16, 0, 0, 0).pack()],
    Command.DEVICE_GET_IRQ_INFO: [IrqInfo(16, 0, index, 0).pack() for index in (0, 2, 5)],
    Command.DEVICE_SET_IRQS: [
        *(
            IrqSetting(20, flags, index, 0, 1).pack()
            for flags in (0x24, 0x21, 0x11, 9, 12)
            for index in (0, 2)
        ),
        IrqSetting(20, 0x21, 2, 0, 0).pack(),
        IrqSetting(22, 0x22, 2, 0, 2).pack() + b"\1\0",
    ],
    Command.REGION_READ: [RegionAccess(at, region, 4).pack() for at in (0, 0x14) for region in (0, 2, 7)],
    Command.REGION_WRITE: [
        RegionAccess(4, 7, 2).pack() + b"\6\0",
        *(RegionAccess(0x14, 0, 1).pack() + bytes([status]) for status in (0, 1, 3, 11, 15)),
        RegionAccess(8, 0, 4).pack() + struct.pack("<I", 1),
        RegionAccess(12, 0, 4).pack() + struct.pack("<I", 1),
        RegionAccess(0x20, 0, 4).pack() + struct.pack("<I", 0x1000),
        RegionAccess(0x28, 0, 4).pack() + struct.pack("<I", 0x2000),
        RegionAccess(0x30, 0, 4).pack() + struct.pack("<I", 0x3000),
        RegionAccess(0x1C, 0, 2).pack() + b"\1\0",
        RegionAccess(0x3000, 0, 2).pack() + b"\0\0",
    ],
    Command.DEVICE_RESET: [b""],
    Command.REGION_WRITE_MULTI: [pack_writes([(4, 7, b"\6\0"), (0x14, 0, b"\1")])],
    Command.DEVICE_FEATURE: FEATURES,
    Command.MIG_DATA_READ: [MigrationData(4096, 100).pack()],
    Command.MIG_DATA_WRITE: [MigrationData(13, 5).pack() + b"state"],
}
assert PAYLOADS.keys() == COMMANDS.keys()


class Scene:
    """A session, and what must hold of it."""

    def __init__(self) -> None:
        # Where the second socket leads nobody asks.
        self.client = Client(greet=False, open_twin=lambda: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._received = b""

    @property
    def ended(self) -> bool:
        return self.client.disconnected is not None

    def step(self, kind: int, data: bytes, fds: list[int]) -> None:
        if kind == SETTLE:
            self.client.settle()
        elif kind == TWIN:
            assert self.client.feed_twin(data, fds) == []
        else:
            self._feed(data, fds)
        self.client.noticed()
        assert not self.client.asked  # nobody reaches memory by messages here
        assert 0 < self.client.session.wanted <= MAX_PAYLOAD + HEADER.size

    def _feed(self, data: bytes, fds: list[int]) -> None:
        expected = self._expected(data)
        answers = self.client.feed(data, fds)
        if not self.ended:
            assert [(answer.id, answer.command) for answer, _ in answers] == expected
        for answer, _ in answers:
            assert bool(answer.error) == answer.failed
            assert not (answer.failed and answer.payload)

    def _expected(self, data: bytes) -> list[tuple[int, int]]:
        """Which commands are complete now, and want an answer."""
        self._received += data
        found = []
        while len(self._received) >= HEADER.size:
            number, command, size, flags, _ = HEADER.unpack_from(self._received)
            if not HEADER.size <= size <= HEADER.size + MAX_PAYLOAD:
                break
            if len(self._received) < size:
                break
            self._received = self._received[size:]
            if not flags & 0xF and not flags & Flag.NO_REPLY:
                found.append((number, command))
        return found


class Descriptors:
    """A few of each kind: bits 0 to 3 of a code say how many, 4 and 5 which kind comes first."""

    def __init__(self) -> None:
        memory = os.memfd_create("guest")
        os.ftruncate(memory, 1 << 20)
        ours, theirs = socket.socketpair()
        self._kinds = [os.eventfd(0), memory, theirs.detach(), ours.detach()]

    def take(self, code: int) -> list[int]:
        return [self._kinds[((code >> 4) + (index > 0) * index) % 4] for index in range(code & 15)]

    def close(self) -> None:
        for fd in self._kinds:
            os.close(fd)


def run(data: bytes, descriptors: Descriptors) -> None:
    """Run one input; whatever is wrong raises."""
    with nothing_left_open():
        scene = Scene()
        try:
            for kind, fds, content in steps(data, 3):
                scene.step(kind, content, descriptors.take(fds))
                if scene.ended:
                    break
        finally:
            scene.client.close()
            assert not scene.client.device.attached
        del scene


# --- inputs


def _message(command: Command, payload: bytes, *, flags: int = 0) -> bytes:
    first = {Command.DMA_MAP: 0x11, Command.DEVICE_SET_IRQS: 0x01}.get(command, 0)
    return step(MESSAGE, first, encode(7, command, flags, payload))


def message(choice: random.Random) -> bytes:
    """A message as it should be, with the descriptors that it should have."""
    command = choice.choice(list(COMMANDS))
    flags = Flag.NO_REPLY if choice.random() < 0.2 else 0
    return _message(command, choice.choice(PAYLOADS[command]), flags=flags)


ANSWERS = [
    step(TWIN, 0, encode(0, Command.DMA_READ, Flag.REPLY, DmaAccess(0, 4).pack() + b"data")),
    step(TWIN, 0x11, encode(7, Command.DMA_WRITE, Flag.REPLY | Flag.ERROR, b"", 14)),
    step(TWIN, 0, encode(7, Command.DEVICE_RESET, 0, b"")),
]
"""What comes by a second socket."""


def beginning() -> bytes:
    """What brings a session to where things happen."""
    writes = PAYLOADS[Command.REGION_WRITE]
    order = (0, 2, 3, 6, 7, 4, 8, 9, 10, 11, 5)
    return (
        _message(Command.VERSION, PAYLOADS[Command.VERSION][0])
        + _message(Command.DMA_MAP, PAYLOADS[Command.DMA_MAP][0])
        + b"".join(_message(Command.REGION_WRITE, writes[index]) for index in order)
    )


def seeds() -> list[bytes]:
    """One input per message, and some that put them in order."""
    choice = random.Random(1)
    hello = _message(Command.VERSION, PAYLOADS[Command.VERSION][0])
    single = [_message(command, payload) for command in COMMANDS for payload in PAYLOADS[command]]
    start = beginning()
    twin = _message(Command.VERSION, PAYLOADS[Command.VERSION][-1])
    unmapped = _message(Command.DMA_UNMAP, PAYLOADS[Command.DMA_UNMAP][0])
    return [
        *single[:4],
        *(hello + one for one in single),
        start,
        start + unmapped + step(SETTLE, 0, b"") + _message(Command.DMA_MAP, PAYLOADS[Command.DMA_MAP][0]),
        *(start + message(choice) + message(choice) for _ in range(30)),
        *(first + answer for answer in ANSWERS for first in (b"", hello, twin)),
    ]


def mutate(data: bytes, others: list[bytes], choice: random.Random) -> bytes:
    """Change an input a little."""
    places = cuts(data)
    changed = bytearray(data)
    for _ in range(1 << choice.randrange(4)):
        at = choice.choice(places)
        match choice.randrange(7):
            case 0 | 1:
                changed[at:at] = message(choice)
            case 2:
                changed[at:at] = choice.choice([step(SETTLE, 0, b""), *ANSWERS])
            case 3 if len(places) > 2:
                del changed[at : choice.choice(places)]
            case 4 if others:
                changed[at:] = choice.choice(others)
            case _:
                spoil(changed, choice)
    return bytes(changed[:_MAX_INPUT])


def main() -> int:
    """Fuzz for a while."""
    descriptors = Descriptors()
    return fuzz(
        "vfio_user",
        lambda data: run(data, descriptors),
        seeds=seeds(),
        mutate=mutate,
        sources=str(Path(vfio_user.__file__).parent),
    )


if __name__ == "__main__":
    sys.exit(main())
