"""Examples, driven in the same process; those of test_served.py, test_driving.py, test_testing.py
and test_networks.py as processes of their own."""

from pathlib import Path

from examples.checksum import Checksum
from examples.entropy import Entropy
from examples.flaky import BAD, Flaky
from examples.lines import Lines
from tests.device.rig import Rig

import virtio
from virtio.spec import block, gpio

HERE = {"checksum.py", "entropy.py", "flaky.py", "lines.py"}
SERVED = {"computed_disk.py", "console.py"}
DRIVING = {"drive_a_disk.py"}
TESTS = {"test_a_disk.py"}
NETWORKS = {"card.py", "flow_filters.py", "lossy_network.py", "mirror.py"}


def test_there_is_a_test_for_every_example() -> None:
    folder = Path(__file__).parents[2] / "examples"
    assert {path.name for path in folder.glob("*.py")} == HERE | SERVED | DRIVING | TESTS | NETWORKS


def test_entropy() -> None:
    with Rig(Entropy()) as rig:
        data = rig.ask(0, writable=[64])
        assert len(data) == 64
        assert data != rig.ask(0, writable=[64])


def test_flaky(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x5a" * 512 * (BAD + 8))

    def read(rig: Rig, sector: int, sectors: int = 1) -> bytes:
        header = block.HEADER.pack(type=block.T.IN, sector=sector)
        head = rig.add(0, [header], [512 * sectors, 1])
        rig.used(0)
        # All of it: a read that failed counts no byte as written, and yet has a status at its end.
        return rig.drivers[0].data(head)

    with Rig(Flaky(image)) as rig:
        assert read(rig, BAD)[-1] == block.S.IOERR
        assert read(rig, BAD - 4, 8)[-1] == block.S.IOERR
        for sector in (0, BAD - 1, BAD + 1):
            assert read(rig, sector) == b"\x5a" * 512 + bytes([block.S.OK])


def test_lines() -> None:
    def ask(rig: Rig, message: int, line: int, value: int = 0) -> tuple[int, int]:
        data = rig.ask(
            0, [gpio.REQUEST.pack(type=message, gpio=line, value=value)], [gpio.RESPONSE.size or 0]
        )
        answer = gpio.RESPONSE.unpack(data)
        return answer.status, answer.value

    with Rig(Lines()) as rig:
        assert rig.device.config.ngpio == 8
        assert ask(rig, gpio.MSG.SET_VALUE, 3, 1) == (gpio.STATUS.OK, 0)
        assert ask(rig, gpio.MSG.GET_VALUE, 3) == (gpio.STATUS.OK, 1)
        assert ask(rig, gpio.MSG.GET_VALUE, 4) == (gpio.STATUS.OK, 0)
        assert ask(rig, gpio.MSG.GET_VALUE, 8) == (gpio.STATUS.ERR, 0)
        assert ask(rig, 99, 0) == (gpio.STATUS.ERR, 0)


def test_checksum() -> None:
    with Rig(Checksum()) as rig:
        assert rig.device.device_id == 63
        for value in (1, 255):
            assert rig.ask(0, [bytes([value]) * 64], [4]) == (64 * value).to_bytes(4, "little")
        # Nothing that a driver sends makes it fail: rows that are too short are filled up with zeros.
        assert rig.ask(0, [b"\x02"], [4]) == (2).to_bytes(4, "little")


def test_the_devices_are_what_users_see() -> None:
    assert issubclass(Flaky, virtio.BlockDevice)
