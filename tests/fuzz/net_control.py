"""Fuzzes the control queue of the network device: commands of any kind, one after the other.

``tools/fuzz net_control`` runs it. An input is a byte that chooses features, and steps, each of them a
command. What must hold after each is in :class:`Scene`.
"""

# ruff: noqa: E402 - the path to the tests comes first

import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.fuzz import cuts, fuzz, spoil, step, steps

import virtio
from virtio.device import net_control as control
from virtio.device.net_control import MAX_COMMAND, Control
from virtio.spec import core, net_control
from virtio.spec.net import F

_MOST_STEPS = 60
_MAX_INPUT = 1 << 13
FRAME = (
    b"\xff" * 6
    + bytes.fromhex("020000000002 0800 45000028000000004006000042 0995bba18e64500aea06e6".replace(" ", ""))
    + bytes(20)
)
_OPTIONAL = (
    F.CTRL_RX | F.CTRL_MAC_ADDR,
    F.CTRL_VLAN | F.GUEST_ANNOUNCE,
    F.HASH_REPORT | F.CTRL_RX_EXTRA,
    F.RSS | F.NOTF_COAL,
    F.MQ | F.HASH_TUNNEL,
    F.DEVICE_STATS | F.VQ_NOTF_COAL,
    F.CTRL_GUEST_OFFLOADS | F.GUEST_TSO4,
)
DEVICE = core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER | core.STATUS.FEATURES_OK


class Scene:
    """A device, and what must hold of its control queue."""

    def __init__(self, choice: int) -> None:
        mask = sum(feature for bit, feature in enumerate(_OPTIONAL) if choice >> 1 & 1 << bit)
        self.device = virtio.NetworkDevice(mac="02:00:00:00:00:01", pairs=(1, 4)[choice & 1], mask=mask)
        self.device.set_status(core.STATUS.ACKNOWLEDGE)
        self.device.set_status(core.STATUS.ACKNOWLEDGE | core.STATUS.DRIVER)
        self.device.negotiate(self.device.offered_features)
        self.device.set_status(DEVICE)
        self.control = Control(self.device, self.device.mac)

    def command(self, data: bytes) -> None:
        before = self.control.saved()
        answer = self.control.handle(data)
        assert answer[0] in (control.OK, control.ERR)
        if answer[0] == control.ERR:
            assert len(answer) == 1
            # The first command of all says that there is a driver that filters VLANs.
            assert self.control.saved() == before or self.control.received == 1
        assert self.control.succeeded <= self.control.received
        assert len(self.control.saved()) <= 1 << 20
        # Nobody takes frames here; how they are steered is computed all the same.
        assert not self.device.send(FRAME)

    def close(self) -> None:
        saved = self.control.saved()
        assert control.is_saved(saved)
        again = Control(self.device, self.device.mac)
        again.restore(saved)
        assert again.saved() == saved
        assert again.modes == self.control.modes
        assert again.contexts.found == self.control.contexts.found
        self.device.close()


def run(data: bytes) -> None:
    """Run one input; whatever is wrong raises."""
    scene = Scene(data[0] if data else 0)
    try:
        for number, (kind, command, content) in enumerate(steps(data[1:], 256)):
            if number == _MOST_STEPS:
                break
            scene.command(bytes([kind, command]) + content if kind < 250 else content)
    finally:
        scene.close()


# --- inputs


def _rss() -> bytes:
    words = (3, 0, 0, 1, 2, 3, 4)
    return (
        (0x1FF).to_bytes(4, "little")
        + b"".join(word.to_bytes(2, "little") for word in words)
        + b"\x28"
        + bytes(40)
    )


_GOOD = (
    *((0, mode, bytes([on])) for mode in range(6) for on in (0, 1)),
    (1, 0, b"\1\0\0\0\2\0\0\0\0\7" + b"\1\0\0\0\1\0\x5e\0\0\1"),
    (1, 1, bytes.fromhex("020000000007")),
    (2, 0, b"\7\0"),
    (2, 1, b"\7\0"),
    (3, 0, b""),
    (4, 0, b"\2\0"),
    (4, 1, _rss()),
    (4, 2, (0x1FF).to_bytes(4, "little") + bytes(8) + b"\x28" + bytes(40)),
    (5, 0, (F.GUEST_CSUM | F.GUEST_TSO4).to_bytes(8, "little")),
    (5, 0, (3 << 46).to_bytes(8, "little")),
    (6, 0, b"\4\0\0\0\5\0\0\0"),
    (6, 1, b"\4\0\0\0\5\0\0\0"),
    (6, 2, b"\1\0\0\0\4\0\0\0\5\0\0\0"),
    (6, 3, b"\1\0\0\0"),
    (7, 0, b"\x10\0\0\0"),
    (8, 0, b""),
    (8, 1, b"\0\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0"),
    (9, 0, b""),
    (9, 1, b"\1\0" + bytes(6) + _rss()),
    (9, 2, b"\1\0" + bytes(6) + _rss()),
    (9, 3, b"\1\0"),
)
"""A command of each kind, as a driver would send it: class, command, data."""


def seeds() -> list[bytes]:
    """Return each command alone, and all together, with and without what they need."""
    assert {kind for kind, _, _ in _GOOD} == {code.value for code in net_control.CLASS}
    each = [step(*command) for command in _GOOD]
    found = [bytes([choice]) + b"".join(each) for choice in range(0, 256, 17)]
    found += [b"\1" + one for one in each]
    return [
        *found,
        b"\1" + step(255, 0, b""),
        b"\1" + step(255, 0, b"\1"),
        b"\1" + step(1, 0, bytes(MAX_COMMAND - 2)),
    ]


def mutate(data: bytes, others: list[bytes], choice: random.Random) -> bytes:
    """Change an input a little."""
    changed = bytearray(data[1:])
    for _ in range(1 << choice.randrange(4)):
        places = cuts(bytes(changed))
        at = choice.choice(places)
        match choice.randrange(6):
            case 0 | 1:
                kind, command, content = choice.choice(_GOOD)
                broken = bytearray(content)
                spoil(broken, choice)
                changed[at:at] = step(kind, command, bytes(broken))
            case 2:
                changed[at:at] = step(
                    choice.randrange(256), choice.randrange(6), choice.randbytes(choice.randrange(20))
                )
            case 3 if len(places) > 2:
                del changed[at : choice.choice(places)]
            case 4 if others:
                changed[at:] = choice.choice(others)[1:]
            case _:
                spoil(changed, choice)
    return (
        bytes([choice.randrange(256) if choice.random() < 0.1 else data[0] if data else 0])
        + changed[:_MAX_INPUT]
    )


def main() -> int:
    """Fuzz for a while."""
    return fuzz(
        "net_control", run, seeds=seeds(), mutate=mutate, sources=str(Path(control.__file__).parent / "net")
    )


if __name__ == "__main__":
    sys.exit(main())
