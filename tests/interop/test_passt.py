"""Guests in the world by way of passt, without privileges (``--net user``)."""

import hashlib
import http.server
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Needs

import virtio
from virtio.device.net_passt import Passt
from virtio.vm import boot

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

DATA = random.Random(3).randbytes(3 << 20)
SUM = hashlib.sha256(DATA).hexdigest()
GATEWAY = "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')"


@pytest.fixture
def passt() -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt here: apt-get install passt")
    try:
        Passt().close()
    except virtio.ConfigurationError as error:
        pytest.skip(str(error))  # a host without any network


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    """A server that only this host can reach; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_port
        found.shutdown()


@pytest.mark.usefixtures("passt")
def test_a_guest_reaches_its_host_and_the_other_way_round(needs: Needs, server: int) -> None:
    needs("uml")
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    backend = Passt(tcp_ports=f"{port}:80")
    device = virtio.NetworkDevice(backend)
    with boot([device], monitor="uml", timeout=100) as guest:
        guest.check("udhcpc -q -f -n -i eth0")
        assert guest.check(f"wget -q -O - http://{GATEWAY}:{server}/ | sha256sum").split()[0] == SUM
        guest.check("dd if=/dev/urandom of=/tmp/data bs=1M count=3 2>/dev/null; httpd -h /tmp")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data", timeout=60) as got:
            assert hashlib.sha256(got.read()).hexdigest() == guest.check("sha256sum /tmp/data").split()[0]
    assert not device.needs_reset
    assert not backend.closed
    device.close()
    assert backend.closed


@pytest.mark.usefixtures("passt")
def test_from_the_command_line(needs: Needs, server: int) -> None:
    needs("uml")
    command = (
        f"udhcpc -q -f -n -i eth0 >/dev/null 2>&1 && wget -q -O - http://{GATEWAY}:{server}/ | sha256sum"
    )
    result = subprocess.run(
        [sys.executable, "-m", "virtio", "vm", "--vmm", "uml", "--net", "user", "--run", command],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stdout.split()[:1]) == (0, [SUM]), result.stderr


def test_without_passt(tmp_path: Path) -> None:
    """One line, that names the package."""
    for name in ("passt", None):
        if name:  # one that does not start
            (tmp_path / name).write_text("#!/bin/sh\necho nothing but trouble >&2\nexit 1\n")
            (tmp_path / name).chmod(0o755)
        else:
            (tmp_path / "passt").unlink()
        result = subprocess.run(
            [sys.executable, "-m", "virtio", "vm", "--net", "user", "--run", "true"],
            env={**os.environ, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 2
        expected = "passt does not start: nothing but trouble" if name else "apt-get install passt"
        assert expected in result.stderr
        assert len(result.stderr.splitlines()) == 1
