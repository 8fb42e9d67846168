"""A network of the user's own, without privileges: passt, as a process of ours.

What the guest sends by TCP, UDP and ICMP leaves this host as if this host had sent it. The guest gets its
address by DHCP; the gateway that it is told of is this host.
"""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from virtio._native import NetBackend
from virtio.errors import ConfigurationError

_PATIENCE = 20.0
_LOOK_AGAIN = 0.005


class Passt:
    """passt, behind a socket that nobody else has. It ends with the back end, and with this process."""

    def __init__(self, *, tcp_ports: str = "none", udp_ports: str = "none") -> None:
        """Start it.

        ``tcp_ports`` and ``udp_ports`` of this host lead into the guest, as passt's ``--tcp-ports`` says it:
        ``"8080:80"`` is port 80 of the guest.
        """
        program = shutil.which("passt")
        if program is None:
            raise ConfigurationError("no passt here, which the network 'user' is: apt-get install passt")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs, tempfile.TemporaryDirectory(prefix="pyvirtio-passt-") as folder:
            started = Path(folder) / "pid"
            started.touch()
            # Started by root, passt becomes another user before it writes its number.
            Path(folder).chmod(0o711)
            started.chmod(0o666)
            line = [program, "--foreground", "--quiet", "--stderr", "--one-off"]
            line += ["--pid", str(started), "--fd", str(theirs.fileno())]
            line += ["--tcp-ports", tcp_ports, "--udp-ports", udp_ports]
            with tempfile.TemporaryFile() as said:
                self._process = subprocess.Popen(
                    line,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                )
                deadline = time.monotonic() + _PATIENCE
                while not started.stat().st_size:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self._stop()
                        said.seek(0)
                        raise ConfigurationError(f"passt does not start: {_reason(said.read())}")
                    time.sleep(_LOOK_AGAIN)
            self.native = NetBackend.stream(ours.fileno())

    @property
    def closed(self) -> bool:
        """Whether passt is gone."""
        return self.native.closed

    def close(self) -> None:
        """End it."""
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
            return
        self._process.kill()
        self._process.wait()


def _reason(said: bytes) -> str:
    """Return the last that it said, but for its complaints about a host without a system log."""
    lines = [line for line in said.decode(errors="replace").splitlines() if "to syslog" not in line]
    return lines[-1].strip() if lines else "it says nothing"
