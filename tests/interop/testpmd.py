"""DPDK's test program as the driver of one network device, on its command line."""

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from virtio.vm.machine import Machine

PROMPT = b"testpmd> "
RING_SIZE = 256


def program() -> str:
    """Return the program, or skip the test."""
    found = shutil.which("dpdk-testpmd")
    if found is None:
        pytest.skip("no dpdk-testpmd here: apt-get install --no-install-recommends dpdk-dev")
    return found


class Statistics(NamedTuple):
    """A port's counters since it was opened. Bytes are those of packets, without virtio headers."""

    rx_packets: int
    rx_missed: int
    rx_bytes: int
    rx_errors: int
    rx_no_buffers: int
    tx_packets: int
    tx_errors: int
    tx_bytes: int

    def since(self, earlier: "Statistics") -> "Statistics":
        return Statistics(*(now - before for now, before in zip(self, earlier, strict=True)))


class Testpmd:
    """A running testpmd with one virtio-user port; its second core polls without a pause."""

    __test__ = False  # not a class of tests, in spite of its name

    def __init__(
        self, socket: Path, *, packed: bool, in_order: bool, mergeable: bool, timeout: float
    ) -> None:
        properties = {
            "path": socket,
            "queue_size": RING_SIZE,
            "packed_vq": int(packed),
            "in_order": int(in_order),
            "mrg_rxbuf": int(mergeable),
        }
        port = ",".join(f"{key}={value}" for key, value in properties.items())
        # Its statistics go through stdio, which would keep them back; its prompt does not.
        command = ["stdbuf", "-o0", program()]
        # No shared configuration: nothing of a run stays behind, and several can run at once.
        command += ["--no-huge", "-m", "128", "--no-pci", "--no-telemetry", "--no-shconf", "-l", "0,1"]
        command += ["--file-prefix=pyvirtio", "--vdev", f"net_virtio_user0,{port}"]
        command += ["--", "-i", "--nb-cores=1", f"--txd={RING_SIZE}", f"--rxd={RING_SIZE}"]
        # Packets that are there when forwarding starts are forwarded, and so are counted by both sides.
        command += ["--total-num-mbufs=2048", "--no-flush-rx"]
        if mergeable:
            command += ["--enable-scatter", "--max-pkt-len=9000"]
        self.machine = Machine(command, timeout=timeout)
        self._said = ""
        try:
            self._said += self.machine.receive_until(PROMPT, 30).decode()
        except BaseException:
            self.machine.kill()
            raise

    def command(self, line: str) -> str:
        """Type a command; return what it prints."""
        self.machine.send(line.encode() + b"\n")
        answer = self.machine.receive_until(PROMPT, 20).decode()
        self._said += PROMPT.decode() + answer
        return answer

    def statistics(self) -> Statistics:
        text = self.command("show port stats 0")
        found = dict(re.findall(r"([RT]X-\w+): +(\d+)", text))
        names = "RX-packets RX-missed RX-bytes RX-errors RX-nombuf TX-packets TX-errors TX-bytes"
        return Statistics(*(int(found[name]) for name in names.split()))

    @property
    def complaints(self) -> list[str]:
        """Lines of its driver that say that something is wrong."""
        return re.findall(r"^(?:virtio|vhost|VIRTIO).*(?:fail|error|invalid|bad).*$", self._said, re.M | re.I)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.machine.send(b"quit\n")
                assert self.machine.wait(10), f"testpmd does not end:\n{self.machine.tail}"
        finally:
            self.machine.kill()
