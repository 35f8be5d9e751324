"""What is refused before it does harm: data out of range, folders of others, impossible numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import Command, tiny
from foilrec import parts
from foilrec.core import Data
from foilrec.data import Features
from foilrec.errors import BadData, BadOption, RunBroken
from foilrec.evaluation import Protocol, top_k
from foilrec.launch import launch
from foilrec.mining.mine import Rules
from foilrec.mining.quarry import of_files
from foilrec.numerics import kernels
from foilrec.numerics.shapes import lost_rows
from foilrec.recipe import Recipe
from foilrec.stretch import train


@pytest.mark.parametrize("phase", ["train", "valid", "test"])
@pytest.mark.parametrize(("column", "number", "what"), [(0, 60, "user 60"), (1, 60, "item 60"), (1, -1, "item -1")])
def test_rows_out_of_range_are_named(phase: str, column: int, number: int, what: str, world: Data) -> None:
    rows = getattr(world, phase).clone()
    rows[2, column] = number
    with pytest.raises(BadData, match=rf"{phase} names {what} in row 2, and there are 0 \.\. 59"):
        replace(world, **{phase: rows})


def test_rows_must_be_pairs_of_whole_numbers(world: Data) -> None:
    for wrong in (world.train.numpy(), world.train.float(), world.train[:, :1], world.train.int()):
        with pytest.raises(BadData, match=r"train must be a tensor of \(user, item\) rows, int64 \[N, 2\]"):
            replace(world, train=wrong)


def test_features_must_have_a_row_an_item(world: Data) -> None:
    image = Features(world.features["image"].rows[:57])
    with pytest.raises(BadData, match="image has 57 rows for 60 items"):
        replace(world, features={"image": image})


@pytest.mark.parametrize("text", ["{", "3", "[]", '{"mine": 1}'])
def test_a_file_that_happens_to_be_called_about_is_not_overwritten(text: str, world: Data, tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text(text)
    with pytest.raises(BadOption, match="exists and is no run folder"):
        train(Recipe.from_tree({"train": {"epochs": 1}}), tmp_path, data=world)
    assert (tmp_path / "about.json").read_text() == text


def test_a_folder_of_exported_vectors_is_no_run(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(tiny(1))
    assert foilrec("train", "recipe.toml", "--out", "run").code == 0
    assert foilrec("export", "run", "--out", "vectors").code == 0
    before = {path.name: path.read_bytes() for path in Path("vectors").iterdir()}
    said = foilrec("train", "recipe.toml", "--out", "vectors")
    assert said.code == 2 and "exists and is no run folder" in said.err
    assert {path.name: path.read_bytes() for path in Path("vectors").iterdir()} == before


@pytest.mark.usefixtures("both_forms")
def test_lists_of_nothing_are_refused(world: Data) -> None:
    model = parts.build("backbone", "bprmf", world)
    for wrong in (0, -1):
        with pytest.raises(BadOption, match="ask for at least 1"):
            top_k(model, torch.arange(3), wrong)
    ids, values = kernels.best(torch.rand(2, 5), 0)
    assert ids.shape == values.shape == (2, 0)


def test_what_was_trained_on_is_always_hidden() -> None:
    for wrong in (("valid",), (), ("train", "test")):
        with pytest.raises(BadOption, match="masked"):
            Protocol(masked=wrong)


def test_more_threads_than_any_machine_has() -> None:
    with pytest.raises(BadOption, match="threads = 100000 must lie between 0"):
        Recipe.from_tree({"threads": 100_000})


def test_a_model_that_comes_apart_is_told_so_whatever_its_sum(world: Data) -> None:
    huge = torch.tensor([[3e38] * 8 + [-3e38] * 8] * 4)
    assert huge.sum().isnan() and lost_rows(huge) == ""
    assert "1 of 4 rows, first in row 2" in lost_rows(huge.index_fill(0, torch.tensor(2), torch.nan))
    recipe = Recipe.from_tree({"backbone": {"name": "bprmf"}, "optimizer": {"lr": 1e37}, "train": {"epochs": 3}})
    with pytest.raises(RunBroken, match=r"ower optimizer\.lr"):
        list(launch(recipe, world).epochs())


def test_an_item_is_never_a_hard_negative_of_its_own(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    np.save(tmp_path / "p.npy", np.stack([np.arange(20), np.roll(np.arange(20), 1)], 1))
    quarry = of_files(tmp_path / "v.npy", tmp_path / "p.npy")
    found = quarry.mine(Rules(ranks=(1, 19), count=18), cosine=True)
    assert not (found.ids == found.pairs[:, :1]).any() and (found.ids >= 0).any()
    both = of_files(tmp_path / "v.npy", tmp_path / "p.npy", tmp_path / "v.npy").mine(Rules(ranks=(1, 19), count=18))
    assert (both.ids == both.pairs[:, :1]).any()  # queries that are others may be


@pytest.mark.parametrize("window", ["²-5", "1-²", "10"])
def test_a_window_of_ranks_is_two_numbers(window: str, foilrec: Command, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tiny(1))
    foilrec("train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"))
    said = foilrec("mine", str(tmp_path / "run"), "--out", str(tmp_path / "m.jsonl"), "--ranks", window)
    assert said.code == 2 and "must be two places" in said.err


@pytest.mark.parametrize("q", [0.96, 0.99])
def test_a_corrupted_positive_is_never_of_the_level_of_uniform_items(q: float, world: Data) -> None:
    model, sampler = parts.build("backbone", "bprmf", world), parts.build("sampler", "adar", world, confidence=q)
    sampler.begin_epoch(5, model, model.propagate())
    batch = world.batch(torch.arange(30), 5)
    tables = model.propagate()
    assert (sampler(tables, batch, model.query(tables, batch)).level[:, 1:] == 1).all()
