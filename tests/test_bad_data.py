"""Bad input: every message names the file, the line or row, the column, the value, and a cure; never a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from foilrec.data import Data, Features
from foilrec.errors import BadData, BadOption
from foilrec.reading import read
from foilrec.reading.convert import convert

GOOD = ["userID\titemID\tx_label", "0\t0\t0", "0\t1\t1", "0\t2\t2", "1\t2\t0"]


def toy(folder: Path, lines: list[str] | bytes = GOOD) -> Path:
    """A folder toy/ with toy.inter of these lines."""
    place = folder / "toy"
    place.mkdir()
    (place / "toy.inter").write_bytes(lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode())
    return place


def message(source: Any, **options: Any) -> str:
    """What BadData says of a source; one paragraph."""
    with pytest.raises(BadData) as caught:
        read(source, **options)
    text = str(caught.value)
    assert "\n" not in text and text[-1] in ".?"
    return text


def says(text: str, *words: str) -> None:
    """Asserts that a message has all the words."""
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1\t2", ("line 4", "too few columns, 2 instead of 3", "1\\t2")),
        ("1\t2\t0\t7", ("line 4", "too many columns, 4 instead of 3")),
        ("1\t2\tx", ("line 4", "column 'x_label'", "'x' is not a whole number", "0 (train)")),
        ("1\t2\t3", ("line 4", "column 'x_label'", "'3' is not a label")),
        ("1\t2\t", ("line 4", "column 'x_label'", "'' is not a whole number")),
        ("-1\t2\t0", ("line 4", "column 'userID'", "'-1' is negative")),
        ("1\t-7\t0", ("line 4", "column 'itemID'", "'-7' is negative")),
        ("B01\t2\t0", ("line 4", "column 'userID'", "'B01' is not a whole number", "recbole or table")),
        ("1\t99999999999999999999\t0", ("line 4", "column 'itemID'", "is too large")),
        ("1\t800000000\t0", ("line 4", "column 'itemID'", "800000000", "table")),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    says(message(toy(tmp_path, [*GOOD[:3], line, *GOOD[3:]])), "toy.inter", *words)


def test_lines_are_counted_past_blank_ones(tmp_path: Path) -> None:
    says(message(toy(tmp_path, [*GOOD, "", "", "1\t1\t9"])), "toy.inter, line 8", "'9'")


def test_blank_lines_at_the_end_do_no_harm(tmp_path: Path) -> None:
    assert len(read(toy(tmp_path, [*GOOD, "", ""])).train) == 2


def test_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    assert read(toy(tmp_path, "\ufeff".encode() + "\r\n".join(GOOD).encode())).n_items == 3


@pytest.mark.parametrize(("column", "value"), [("rating", "good"), ("rating", "nan"), ("timestamp", "2014-07-01")])
def test_a_wrong_rating_or_time_is_named(tmp_path: Path, column: str, value: str) -> None:
    lines = [f"userID\titemID\t{column}\tx_label", "0\t0\t5\t0", f"0\t1\t{value}\t1"]
    text = message(toy(tmp_path, lines), **({"min_rating": 3} if column == "rating" else {}))
    says(text, "toy.inter, line 3", f"column {column!r}", repr(value), "not a finite number")


def test_missing_files_and_folders_have_neighbours(tmp_path: Path) -> None:
    folder = toy(tmp_path)
    says(message(tmp_path / "toyy"), "toyy: there is no such file", "did you mean 'toy'?")
    says(message("mmrec", path=tmp_path / "tpy"), "no such folder", "did you mean 'toy'?")
    says(message("mmrec", path=tmp_path / "x" / "y"), "does not exist either")
    says(message("mmrec", path=folder, file="tyo"), "tyo.inter: there is no such file", "did you mean 'toy.inter'?")
    says(message("mmrec", path=folder / "toy.inter"), "is a file, and a folder is needed")
    says(message("table", path=folder), "is a folder, and a file is needed")
    says(message("movielens", path=folder), "none of u.data, ratings.dat and ratings.csv", "toy.inter")
    says(message("mmrec", path=folder, features={"text": "text.npy"}), "text.npy: there is no such file")
    says(message("shp"), "neither a file or folder here nor a reader", "did you mean 'shop'?")


def test_empty_files_are_named(tmp_path: Path) -> None:
    says(message(toy(tmp_path, b"")), "toy.inter is empty")
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.csv").write_text("user,item\n")
    says(message(tmp_path / "a.npz"), "a.npz is empty")
    says(message(tmp_path / "b.csv"), "b.csv", "no interactions")


def test_a_missing_column_has_a_neighbour(tmp_path: Path) -> None:
    says(
        message(toy(tmp_path, ["userID\titemId\tx_label", "0\t0\t0"])),
        "toy.inter, line 1",
        "no column 'itemID'",
        "did you mean 'itemId'?",
        "'userID', 'itemId', 'x_label'",
    )
    (tmp_path / "t.csv").write_text("usr,item\n1,2\n")
    says(message("table", path=tmp_path / "t.csv"), "t.csv, line 1", "no column 'user'", "did you mean 'usr'?")
    says(message(pl.DataFrame({"usr": [1], "item": [2]})), "no column 'user'", "did you mean 'usr'?")


def test_another_separator_is_noticed(tmp_path: Path) -> None:
    says(message(toy(tmp_path, [line.replace("\t", ",") for line in GOOD])), "line 1", "parted by commas, not tabs")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    says(message(toy(tmp_path, "\n".join(GOOD).encode() + b"\n1\t\xe9\t0\n")), "toy.inter, line 6", "0xe9", "UTF-8")
    (tmp_path / "t.csv").write_bytes(b"user,item\na,b\na,\xff\n")
    says(message(tmp_path / "t.csv"), "t.csv, line 3", "0xff")


def test_a_table_names_its_lines_past_quoted_breaks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('user,item,t\n"a\nb",x,1\nc,y,soon\n')
    says(message("table", path=tmp_path / "t.csv", time="t"), "t.csv, line 4", "column 't'", "'soon'")
    (tmp_path / "u.csv").write_text("user,item\na,x\n,y\n")
    says(message("table", path=tmp_path / "u.csv"), "u.csv, line 3", "column 'user'", "'' is no id")


@pytest.mark.parametrize(
    ("column", "values", "word"),
    [
        ("user", ["a", None, "b"], "None is not an id"),
        ("t", [1.0, float("nan"), 2], "nan is not a finite number"),
        ("part", [0, 7, 1], "7 is not a label"),
    ],
)
def test_a_wrong_row_of_a_frame_is_named(tmp_path: Path, column: str, values: list[Any], word: str) -> None:
    frame = pl.DataFrame({"user": ["a", "b", "c"], "item": [1, 2, 3], "t": [1.0, 2, 3], "part": [0, 1, 2]})
    frame = frame.with_columns(pl.Series(column, values))
    says(message(frame, time="t", label="part"), "the data frame, row 1", f"column {column!r}", word)
    frame.write_parquet(tmp_path / "f.parquet")
    says(message("table", path=tmp_path / "f.parquet", time="t", label="part"), "f.parquet, row 1", word)


def test_a_leak_names_both_lines(tmp_path: Path) -> None:
    text = message(toy(tmp_path, [*GOOD, "0\t0\t2"]))
    says(text, "toy.inter, line 2 (train)", "toy.inter, line 6 (test)", "user 0 and item 0", "1 such pairs")
    assert len(read(tmp_path / "toy", split="random").train)


@pytest.mark.parametrize(("label", "part"), [(0, "train"), (1, "valid"), (2, "test")])
def test_an_empty_part_is_named(tmp_path: Path, label: int, part: str) -> None:
    lines = [GOOD[0], *(line for line in GOOD[1:] if not line.endswith(f"\t{label}"))]
    says(message(toy(tmp_path, lines)), f"nothing is in {part}", f"{part} 0")


def test_labels_times_and_ratings_must_be_there_when_asked_for(tmp_path: Path) -> None:
    folder = toy(tmp_path, [line.rpartition("\t")[0] for line in GOOD])
    says(message(folder), "toy.inter, line 1", "no column 'x_label'")
    says(message(folder, split="time"), "no column 'timestamp'")
    says(message(folder, split="random", min_rating=3), "no column 'rating'")
    says(message(pl.DataFrame({"user": [1], "item": [2]}), split="time"), "no column of times", "random")
    says(message(pl.DataFrame({"user": [1], "item": [2]}), core=3), "3-core", "smaller core")
    with pytest.raises(BadOption, match="did you mean 'random'"):
        read(folder, split="randon")


def spoil(rows: np.ndarray[Any, Any], *places: int) -> np.ndarray[Any, Any]:
    """The rows with NaN at some places."""
    rows = rows.copy()
    rows[list(places), 0] = np.nan
    return rows


ROWS = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:2], ("2 rows, fewer than the 3 items",)),
        (np.ones((5, 4)), ("5 rows, more than the 3 items",)),
        (ROWS[:, 0], ("1-d", "(3,)")),
        (ROWS.astype(np.int64), ("are int64", "astype(numpy.float32)")),
        (ROWS.astype(object), ("object array", "pickle")),
        (spoil(ROWS, 0, 2), ("NaN or infinite values in 2 rows: 0, 2",)),
        (ROWS * np.float32(np.inf), ("in 3 rows: 0, 1, 2",)),
        (ROWS * 0, ("every row is zero",)),
    ],
)
def test_wrong_features_are_named(tmp_path: Path, rows: np.ndarray[Any, Any], words: tuple[str, ...]) -> None:
    folder = toy(tmp_path)
    np.save(folder / "text_feat.npy", rows)
    says(message(folder), "text_feat.npy", *words)


@pytest.mark.parametrize("name", ["text_feat.npy", "text_feat.npz"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"hello", lambda raw: raw[:7]])
def test_a_damaged_array_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    file = toy(tmp_path) / name
    (np.save if name.endswith("npy") else np.savez)(file, np.ones((3, 400)))  # type: ignore[operator]
    file.write_bytes(damage(file.read_bytes()))
    says(message(tmp_path / "toy"), name)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame({"user": range(99), "item": range(99)}).write_parquet(file)
    file.write_bytes(file.read_bytes()[:200])
    says(message(file), "t.parquet", "Fetch it again")


def test_a_npz_with_an_unknown_array_is_named(tmp_path: Path) -> None:
    folder = toy(tmp_path)
    np.savez(folder / "text_feat.npz", a=ROWS, b=ROWS)
    says(message(folder), "text_feat.npz", "'a', 'b'", "'feat'")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"neighbours": np.zeros((3, 2), int)}, ("no array 'indices'", "'neighbours'")),
        ({"indices": np.zeros((2, 2), int)}, ("(2, 2)", "each of the 3 items")),
        ({"indices": np.array([[0], [3], [1]])}, ("rows 1 name neighbours outside 0 to 2",)),
        ({"indices": np.zeros((3, 2), int), "cos": np.full((3, 2), np.nan)}, ("'cos' must be finite",)),
    ],
)
def test_a_wrong_graph_is_named(tmp_path: Path, arrays: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = toy(tmp_path)
    np.savez(folder / "text_knn2.npz", **arrays)
    says(message(folder), "text_knn2.npz", *words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("item_text.jsonl", '{"itemID": 0, "title": "a"}\n{"itemID": 1', ("line 2", "not JSON at character")),
        ("items.jsonl", '{"number": 0, "title": "a"}\n', ("line 1", "itemID", "'number'")),
        ("items.csv", "itemID,colour\n0,red\n", ("line 2", "no title", "'colour'")),
        ("item_text.tsv", "itemID\ttitle\n0\n", ("line 2", "1 columns instead of 2")),
        ("i_id_mapping.csv", "asin,itemID\nB0,zero\n", ("line 2", "'zero' is not the number")),
        ("u_id_mapping.csv", "raw,number\na,0\nb,0\n", ("line 3", "number 0 has two raw ids")),
    ],
)
def test_wrong_texts_and_ids_are_named(tmp_path: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    folder = toy(tmp_path)
    (folder / name).write_text(text)
    says(message(folder), name, *words)


def test_feature_ids_must_fit(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["a"] * 3, "item": ["x", "y", "z"]})
    np.save(tmp_path / "f.npy", ROWS)
    ids = tmp_path / "ids.txt"
    options = {"features": {"text": tmp_path / "f.npy"}, "feature_ids": ids}
    for text, words in (
        ("x\ny\n", ("3 rows", "2 items")),
        ("x\ny\nx\n", ("ids.txt, line 3", "'x' occurs a second")),
        ("1\n2\n3\n", ("no item of frame", "begins 1, 2, 3", "begin x, y, z")),
    ):
        ids.write_text(text)
        says(message(frame, **options), *words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"trian": np.zeros((1, 2), int), "test": np.zeros((1, 2), int)},
            ("no array 'train'", "did you mean 'trian'?"),
        ),
        ({"train": np.zeros((4, 3), int), "test": np.zeros((1, 2), int)}, ("array 'train'", "(4, 3)")),
        ({"train": np.zeros((4, 2)), "test": np.zeros((1, 2), int)}, ("array 'train'", "float64")),
        ({"train": np.array([[0, 0], [1, -5]]), "test": np.zeros((1, 2), int)}, ("row 1", "[1, -5] is negative")),
        (
            {"train": np.array([[0, 0], [0, 1]]), "test": np.array([[0, 1]])},
            ("array 'train', row 1 (train)", "array 'test', row 0 (test)"),
        ),
    ],
)
def test_wrong_pairs_are_named(tmp_path: Path, arrays: dict[str, Any], words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    says(message(tmp_path / "p.npz"), "p.npz", *words)


def test_nothing_fits_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89")
    says(message(tmp_path), "no reader fits this folder", "picture.png", "NAME.inter")
    says(message(tmp_path / "picture.png"), "no reader fits a file that ends in '.png'")


def test_conversion_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    data = read(toy(tmp_path))
    with pytest.raises(BadData, match="not empty"):
        convert(data, tmp_path / "toy")
    broken = Data(
        data.n_users,
        data.n_items,
        data.train,
        data.valid,
        data.test,
        features={"a": Features(ROWS)},
        item_ids=["x", "y\nz", "w"],
    )
    with pytest.raises(BadData, match="line break"):
        convert(broken, tmp_path / "copy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy"]
