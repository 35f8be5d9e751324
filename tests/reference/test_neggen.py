"""NegGen's sampler beside a slow form: which negatives a row gets, as what, how heavy, and what folders it refuses."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from commands import Command, tiny
from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Negatives, Sampler
from foilrec.errors import BadData, BadOption, FoilrecError, PartsDoNotFit, RunBroken
from foilrec.evaluation import Protocol
from foilrec.negatives import generated
from foilrec.numerics.chances import chances
from foilrec.recipe import Recipe
from foilrec.trainer import Objective, Settings, Trainer
from foilrec.world.counterfactuals import edited, write_counterfactuals


def host(data: Data, name: str = "vbpr", **options: Any) -> Backbone:
    torch.manual_seed(0)
    model: Backbone = parts.build("backbone", name, data, **options)
    return model


def asked(data: Data, path: Path, batch: Batch, model: Backbone | None = None, **options: Any) -> tuple[Negatives, Any]:
    """What a sampler gives a batch, and the sampler."""
    model = host(data) if model is None else model
    sampler = parts.build("sampler", "neggen", data, path=str(path), **options)
    sampler.begin_epoch(batch.epoch, model, model.propagate())
    tables = model.propagate()
    return sampler(tables, batch, model.query(tables, batch)), sampler


def some_of(folder: Path, to: Path, keep: Callable[[dict[str, Any]], bool], users: Any = None) -> Path:
    """A copy of a folder with some of its rows, for other users if told."""
    table = pl.read_parquet(folder / "negatives.parquet")
    rows = [n for n, row in enumerate(table.iter_rows(named=True)) if keep(row)]
    features = [{m: np.load(folder / f"{m}_{end}.npy")[rows] for m in ("image", "text")} for end in ("neg", "pos")]
    chosen = table[rows]
    generated.write(
        to,
        chosen["item"].to_list(),
        *features,
        users=chosen["user"].to_list() if users is None else [users] * len(rows),
        difficulty=chosen["difficulty"].to_list(),
    )
    return to


def slow_rows(data: Data, folder: Path, batch: Batch, sampler: Sampler, difficulty: set[int], count: int) -> list[Any]:
    """The rows of the table that each training row draws, one by one."""
    table = pl.read_parquet(folder / "negatives.parquet")
    chance = chances(batch.rows, sampler.key(batch, "generated"), 1)[:, 0].tolist()
    found = []
    for user, item, luck in zip(batch.users.tolist(), batch.positives.tolist(), chance, strict=True):
        raw_item, raw_user = data.raw_items([item])[0], data.raw_users([user])[0]
        all_of_them = list(enumerate(table.iter_rows(named=True)))
        mine = [n for n, r in all_of_them if r["item"] == raw_item and r["difficulty"] in difficulty]
        own = [n for n in mine if table["user"][n] == raw_user]
        left = own or [n for n in mine if table["user"][n] is None]
        start = int(luck * len(left))
        found.append([left[(start + j) % len(left)] for j in range(min(count, len(left)))])
    return found


@pytest.mark.parametrize(("count", "difficulty"), [(1, ()), (2, (1, 3)), (5, ())])
def test_the_columns_are_a_uniform_item_and_the_encoded_rows_of_the_positive(
    world: Data, ideal: Path, count: int, difficulty: tuple[int, ...]
) -> None:
    batch, model = world.batch(torch.arange(30), 2), host(world)
    drawn, sampler = asked(world, ideal, batch, model, count=count, difficulty=difficulty, beta=0.3)
    items = model.propagate().items
    told = {m: np.load(ideal / f"{m}_neg.npy") for m in model.modalities}
    levels = pl.read_parquet(ideal / "negatives.parquet")["difficulty"]
    assert drawn.vectors is not None and drawn.weights is not None and drawn.level is not None
    for b, rows in enumerate(slow_rows(world, ideal, batch, sampler, set(difficulty) or {1, 2, 3}, count)):
        assert torch.allclose(drawn.vectors[b, 0], items[world.easy(batch)[b]], atol=1e-6)
        for k, row in enumerate(rows, 1):
            features = np.concatenate([told[m][row] for m in model.modalities])
            content = model.linear.weight.detach().numpy() @ features + model.linear.bias.detach().numpy()
            own = model.ids.weight[batch.positives[b]].detach().numpy()
            assert np.allclose(drawn.vectors[b, k].detach(), np.concatenate([own, content]), atol=1e-5)
            assert drawn.level[b, k] == 4 - levels[row]
        mask = torch.ones(1 + count, dtype=torch.bool) if drawn.mask is None else drawn.mask[b]
        assert mask.tolist() == [j <= len(rows) for j in range(1 + count)]
        assert drawn.level[b, 0] == 0 and len(set(rows)) == len(rows)


def test_the_loss_is_that_of_the_uniform_item_and_beta_times_that_of_the_generated_ones(
    world: Data, ideal: Path, tmp_path: Path
) -> None:
    folder = some_of(ideal, tmp_path / "few", lambda row: row["difficulty"] < 3 and int(row["item"][5:]) % 3 > 0)
    batch, model = world.batch(torch.arange(40)), host(world)
    drawn, sampler = asked(world, folder, batch, model, count=3, beta=0.7)
    tables = model.propagate()
    query, vectors = model.query(tables, batch).detach().double(), drawn.look_up(model, tables).detach().double()
    gaps = (query * tables.item_rows(batch.positives).detach()).sum(1)[:, None] - (query[:, None] * vectors).sum(2)
    expected, bare = 0.0, 0
    for b, row in enumerate(gaps.tolist()):
        mask = [True] * 4 if drawn.mask is None else drawn.mask[b].tolist()
        terms = [math.log1p(math.exp(-gap)) for gap, there in zip(row, mask, strict=True) if there]
        bare += len(terms) == 1
        expected += terms[0] + (0.7 * sum(terms[1:]) / len(terms[1:]) if terms[1:] else 0.0)
    loss = parts.build("loss", "bpr")(*(x.float() for x in ((gaps[:, 0] * 0), -gaps)), drawn)
    assert float(loss) == pytest.approx(expected / len(gaps), rel=1e-5)
    pairs = world.train[:, 1] % 3 > 0
    assert bare and sampler.covered == (pytest.approx(float(pairs.double().mean())),)
    assert f"{float(pairs.double().mean()):.1%}" in sampler.notes[1]
    assert sampler.notes[0] == "neggen: 40 of 60 items have generated negatives, 20 have none"


def test_what_was_made_for_the_user_comes_before_what_was_made_for_everyone(
    world: Data, ideal: Path, tmp_path: Path
) -> None:
    user, item = (int(x) for x in world.train[0])
    raw_user, raw_item = world.raw_users([user])[0], world.raw_items([item])[0]
    table = pl.read_parquet(ideal / "negatives.parquet")
    mine = (pl.col("item") == raw_item) & (pl.col("difficulty") == 2)
    changed = table.with_columns(pl.when(mine).then(pl.lit(raw_user)).otherwise(pl.col("user")).alias("user"))
    folder = tmp_path / "mine"
    shutil.copytree(ideal, folder)
    changed.write_parquet(folder / "negatives.parquet")
    others = (world.train[:, 1] == item).nonzero()[:, 0]
    assert len(others) > 2
    for epoch in range(4):
        batch = world.batch(others, epoch)
        drawn, sampler = asked(world, folder, batch)
        assert drawn.level is not None
        for b, rows in enumerate(slow_rows(world, folder, batch, sampler, {1, 2, 3}, 1)):
            assert (int(batch.users[b]) == user) == (table["difficulty"][rows[0]] == 2)
            assert drawn.level[b, 1] == 4 - table["difficulty"][rows[0]]


@pytest.mark.parametrize("count", [1, 2])
def test_retrieved_is_the_unseen_item_that_looks_most_like_what_was_generated(
    world: Data, ideal: Path, count: int
) -> None:
    batch = world.batch(torch.arange(60), 1)
    drawn, sampler = asked(world, ideal, batch, host(world, "lightgcn"), form="retrieve", count=count)
    assert drawn.ids is not None and not world.seen.contains(batch.users, drawn.ids).any()
    told = {m: np.load(ideal / f"{m}_neg.npy").astype(float) for m in ("image", "text")}
    for b, rows in enumerate(slow_rows(world, ideal, batch, sampler, {1, 2, 3}, count)):
        taken = set(world.seen.of(int(batch.users[b])).tolist())
        for k, row in enumerate(rows, 1):
            best, chosen = -9.0, -1
            for item in sorted(set(range(world.n_items)) - taken):
                cosine = 0.0
                for m, values in told.items():
                    own = world.features[m].rows[item].astype(float)
                    cosine += own @ values[row] / np.linalg.norm(own) / np.linalg.norm(values[row])
                best, chosen = max((best, chosen), (cosine, item))
            assert drawn.ids[b, k] == chosen
    assert torch.equal(drawn.ids[:, 0], world.easy(batch))


@pytest.fixture
def worded(world: Data, ideal: Path, tmp_path: Path) -> Path:
    """The ideal negatives with lists of the items whose words are like theirs: some short, one with a strange id."""
    shutil.copytree(ideal, tmp_path / "worded")
    table = pl.read_parquet(ideal / "negatives.parquet")
    order = np.random.default_rng(0)
    lists = [
        [str(world.raw_items([int(i)])[0]) for i in order.permutation(world.n_items)[: n % 5]]
        for n in range(len(table))
    ]
    lists[4].insert(0, "an item of another shop")
    changed = table.with_columns(pl.Series("alike", lists, dtype=pl.List(pl.String)))
    changed.write_parquet(tmp_path / "worded" / "negatives.parquet")
    return tmp_path / "worded"


@pytest.mark.parametrize("candidates", [1, 3, 64])
def test_by_words_it_is_the_first_unseen_item_that_the_folder_names(world: Data, worded: Path, candidates: int) -> None:
    data = replace(world, features={})  # which nobody needs here
    batch = data.batch(torch.arange(80), 1)
    options = {"form": "words", "candidates": candidates}
    drawn, sampler = asked(data, worded, batch, host(data, "lightgcn"), **options)
    lists = pl.read_parquet(worded / "negatives.parquet")["alike"].to_list()
    known = {str(raw): number for number, raw in enumerate(data.raw_items(range(data.n_items)))}
    assert drawn.ids is not None and drawn.mask is not None and drawn.weights is not None
    for b, (row,) in enumerate(slow_rows(data, worded, batch, sampler, {1, 2, 3}, 1)):
        taken = set(data.seen.of(int(batch.users[b])).tolist())
        near = [known[raw] for raw in lists[row] if raw in known][:candidates]
        free = [item for item in near if item not in taken]
        assert bool(drawn.mask[b, 1]) == bool(free)
        assert drawn.ids[b, 1] == (free[0] if free else drawn.ids[b, 0])
        assert drawn.weights[b, 0] == (2 if free else 1)
    assert 0 < int(drawn.mask[:, 1].sum()) < len(batch)


def test_folders_that_tell_no_words_or_wrong_ones_are_refused(world: Data, ideal: Path, worded: Path) -> None:
    with pytest.raises(PartsDoNotFit, match=r'form = "words".*--backend replay'):
        parts.build("sampler", "neggen", world, path=str(ideal), form="words")
    table = pl.read_parquet(worded / "negatives.parquet")
    table.with_columns(pl.lit("item-00001").alias("alike")).write_parquet(worded / "negatives.parquet")
    with pytest.raises(BadData, match="lists of item ids"):
        generated.read(worded, world)


def test_a_run_tells_how_many_items_have_negatives_when_it_starts(
    foilrec: Command, world: Data, ideal: Path, tmp_path: Path
) -> None:
    folder = some_of(ideal, tmp_path / "few", lambda row: int(row["item"][5:]) < 45)
    (tmp_path / "r.toml").write_text(tiny(1))
    words = ("train", tmp_path / "r.toml", "backbone=vbpr", "sampler=neggen", f"sampler.path={folder}")
    said = foilrec(*words, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    first, second = said.err.splitlines()[:2]
    assert first == "neggen: 45 of 60 items have generated negatives, 15 have none"
    assert second.startswith("neggen: ") and "of the training rows have a generated negative" in second
    assert "neggen" not in foilrec(*words, "--out", tmp_path / "run", "--resume").err
    assert "neggen" not in foilrec(*words, "--out", tmp_path / "quiet", "--quiet").err
    both = ("backbone=causalneg", f"backbone.path={folder}", "sampler=uniform")
    causal = foilrec("train", tmp_path / "r.toml", *both, "--out", tmp_path / "causal")
    assert causal.err.startswith("causalneg: 45 of 60 items have generated negatives, 15 have none"), causal


def test_who_took_all_that_looks_alike_gets_the_uniform_item_alone(world: Data, ideal: Path) -> None:
    batch = world.batch(torch.arange(200))
    drawn, sampler = asked(world, ideal, batch, host(world, "lightgcn"), form="retrieve", candidates=1)
    assert drawn.ids is not None and drawn.mask is not None and drawn.weights is not None
    alone = ~drawn.mask[:, 1]
    nearest = sampler.nearest[:, 0].long()
    for b, (row,) in enumerate(slow_rows(world, ideal, batch, sampler, {1, 2, 3}, 1)):
        assert bool(alone[b]) == bool(world.seen.contains(batch.users[b : b + 1], nearest[row].view(1, 1)))
    assert 0 < int(alone.sum()) < len(alone)
    assert torch.equal(drawn.ids[alone, 1], drawn.ids[alone, 0])
    assert torch.equal(drawn.weights[:, 0], torch.where(alone, 1.0, 2.0))


def test_a_curriculum_changes_many_attributes_first(world: Data, ideal: Path) -> None:
    given: dict[tuple[int, ...], list[int]] = {(): [3, 3, 2, 2, 1, 1, 1], (2, 1): [2, 2, 1, 1, 1, 1, 1]}
    for difficulty, stages in given.items():
        for epoch, stage in enumerate(stages):
            drawn, _ = asked(world, ideal, world.batch(torch.arange(20), epoch), delta=2, difficulty=difficulty)
            assert drawn.level is not None and drawn.level[:, 1].unique().tolist() == [4 - stage]
    drawn, _ = asked(world, ideal, world.batch(torch.arange(60), 0), difficulty=1)
    assert drawn.level is not None and drawn.level[:, 1].unique().tolist() == [3]
    drawn, _ = asked(world, ideal, world.batch(torch.arange(60), 0))
    assert drawn.level is not None and drawn.level[:, 1].unique().tolist() == [1, 2, 3]


def test_two_half_batches_draw_what_the_whole_draws(world: Data, ideal: Path) -> None:
    model = host(world)
    whole, _ = asked(world, ideal, world.batch(torch.arange(40), 1), model, count=2)
    halves = [asked(world, ideal, world.batch(torch.arange(at, at + 20), 1), model, count=2)[0] for at in (0, 20)]
    for name in ("vectors", "weights", "level"):
        assert torch.allclose(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name), atol=1e-6)
    later, _ = asked(world, ideal, world.batch(torch.arange(40), 2), model, count=2)
    assert not torch.equal(later.level, whole.level)


def test_in_form_retrieve_it_keeps_the_contract_of_samplers() -> None:
    contracts.check_sampler(parts.find("sampler", "neggen"), form="retrieve")
    contracts.check_sampler(parts.find("sampler", "neggen"), form="retrieve", candidates=2, count=3)


def test_a_modality_that_is_not_changed_stays_the_positives_own(world: Data, ideal: Path) -> None:
    batch, model = world.batch(torch.arange(20)), host(world)
    drawn, sampler = asked(world, ideal, batch, model, modalities=("text",), difficulty=2)
    rows = [rows[0] for rows in slow_rows(world, ideal, batch, sampler, {2}, 1)]
    features = {
        "image": world.features["image"].of(batch.positives),
        "text": torch.from_numpy(np.load(ideal / "text_neg.npy")[rows]),
    }
    assert drawn.vectors is not None
    assert torch.allclose(drawn.vectors[:, 1], model.encode(features, batch.positives), atol=1e-6)


@pytest.mark.parametrize("unknown", ["mean", "zero", "learned"])
def test_without_identity_the_backbone_says_what_the_id_part_is(world: Data, ideal: Path, unknown: str) -> None:
    model = host(world, unknown=unknown)
    if model.learned is not None:
        torch.nn.init.normal_(model.learned)
    drawn, _ = asked(world, ideal, world.batch(torch.arange(8)), model, identity="none")
    free = {"mean": model.ids.weight.mean(0), "zero": torch.zeros(64), "learned": model.learned}[unknown]
    assert drawn.vectors is not None
    assert torch.allclose(drawn.vectors[:, 1, :64], free.expand(8, -1), atol=1e-6)
    drawn.vectors[:, 1].sum().backward()
    assert model.learned is None or bool((model.learned.grad == 8).all())


def test_with_the_positives_id_part_content_alone_learns_from_the_generated_one(world: Data, ideal: Path) -> None:
    model, batch = host(world), world.batch(torch.arange(20))
    drawn, sampler = asked(world, ideal, batch, model)
    tables = model.propagate()
    positive, vectors = tables.item_rows(batch.positives), drawn.look_up(model, tables)
    (model.query(tables, batch).detach() * (positive - vectors[:, 1])).sum().backward()
    assert model.ids.weight.grad.abs().max() < 1e-6 < model.linear.weight.grad.abs().max()
    sampler.eval()
    assert not sampler(tables, batch, model.query(tables, batch)).vectors.requires_grad


def resumed(data: Data, folder: Path, epochs: int, state: Any = None, **options: Any) -> Trainer:
    torch.manual_seed(1)
    sampler = parts.build("sampler", "neggen", data, path=str(folder), **options)
    objective = Objective(host(data, dim=8), sampler, parts.build("loss", "bpr"))
    adam = parts.build("optimizer", "adam", objective.parameters(), lr=0.01)
    trainer = Trainer(objective, adam, Settings(batch=128, epochs=epochs, meter=20), Protocol("valid"))
    if state is not None:
        trainer.load_state(state)
    for epoch in trainer.epochs():
        if epoch.number == 1 and epochs == 2:
            break
    return trainer


def test_a_training_goes_on_bit_for_bit_and_not_beside_other_negatives(
    world: Data, ideal: Path, tmp_path: Path
) -> None:
    whole = resumed(world, ideal, 4, delta=2).state()
    half = resumed(world, ideal, 2, delta=2).state()
    half["progress"]["done"] = False
    again = resumed(world, ideal, 4, half, delta=2).state()
    for name, value in whole["objective"].items():
        assert torch.equal(value, again["objective"][name]) if isinstance(value, Tensor) else value
    other = some_of(ideal, tmp_path / "other", lambda row: row["item"] != "item-00003")
    with pytest.raises(RunBroken, match="other negatives"):
        resumed(world, other, 4, half, delta=2)


def test_a_recipe_names_the_folder_by_an_environment_variable(
    world: Data, ideal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADE", str(ideal.parent))
    path = f"$MADE/{ideal.name}"
    for sampler in (
        {"name": "neggen", "path": path},
        {"name": "mixed", "parts": [{"name": "uniform"}, {"name": "neggen", "path": path}]},
    ):
        recipe = Recipe.from_tree({"backbone": {"name": "vbpr"}, "sampler": sampler})
        _, built, _ = recipe.build(world)
        assert any(part.made.folder == ideal for part in built.modules() if hasattr(part, "made"))
        assert "$MADE" in recipe.to_toml()
    monkeypatch.setenv("HOME", str(ideal.parent))
    assert parts.build("sampler", "neggen", world, path=f"~/{ideal.name}").made.folder == ideal


def other_rows(folder: Path, rows: int) -> None:
    np.save(folder / "text_neg.npy", np.load(folder / "text_neg.npy")[:rows])


def spoiled(folder: Path) -> None:
    values = np.load(folder / "image_neg.npy")
    values[7, 5] = np.nan
    np.save(folder / "image_neg.npy", values)


def retold(folder: Path, **columns: pl.Expr) -> None:
    table = pl.read_parquet(folder / "negatives.parquet")
    table.with_columns(**columns).write_parquet(folder / "negatives.parquet")


def foreign(folder: Path) -> None:
    """Features as wide as the data's, of another encoder."""
    draw = np.random.default_rng(0)
    for end in ("neg", "pos"):
        np.save(folder / f"text_{end}.npy", draw.normal(size=(180, 64)).astype(np.float32))


def wider(folder: Path) -> None:
    for end in ("neg", "pos"):
        np.save(folder / f"text_{end}.npy", np.ones((180, 9), np.float32))


FIRST = pl.int_range(pl.len()) == 4
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "no such folder.*foilrec generate"),
    "no table": (lambda f: (f / "negatives.parquet").unlink(), "negatives.parquet is missing.*image_neg"),
    "no notes": (lambda f: (f / "features.json").unlink(), "features.json is missing"),
    "no features": (lambda f: (f / "text_pos.npy").unlink(), "text_pos.npy is missing"),
    "no JSON": (lambda f: (f / "features.json").write_text("{"), "features.json does not tell"),
    "odd JSON": (lambda f: (f / "features.json").write_text('{"rows": "x"}'), "features.json does not tell"),
    "no parquet": (lambda f: (f / "negatives.parquet").write_text("x"), "not a whole parquet"),
    "no column": (lambda f: pl.DataFrame({"item": [1]}).write_parquet(f / "negatives.parquet"), "column 'user'"),
    "no rows": (
        lambda f: pl.read_parquet(f / "negatives.parquet")[:0].write_parquet(f / "negatives.parquet"),
        "no rows",
    ),
    "too few rows": (lambda f: other_rows(f, 9), "text_neg.npy has 9 rows, and negatives.parquet 180"),
    "other count": (lambda f: (f / "features.json").write_text('{"rows": 3, "modalities": {"text": {}}}'), "counts 3"),
    "nan": (spoiled, "image_neg.npy, row 7, column 5: nan is not a finite number"),
    "no array": (lambda f: (f / "text_neg.npy").write_bytes(b"x"), "no whole NumPy file"),
    "a pickle": (lambda f: np.save(f / "text_neg.npy", np.array([{}] * 180), allow_pickle=True), "no whole NumPy file"),
    "no matrix": (lambda f: np.save(f / "text_neg.npy", np.zeros(180, np.float32)), "matrix of floats"),
    "whole numbers": (lambda f: np.save(f / "text_neg.npy", np.zeros((180, 64), np.int64)), "not int64"),
    "two widths": (lambda f: np.save(f / "text_neg.npy", np.zeros((180, 9), np.float32)), "is 64 wide, and text_neg"),
    "no such item": (
        lambda f: retold(f, item=pl.when(FIRST).then(pl.lit("pan")).otherwise("item")),
        "row 4: shop has no item 'pan'; 1 such",
    ),
    "no such user": (
        lambda f: retold(f, user=pl.when(FIRST).then(pl.lit("who")).otherwise("user")),
        "row 4: shop has no user 'who'",
    ),
    "no item": (lambda f: retold(f, item=pl.when(~FIRST).then("item")), "row 4: shop has no item None"),
    "no difficulty": (lambda f: retold(f, difficulty=pl.when(~FIRST).then("difficulty")), "row 4: difficulty None"),
    "difficulty 0": (lambda f: retold(f, difficulty=pl.lit(0)), "row 0: difficulty 0 .* 180 such"),
    "another encoder": (foreign, "another encoder's.*same encoder.*route delta"),
    "another width": (wider, "9 wide, and the data's 64.*same encoder .shop.*route delta"),
    "nothing to see": (
        lambda f: [np.save(f / f"{m}_neg.npy", np.zeros((180, 64), "f4")) for m in ("text", "image")],
        "no training row",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_folder_is_told_with_file_place_and_cure(what: str, world: Data, ideal: Path, tmp_path: Path) -> None:
    spoil, words = WRONG[what]
    folder = tmp_path / "made"
    shutil.copytree(ideal, folder)
    spoil(folder)
    with pytest.raises((BadData, PartsDoNotFit), match=words) as told:
        parts.build("sampler", "neggen", world, path=str(folder))
    assert isinstance(told.value, FoilrecError)
    assert str(folder) in str(told.value) or isinstance(told.value, PartsDoNotFit)


def test_wrong_options_and_partners_are_explained(world: Data, ideal: Path) -> None:
    for wrong in ({"count": 0}, {"delta": -1}, {"beta": 0.0}, {"candidates": 0}, {"difficulty": 4}):
        with pytest.raises(BadOption, match="neggen"):
            parts.build("sampler", "neggen", world, path=str(ideal), **wrong)
    with pytest.raises(PartsDoNotFit, match=r"modalities \['sound'\]"):
        parts.build("sampler", "neggen", world, path=str(ideal), modalities=("sound",))
    with pytest.raises(PartsDoNotFit, match="modalities"):
        parts.build("sampler", "neggen", replace(world, features={}), path=str(ideal))
    with pytest.raises(PartsDoNotFit, match=r"LightGCN cannot encode.*vbpr.*retrieve"):
        asked(world, ideal, world.batch(torch.arange(3)), host(world, "lightgcn"))
    sampler = parts.build("sampler", "neggen", world, path=str(ideal))
    model = host(world)
    with pytest.raises(BadOption, match="begin_epoch"):
        sampler(model.propagate(), world.batch(torch.arange(3)), torch.zeros(3, 128))


def test_what_foilrec_generate_exports_is_read_by_both_parts(world: Data, foilrec: Command, tmp_path: Path) -> None:
    words = ("generate", "shop", "-o", "users=60", "-o", "items=60", "--difficulty", "1", "--out", tmp_path / "made")
    assert foilrec(*words, "--route", "delta").code == 0
    drawn, sampler = asked(world, tmp_path / "made", world.batch(torch.arange(40)))
    assert sampler.covered[0] > 0.9 and drawn.vectors is not None and drawn.vectors.shape == (40, 2, 128)
    assert foilrec(*words, "--route", "caption", "--resume").code == 0
    with pytest.raises(PartsDoNotFit, match="1024 wide, and the data's 64: encode the catalogue"):
        parts.build("sampler", "neggen", world, path=str(tmp_path / "made"))
    model = host(world, "causalneg", path=str(tmp_path / "made")).eval()
    assert bool(torch.isfinite(model.propagate().items).all())
    assert {linear.in_features for linear in model.tokens} == {1024}


def test_negatives_of_ones_own_are_written_whole_and_read_again(world: Data, tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    generated.write(tmp_path / "own", ["item-00004", "item-00002"], {"scent": rows}, {"scent": -rows}, price=[1, 2])
    made = generated.read(tmp_path / "own", world)
    assert made.items.tolist() == [4, 2] and made.users.tolist() == [-1, -1] and made.difficulty.tolist() == [1, 1]
    assert np.array_equal(made.after["scent"].rows, rows) and np.array_equal(made.before["scent"].rows, -rows)
    assert pl.read_parquet(tmp_path / "own" / "negatives.parquet")["price"].to_list() == [1, 2]
    assert json.loads((tmp_path / "own" / "features.json").read_text())["modalities"] == {"scent": {"dim": 3}}
    assert "no features of scent" in made.misfit(world, "scent")
    originals = made.originals(world, "scent")
    assert originals.of(torch.tensor([2, 4])).tolist() == (-rows[::-1]).tolist()
    assert originals.has(torch.tensor([2, 3, 4])).tolist() == [True, False, True]
    with pytest.raises(BadOption, match="other lengths"):
        generated.write(tmp_path / "bad", ["item-00004"], {"scent": rows}, {"scent": rows})
    with pytest.raises(BadOption, match="modalities"):
        generated.write(tmp_path / "bad", ["a", "b"], {"scent": rows}, {"sound": rows})
    assert not (tmp_path / "bad").exists()


def test_the_shops_counterfactuals_change_what_they_say_and_nothing_else(world: Data, tmp_path: Path) -> None:
    catalogue, items = world.oracle.catalogue, np.arange(60)
    for changes in (1, 2, 5):
        values = edited(catalogue, items, np.full(60, changes), 7, items)
        differ = np.stack([values[name] != catalogue.attributes[name] for name in values])
        assert (differ.sum(0) == changes).all() and (differ.any(1)).all()
        assert all((v >= 0).all() and (v < len(catalogue.vocabularies[n])).all() for n, v in values.items())
    part = edited(catalogue, items[20:30], np.full(10, 5), 7, items[20:30])
    assert all(np.array_equal(part[name], values[name][20:30]) for name in part)
    liked = {}
    for edits in ("random", "disliked"):
        write_counterfactuals(world, tmp_path / edits, edits=edits, difficulty=(1,))
        liked[edits] = pl.read_parquet(tmp_path / edits / "negatives.parquet")["liked"].mean()
    assert liked["disliked"] < liked["random"]
    write_counterfactuals(world, tmp_path / "own", personal=True, difficulty=(1,))
    made = generated.read(tmp_path / "own", world)
    assert torch.equal(torch.stack([made.users, made.items], 1), world.train)
    drawn, _ = asked(world, tmp_path / "own", world.batch(torch.arange(len(world.train))))
    assert drawn.mask is None
    with pytest.raises(PartsDoNotFit, match="no shop"):
        write_counterfactuals(replace(world, oracle=None), tmp_path / "none")


def test_items_that_lack_a_modality_lack_it_when_they_are_imagined(tmp_path: Path) -> None:
    data = parts.build("dataset", "shop", users=40, items=40, no_picture=0.4).read()
    write_counterfactuals(data, tmp_path / "made", difficulty=(1,))
    made = generated.read(tmp_path / "made", data)
    assert torch.equal(torch.from_numpy((made.after["image"].rows != 0).any(1)), data.features["image"].present)
    batch = data.batch(torch.arange(50))
    assert asked(data, tmp_path / "made", batch)[0].mask is None  # the words tell what was changed
    drawn, _ = asked(data, tmp_path / "made", batch, modalities=("image",))
    assert drawn.mask is not None
    assert torch.equal(drawn.mask[:, 1], data.features["image"].has(batch.positives))
