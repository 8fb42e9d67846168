"""The tables against the kernel's headers, and a list of what those lack.

Two independent descriptions of one standard: where they differ, one of them is wrong, or the difference has
an entry with its reason in ``kernel_differences.py``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable

import pytest
from tests.spec import kernel_differences as known
from tests.spec.kernel_headers import FOLDER, Kernel, read
from tests.spec.tables import MODULES, codes, every_struct, features

from virtio.spec import core, pci
from virtio.spec.layout import Struct

pytestmark = [
    pytest.mark.skipif(not (FOLDER / "virtio_ids.h").exists(), reason="linux-libc-dev is not installed"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return read(tmp_path_factory.mktemp("kernel"))


def ours() -> dict[str, int]:
    """Bit numbers of features and values of codes, by name."""
    found: dict[str, int] = {}
    for name in MODULES:
        found |= {feature.name: feature.bit for feature in features(name)}
    for name in MODULES:
        for group in codes(name):
            for code in group:
                found.setdefault(code.name, code.value)
    return found


def structs() -> dict[str, Struct]:
    return {struct.name: struct for name in MODULES for struct in every_struct(name)}


def explained(names: Iterable[str], patterns: dict[str, str]) -> set[str]:
    return {name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)}


def check(lacking: set[str], everything: Iterable[str], patterns: dict[str, str], kernel: Kernel) -> None:
    """What is lacking must be explained, and what is explained must still be lacking."""
    assert lacking - explained(lacking, patterns) == set(), "not in the headers, and not listed"
    if kernel.release != known.RELEASE:
        return
    assert explained(everything, patterns) - lacking == set(), "listed, but the headers have it by now"
    unused = {pattern for pattern in patterns if not explained(lacking, {pattern: ""})}
    assert unused == set(), "listed, but matches nothing"


def test_device_ids(kernel: Kernel) -> None:
    lacking = set()
    expected = dict(known.IDS_ONLY_THERE)
    for row in core.DEVICE_IDS:
        name = known.IDS.get(row.name, "VIRTIO_ID_" + row.name.upper().replace("-", "_"))
        if row.assigned and name in kernel.constants:
            expected[name] = row.id
        elif row.assigned:
            lacking.add(row.name)
    found = {name: value for name, value in kernel.constants.items() if name.startswith("VIRTIO_ID_")}
    assert found == expected
    if kernel.release == known.RELEASE:
        assert lacking == known.IDS_LACKING


def test_transitional_ids(kernel: Kernel) -> None:
    found = {kernel.constants[name] for name in kernel.constants if name.startswith("VIRTIO_TRANS_ID_")}
    assert found == set(pci.TRANSITIONAL_IDS.values())


def test_constants(kernel: Kernel) -> None:
    table = ours()
    lacking = set()
    for name, value in table.items():
        theirs = kernel.constants.get(known.RENAMED.get(name, name))
        if theirs is None:
            lacking.add(name)
        elif name in known.DIFFERENT:
            assert (value, theirs) == known.DIFFERENT[name][:2], name
        else:
            assert theirs & (1 << 64) - 1 == value, name
    check(lacking, table, known.LACKING, kernel)
    assert set(known.RENAMED) <= set(table)
    assert set(known.RENAMED.values()) <= set(kernel.constants)
    assert set(known.DIFFERENT) <= set(table) - lacking


def test_nothing_else_is_there(kernel: Kernel) -> None:
    """A constant of the kernel that we do not have is an oversight, or explained."""
    table = ours()
    rest = set(kernel.constants) - set(table) - set(known.RENAMED.values())
    rest = {name for name in rest if not name.startswith("VIRTIO_ID_")}
    if kernel.release == known.RELEASE:
        check(rest, rest, known.ONLY_THERE, kernel)


def test_structures(kernel: Kernel) -> None:
    table = structs()
    lacking = set()
    compared = 0
    for name, struct in table.items():
        theirs = known.STRUCTS.get(name, name)
        if theirs not in kernel.structs:
            lacking.add(name)
            continue
        compared += 1
        compare(struct, kernel.structs[theirs], kernel.sizes[theirs], kernel)
    check(lacking, table, known.STRUCTS_LACKING, kernel)
    assert compared > 100
    assert {entry.partition(".")[0] for entry in known.FIELDS} <= set(table) - lacking
    assert {*known.STRUCTS, *known.ENDS_BEFORE, *known.SIZES} <= set(table) - lacking


def compare(struct: Struct, members: dict[str, int], size: int, kernel: Kernel) -> None:
    end = known.ENDS_BEFORE.get(struct.name)
    if end is not None and kernel.release != known.RELEASE and end in members:
        end = None
    for field in struct.fields:
        offset = struct.offsets[field.name]
        if field.name == end:
            assert size == offset, f"{struct.name} does not end before {end}"
            return
        if offset is None:
            return
        full = f"{struct.name}.{field.name}"
        theirs = known.FIELDS.get(full, field.name)
        assert theirs == field.name or field.name not in members, f"{full} has its name by now"
        if struct.size is None and theirs not in members:
            # Headers of the kernel end where the variable part begins.
            assert size == offset, full
            return
        assert members.get(theirs) == offset, full
    if struct.size is not None:
        expected = known.SIZES.get(struct.name, (struct.size, struct.size))
        assert (struct.size, size) == expected[:2], struct.name


def test_headers_of_received_packets(kernel: Kernel) -> None:
    """The kernel has one structure per length of the header."""
    from virtio.spec import net

    hashed = net.HDR.until(["VIRTIO_NET_F_HASH_REPORT"])
    members = kernel.structs["virtio_net_hdr_v1_hash"]
    assert kernel.sizes["virtio_net_hdr_v1_hash"] == hashed.size == 20
    assert members["hash_value"] == hashed.offset("hash_value")
    assert members["hash_report"] == hashed.offset("hash_report")
    assert members["padding"] == hashed.offset("padding_reserved")
    assert kernel.sizes["virtio_net_hdr"] == net.HDR.offset("num_buffers")
