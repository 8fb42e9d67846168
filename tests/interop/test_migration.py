"""Live migration: a guest of QEMU goes from one back end of ours to another while it uses its disk.

The guest's memory is copied while our back end writes to it: what its dirty log missed would be lost.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.interop import newer

import virtio
from virtio.vm.attachment import Attachment
from virtio.vm.boot import attachment
from virtio.vm.guest import Guest
from virtio.vm.machine import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

SECONDS = 60.0


class Qmp:
    """QEMU's control socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        deadline = time.monotonic() + SECONDS
        while self._socket.connect_ex(str(path)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self._lines = self._socket.makefile("r")
        json.loads(self._lines.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Traveller(Guest):
    """A guest that goes from one QEMU to another."""

    def __init__(self, attachments: Sequence[Attachment], folder: Path, **options: Any) -> None:
        self._folder = folder
        self._sockets = [str(each.socket) for each in attachments]
        self._command: list[str] = []
        self._qmp = folder / "qmp"
        super().__init__(attachments, monitor="qemu", **options)

    def _prepare(self, *arguments: Any) -> list[str]:
        # Debian's kernel clears pages before devices fill them, and thereby hides what a log has missed.
        self._command = [
            word.replace("quiet", "quiet init_on_alloc=0") for word in super()._prepare(*arguments)
        ]
        return [*self._command, *self._control()]

    def _control(self) -> list[str]:
        return ["-qmp", f"unix:{self._qmp},server=on,wait=off"]

    def migrate(self, to: Sequence[Path]) -> dict[str, Any]:
        """Go over to a new QEMU, whose devices are behind these sockets; return what QEMU counted."""
        command = list(self._command)
        for old, new in zip(self._sockets, to, strict=True):
            command = [word.replace(old, str(new)) for word in command]
        incoming, source = self._folder / "incoming", Qmp(self._qmp)
        self._qmp = self._folder / "qmp2"
        machine = Machine([*command, *self._control(), "-incoming", f"unix:{incoming}"], timeout=120)
        try:
            deadline = time.monotonic() + SECONDS
            while not incoming.exists():
                assert machine.running, machine.tail
                assert time.monotonic() < deadline
                time.sleep(0.02)
            source.ask("migrate-set-parameters", **{"max-bandwidth": 40 << 20, "downtime-limit": 200})
            source.ask("migrate", uri=f"unix:{incoming}")
            while (state := source.ask("query-migrate"))["status"] not in ("completed", "failed"):
                assert time.monotonic() < deadline, state
                time.sleep(0.05)
            assert state["status"] == "completed", (state, self.machine.tail, machine.tail)
            with contextlib.closing(Qmp(self._qmp)) as target:
                while target.ask("query-status")["status"] != "running":
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        except BaseException:
            machine.kill()
            raise
        finally:
            source.close()
        self.machine.kill()
        self._machine = machine
        return dict(state)


class Homes:
    """Two back ends for one image."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, mask: str) -> None:
        image = folder / "disk.img"
        image.touch()
        os.truncate(image, 64 << 20)
        self.sockets = [folder / f"{index}.sock" for index in range(2)]
        self.disks = []
        for path in self.sockets:
            disk = virtio.BlockDevice(image, mask=mask)
            stack.callback(disk.close)
            stack.enter_context(virtio.start(disk, f"vhost-user:{path}"))
            self.disks.append(disk)


@pytest.fixture(params=["system's", pytest.param("newer", marks=pytest.mark.slow)])
def which(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system's QEMU, 7.2 on Debian 12, and a newer one, 11.1."""
    found: str = request.param
    if found == "newer":
        monkeypatch.setenv("PATH", f"{newer.folder() / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return found


@pytest.fixture(params=["packed", pytest.param("split", marks=pytest.mark.slow)])
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Homes]:
    with contextlib.ExitStack() as stack:
        yield Homes(stack, tmp_path, "RING_PACKED" if request.param == "split" else "")


FILES = 60

# Files that nothing has read yet, and a process that writes and checks files of its own, past the page cache.
PREPARE = f"""
mkdir -p /mnt; mkfs.ext4 -q -F /dev/vda && mount /dev/vda /mnt && mkdir /mnt/read /mnt/written || exit 1
for number in $(seq {FILES}); do dd if=/dev/urandom of=/mnt/read/$number bs=64k count=8 2>/dev/null; done
cd /mnt/read && md5sum * > /tmp/sums && cd / && sync && echo 3 > /proc/sys/vm/drop_caches
(
  number=0
  while [ ! -e /tmp/stop ]; do
    number=$((number + 1))
    dd if=/dev/urandom of=/tmp/wanted bs=64k count=4 2>/dev/null
    dd if=/tmp/wanted of=/mnt/written/$((number % 9)) bs=64k oflag=direct 2>/dev/null
    dd if=/mnt/written/$((number % 9)) of=/tmp/found bs=64k iflag=direct 2>/dev/null
    cmp /tmp/found /tmp/wanted || echo $number >> /tmp/wrong
    echo $number > /tmp/done
  done
  echo over > /tmp/done
) </dev/null >/dev/null 2>&1 &
"""
# They are read into the guest's memory, once, while that is being copied.
READ = f"""
(
  for number in $(seq {FILES}); do cat /mnt/read/$number > /dev/null; sleep 0.03; done
  echo over > /tmp/read
) </dev/null >/dev/null 2>&1 &
"""


def test_a_guest_migrates_while_it_uses_its_disk(which: str, homes: Homes, tmp_path: Path) -> None:
    here = attachment(homes.disks[0], homes.sockets[0])
    # The host's dd: busybox's knows no direct access.
    with Traveller([here], tmp_path, timeout=150, programs=["dd"]) as guest:
        guest.check(PREPARE + READ)
        guest.migrate([homes.sockets[1]])
        guest.check("until [ -e /tmp/read ]; do sleep 0.1; done")
        guest.check("cd /mnt/read && md5sum -c -s /tmp/sums")
        guest.check("touch /tmp/stop; until grep -q over /tmp/done; do sleep 0.1; done")
        assert guest.run("cat /tmp/wrong").status != 0, "no file had other contents than were written"
        guest.check("umount /mnt; e2fsck -f -n /dev/vda")
        guest.check("mount /dev/vda /mnt && cd /mnt/read && md5sum -c -s /tmp/sums; cd /; umount /mnt")
    for disk in homes.disks:
        counters = disk.queues[0].counters
        assert counters is not None
        assert counters.chains > 100


class Journal(virtio.Device):
    """Stands where a file system would: QEMU has such a device's state moved. It remembers where it was."""

    spec = virtio.spec.fs

    def __init__(self, entry: bytes) -> None:
        super().__init__(name=entry.decode(), config={"tag": b"journal", "num_request_queues": 1})
        self.entries = entry

    def on_hiprio(self, chain: virtio.Chain) -> None:
        """Nothing is asked of it."""

    on_requests = on_hiprio

    def saved(self) -> bytes:
        return self.entries

    def check_saved(self, own: bytes, config: object) -> None:
        if not own.startswith(b"source"):
            raise virtio.StateError("it was not there before")

    def restored(self, own: bytes) -> None:
        self.entries = own + b", " + self.entries


def test_what_a_device_remembers_migrates_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{newer.folder() / 'bin'}{os.pathsep}{os.environ['PATH']}")
    devices = [Journal(b"source"), Journal(b"target")]
    sockets = [tmp_path / f"{device.name}.sock" for device in devices]
    with contextlib.ExitStack() as stack:
        for device, path in zip(devices, sockets, strict=True):
            stack.callback(device.close)
            stack.enter_context(virtio.start(device, f"vhost-user:{path}"))
        here = attachment(devices[0], sockets[0])
        here = dataclasses.replace(here, properties={**here.properties, "tag": "journal"})
        with Traveller([here], tmp_path, timeout=120) as guest:
            assert int(guest.check("cat /sys/bus/virtio/devices/virtio0/status"), 16) & 4
            guest.migrate([sockets[1]])
            guest.check("true")
            assert devices[1].entries == b"source, target"
            assert devices[1].queues[1].running
