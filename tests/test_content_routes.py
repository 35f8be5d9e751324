"""Where features of negatives come from: words of real items, edited pictures, and features that are the encoder's."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from commands import Command
from foilrec import parts
from foilrec.content.alike import alike
from foilrec.content.backends.rules import Rules
from foilrec.content.editing import Edit, Sight, editor_of
from foilrec.content.encoder import Array, HashedWords
from foilrec.content.encoders import load
from foilrec.content.export import export
from foilrec.content.generation import Generation, Order
from foilrec.data import Data, Features
from foilrec.errors import BadData, BadOption, NoSuchPart, PartsDoNotFit
from foilrec.negatives import generated


def made(data: Data, folder: Path, **order: Any) -> Generation:
    one = Generation(data, folder, Rules(), Order(difficulties=(1, 2), **order))
    list(one.run())
    return one


def test_the_nearest_by_words_are_those_of_the_largest_cosine() -> None:
    draw = np.random.default_rng(0)
    catalogue = draw.standard_normal((90, 6)).astype(np.float32)
    catalogue /= np.linalg.norm(catalogue, axis=1, keepdims=True)
    catalogue[7], catalogue[11] = 0, catalogue[12]
    rows, items = catalogue[[3, 12, 40]] + np.float32(0.1), [3, 0, 40]
    for row, item, found in zip(rows, items, alike(rows, catalogue, items), strict=True):
        left = [(-float(row @ catalogue[other]), other) for other in range(90) if other not in (7, item)]
        assert found == [other for _, other in sorted(left)[:64]]
    assert sorted(alike(rows[:1], catalogue[:5], [3])[0]) == [0, 1, 2, 4]


def test_the_table_names_items_that_say_the_same_but_for_the_edit(world: Data, tmp_path: Path) -> None:
    one = made(world, tmp_path)
    export(one.store, one.goods, one.encoder, tmp_path)
    table = pl.read_parquet(tmp_path / "negatives.parquet")
    encode = HashedWords(one.goods.text(n) for n in range(60))
    texts = [one.goods.text(n) for n in range(60)]
    for row in table.head(20).iter_rows(named=True):
        after = encode([f"{row['title']}. {row['description']}"])[0]
        cosines = {
            str(raw): float(after @ encode([text])[0]) for raw, text in zip(world.item_ids or (), texts, strict=True)
        }
        assert row["item"] not in row["alike"] and len(row["alike"]) == 59
        told = [cosines[raw] for raw in row["alike"]]
        assert all(a >= b - 1e-6 for a, b in pairwise(told))
    assert generated.read(tmp_path, world).alike is not None
    one.store.close()


def test_pictures_drawn_with_the_edit_differ_in_what_it_paints(world: Data, tmp_path: Path) -> None:
    one = made(world, tmp_path)
    sight = Sight.of(world, "drawn", "colours")
    export(one.store, one.goods, one.encoder, tmp_path, "image", sight)
    before, after = (np.load(tmp_path / f"image_{end}.npy") for end in ("pos", "neg"))
    notes = json.loads((tmp_path / "features.json").read_text())["modalities"]
    assert notes["image"] == {
        "dim": 240,
        "encoder": "colours@1",
        "editor": "drawn",
        "missing": notes["image"]["missing"],
    }
    encode, catalogue = load("image", "colours"), world.oracle.catalogue  # type: ignore[union-attr]
    for n, outcome in enumerate(one.store.outcomes("done")):
        item, edits = outcome.job.item, (outcome.content or {})["edits"]
        picture = (world.pictures or ())[item]
        if picture is None:
            assert n in notes["image"]["missing"] and not after[n].any() and not before[n].any()
            continue
        values = {name: of[[item]] for name, of in catalogue.attributes.items()}
        for edit in edits:
            values[edit["name"]] = np.array([catalogue.vocabularies[edit["name"]].index(edit["new"])])
        drawn = catalogue.draw(values, np.array([item]))
        np.testing.assert_array_equal(before[n], encode([picture])[0])
        np.testing.assert_array_equal(after[n], encode([drawn[0]])[0])
        assert (before[n] != after[n]).any() and (drawn[0] != picture).any()
    one.store.close()


def inverted(item: int, picture: Array, edits: list[Edit]) -> Array | None:
    """An editor of one's own: blind to what is asked, and idle on odd items."""
    return None if item % 2 else 255 - picture


def test_an_editor_of_ones_own_is_asked_and_what_it_leaves_is_missing(world: Data, tmp_path: Path) -> None:
    one = made(world, tmp_path, sample=12)
    sight = Sight.of(world, f"{__name__}:inverted", "colours")
    export(one.store, one.goods, one.encoder, tmp_path, "image", sight)
    notes = json.loads((tmp_path / "features.json").read_text())["modalities"]["image"]
    done = list(one.store.outcomes("done"))
    without = [n for n, o in enumerate(done) if o.job.item % 2 or (world.pictures or ())[o.job.item] is None]
    assert notes["missing"] == without and 0 < len(without) < len(done)
    one.store.close()


def test_what_cannot_edit_is_explained(world: Data) -> None:
    for name, error, told in (
        ("darwn", NoSuchPart, "take drawn"),
        ("nomodule:f", NoSuchPart, "nomodule"),
        ("json:nothing", NoSuchPart, "nothing"),
        ("foilrec:__all__", BadOption, "no function"),
    ):
        with pytest.raises(error, match=told):
            editor_of(world, name)
    with pytest.raises(PartsDoNotFit, match="nobody can draw"):
        editor_of(replace(world, oracle=None), "drawn")
    with pytest.raises(PartsDoNotFit, match="no pictures"):
        Sight.of(replace(world, pictures=None), "drawn", "colours")
    sight = Sight("text", lambda item, picture, edits: "a picture", load("image", "colours"))  # type: ignore[arg-type,return-value]
    with pytest.raises(BadData, match="gave str"):
        sight.rows([np.zeros((4, 4, 3), np.uint8)], [0], [[]])


def test_features_of_the_same_encoder_are_moved_without_a_map(world: Data, tmp_path: Path) -> None:
    texts = [f"{t}. {d}" for t, d in zip(world.titles or (), world.descriptions or (), strict=True)]
    encode = HashedWords(texts)
    data = replace(world, features={"text": Features(encode(texts))}, pictures=None)
    one = made(data, tmp_path)
    export(one.store, one.goods, one.encoder, tmp_path, "delta")
    notes = json.loads((tmp_path / "features.json").read_text())["modalities"]["text"]
    assert notes["map"].startswith("none") and "r2" not in notes
    after = np.load(tmp_path / "text_neg.npy")
    for row, outcome in zip(after, one.store.outcomes("done"), strict=True):
        content = outcome.content or {}
        np.testing.assert_allclose(row, encode([f"{content['title']}. {content['description']}"])[0], atol=1e-6)
    sampler = parts.build("sampler", "neggen", data, path=str(tmp_path))
    assert sampler.covered[0] > 0.9
    one.store.close()


def test_the_command_edits_pictures_and_the_sampler_takes_them(foilrec: Command, world: Data, tmp_path: Path) -> None:
    words = ("generate", "shop", "-o", "users=60", "-o", "items=60", "--difficulty", "1", "--out", tmp_path / "out")
    said = foilrec(*words, "--route", "image", "--image", "colours")
    assert said.code == 0, said.err
    encode = load("image", "colours")
    rows = np.zeros((60, 240), np.float32)
    shown = [n for n, picture in enumerate(world.pictures or ()) if picture is not None]
    rows[shown] = encode([(world.pictures or ())[n] for n in shown])
    data = replace(world, features={"image": Features(rows, torch.from_numpy(rows.any(1)))})
    sampler = parts.build("sampler", "neggen", data, path=str(tmp_path / "out"), modalities=("image",))
    assert sampler.covered[0] > 0.8
    assert foilrec(*words, "--route", "image", "--editor", "x", "--resume").code == 2
