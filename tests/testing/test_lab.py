"""Labs without pytest's help: what they serve works, and what they leave behind is nothing."""

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.transport.frontend import nothing_left

import virtio
from virtio.errors import ConfigurationError, TransportError
from virtio.testing import Lab, MissingError

SIZE = 1 << 20


@pytest.mark.parametrize("address", [None, "vhost-user", "mem"])
def test_a_device_of_this_process(address: str | None) -> None:
    with nothing_left():
        with Lab() as lab:
            device = virtio.BlockDevice(size=SIZE)
            served = lab.serve(device, address)
            lab.connect(served).write(0, b"x" * 512)
            assert lab.connect(lab.serve(virtio.EntropyDevice(), address)).read(8) != bytes(8)
            (_, said), _ = lab.report()
            assert "requestq" in said
            assert "2 chains" not in said
            assert "1 chains" in said
            folder = lab.folder
        assert not folder.exists()
        assert not device.attached


def test_an_address_of_ones_own(tmp_path: Path) -> None:
    with Lab() as lab:
        served = lab.serve(virtio.BlockDevice(size=SIZE), f"vhost-user:{tmp_path}/disk.sock")
        assert served.socket == tmp_path / "disk.sock"
        assert served.attachment.socket == served.socket
        assert lab.connect(served.address, "block").capacity == SIZE
        assert lab.serve(virtio.BlockDevice(size=SIZE), "mem").socket is None
    assert list(tmp_path.iterdir()) == []


def test_a_back_end_dies_and_comes_back() -> None:
    with nothing_left(), Lab() as lab:
        back_end = lab.serve_process("block", "null:1M")
        disk = lab.connect(back_end, reconnect=30, timeout=30, mask="RING_PACKED")
        back_end.wait_for_output("ready")
        first = back_end.pid
        assert disk.read(0, 1) == bytes(512)
        back_end.kill()
        assert not back_end.running
        back_end.restart()
        assert back_end.pid != first
        assert disk.read(0, 1) == bytes(512)
        back_end.wait_for_output("ready")
        assert back_end.log.count("ready") == 2
        disk.close()  # it would look for the back end otherwise
        del disk  # and keep its memory
        back_end.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(back_end.pid, 0)
        assert "ended" in back_end.report()


def test_a_process_takes_its_children_with_it() -> None:
    script = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork(); time.sleep(60)"
    with Lab() as lab:
        back_end = lab.serve_process("block", "null:1M", "--queues", "2", queues=1)
        assert lab.connect(back_end).queues
        machine = lab.serve_command(
            sys.executable,
            "-c",
            "import socket, sys, subprocess\n"
            "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])\n"
            f"child = subprocess.Popen([sys.executable, '-c', {script!r}])\n"
            "s.listen(); print('child', child.pid, flush=True); child.wait()",
            "{socket}",
        )
        machine.wait_for_output("child")
        group = machine.pid
        os.killpg(group, 0)
        machine.kill()
    # Zombies of the group may wait for init.
    alive = [
        stat
        for stat in (path / "stat" for path in Path("/proc").glob("[0-9]*"))
        if _group(stat) == (group, True)
    ]
    assert alive == []


def _group(stat: Path) -> tuple[int, bool]:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0, False
    return int(fields[2]), fields[0] != "Z"


def test_a_program_that_does_not_listen() -> None:
    with Lab() as lab:
        with pytest.raises(TransportError, match="no image: says no"):
            lab.serve_command("sh", "-c", "echo no image: says no; exit 3", "{socket}")
        with pytest.raises(MissingError, match="no program no-such-program"):
            lab.serve_command("no-such-program", "{socket}")
        with pytest.raises(ConfigurationError, match="where the program is to listen"):
            lab.serve_command("sh", "-c", "exit")


def test_a_back_end_that_somebody_else_ended_is_reported() -> None:
    with Lab() as lab:
        back_end = lab.serve_process("entropy")
        back_end.wait_for_output("ready")
        back_end.send_signal(signal.SIGKILL)
        while back_end.running:
            pass
        ((name, said),) = lab.report()
        assert "python" in name
        assert "ended by itself" in said
        assert "ready" in said


def test_the_end_comes_even_if_one_part_has_none() -> None:
    class Stubborn(virtio.BlockDevice):
        def close(self) -> None:
            super().close()
            raise RuntimeError("will not")

    lab = Lab()
    other = lab.serve_process("entropy")
    lab.serve(Stubborn(size=SIZE))
    with pytest.raises(RuntimeError, match="will not"):
        lab.close()
    assert not other.running
    assert not lab.folder.exists()
