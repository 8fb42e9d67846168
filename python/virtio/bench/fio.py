"""fio with libblkio as the driver of a vhost-user block device: a load that is not ours."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from virtio.errors import TransportError

BATCH = 8
"""Requests that fio makes available at once, at most: one by one, it is the bottleneck itself."""


class FioResult(NamedTuple):
    """What fio did."""

    requests: int
    nanoseconds: float
    processor_nanoseconds: float


def load(
    program: Path, socket: str, *, depth: int, size: int, sequential: bool, seconds: float, disk: int
) -> FioResult:
    """Read for so long, polling for completions, on this process's processors."""
    batch = min(BATCH, depth)
    with tempfile.TemporaryDirectory(prefix="virtio-fio-") as folder:
        output = Path(folder) / "result"
        command = [
            str(program),
            "--name=load",
            "--thread",
            "--ioengine=libblkio",
            "--libblkio_driver=virtio-blk-vhost-user",
            f"--libblkio_path={socket}",
            "--libblkio_wait_mode=loop",
            f"--rw={'read' if sequential else 'randread'}",
            f"--bs={size}",
            f"--size={disk}",
            "--norandommap",
            f"--iodepth={depth}",
            f"--iodepth_batch_submit={batch}",
            "--iodepth_batch_complete_min=1",
            f"--iodepth_batch_complete_max={batch}",
            "--time_based",
            f"--runtime={max(1, round(seconds * 1000))}ms",
            "--gtod_reduce=1",
            "--output-format=json",
            f"--output={output}",
        ]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds + 60, check=False
        )
        if done.returncode:
            raise TransportError(f"fio failed: {(done.stderr or done.stdout).strip()}")
        text = output.read_text()
    job = json.loads(text[text.index("{") :])["jobs"][0]
    if job["error"] or not job["read"]["total_ios"]:
        raise TransportError(f"fio has read nothing: error {job['error']}")
    nanoseconds = job["read"]["runtime"] * 1e6
    used = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return FioResult(job["read"]["total_ios"], nanoseconds, used * nanoseconds)
