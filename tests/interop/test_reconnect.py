"""QEMU comes back to our back end, which is killed while the guest writes: the guest does not notice."""

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from virtio.vm import Attachment, Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

MIB = 1 << 20
KILLS = 2
SECONDS = 60.0
# From several sides at once, past the guest's page cache, so that all of it goes through the queue. Each has
# a part of the disk, and writes it again and again.
WRITERS = r"""
for number in 0 1 2 3; do
    (
        while [ ! -e /tmp/stop ]; do
            /sbin/dd if=/tmp/noise$number of=/dev/vda bs=4k oflag=direct \
                seek=$((number * 1024)) 2>/tmp/error$number ||
                cat /tmp/error$number >>/tmp/failed
            echo >>/tmp/rounds$number
        done
        touch /tmp/done$number
    ) &
done >/dev/null 2>&1
"""


class Server:
    """``virtio serve block``, to be killed and started again."""

    def __init__(self, image: Path, socket: Path) -> None:
        self._command = [
            *(sys.executable, "-m", "virtio", "serve", "block"),
            *(str(image), "--socket", str(socket)),
        ]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        assert "ready" in self._process.stdout.readline()

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def await_(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("layout", ["split", "packed"])
def test_the_back_end_is_killed_while_the_guest_writes(layout: str, tmp_path: Path) -> None:
    image, socket = tmp_path / "disk.img", tmp_path / "disk.sock"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    server = Server(image, socket)
    server.start()
    try:
        attachment = Attachment(
            2, socket, properties={"packed": "on"} if layout == "packed" else {}, reconnect=True
        )
        with Guest([attachment], monitor="qemu", programs=["dd"], timeout=110) as guest:
            features = guest.check("cat /sys/bus/virtio/devices/virtio0/features").strip()
            assert features[34] == ("1" if layout == "packed" else "0")
            guest.check(
                "for number in 0 1 2 3; do"
                " /sbin/dd if=/dev/urandom of=/tmp/noise$number bs=4k count=64 2>/dev/null; done"
            )
            guest.check(WRITERS)
            lot = random.Random(layout)

            def rounds() -> int:
                return int(guest.check("cat /tmp/rounds* 2>/dev/null | wc -l"))

            for _ in range(KILLS):
                target = rounds() + 4
                await_(lambda target=target: rounds() >= target, "the guest does not write any more")  # type: ignore[misc]
                time.sleep(lot.random() * 0.1)
                server.kill()
                server.start()
            guest.check("touch /tmp/stop")
            await_(lambda: guest.run("ls /tmp/done0 /tmp/done1 /tmp/done2 /tmp/done3").status == 0, "stuck")
            assert guest.check("cat /tmp/failed 2>/dev/null || true") == ""
            sums = guest.check("sha256sum /tmp/noise?").split()[::2]
            for number, expected in enumerate(sums):
                part = f"bs=4k skip={number * 1024} count=64 iflag=direct"
                assert expected in guest.check(f"/sbin/dd if=/dev/vda {part} 2>/dev/null | sha256sum")
                data = image.read_bytes()[number * 4 * MIB :][: 64 * 4096]
                assert hashlib.sha256(data).hexdigest() == expected
            assert "error" not in guest.check("dmesg | grep -i vda || true").lower()
    finally:
        server.kill()
