"""The device types from file system to RTC, as the kernel's headers have them.

The C compiler says what the headers mean: values, sizes, offsets.
"""

from __future__ import annotations

import re
import shutil
import struct as struct_module
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from virtio.spec import CHAPTERS, device_type, fs, media
from virtio.spec.model import Codes, DeviceType, Struct

INCLUDE = Path("/usr/include/linux")


@dataclass(frozen=True)
class Header:
    """What is known about one header, beyond what it says.

    ``lacks`` are patterns of names that the oldest supported header (Debian 12) does not have; where a newer
    one has them, they are compared. ``names`` gives the kernel's name for a thing where it differs; a field
    is ``struct.field``.
    """

    file: str
    lacks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The header without its comments."""
        path = INCLUDE / self.file
        if not path.exists():
            pytest.skip(f"no {path}: it comes with linux-libc-dev")
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL)


HEADERS = {
    "fs": Header(
        "virtio_fs.h",
        # FUSE's own structures are in fuse.h, requests in no header.
        lacks=(
            "VIRTIO_FS_F_NOTIFICATION",
            "virtio_fs_config.notify_buf_size",
            "fuse_*",
            "virtio_fs_req.*",
            "virtio_fs_notify.*",
        ),
    ),
    "iommu": Header("virtio_iommu.h", names={"virtio_iommu_fault.reserved1": "virtio_iommu_fault.reserved2"}),
    "sound": Header(
        "virtio_snd.h",
        lacks=(
            "VIRTIO_SND_F_CTLS",
            "VIRTIO_SND_R_CTL_*",
            "VIRTIO_SND_EVT_CTL_NOTIFY",
            "VIRTIO_SND_CTL_*",
            "VIRTIO_SND_PCM_RATE_12000",
            "VIRTIO_SND_PCM_RATE_24000",
            "virtio_snd_config.controls",
            "virtio_snd_ctl_*",
        ),
    ),
    "mem": Header(
        "virtio_mem.h",
        lacks=("VIRTIO_MEM_F_PERSISTENT_SUSPEND",),
        names={"virtio_mem_resp_state.type": "virtio_mem_resp_state.state"},
    ),
    # The request as a whole is in no header, since its data is in other buffers.
    "i2c": Header("virtio_i2c.h", lacks=("virtio_i2c_write_req.*", "virtio_i2c_read_req.*")),
    "scmi": Header("virtio_scmi.h", lacks=("virtio_scmi_*.*",)),
    "gpio": Header(
        "virtio_gpio.h",
        lacks=("virtio_gpio_response_N.*",),
        names={
            "VIRTIO_GPIO_MSG_GET_LINE_NAMES": "VIRTIO_GPIO_MSG_GET_NAMES",
            "VIRTIO_GPIO_MSG_SET_IRQ_TYPE": "VIRTIO_GPIO_MSG_IRQ_TYPE",
        },
    ),
    "pmem": Header("virtio_pmem.h", lacks=("VIRTIO_PMEM_F_SHMEM_REGION",)),
}
# Linux 6.1 has no header for these: rpmb and media never had one, the others came later.
WITHOUT_HEADER = {"rpmb", "can", "spi", "media", "rtc"}


@pytest.mark.parametrize("name", HEADERS)
def test_tables_agree_with_the_header(name: str) -> None:
    assert compare(HEADERS[name], device_type(name)) > 1


def test_every_type_is_compared_or_known_to_have_no_header() -> None:
    chapters = CHAPTERS[CHAPTERS.index("fs") :]
    assert set(chapters) == set(HEADERS) | WITHOUT_HEADER


def test_fuse_headers_have_the_sizes_of_fuse() -> None:
    expected = {struct.name: struct.size for struct in (fs.FUSE_IN_HEADER, fs.FUSE_OUT_HEADER)}
    assert values("fuse.h", expected) == expected


def test_v4l2_structures_have_the_sizes_of_v4l2() -> None:
    if struct_module.calcsize("P") != 8:
        pytest.skip("the standard means the 64-bit form")
    dqbuf, event = media.EVENT_DQBUF, media.EVENT_EVENT
    assert dqbuf.size is not None
    assert event.size is not None
    header = media.EVENT_HEADER.size
    expected = {
        "v4l2_buffer": dqbuf.offset("planes") - dqbuf.offset("buffer"),
        "v4l2_plane": (dqbuf.size - dqbuf.offset("planes")) // media.LIMITS.PLANES,
        "v4l2_event": event.size - (header or 0),
    }
    assert values("videodev2.h", expected) == expected


def compare(header: Header, device: DeviceType) -> int:
    """Fail on every difference between the header and the tables; give the number of things compared."""
    text = header.text
    expected = _expected(device)
    here: dict[str, int] = {}
    absent = []
    for name, value in expected.items():
        theirs = header.names.get(name, name)
        if _is_in(theirs, text):
            here[theirs] = value
        else:
            absent.append(name)
    unknown = [name for name in absent if not any(fnmatchcase(name, pattern) for pattern in header.lacks)]
    assert not unknown, f"{header.file} has no {unknown}; if that is so, list them as lacking"
    stale = [pattern for pattern in header.lacks if not any(fnmatchcase(name, pattern) for name in expected)]
    assert not stale, f"listed as lacking, but not in the tables: {stale}"
    for name in absent:
        # A structure that has grown since has another size.
        here.pop(name.partition(".")[0], None)
    found = values(header.file, here)
    assert found == here, {name: (found[name], here[name]) for name in here if found[name] != here[name]}
    return len(here)


def _expected(device: DeviceType) -> dict[str, int]:
    """Each thing by its name: ``NAME`` a number, ``struct`` a size, ``struct.field`` an offset."""
    values: dict[str, int] = {feature.name: feature.bit for feature in device.features}
    for group in device.codes:
        values.update(_numbers(group))
    for struct in (*((device.config,) if device.config else ()), *device.structs):
        values.update(_layout(struct))
    return values


def _numbers(group: Codes) -> Iterable[tuple[str, int]]:
    return ((code.name, code.value) for code in group)


def _layout(struct: Struct) -> Iterable[tuple[str, int]]:
    if struct.size is not None:
        yield struct.name, struct.size
    for name, offset in struct.offsets.items():
        if offset is not None:
            yield f"{struct.name}.{name}", offset


def _is_in(name: str, text: str) -> bool:
    struct, dot, member = name.partition(".")
    if struct.islower() or dot:
        body = re.search(rf"\bstruct\s+{struct}\s*\{{(.*?)\n\}}", text, flags=re.DOTALL)
        return bool(body) and (not dot or bool(body and re.search(rf"\b{member}\b\s*[;\[]", body[1])))
    return bool(re.search(rf"\b{name}\b", text))


def values(file: str, names: Iterable[str]) -> dict[str, int]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc")
    expressions = []
    for name in names:
        struct, dot, member = name.partition(".")
        if dot:
            expressions.append(f"offsetof(struct {struct}, {member})")
        else:
            expressions.append(f"sizeof(struct {struct})" if struct.islower() else name)
    prints = "\n".join(f'printf("%llu\\n", (unsigned long long)({text}));' for text in expressions)
    source = (
        f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/{file}>\nint main(void) {{\n{prints}\n}}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "print"
        command = [compiler, "-x", "c", "-o", str(program), "-"]
        done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        output = subprocess.run([program], text=True, capture_output=True, check=True).stdout
    return dict(zip(names, map(int, output.split()), strict=True))
