"""The media device carries structures of V4L2 whole: they must have the sizes that V4L2 gives them."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from virtio.spec import media

HEADER = Path("/usr/include/linux/videodev2.h")


@pytest.mark.skipif(not HEADER.exists(), reason="linux-libc-dev is not installed")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(struct.calcsize("P") != 8, reason="the standard means the 64-bit form")
def test_sizes(tmp_path: Path) -> None:
    names = ("v4l2_buffer", "v4l2_plane", "v4l2_event")
    prints = "".join(f'printf("%zu ", sizeof(struct {name}));' for name in names)
    program = tmp_path / "sizes"
    subprocess.run(
        ["gcc", "-x", "c", "-o", program, "-"],
        input=f"#include <stdio.h>\n#include <linux/videodev2.h>\nint main(void) {{ {prints} }}\n",
        text=True,
        check=True,
    )
    sizes = map(int, subprocess.run([program], capture_output=True, check=True).stdout.split())
    buffer, plane, event = sizes
    dqbuf = media.EVENT_DQBUF
    assert dqbuf.offset("planes") - dqbuf.offset("buffer") == buffer
    assert (dqbuf.size or 0) - dqbuf.offset("planes") == plane * media.LIMITS.PLANES
    assert (media.EVENT_EVENT.size or 0) - media.EVENT_EVENT.offset("event") == event
