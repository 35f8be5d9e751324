"""Readers on tiny files: what they find, how they number, split and filter, and that conversion loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from foilrec import parts
from foilrec.data import Data
from foilrec.errors import BadData, BadOption
from foilrec.reading import read
from foilrec.reading.convert import convert
from foilrec.reading.describe import checks_passed, describe
from foilrec.reading.filters import k_core
from foilrec.reading.guess import reader_for, settings_of
from foilrec.reading.numbering import is_dense, number_integers, number_series

ROWS = [(0, 0, 0), (0, 1, 0), (0, 2, 1), (0, 3, 2), (1, 3, 0), (1, 2, 0), (1, 1, 1), (1, 0, 2), (2, 1, 0), (3, 0, 1)]


def write_mmrec(folder: Path, rows: list[tuple[int, ...]] = ROWS, header: str = "userID\titemID\tx_label") -> Path:
    """A folder in the layout of MMRec with two modalities, one graph, titles and raw ids of some items."""
    folder.mkdir()
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    text = rng.normal(size=(4, 3)).astype(np.float16)
    text[2] = 0
    np.save(folder / "text_feat.npy", text)
    np.savez(folder / "image_feat.npz", feat=rng.normal(size=(4, 2)))
    ids = np.array([[0, 1], [1, 0], [2, 3], [3, 2]], np.int32)
    np.savez(folder / "text_knn2.npz", indices=ids, cos=np.full((4, 2), 0.5, np.float32))
    titles = [{"itemID": 1, "title": "One, or “ein”"}, {"itemID": 3, "title": "Three", "description": "3"}]
    (folder / "item_text.jsonl").write_text("".join(json.dumps(t) + "\n" for t in titles))
    (folder / "i_id_mapping.csv").write_text("asin,itemID\nB0,0\nGood, the,2\n")
    return folder


def ratings(rows: int = 60) -> pl.DataFrame:
    """A table with text ids, ratings 1 to 5 and distinct times."""
    rng = np.random.default_rng(1)
    pairs = np.array([(u, i) for u in range(8) for i in range(12)])
    pairs = pairs[rng.permutation(len(pairs))[:rows]]
    return pl.DataFrame(
        {
            "user": [f"u{u:02}" for u in pairs[:, 0]],
            "item": [f"0{i}" for i in pairs[:, 1]],
            "stars": rng.integers(1, 6, rows),
            "when": rng.permutation(rows),
        }
    )


def raw_pairs(data: Data) -> set[tuple[str, str]]:
    """Every (raw user, raw item) of the three parts."""
    pairs = torch.cat([data.train, data.valid, data.test]).tolist()
    return {(str(data.raw_users([u])[0]), str(data.raw_items([i])[0])) for u, i in pairs}


def test_mmrec_reads_everything_beside_the_interactions(tmp_path: Path) -> None:
    data = read(write_mmrec(tmp_path / "toy"))
    assert (data.n_users, data.n_items, data.name, data.split) == (4, 4, "toy", "given")
    assert data.train.tolist() == [[0, 0], [0, 1], [1, 3], [1, 2], [2, 1]] and data.train.dtype == torch.int64
    assert data.valid.tolist() == [[0, 2], [1, 1]] and data.test.tolist() == [[0, 3], [1, 0]]
    assert data.features["text"].rows.dtype == np.float16 and isinstance(data.features["text"].rows, np.memmap)
    assert data.features["text"].present is not None and data.features["text"].present.tolist() == [1, 1, 0, 1]
    assert data.features["image"].present is None and data.features["image"].rows.dtype == np.float64
    assert data.neighbours["text"].ids.shape == (4, 2) and data.neighbours["text"].cosines is not None
    assert data.titles == ["", "One, or “ein”", "", "Three"] and data.descriptions == ["", "", "", "3"]
    assert data.item_ids == ["B0", "1", "Good, the", "3"] and data.user_ids is None
    assert any("1 users (1 rows) left out of valid" in note for note in data.notes)
    assert any("text: 1 of 4 items lack it" in note for note in data.notes)


def test_mmrec_takes_columns_in_any_order_and_swapped_labels(tmp_path: Path) -> None:
    plain = read(write_mmrec(tmp_path / "a"))
    turned = [(label, item, user) for user, item, label in ROWS]
    folder = write_mmrec(tmp_path / "b", turned, "x_label\titemID\tuserID")
    assert read(folder).fingerprint == plain.fingerprint
    swapped = read(folder, valid_label=2, test_label=1)
    assert torch.equal(swapped.test, plain.valid) and torch.equal(swapped.train, plain.train)
    with pytest.raises(BadOption, match="one must be 1"):
        read(folder, valid_label=0)


def test_mmrec_orders_rows_by_time(tmp_path: Path) -> None:
    rows = [(0, 0, 9, 0), (0, 1, 3, 0), (0, 2, 10, 1), (0, 3, 11, 2)]
    data = read(write_mmrec(tmp_path / "toy", rows, "userID\titemID\ttimestamp\tx_label"))
    assert data.train.tolist() == [[0, 1], [0, 0]]


def test_mmrec_takes_chosen_features_and_surrogates_when_asked(tmp_path: Path) -> None:
    folder = write_mmrec(tmp_path / "toy")
    np.save(folder / "vggish.npy", np.ones((4, 5)))
    (folder / "surrogate").mkdir()
    np.savez(folder / "surrogate" / "audio_feat_surrogate_2_f16.npz", feat=np.ones((4, 2), np.float16))
    np.savez(folder / "surrogate" / "text_feat_surrogate_2_f16.npz", feat=np.ones((4, 2), np.float16))
    assert set(read(folder, features={"sound": "vggish.npy"}).features) == {"sound"}
    assert set(read(folder).features) == {"image", "text"}
    data = read(folder, surrogate=True)
    assert data.features["audio"].surrogate and not data.features["text"].surrogate
    assert any("SURROGATE" in value for _, value in describe(data))


def test_filters_keep_features_beside_their_items(tmp_path: Path) -> None:
    rows = [(u, i, 0) for u in (0, 2, 3) for i in (1, 3)] + [(1, 0, 0), (0, 2, 1), (2, 2, 2), (3, 2, 2)]
    folder = write_mmrec(tmp_path / "toy", rows)
    whole, cored = read(folder), read(folder, core=2)
    assert cored.user_ids == [0, 2, 3] and cored.item_ids == ["1", "Good, the", "3"]
    assert np.array_equal(cored.features["image"].rows, whole.features["image"].rows[[1, 2, 3]])
    assert cored.titles == ["One, or “ein”", "", "Three"] and not cored.neighbours
    assert any("1 interactions outside the 2-core" in note for note in cored.notes)


def test_k_core_is_that_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    for k in (2, 3, 4):
        pairs = np.unique(rng.integers(0, 25, (150, 2)), axis=0)
        left = {tuple(p) for p in pairs.tolist()}
        while True:
            users, items = [u for u, _ in left], [i for _, i in left]
            fit = {(u, i) for u, i in left if users.count(u) >= k and items.count(i) >= k}
            if fit == left:
                break
            left = fit
        keep = k_core(pairs[:, 0], pairs[:, 1], k)
        assert {tuple(p) for p in pairs[keep].tolist()} == left


def test_numbers_follow_first_appearance_and_raw_ids_stay_as_written() -> None:
    for values in (["7", "07", "7", "x"], ["30", "4", "30", "0"]):
        numbers, raw = number_series(pl.Series(values))
        assert [raw[n] for n in numbers] == values and raw == list(dict.fromkeys(values))
    for values in ([5, 2, 5, 9], [10**12, 3, 10**12, -4]):
        numbers, found = number_integers(np.array(values))
        assert found[numbers].tolist() == values and found.tolist() == list(dict.fromkeys(values))
    assert is_dense(np.array([2, 0, 1, 0])) and not is_dense(np.array([0, 2])) and not is_dense(np.array([1, 2]))


def test_table_reads_csv_tsv_parquet_and_frames_alike(tmp_path: Path) -> None:
    frame = ratings()
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    frame.write_parquet(tmp_path / "t.parquet")
    found = [read(tmp_path / f"t.{kind}", time="when") for kind in ("csv", "tsv", "parquet")]
    found.append(read(frame, time="when"))
    assert len({data.fingerprint for data in found}) == 1
    assert found[0].item_ids is not None and "07" in found[0].item_ids
    assert raw_pairs(found[0]) <= set(frame.select("user", "item").iter_rows())
    assert found[0].split == "random per user, seed 0"


class Foreign:
    """A data frame of another library: columns by name, each with to_numpy, text as objects."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame, self.columns = frame, frame.columns

    def __getitem__(self, name: str) -> "Foreign":
        return Foreign(self.frame.select(name))

    def to_numpy(self) -> np.ndarray:
        return self.frame.to_series().to_numpy()


def test_table_takes_frames_like_those_of_pandas() -> None:
    assert read(Foreign(ratings()), time="when").fingerprint == read(ratings(), time="when").fingerprint


def test_table_splits_and_rates(tmp_path: Path) -> None:
    frame = ratings()
    high = frame.filter(pl.col("stars") >= 3)
    data = read(frame, rating="stars", min_rating=3)
    assert raw_pairs(data) == set(high.select("user", "item").iter_rows())
    last = read(frame, time="when", split="leave-one-out")
    newest = frame.sort("when").group_by("user").last()
    found = {(str(last.raw_users([u])[0]), str(last.raw_items([i])[0])) for u, i in last.test.tolist()}
    assert found == set(newest.select("user", "item").iter_rows())
    clock = read(frame, time="when", split="time")
    assert len(clock.train) == 48 and read(frame, split_seed=1).fingerprint != read(frame).fingerprint
    labelled = read(frame.with_columns(part=pl.Series([0, 0, 0, 1, 2] * 12)), label="part")
    assert labelled.split == "given" and len(labelled.valid) == 12


def test_duplicates_leave_the_earliest(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["a"] * 5, "item": ["x", "y", "x", "z", "w"], "t": [9, 5, 1, 6, 7]})
    data = read(frame, time="t", split="leave-one-out")
    assert "1 duplicate pairs dropped, the earliest kept" in data.notes
    assert data.raw_items(data.train[:, 1].tolist()) == ["x", "y"] and data.raw_items(data.test[:, 1].tolist()) == ["w"]


def test_table_puts_features_beside_their_ids(tmp_path: Path) -> None:
    frame = ratings()
    frame.write_csv(tmp_path / "t.csv")
    np.save(tmp_path / "image.npy", np.array([[7.0, 7], [3, 3], [1, 1]], np.float32))
    (tmp_path / "ids.txt").write_text("07\n03\nnot there\n")
    features = {"image": "image.npy"}
    data = read(tmp_path / "t.csv", features=features, feature_ids="ids.txt")
    assert data.item_ids is not None
    place = data.item_ids.index("07")
    assert data.features["image"].rows[place].tolist() == [7, 7]
    assert data.features["image"].present is not None and data.features["image"].present.sum() == 2
    with pytest.raises(BadOption, match="feature_ids"):
        read(tmp_path / "t.csv", features=features)


def test_recbole_reads_typed_headers_and_titles(tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    lines = ["\t".join(map(str, row)) for row in ratings().iter_rows()]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "ml.inter").write_text("\n".join([header, *lines]) + "\n")
    (folder / "ml.item").write_text("item_id:token\tmovie_title:token_seq\n07\tSeven\n")
    data = read(folder, min_rating=2)
    assert data.titles is not None and data.item_ids is not None
    assert data.titles[data.item_ids.index("07")] == "Seven"
    assert data.train.shape[1] == 2 and any("rated below 2" in note for note in data.notes)
    assert read("recbole", path=folder / "ml.inter", split="time").split.startswith("time")


@pytest.mark.parametrize("kind", ["100k", "1m", "new"])
def test_movielens_reads_its_three_layouts(tmp_path: Path, kind: str) -> None:
    rows = [(u + 1, i + 10, 3, u * 100 + i) for u in range(4) for i in range(5)]
    name, sign, titles, line = {
        "100k": ("u.data", "\t", "u.item", "10|Café (1995)|01-Jan"),
        "1m": ("ratings.dat", "::", "movies.dat", "10::Café (1995)::Drama"),
        "new": ("ratings.csv", ",", "movies.csv", "movieId,title\n10,Café (1995)"),
    }[kind]
    lines = [sign.join(map(str, row)) for row in rows]
    (tmp_path / name).write_text("\n".join(["userId,movieId,rating,timestamp"] * (kind == "new") + lines) + "\n")
    (tmp_path / titles).write_text(line + "\n", "utf-8" if kind == "new" else "latin-1")
    data = read(tmp_path, split="leave-one-out")
    assert data.user_ids == ["1", "2", "3", "4"] and data.item_ids == ["10", "11", "12", "13", "14"]
    assert data.titles is not None and data.titles[0] == "Café (1995)" and len(data.test) == 4


def test_pairs_keeps_dense_numbers_and_carves_valid(tmp_path: Path) -> None:
    train = np.array([(u, i) for u in range(5) for i in range(6)], np.int32)
    test = np.array([(u, 6) for u in range(5)], np.int32)
    np.savez(tmp_path / "p.npz", train=train, test=test)
    data = read(tmp_path / "p.npz")
    assert data.user_ids is None and len(data.valid) == 5 and len(data.train) == 25
    assert "carved from train" in data.split and data.split in data.notes
    np.savez(tmp_path / "q.npz", train=train * 3, valid=test[:2] * 3, test=test[2:] * 3)
    np.save(tmp_path / "image.npy", np.arange(38.0).reshape(19, 2) + 1)
    gaps = read(tmp_path / "q.npz", features={"image": "image.npy"})
    assert gaps.item_ids == [0, 3, 6, 9, 12, 15, 18] and gaps.split == "given"
    assert gaps.features["image"].rows[:, 0].tolist() == [1, 7, 13, 19, 25, 31, 37]


def test_conversion_loses_nothing(tmp_path: Path) -> None:
    shop = read("shop", users=60, items=40, no_picture=0.1)
    for number, data in enumerate((read(write_mmrec(tmp_path / "toy")), read(ratings(), time="when", core=2), shop)):
        folder = convert(data, tmp_path / f"copy{number}")
        back = read(folder)
        assert back.fingerprint == data.fingerprint
        assert all(torch.equal(getattr(back, part), getattr(data, part)) for part in ("train", "valid", "test"))
        assert back.titles == (None if data.titles is None else list(data.titles))
        assert checks_passed(back) and len(describe(back)) > 10
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_conversion_keeps_surrogates_apart(tmp_path: Path) -> None:
    folder = write_mmrec(tmp_path / "toy")
    (folder / "surrogate").mkdir()
    np.save(folder / "surrogate" / "audio_feat.npy", np.ones((4, 2), np.float32))
    data = read(folder, surrogate=True)
    copy = convert(data, tmp_path / "copy")
    assert "audio" not in read(copy).features
    assert read(copy, surrogate=True).fingerprint == data.fingerprint


def test_the_reader_is_guessed(tmp_path: Path) -> None:
    folder = write_mmrec(tmp_path / "toy")
    assert reader_for(folder) == ("mmrec", {"path": str(folder)})
    assert reader_for(folder / "toy.inter") == ("mmrec", {"path": str(folder), "file": "toy.inter"})
    ratings().rename({"user": "userId", "when": "timestamp", "stars": "fun"}).write_csv(tmp_path / "x.csv")
    assert reader_for(tmp_path / "x.csv")[1] == {
        "path": str(tmp_path / "x.csv"),
        "user": "userId",
        "item": "item",
        "time": "timestamp",
    }
    assert settings_of(["core=5", "split=time", "on=true"]) == {"core": 5, "split": "time", "on": True}


def test_polars_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, foilrec, foilrec.reading, foilrec.cli.data, foilrec.datasets.mmrec, foilrec.datasets.table;"
        "sys.exit('polars' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_describes_validates_and_converts(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from foilrec.cli.data import app

    folder = write_mmrec(tmp_path / "toy")
    ran = CliRunner().invoke(app, ["describe", str(folder), "-o", "split=random"])
    assert ran.exit_code == 0 and "random per user" in ran.output
    ran = CliRunner().invoke(app, ["validate", str(folder), "--reader", "mmrec"])
    assert ran.exit_code == 0 and "ok    features text: 4 rows" in ran.output and "note  " in ran.output
    ran = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "out")])
    assert ran.exit_code == 0 and (tmp_path / "out" / "out.inter").is_file()


ITEMS = "item,title,description,picture\nb,Blue mug,Holds tea,b.png\na,Red mug,,\nz,Unknown,,\n"


def test_a_table_of_items_names_describes_and_shows_them(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(6) for i in "abc"))
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "b.png").write_bytes(b"a picture")
    data = parts.build("dataset", "table", path=str(tmp_path / "clicks.csv"), items="items.csv").read()
    told = {raw: (data.titles[n], data.descriptions[n], data.pictures[n]) for n, raw in enumerate(data.item_ids)}
    assert told == {
        "a": ("Red mug", "", None),
        "b": ("Blue mug", "Holds tea", tmp_path / "b.png"),
        "c": ("", "", None),
    }


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (ITEMS, r"items.csv, line 2, column 'picture': there is no picture .*b.png"),
        (ITEMS.replace("mug,,", "mug,,a.png"), r"line 2, .* no picture .*b.png. So it is in 1 more rows. Leave"),
        ("item,title\nx,Mug\n", "describes none of the items of clicks: ids begin x there and a, b, c here"),
        ("thing,title\na,Mug\n", "nothing says which item this is"),
    ],
)
def test_a_table_of_items_that_does_not_fit_is_explained(items: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(6) for i in "abc"))
    (tmp_path / "items.csv").write_text(items)
    with pytest.raises(BadData, match=words):
        parts.build("dataset", "table", path=str(tmp_path / "clicks.csv"), items="items.csv").read()
