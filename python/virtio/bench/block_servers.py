"""Block devices served by other processes: qemu-storage-daemon's, and ours."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtio.bench.programs import storage_daemons
from virtio.errors import ConfigurationError, TransportError
from virtio.transport.unix.listening import listening

OURS = "pyvirtio"
OVER_VFIO_USER = "pyvirtio over vfio-user"
POLLING = 50
"""Microseconds for which either back end polls before it sleeps."""
_PATIENCE = 10.0

ServerName = str
"""One of ours, or of :func:`peers`."""


@dataclass(frozen=True)
class Medium:
    """What a disk stands on."""

    name: str
    size: int
    path: Path | None
    """A file; None: nothing at all, so that only the requests themselves are measured."""


class RunningServer:
    """A back end in a process of its own."""

    def __init__(self, name: ServerName, process: "subprocess.Popen[bytes]", socket: Path) -> None:
        """Take note of a process that serves at ``socket``."""
        self.name = name
        self.process = process
        self.socket = socket
        self.address = f"{'vfio-user' if name == OVER_VFIO_USER else 'vhost-user'}:{socket}"

    def processor_time(self) -> int:
        """Nanoseconds that all its threads have run, those that have ended too."""
        # The clock of a process, as clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED of the inverted id.
        return time.clock_gettime_ns(~self.process.pid << 3 | 2)


def peers() -> list[ServerName]:
    """The back ends to compare with that are here."""
    return list(storage_daemons())


def command(name: ServerName, medium: Medium, socket: Path) -> list[str]:
    """How the back end is started."""
    if name in (OURS, OVER_VFIO_USER):
        image = f"null:{medium.size}" if medium.path is None else str(medium.path)
        program = [sys.executable, "-m", "virtio", "serve", "block", image]
        where = "--socket" if name == OURS else "--vfio-user"
        return [*program, where, str(socket), "--poll", str(POLLING)]
    peer = storage_daemons().get(name)
    if peer is None:
        raise ConfigurationError(f"there is no {name}: apt-get install qemu-utils, or make peers")
    if medium.path is None:
        node = f"driver=null-co,node-name=n0,size={medium.size},read-zeroes=off"
    else:
        node = f"driver=file,node-name=n0,filename={medium.path},cache.direct=off,aio=io_uring"
    export = f"type=vhost-user-blk,id=e0,node-name=n0,addr.type=unix,addr.path={socket},writable=on"
    thread = f"iothread,id=t0,poll-max-ns={POLLING * 1000}"
    return [str(peer), "--object", thread, "--blockdev", node, "--export", f"{export},iothread=t0"]


@contextlib.contextmanager
def running(
    name: ServerName, medium: Medium, folder: Path, *, processor: int | None = None, precedence: bool = False
) -> Iterator[RunningServer]:
    """Serve ``medium`` within a block. ``processor``: where to run; ``precedence``: before other work."""
    socket = folder / f"{name.replace(' ', '-')}-{medium.name}.sock"
    with (folder / f"{name}.log").open("w+b") as log:

        def settle() -> None:
            if processor is not None:
                os.sched_setaffinity(0, {processor})
            if precedence:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))

        process = subprocess.Popen(
            command(name, medium, socket),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=settle,
        )
        try:
            end = time.monotonic() + _PATIENCE
            while not listening(socket):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    text = log.read().decode(errors="replace").strip().splitlines()
                    raise TransportError(f"{name} did not start: {text[-1] if text else 'no message'}")
                time.sleep(0.01)
            yield RunningServer(name, process, socket)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            socket.unlink(missing_ok=True)
