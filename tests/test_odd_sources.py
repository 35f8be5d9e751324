"""Sources that once were misread: lines that are not whole, ids that look like numbers, frames of rare types."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from commands import Command
from foilrec.data import Data
from foilrec.errors import BadData, NoSuchPart, RunBroken
from foilrec.reading import read
from foilrec.recipe import Recipe
from foilrec.stretch import train

ROWS = [f"u{n // 6},Title {n},i{n % 9}" for n in range(36)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({4: "u0,Foo, the film,i5"}, "line 6: the line has too many columns, 4 instead of 3"),
        ({4: "u0,i5"}, "line 6: the line has too few columns"),
        ({4: 'u0,"great,i4', 5: 'u0,"nice,i5'}, "line 7: this is no CSV"),
        ({4: 'u0,5" screen,i4', 5: 'u0,6" screen,i5'}, "line 6: a quotation mark is never closed"),
    ],
)
def test_lines_are_whole_in_columns_that_nobody_reads_too(change: dict[int, str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    lines = [change.get(n, row) for n, row in enumerate(ROWS)]
    file.write_text("\n".join(["user,title,item", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(BadData, match=said):
        read(file)


def test_an_extra_tab_moves_no_item(tmp_path: Path) -> None:
    file = tmp_path / "log.tsv"
    lines = [row.replace(",", "\t") for row in ROWS]
    lines[4] = "u0\tFoo\tthe film\ti5"
    file.write_text("\n".join(["user\ttitle\titem", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(BadData, match="line 6: the line has too many columns"):
        read(file)


def test_quoted_separators_and_line_breaks_are_no_columns(tmp_path: Path) -> None:
    plain, quoted = tmp_path / "plain.csv", tmp_path / "quoted.csv"
    plain.write_text("\n".join(["user,title,item", *ROWS]) + "\n", encoding="utf-8")
    odd = [
        row if n % 5 else row.replace("Title", '"A ""film"", in\ntwo').replace(",i", '",i')
        for n, row in enumerate(ROWS)
    ]
    quoted.write_text("\ufeff" + "\r\n".join(["user,title,item", *odd]) + "\r\n\r\n", encoding="utf-8")
    one, other = read(plain), read(quoted)
    assert one.interactions == other.interactions and len(other.train) + len(other.valid) + len(other.test) == 36


def test_titles_go_by_raw_ids_that_look_like_numbers(tmp_path: Path) -> None:
    folder, raw = tmp_path / "toy", [3, 1, 6, 2, 5, 4]
    folder.mkdir()
    rows = [f"{u}\t{i}\t{(u + i) % 3 if u + i else 0}" for u in range(6) for i in range(6)]
    (folder / "toy.inter").write_text("userID\titemID\tx_label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines = [f"{name}\t{n}" for n, name in enumerate(raw)]
    (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *lines]) + "\n", encoding="utf-8")
    titles = [f"{name},Title of movie {name}" for name in sorted(raw)]
    (folder / "items.csv").write_text("\n".join(["movieid,title", *titles]) + "\n", encoding="utf-8")
    data = read(folder)
    assert list(data.titles or ()) == [f"Title of movie {name}" for name in data.raw_items(range(6))]


def test_a_row_that_changes_its_part_of_the_split_is_noticed(tmp_path: Path) -> None:
    def data(first: int) -> Data:
        pairs = torch.tensor([[u, i] for u in range(8) for i in range(4)])
        return Data(8, 6, pairs[:first], pairs[first:28], pairs[28:])

    chosen = Recipe.from_tree({"backbone": {"name": "bprmf", "dim": 4}, "train": {"epochs": 1, "batch": 64}})
    run = train(chosen, tmp_path / "run", data=data(20))
    run.check_data(data(20))
    with pytest.raises(RunBroken, match=r"of 20/8/4 rows.*of 21/7/4"):
        run.check_data(data(21))


def test_pairs_of_several_types_keep_large_ids(tmp_path: Path) -> None:
    low = 2**53
    train_pairs = np.array([[u, low + i] for u in range(3) for i in range(6)], np.int64)
    test_pairs = np.array([[u, low + 7 + i] for u in range(3) for i in range(4)], np.uint64)
    valid = np.array([[u, low + 11] for u in range(3)], np.int64)
    np.savez(tmp_path / "log.npz", train=train_pairs, valid=valid, test=test_pairs)
    data = read(tmp_path / "log.npz")
    wanted = sorted({int(i) for part in (train_pairs, valid, test_pairs) for i in part[:, 1]})
    assert sorted(map(int, data.raw_items(range(data.n_items)))) == wanted


@pytest.mark.parametrize("loose", [False, True])
def test_a_core_has_no_items_without_interactions(loose: bool, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    rows = [f"{u}\t{i}\t{(u + i) % 3}" for u in range(5) for i in range(6)] + ["0\t8\t0"] * loose
    (folder / "toy.inter").write_text("userID\titemID\tx_label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines = [f"raw{n}\t{n}" for n in range(9)]
    (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *lines]) + "\n", encoding="utf-8")
    assert read(folder, core=2).n_items == 6


FRAME = {"user": [f"u{n // 4}" for n in range(24)], "item": [f"i{n % 6}" for n in range(24)]}


@pytest.mark.parametrize(
    ("column", "dtype", "wrong"),
    [
        ([str(n % 3) for n in range(24)], pl.Categorical, False),
        ([str(n % 3) for n in range(24)], pl.Enum(["0", "1", "2"]), False),
        ([[n % 3] for n in range(24)], pl.List(pl.Int64), True),
        ([b"0"] * 24, pl.Binary, True),
    ],
)
def test_labels_of_rare_types_are_read_or_refused_in_words(column: Any, dtype: Any, wrong: bool) -> None:
    frame = pl.DataFrame({**FRAME, "label": pl.Series(column, dtype=dtype)})
    if wrong:
        with pytest.raises(BadData, match="column 'label' holds"):
            read(frame, label="label")
    else:
        assert len(read(frame, label="label").train) == 8


class Pandas:
    """As pandas gives frames: columns by any label, values as objects, NA that says neither yes nor no."""

    class Column:
        def __init__(self, values: list[Any]) -> None:
            self.values = values

        def to_numpy(self) -> Any:
            made = np.empty(len(self.values), object)
            made[:] = self.values
            return made

    def __init__(self, columns: dict[Any, list[Any]], names: list[Any] | None = None) -> None:
        self.held, self.columns = columns, list(columns) if names is None else names

    def __getitem__(self, label: Any) -> Any:
        return self.Column(self.held[label])


class Missing:
    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_frames_of_pandas_with_numbers_for_names_and_with_na() -> None:
    assert read(Pandas({0: FRAME["user"], 1: FRAME["item"]}), user="0", item="1").n_users == 6
    with pytest.raises(BadData, match=r"row 3.*is not an id"):
        read(Pandas({"user": [*FRAME["user"][:3], Missing(), *FRAME["user"][4:]], "item": FRAME["item"]}))
    with pytest.raises(BadData, match="two columns are called 'user'"):
        read(Pandas({"user": FRAME["user"], "item": FRAME["item"]}, ["user", "user", "item"]))


def test_zero_bytes_are_no_columns(tmp_path: Path, foilrec: Command) -> None:
    (tmp_path / "n.txt").write_bytes("u1 i1 i2\n".encode("utf-16-le"))
    said = foilrec("data", "describe", tmp_path / "n.txt")
    assert said.code == 2 and said.err.startswith("foilrec: ") and "Traceback" not in said.err


@pytest.mark.parametrize("name", [":", ".foo:Bar", "foo.:Bar"])
def test_names_of_no_module_are_refused(name: str) -> None:
    with pytest.raises(NoSuchPart, match="names no module"):
        Recipe.from_tree({"sampler": {"name": name}})
