"""Fuzzes what a driver commands a network device: its control queue, and its flow filters.

``tools/fuzz net_control`` runs it. An input is a byte that chooses features, and steps, each of them a
command, by control or by administration virtqueue, or a frame that comes in. What must hold after each is
in :class:`Scene`.
"""

# ruff: noqa: E402 - the path to the tests comes first

import contextlib
import random
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.fuzz import cuts, fuzz, spoil, step, steps

import virtio
from virtio.device import net_control as control
from virtio.device.net_control import MAX_COMMAND, Control
from virtio.device.net_flow import split_saved
from virtio.errors import ConfigurationError
from virtio.spec import admin, core, net_control, net_flow
from virtio.spec.admin_data import ANSWER_SIZE, HEADER, bits_of
from virtio.spec.net import F

_MOST_STEPS = 60
_FRAME, _ADMINISTRATION = 248, 249
"""Classes that no control command has."""
ROOM = 256
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
        pairs = (1, 4)[choice & 1]
        self.device = virtio.NetworkDevice(mac="02:00:00:00:00:01", pairs=pairs, mask=mask, flow_filters=True)
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

    def administer(self, opcode: int, data: bytes) -> None:
        administration, filters = self.device.administration, self.device._flow_filters
        assert administration is not None
        assert filters is not None
        before = filters.saved()
        header = HEADER.pack(opcode=opcode, group_type=admin.GROUP.SELF)
        answer = administration.execute(header + data, ROOM)
        assert ANSWER_SIZE <= len(answer) <= ROOM
        if any(answer[:4]):
            assert len(answer) == ANSWER_SIZE
            assert filters.saved() == before
        assert not self.device.send(FRAME)

    def close(self) -> None:
        filters = self.device._flow_filters
        assert filters is not None
        saved = filters.saved()
        own, commands = split_saved(self.control.saved() + saved)
        assert own == self.control.saved()
        other = virtio.NetworkDevice(pairs=self.device.pairs, flow_filters=True)
        other.negotiated_features = self.device.negotiated_features
        assert other.administration is not None
        assert other._flow_filters is not None
        for command in commands:
            assert not any(other.administration.execute(command, ROOM)[:4])
        assert other._flow_filters.saved() == saved
        other.close()
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
            if kind == _FRAME:
                with contextlib.suppress(ConfigurationError):  # no frame at all
                    scene.device.send(content)
            elif kind == _ADMINISTRATION:
                scene.administer(command, content)
            else:
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


def _filters() -> list[tuple[int, int, bytes]]:
    """Flow filters of each form as a driver would make them, the one after the other."""
    codes, limits = net_flow.CAPABILITY, struct.pack("<IIIIBB2x", 4, 4, 9, 9, 9, 3)
    headers = {kind: header.size for kind, header in net_flow.HEADERS.items()}
    selectors = {
        kind: struct.pack("<BBxxB3x", kind, 1, size) + b"\xff" * size for kind, size in headers.items()
    }
    capabilities = (
        (codes.FF_RESOURCE_CAP, limits),
        (codes.FF_SELECTOR_CAP, b"\5" + bytes(7) + b"".join(selectors.values())),
        (codes.FF_ACTION_CAP, b"\2" + bytes(7) + b"\1\2"),
    )
    op, objects = admin.OPCODE, net_flow.RESOURCE_OBJ
    commands = [(op.LIST_QUERY, b""), (op.LIST_USE, bits_of(range(14)))]
    for number, value in capabilities:
        commands.append((op.DEVICE_CAP_GET, admin.CAP_GET.pack(id=number)))
        commands.append((op.DRIVER_CAP_SET, admin.CAP_SET.pack(id=number, cap_specific_data=value)))
    made = [(objects.FF_GROUP, number, bytes([number, 0])) for number in range(2)]
    for number, types in enumerate(((1,), (1, 2), (1, 2, 4), (1, 3, 5))):
        value = bytes([len(types)]) + bytes(7) + b"".join(selectors[kind] for kind in types)
        made.append((objects.FF_CLASSIFIER, number, value))
        keys = FRAME[: sum(headers[kind] for kind in types)]
        if 3 in types:
            keys = bytes(12) + b"\x86\xdd" + bytes(6) + b"\x11" + bytes(33 + 8)
        rule = struct.pack("<IIBBBxHxx", number % 2, number, number, len(keys), 2 - number % 2, 0)
        made.append((objects.FF_RULE, number, rule + keys))
    for kind, number, value in made:
        header = {"type": kind, "id": number}
        data = admin.OBJ_CREATE.pack(hdr=header, resource_obj_specific_data=value)
        commands += [(op.RESOURCE_OBJ_CREATE, data), (op.RESOURCE_OBJ_MODIFY, data)]
        commands.append((op.RESOURCE_OBJ_QUERY, admin.OBJ_QUERY.pack(hdr=header)))
    for kind, number, _ in made:
        commands.append((op.RESOURCE_OBJ_DESTROY, admin.OBJ_HDR.pack(type=kind, id=number)))
    return [(_ADMINISTRATION, opcode, data) for opcode, data in commands]


_GOOD_FILTERS = _filters()


def seeds() -> list[bytes]:
    """Return each command alone, and all together, with and without what they need."""
    assert {kind for kind, _, _ in _GOOD} == {code.value for code in net_control.CLASS}
    each = [step(*command) for command in _GOOD]
    found = [bytes([choice]) + b"".join(each) for choice in range(0, 256, 17)]
    found += [b"\1" + one for one in each]
    filters = [step(*command) for command in _GOOD_FILTERS]
    cut = [step(_FRAME, 0, FRAME[:size]) for size in (0, 13, 14, 20, 34, 50, len(FRAME))]
    for choice in (0, 1):
        found.append(bytes([choice]) + b"".join(filters))
        found.append(bytes([choice]) + b"".join(filters[:-10] + cut))
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
                kind, command, content = choice.choice((*_GOOD, *_GOOD_FILTERS))
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
