"""``virtio spec`` and ``virtio features``."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
from rich.console import Console
from tests.spec.tables import MODULES, features

from virtio.cli import run


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "spec")
    assert len(found) == 50
    assert found[1].split() == ["1", "net", "1.0", "5.1", "Network", "device"]


@pytest.mark.parametrize("name", MODULES)
def test_each(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, "spec", name)
    assert lines(capsys, "spec", name, "--since", "1.4")
    run(["spec", name, "--json"])
    whole = json.loads(capsys.readouterr().out)
    run(["spec", name, "--json", "--since", "legacy"])
    assert json.loads(capsys.readouterr().out) == whole


def test_since(capsys: pytest.CaptureFixture[str]) -> None:
    found = "\n".join(lines(capsys, "spec", "net", "--since", "1.2"))
    assert "VIRTIO_NET_F_RSS " in found
    assert "VIRTIO_NET_F_IPSEC" in found
    assert "VIRTIO_NET_F_MAC " not in found
    assert "max_virtqueue_pairs " not in found


def test_one_structure(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "spec", "block", "virtio_blk_req")
    assert found[-1].split()[:5] == ["varies", "1", "u8", "status", "W"]
    assert any("VIRTIO_BLK_T_FLUSH" in line for line in lines(capsys, "spec", "2", "VIRTIO_BLK_T_IN"))


def test_decode(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "features", "net", "0x130afffa7")
    names = [line.split()[1] for line in found[1:]]
    assert names[0] == "VIRTIO_NET_F_CSUM"
    assert names[-1] == "VIRTIO_F_VERSION_1"
    assert len(names) == 0x130AFFFA7.bit_count()


def test_decode_unknown_bits_and_requirements(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "features", "net", str(1 << 7 | 1 << 44 | 1 << 100))
    assert [line.split()[1] for line in found[2:4]] == ["(unknown)", "(unknown)"]
    assert found[-1] == "VIRTIO_NET_F_GUEST_TSO4 also requires VIRTIO_NET_F_GUEST_CSUM"


@pytest.mark.parametrize(
    ("word", "name"), [(1 << 41, "VIRTIO_NET_F_GUEST_RSC4"), (1 << 41 | 1 << 32, "VIRTIO_F_ADMIN_VQ")]
)
def test_bit_41_has_two_meanings(word: int, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name in "\n".join(lines(capsys, "features", "net", hex(word)))


def test_encode_is_the_reverse(capsys: pytest.CaptureFixture[str]) -> None:
    (word,) = lines(capsys, "features", "net", "MAC,STATUS", "VIRTIO_F_VERSION_1")
    assert int(word, 0) == 1 << 5 | 1 << 16 | 1 << 32
    found = json.loads("\n".join(lines(capsys, "features", "net", word, "--json")))
    assert [row["name"] for row in found["features"]] == [
        "VIRTIO_NET_F_MAC",
        "VIRTIO_NET_F_STATUS",
        "VIRTIO_F_VERSION_1",
    ]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", MODULES)
def test_fits_a_terminal(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = StringIO()
    terminal = Console(file=text, width=width, highlight=False)
    monkeypatch.setattr("virtio.cli.spec.console", lambda: terminal)
    assert run(["spec", name]) == 0
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    # However narrow, names stay whole.
    for feature in features(name):
        assert re.search(rf"\b{feature.name}\b", shown)


@pytest.mark.parametrize(
    "arguments",
    [
        ("spec", "network"),
        ("spec", "9p"),
        ("spec", "14"),
        ("spec", "net", "virtio_blk_req"),
        ("spec", "net", "--since", "0.9"),
        ("features", "net", "0xg"),
        ("features", "net", hex(1 << 128)),
        ("features", "nets", "1"),
        ("features", "net", ","),
        ("features", "net"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("virtio: ")
    assert captured.err.count("\n") == 1
