"""Fuzzes the registers of a PCI function: accesses of any kind, on a real device with real queues.

``tools/fuzz pci_function`` runs it. An input is a list of steps of :data:`STEP` bytes. What must hold after
each is in :class:`Scene`.
"""

# ruff: noqa: E402 - the path to the tests comes first

import random
import struct
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.fuzz import fuzz
from tests.transport.pci.rig import CONFIG, FIELDS, MASTER, Card, S

from virtio.errors import ConfigurationError, StateError
from virtio.spec import core, pci_bus
from virtio.transport import pci, registers
from virtio.transport.pci import Layout

STEP = struct.Struct("<BBBxIQ")
_MOST_STEPS = 200
READ, WRITE, FIELD, NOTIFY, TARGETS, MASK, UNMASK, CHANGE, MEMORY, RESET, MOVE, LISTEN = range(12)
_NAMES = sorted(FIELDS)
FEATURES = core.F.RING_RESET | core.F.NOTIFICATION_DATA | core.F.NOTIF_CONFIG_DATA
LAYOUTS = (
    Layout(),
    Layout(vectors=1, express=False, no_soft_reset=False),
    Layout(vectors=0, notify_multiplier=0),
)


class Scene:
    """A function, and what must hold of it."""

    def __init__(self, layout: int) -> None:
        self.card = Card(layout=LAYOUTS[layout % len(LAYOUTS)], features=FEATURES)

    def step(self, kind: int, region: int, size: int, offset: int, value: int) -> None:
        function = self.card.function
        match kind % 12:
            case 0:
                assert len(function.read(region % 10, offset, size)) == size
            case 1:
                function.write(region % 10, offset, value.to_bytes(8, "little") * (size // 8 + 1))
            case 2:
                name = _NAMES[region % len(_NAMES)]
                mask = (1 << 8 * FIELDS[name][1]) - 1
                self.card[name] = value & mask
                assert self.card[name] <= mask
            case 3:
                self.card.notify(region % 3, 2 + 2 * (size & 1), value & 0xFFFF)
            case 4:
                with suppress(ConfigurationError):
                    function.set_interrupts(region % 6, offset & 3, [None] * (size & 3))
            case 5 | 6:
                with suppress(ConfigurationError):
                    (function.mask if kind & 1 else function.unmask)(region % 6, offset & 3, size & 3)
            case 7:
                self.card.device.config["capacity"] = value
            case 8:
                function.dma_changing()
                function.dma_changed()
            case 9:
                function.reset()
            case 10:
                self._move(size, offset, value)
            case _:
                self.card.listen(region % 3)
        self.check()

    def _move(self, size: int, offset: int, value: int) -> None:
        function = self.card.function
        function.dma_changing()
        state = bytearray(function.save())
        if size & 1:
            state[offset % len(state)] ^= 1 + (value & 0x7F)
        with suppress(StateError):
            function.load(bytes(state))
        function.dma_changed()

    def check(self) -> None:
        function, device = self.card.function, self.card.device
        command = int.from_bytes(function.read(CONFIG, 4, 2), "little")
        for queue in device.queues:
            if queue.running:
                assert command & pci_bus.COMMAND.BUS_MASTER
                assert device.status & S.DRIVER_OK
        assert function.read(CONFIG, 0, 4) == b"\xf4\x1a\x42\x10"

    def close(self) -> None:
        self.card.function.reset()
        assert self.card.device.status == 0
        assert not any(queue.running for queue in self.card.device.queues)
        self.card.close()


def run(data: bytes) -> None:
    """Run one input; whatever is wrong raises."""
    scene = Scene(data[0] if data else 0)
    try:
        for number, step in enumerate(
            STEP.iter_unpack(data[1 : 1 + (len(data) - 1) // STEP.size * STEP.size])
        ):
            if number == _MOST_STEPS:
                break
            scene.step(*step)
    finally:
        scene.close()


# --- inputs


def field(name: str, value: int) -> bytes:
    return STEP.pack(FIELD, _NAMES.index(name), 0, 0, value)


def config(offset: int, value: int, size: int = 2) -> bytes:
    del size
    return STEP.pack(WRITE, CONFIG, 1, offset, value)


def driver(features: int, layout: int = 0) -> bytes:
    """A driver that does everything right."""
    with_ = [field("device_status", S.ACKNOWLEDGE), field("device_status", S.ACKNOWLEDGE | S.DRIVER)]
    for word in range(4):
        with_ += [
            field("driver_feature_select", word),
            field("driver_feature", features >> 32 * word & 0xFFFF_FFFF),
        ]
    with_ += [
        field("device_status", S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK),
        field("config_msix_vector", 0),
    ]
    for index in (0, 1):
        with_ += [
            field("queue_select", index),
            field("queue_size", 64),
            field("queue_desc", 0x1000 + index * 0x8000),
            field("queue_driver", 0x3000 + index * 0x8000),
            field("queue_device", 0x4000 + index * 0x8000),
            field("queue_msix_vector", 1 + index),
            field("queue_enable", 1),
        ]
    with_.append(field("device_status", S.ACKNOWLEDGE | S.DRIVER | S.FEATURES_OK | S.DRIVER_OK))
    with_ += [STEP.pack(LISTEN, 2, 0, 0, 0), STEP.pack(NOTIFY, 0, 0, 0, 0), STEP.pack(CHANGE, 0, 0, 0, 9)]
    with_ += [STEP.pack(MEMORY, 0, 0, 0, 0), STEP.pack(MOVE, 0, 0, 0, 0), field("queue_reset", 1)]
    return bytes([layout]) + b"".join(with_)


def seeds() -> list[bytes]:
    f = core.F
    found = [driver(f.VERSION_1), driver(f.VERSION_1 | f.RING_PACKED), driver(f.VERSION_1 | FEATURES, 1)]
    found.append(
        driver(f.VERSION_1 | f.RING_RESET, 2) + STEP.pack(RESET, 0, 0, 0, 0) + driver(f.VERSION_1)[1:]
    )
    dump = b"".join(STEP.pack(READ, CONFIG, 4, at, 0) for at in range(0, 256, 4))
    window = b"".join(config(at, value) for at in range(0x80, 0xB0, 4) for value in (0, 1, 4, MASTER))
    return [*found, b"\0" + dump, b"\0" + window]


def mutate(data: bytes, others: list[bytes], choice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choice.choice((1, 1, 2, 4, 8))):
        place = 1 + choice.randrange(len(changed) // STEP.size + 1) * STEP.size
        match choice.randrange(6):
            case 0:
                changed[place:place] = random_step(choice)
            case 1:
                del changed[place : place + STEP.size]
            case 2:
                other = choice.choice(others)
                start = 1 + choice.randrange(len(other) // STEP.size + 1) * STEP.size
                changed[place:place] = other[start : start + STEP.size * choice.randrange(1, 9)]
            case 3 if len(changed) > 1:
                changed[choice.randrange(len(changed))] = choice.choice(
                    (0, 1, 255, 128, choice.randrange(256))
                )
            case 4 if len(changed) > 1:
                changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
            case _:
                changed[place : place + STEP.size] = random_step(choice)
    return bytes(changed[: 1 + _MOST_STEPS * STEP.size]) or b"\0"


def random_step(choice: random.Random) -> bytes:
    kind = choice.randrange(12)
    region = choice.choice((0, 0, 2, 7, 7, choice.randrange(256)))
    offset = choice.choice(
        (choice.randrange(0x44), choice.randrange(256), choice.randrange(0x4000), 0xFFFF_FFFF)
    )
    value = choice.choice((0, 1, 2, 3, 15, 0x8000, 0xFFFF, choice.getrandbits(16), choice.getrandbits(64)))
    return STEP.pack(kind, region, choice.choice((1, 2, 4, 8, choice.randrange(256))), offset, value)


def main() -> int:
    """Fuzz for a while."""
    return fuzz(
        "pci_function",
        run,
        seeds=seeds(),
        mutate=mutate,
        sources=(str(Path(pci.__file__).parent), registers.__file__),
    )


if __name__ == "__main__":
    sys.exit(main())
