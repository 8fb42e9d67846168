"""Modules are found and ordered by what they say of themselves."""

import lzma
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.vm.modules import ModuleTree, modinfo


def module(folder: Path, name: str, *, depends: str = "", alias: str = "", compress: bool = False) -> None:
    data = b"\x7fELF\0" + b"".join(
        f"{key}={value}\0".encode()
        for key, value in (("license", "GPL"), ("depends", depends), ("alias", alias))
    )
    path = folder / f"{name}.ko"
    folder.mkdir(parents=True, exist_ok=True)
    if compress:
        path.with_name(path.name + ".xz").write_bytes(lzma.compress(data))
    else:
        path.write_bytes(data)


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    module(tmp_path / "drivers", "virtio_ring")
    module(tmp_path / "drivers", "virtio", depends="virtio_ring")
    module(tmp_path / "block", "virtio_blk", depends="virtio", alias="virtio:d00000002v*")
    module(
        tmp_path / "char", "virtio-rng", depends="virtio,rng_core", alias="virtio:d00000004v*", compress=True
    )
    return ModuleTree(tmp_path)


def test_each_module_comes_after_what_it_needs(tree: ModuleTree) -> None:
    assert tree.in_load_order(["virtio_blk", "virtio_rng"]) == [
        "virtio_ring",
        "virtio",
        "virtio_blk",
        "virtio_rng",
    ]


def test_what_is_built_in_is_not_loaded(tree: ModuleTree) -> None:
    assert "rng_core" not in tree.in_load_order(["virtio-rng"])


@pytest.mark.parametrize(("device_id", "name"), [(2, "virtio_blk"), (4, "virtio_rng"), (16, None)])
def test_a_driver_is_found_by_the_device_type_it_claims(
    tree: ModuleTree, device_id: int, name: str | None
) -> None:
    assert tree.driver_of(device_id) == name


def test_a_compressed_module_is_read_uncompressed(tree: ModuleTree) -> None:
    assert modinfo(tree.read("virtio_rng"), "depends") == ["virtio,rng_core"]


def test_a_missing_module_is_named(tree: ModuleTree) -> None:
    with pytest.raises(ConfigurationError, match="virtio_gpu"):
        tree.in_load_order(["virtio_gpu"])
