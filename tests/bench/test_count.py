"""The counts against what the talks say, and against what can be worked out by hand."""

import csv
import io
from pathlib import Path

import pytest

from virtio.bench.count import BATCHES, Caches, Cost, count
from virtio.cli import run
from virtio.queue.model import Touch

LINES = {
    (cost.layout, cost.alignment, cost.batch): cost
    for cost in count(["split", "packed", "split in-order", "packed in-order"])
}


def cost(layout: str, batch: int, alignment: str = "entries") -> Cost:
    return LINES[layout, alignment, batch]


def test_split_without_batches_moves_at_least_five_lines_a_request() -> None:
    # Descriptor, available entry, available index, used entry, used index.
    assert cost("split", 1).fetched == 5
    assert cost("split in-order", 1).fetched == 5
    # Each is fetched by its reader, and claimed back by its writer.
    assert cost("split", 1).moved == 10


def test_split_in_batches_of_four_moves_five_lines_a_batch() -> None:
    assert cost("split", 4).fetched == 1.25


def test_packed_moves_two_to_four_lines_a_descriptor() -> None:
    assert (cost("packed", 1).fetched, cost("packed", 1).moved) == (2, 4)


def test_packed_in_batches_of_four_moves_half_a_line_to_one() -> None:
    assert (cost("packed", 4).fetched, cost("packed", 4).moved) == (0.5, 1)


def test_packed_costs_no_less_in_larger_batches_but_in_order_it_does() -> None:
    # Each line of four descriptors goes there and back; in order only one line of a batch comes back.
    assert [cost("packed", batch).fetched for batch in BATCHES[3:]] == [0.5, 0.5, 0.5]
    assert [cost("packed in-order", batch).fetched for batch in BATCHES[3:]] == [3 / 8, 5 / 16, 9 / 32]


def test_large_batches_of_split_need_fewer_lines_than_packed() -> None:
    # 16 + 2 + 8 bytes a request and the two indices, where packed moves 16 bytes twice.
    assert cost("split", 32).fetched == (8 + 1 + 4 + 2) / 32
    assert cost("split", 32).fetched < cost("packed", 32).fetched
    assert cost("split", 16).fetched > cost("packed", 16).fetched


def test_with_the_parts_aligned_entries_cross_lines() -> None:
    # Entries begin 4 bytes into a line. So idx shares its line with 30 available entries, and with 7 used
    # ones and half of another; and every eighth used entry lies in two lines.
    assert cost("split", 1, "parts").fetched == pytest.approx(5 - 30 / 256 - 8 / 256 + 32 / 256)
    # Every second batch of four used entries is in two lines, and every eighth of available ones.
    assert 1.25 < cost("split", 4, "parts").fetched < 1.42
    for batch in BATCHES:
        for layout in ("packed", "packed in-order"):
            assert cost(layout, batch, "parts").moved == cost(layout, batch).moved


def test_bus_transactions_of_one_request() -> None:
    # Index, entry, descriptor and flags read, entry and index written; descriptor and event structure read,
    # descriptor written.
    assert (cost("split", 1).reads[64], cost("split", 1).writes[64]) == (4, 2)
    assert (cost("packed", 1).reads[64], cost("packed", 1).writes[64]) == (2, 1)


def test_a_kick_that_says_how_much_there_is_saves_a_read() -> None:
    for batch in (1, 4, 32):
        (told,) = count(["split"], [batch], ["entries"], told=True)
        assert told.reads[64] == cost("split", batch).reads[64] - 1 / batch
        assert told.writes == cost("split", batch).writes


def test_bus_transactions_of_batches() -> None:
    # Four descriptors are 64 bytes. Of a batch the first used descriptor is written last, by itself.
    assert (cost("packed", 4).reads[64] * 4, cost("packed", 4).writes[64] * 4) == (2, 2)
    assert (cost("packed", 32).reads[64] * 32, cost("packed", 32).reads[256] * 32) == (9, 3)
    assert (cost("packed", 32).writes[64] * 32, cost("packed", 32).writes[256] * 32) == (9, 3)
    for batch in BATCHES:
        assert cost("packed in-order", batch).writes[64] * batch == 1
        assert cost("split in-order", batch).writes[64] * batch == 2


def test_two_caches_by_hand() -> None:
    caches = Caches()

    def touch(end: str, address: int, size: int, *, write: bool) -> tuple[int, int]:
        before = caches.fetched, caches.claimed
        caches.touch(Touch(end, "descriptor", address, size, write))
        return caches.fetched - before[0], caches.claimed - before[1]

    assert touch("driver", 0, 16, write=True) == (0, 0)
    assert touch("device", 0, 16, write=False) == (1, 0)
    assert touch("device", 0, 16, write=False) == (0, 0)
    assert touch("device", 8, 8, write=True) == (0, 1)
    assert touch("device", 8, 8, write=True) == (0, 0)
    assert touch("driver", 0, 2, write=True) == (1, 0)
    # In two lines: one is there, one is not.
    touch("device", 64, 4, write=True)
    assert touch("driver", 60, 8, write=False) == (1, 0)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "ring", "--count", "--batch", "1", "--batch", "4", "--layout", "split"]) == 0
    shown = capsys.readouterr().out
    assert "1.250" in shown
    assert "packed" not in shown


def test_the_command_prints_csv_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, magic in (("count.png", b"\x89PNG"), ("count.svg", b"<?xml")):
        pytest.importorskip("matplotlib")
        assert run(["bench", "ring", "--count", "--csv", "--plot", str(tmp_path / name)]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert len(rows) == 4 * 2 * len(BATCHES)
        assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--count", "--batch", "3"], "batches of 3"),
        (["--count", "--plot", "picture.xyz"], "picture.xyz"),
        (["--plot", "picture.png"], "--count"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert run(["bench", "ring", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_the_documentation_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["bench", "ring", "--count"]) == 0
    page = (Path(__file__).parents[2] / "docs" / "queue-costs.md").read_text()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(printed) > 40
    for line in printed:
        assert line in page
