"""What the documentation is made from, without building it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from virtio.spec import CHAPTERS, device_type

DOCS = Path(__file__).parents[2] / "docs"
EXTENSIONS = DOCS / "_extensions"


def run(program: str) -> str:
    """Run Python with the extensions to import: they replace modules, so not in this process."""
    prefix = f"import sys; sys.path.insert(0, {str(EXTENSIONS)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", prefix + program], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_stub_stands_in_for_the_native_module() -> None:
    shown = run(
        "import native_stub; native_stub.setup(None)\n"
        "import virtio, inspect\n"
        "print(inspect.signature(virtio.Chain.complete), virtio.BlockDevice.__mro__[1].__name__)"
    )
    assert shown == "(self, written: 'int | None' = None) -> 'None' Device\n"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    output = run(
        "import spec_pages\n"
        "from virtio.spec import device_types\n"
        "for device in device_types(): print(f'@@{device.name}', spec_pages.device_page(device), sep='\\n')"
    )
    return {name: text for name, _, text in (part.partition("\n") for part in output.split("@@")[1:])}


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_type_has_a_page_with_all_of_it(name: str, pages: dict[str, str]) -> None:
    device, page = device_type(name), pages[name]
    wanted = [f"`{feature.name}`" for feature in device.features]
    wanted += [f"### `{struct.name}`" for struct in device.structs]
    wanted += [f"`{code.name}`" for group in device.codes for code in group]
    assert [text for text in wanted if text not in page] == []
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(columns) == 1, table


def test_files_that_the_pages_show_exist() -> None:
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\{literalinclude\} (\S+)", page.read_text()):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"


def test_files_that_contributors_are_told_of_exist() -> None:
    root = DOCS.parent
    for name in re.findall(
        r"`((?:python|tests|tools|crates|docs)/[\w./]+)`", (root / "CONTRIBUTING.md").read_text()
    ):
        if "NAME" not in name:
            assert (root / name).exists(), name


def test_every_rule_of_the_rings_is_in_the_table() -> None:
    shown = run("import ring_rules; print(ring_rules.table())").splitlines()
    source = (DOCS.parent / "crates/virtqueue/src/fault.rs").read_text()
    listed = re.findall(r"^        Self::(\w+),$", source, flags=re.MULTILINE)
    assert len(shown) == len(listed) + 2
    for row in shown[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4
        assert all(cells), row
    clauses = {row.split("|")[2].strip() for row in shown[2:]}
    assert clauses == set(re.findall(r'=> "([\d.]+)"', source))
