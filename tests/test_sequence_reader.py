"""One user a line: what is read, what is refused and where; and which data sets know the order in time."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from commands import Command
from foilrec import parts
from foilrec.data import Data
from foilrec.errors import BadData, BadOption
from foilrec.reading import read
from foilrec.reading.convert import convert
from foilrec.reading.guess import reader_for

LINES = "u9 b a c d\nu2 a e\n  \nu5  d\tc b \nu1 e b a\n"


def written(folder: Path, text: str = LINES, name: str = "shop.txt") -> Path:
    """A file of sequences, packed if its name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def raw(data: Data, phase: str) -> list[tuple[str, str]]:
    """The pairs of a phase in the source's ids."""
    users, items = getattr(data, phase).unbind(1)
    return list(zip(data.raw_users(users.tolist()), data.raw_items(items.tolist()), strict=True))


@pytest.mark.parametrize("name", ["shop.txt", "shop.txt.gz", "shop.seq"])
def test_the_last_item_is_test_and_the_last_but_one_valid(tmp_path: Path, name: str) -> None:
    data = parts.build("dataset", "sequences", path=str(written(tmp_path, name=name))).read()
    assert (data.n_users, data.n_items, data.name, data.timed) == (4, 5, "shop", True)
    assert raw(data, "train") == [("u9", "b"), ("u9", "a"), ("u2", "a"), ("u2", "e"), ("u5", "d"), ("u1", "e")]
    assert raw(data, "valid") == [("u9", "c"), ("u5", "c"), ("u1", "b")]
    assert raw(data, "test") == [("u9", "d"), ("u5", "b"), ("u1", "a")]
    assert data.split == "leave-one-out by time" and not data.notes


def test_plain_and_packed_files_are_recognised_and_described(tmp_path: Path, foilrec: Command) -> None:
    for name in ("a.txt", "a.txt.gz"):
        path = written(tmp_path, name=name)
        assert reader_for(path) == ("sequences", {"path": str(path)})
        assert read(path).fingerprint == read(tmp_path / "a.txt").fingerprint
        described = foilrec("data", "describe", path)
        assert described.code == 0 and "known" in described.out and "leave-one-out" in described.out
        assert foilrec("data", "validate", path).code == 0
    table = tmp_path / "b.txt"
    table.write_text("user\titem\nx\ty z\n")
    assert reader_for(table)[0] == "table"


def test_an_item_taken_again_stays_where_it_was_taken_first(tmp_path: Path) -> None:
    data = read(written(tmp_path, "u a b c a d b\nv b a c c\nw c d b\n"))
    assert raw(data, "train") == [("u", "a"), ("u", "b"), ("v", "b"), ("w", "c")]
    assert raw(data, "test") == [("u", "d"), ("v", "c"), ("w", "b")]
    assert data.notes == ("3 duplicate pairs dropped, the earliest kept",)


def test_short_sequences_and_rare_items_are_left_out_when_asked(tmp_path: Path) -> None:
    text = "u a b c\nv a b\nw b a d\n"
    data = read(written(tmp_path, text), min_length=3)
    assert raw(data, "train") == [("u", "a"), ("w", "b")] and data.notes == (
        "1 users with fewer than 3 items left out",
    )
    with pytest.raises(BadData, match="nothing is in valid"):
        read(written(tmp_path, text), core=2)
    assert read(written(tmp_path, "u a b c\nv c a b\nw b a d\n"), core=2).n_items == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("u a b c\nv\n", "line 2: user 'v' has no items"),
        ("u a b c\nv a b c\n\nu d e f\n", "line 4: user 'u' has a sequence already, on line 1"),
        ("", "holds no user with items"),
        ("u a\nv b\n", "nothing is in valid"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadData) as caught:
        parts.build("dataset", "sequences", path=str(written(tmp_path, text))).read()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    packed = written(tmp_path, LINES * 200, "a.txt.gz")
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(BadData, match=r"a\.txt\.gz cannot be unpacked"):
        read(packed)
    (tmp_path / "b.txt.gz").write_text(LINES)
    with pytest.raises(BadData, match=r"b\.txt\.gz cannot be unpacked"):
        read(tmp_path / "b.txt.gz")
    (tmp_path / "c.txt").write_bytes(b"u a b\nv \xff c\n")
    with pytest.raises(BadData, match=r"line 2: byte 3 of the line \(0xff\) is not UTF-8"):
        parts.build("dataset", "sequences", path=str(tmp_path / "c.txt")).read()
    with pytest.raises(BadData, match="there is no such file"):
        parts.build("dataset", "sequences", path=str(tmp_path / "d.txt")).read()
    with pytest.raises(BadOption, match="min_length = -1 must be at least 0"):
        parts.build("dataset", "sequences", path="a", min_length=-1)


def test_conversion_keeps_the_order(tmp_path: Path) -> None:
    data = read(written(tmp_path))
    again = read(convert(data, tmp_path / "shop"))
    assert again.fingerprint == data.fingerprint and again.timed
    assert all(torch.equal(getattr(again, p), getattr(data, p)) for p in ("train", "valid", "test"))


TABLE = pl.DataFrame(
    {
        "user": [0, 0, 0, 0, 1, 1, 1, 2, 2, 2],
        "item": [3, 1, 2, 0, 2, 3, 1, 0, 1, 3],
        "time": [5, 1, 2, 9, 4, 4, 6, 1, 2, 3],
        "label": [1, 0, 0, 2, 0, 1, 2, 0, 1, 2],
    }
)


@pytest.mark.parametrize(
    ("options", "timed"),
    [
        ({"time": "time", "split": "leave-one-out"}, True),
        ({"time": "time", "label": "label"}, True),
        ({"label": "label"}, False),
        ({"time": "time", "split": "random"}, False),
    ],
)
def test_a_table_knows_the_order_if_its_split_goes_by_time(options: dict[str, Any], timed: bool) -> None:
    data = parts.build("dataset", "table", frame=TABLE, **options).read()
    assert data.timed == timed
    if timed:
        past = data.histories("train", "valid", "test").after(torch.tensor([0, 1, 2]), 9)
        assert [data.raw_items([i for i in row if i >= 0]) for row in past.items.tolist()] == [
            [1, 2, 3, 0],
            [2, 3, 1],
            [0, 1, 3],
        ]


def test_labels_against_time_tell_no_order() -> None:
    late = TABLE.with_columns(label=pl.Series([0, 0, 0, 2, 0, 1, 2, 1, 0, 2]))
    assert not parts.build("dataset", "table", frame=late, time="time", label="label").read().timed
    tied = TABLE.with_columns(time=pl.Series([5, 1, 2, 9, 4, 4, 6, 1, 1, 1]))
    assert parts.build("dataset", "table", frame=tied, time="time", label="label").read().timed


def test_one_clock_for_all_tells_an_order() -> None:
    frame = pl.DataFrame({"user": [0, 1] * 10, "item": [n % 11 for n in range(20)], "time": list(range(20))})
    assert parts.build("dataset", "table", frame=frame, time="time", split="time").read().timed


@pytest.mark.parametrize("reader", ["recbole", "movielens"])
def test_other_readers_with_times_know_it_too(tmp_path: Path, reader: str) -> None:
    rows = [(u, i, 3, 100 * u + (7 * i) % 5) for u in range(4) for i in range(5)]
    folder = tmp_path / "logs"
    folder.mkdir()
    if reader == "recbole":
        head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        (folder / "logs.inter").write_text(head + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    else:
        (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    data = parts.build("dataset", reader, path=str(folder), split="leave-one-out").read()
    model = parts.build("backbone", "gru4rec", data, dim=4)
    assert data.timed and model.history == 50
    assert not parts.build("dataset", reader, path=str(folder)).read().timed


def test_the_shop_in_order_holds_the_same_visits(world: Data) -> None:
    ordered = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    assert ordered.timed and not world.timed
    both = [torch.cat([d.train, d.valid, d.test]).tolist() for d in (ordered, world)]
    assert sorted(both[0]) == sorted(both[1])
    assert len(ordered.valid) == len(ordered.test) == 60
    rows = ordered.histories("train", "valid", "test").after(torch.arange(60), 500)
    known = [row[row >= 0].tolist() for row in rows.items]
    for user, item in world.train.tolist():
        assert item in known[user]
    for user in range(60):  # train rows of the random split stand in the same order
        mine = [i for u, i in world.train.tolist() if u == user]
        assert [i for i in known[user] if i in mine] == mine
