"""NegGen's causal model beside a slow form: attention, effects, served scores, both losses, ablations and releases."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Negatives
from foilrec.errors import BadOption, PartsDoNotFit, RunBroken
from foilrec.evaluation import Protocol, evaluate
from foilrec.negatives import generated
from foilrec.numerics import streams
from foilrec.numerics.chances import chances
from foilrec.trainer import Objective, Settings, Trainer
from foilrec.world.counterfactuals import write_counterfactuals
from reference.shop_runs import patchy_world

Array = np.ndarray[Any, Any]


def made(data: Data, folder: Path, **options: Any) -> Backbone:
    torch.manual_seed(0)
    options = {"dim": 16, "heads": 4, **options}
    model: Backbone = parts.build("backbone", "causalneg", data, path=str(folder), **options)
    with torch.no_grad():  # larger than they start, so that attention is far from even
        for weight in (*model.tokens.parameters(), *model.attention.parameters(), *model.effect.parameters()):
            weight.mul_(2)
    model.end_epoch(0)
    return model


def few(folder: Path, to: Path, every: int = 3) -> Path:
    """A copy in which every third item has no negative."""
    table = pl.read_parquet(folder / "negatives.parquet")
    rows = [n for n, item in enumerate(table["item"]) if int(item[5:]) % every]
    features = [{m: np.load(folder / f"{m}_{end}.npy")[rows] for m in ("image", "text")} for end in ("neg", "pos")]
    generated.write(to, table[rows]["item"].to_list(), *features, difficulty=table[rows]["difficulty"].to_list())
    return to


def numbers(model: Backbone) -> dict[str, Array]:
    return {
        name: value.detach().double().numpy() for name, value in model.state_dict().items() if torch.is_tensor(value)
    }


def slow_content(model: Backbone, features: Mapping[str, Array], *, single: bool = False) -> Array | None:
    """h of one item, by loops over heads and tokens in float64; None without any modality."""
    w = numbers(model)
    dim, heads = len(w["middle"]), model.attention.heads
    tokens = [
        w[f"tokens.{m}.weight"] @ features[name] + w[f"tokens.{m}.bias"]
        for m, name in enumerate(model.modalities)
        if np.any(features[name])
    ]
    if not tokens:
        return None
    parts_of = [np.split(w["attention.inner.weight"] @ token, 3) for token in tokens]
    outcomes = []
    for query, _, value in parts_of:
        heard = np.zeros(dim)
        for head in range(heads):
            at = slice(head * dim // heads, (head + 1) * dim // heads)
            logits = [query[at] @ key[at] / math.sqrt(dim / heads) for _, key, _ in parts_of]
            shares = [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]
            heard[at] = sum(share * other[2][at] for share, other in zip(shares, parts_of, strict=True))
        outcomes.append(value if single else heard)
    return np.mean([w["attention.outer.weight"] @ heard + w["attention.outer.bias"] for heard in outcomes], axis=0)


def slow_effect(model: Backbone, x: Array) -> Array:
    w = numbers(model)
    hidden = np.maximum(w["effect.0.weight"] @ x + w["effect.0.bias"], 0)
    return w["effect.2.weight"] @ hidden + w["effect.2.bias"]  # type: ignore[no-any-return]


def of_item(data: Data, item: int) -> dict[str, Array]:
    at = torch.tensor([item])
    return {m: data.features[m].of(at)[0].double().numpy() for m in data.features}


def of_row(folder: Path, row: int) -> dict[str, Array]:
    return {m: np.load(folder / f"{m}_neg.npy")[row].astype(float) for m in ("image", "text")}


def rows_of(data: Data, folder: Path, item: int) -> list[int]:
    raw = data.raw_items([item])[0]
    return [n for n, other in enumerate(pl.read_parquet(folder / "negatives.parquet")["item"]) if other == raw]


@pytest.mark.parametrize("attention", ["modalities", "single"])
@pytest.mark.parametrize("patchy", [False, True])
def test_served_is_the_item_and_the_effect_beside_the_mean_of_its_negatives(
    world: Data, ideal: Path, tmp_path: Path, attention: str, patchy: bool
) -> None:
    data, folder = patchy_world(world) if patchy else world, few(ideal, tmp_path / "few")
    model = made(data, folder, lam=0.4, attention=attention).eval()
    single, tables = attention == "single", model.propagate()
    plain = model.graph.smooth(model.users.weight, model.ids.weight, 2)[1].detach().double().numpy()
    contents = [slow_content(model, of_item(data, i), single=single) for i in range(data.n_items)]
    middle = np.mean([h for h in contents if h is not None], axis=0)
    assert np.allclose(model.middle, middle, atol=1e-5)
    for item in range(0, data.n_items, 5):
        rows = rows_of(data, folder, item)
        assert bool(rows) == bool(item % 3)
        told = [slow_content(model, of_row(folder, row), single=single) for row in rows]
        other = np.mean(told, axis=0) if rows else middle
        own = contents[item]
        effect = 0 if own is None else slow_effect(model, own - other)
        assert np.allclose(tables.items[item].detach(), plain[item] + 0.4 * effect, atol=1e-5)
    assert not patchy or contents[5] is None
    ids = torch.tensor([[3, 4, 3], [5, 0, 9]])
    assert torch.allclose(tables.item_rows(ids), tables.items[ids], atol=1e-6)


def test_in_training_each_item_is_set_beside_one_of_its_negatives_another_every_epoch(world: Data, ideal: Path) -> None:
    model = made(world, ideal).train()
    model.seed, ids = 5, torch.arange(30)
    plain = model.graph.smooth(model.users.weight, model.ids.weight, 2)[1]
    found = []
    for epoch in (3, 4):
        model.begin_epoch(epoch)
        effects = ((model.propagate().item_rows(ids) - plain[ids]) / 0.4).detach()
        luck = chances(ids, streams.key(5, "effect", epoch), 1)[:, 0].tolist()
        for item in range(30):
            row = rows_of(world, ideal, item)[int(luck[item] * 3)]
            h, other = slow_content(model, of_item(world, item)), slow_content(model, of_row(ideal, row))
            assert h is not None and other is not None
            assert np.allclose(effects[item], slow_effect(model, h - other), atol=1e-4)
        found.append(effects)
    assert not torch.allclose(*found)


def losses(model: Backbone, batch: Batch) -> Tensor:
    nothing = Negatives(ids=batch.positives.new_empty(len(batch), 0))
    return model.own_loss(model.propagate(), batch, nothing)


def loss_of(model: Backbone, batch: Batch) -> float:
    return float(losses(model, batch).detach())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"identity": True, "beta": 0.5, "alpha": 0.3},
        {"align": "unbounded", "alpha": 0.3},
        {"attention": "single", "lam": 1.0},
        {"beta": 0.0, "alpha": 1.0, "tau": 0.5},
    ],
)
def test_the_losses_are_the_papers(world: Data, ideal: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = few(ideal, tmp_path / "few")
    model, batch = made(world, folder, **options), world.batch(torch.arange(24), 2)
    model.seed = 9
    chosen = {"lam": 0.4, "alpha": 0.01, "tau": 0.2, "beta": 1.0, **options}
    users, items = (x.detach().double().numpy() for x in model.graph.smooth(model.users.weight, model.ids.weight, 2))
    luck = chances(batch.rows, streams.key(9, "generated", 2), 1)[:, 0].tolist()
    single, total = options.get("attention") == "single", 0.0
    for b, (user, item) in enumerate(zip(batch.users.tolist(), batch.positives.tolist(), strict=True)):
        rows = rows_of(world, folder, item)
        easy = int(world.easy(batch)[b])
        told = of_row(folder, rows[int(luck[b] * len(rows))]) if rows else of_item(world, easy)
        h, other = (slow_content(model, x, single=single) for x in (of_item(world, item), told))
        assert h is not None and other is not None
        c, n, u, i = slow_effect(model, h - other), slow_effect(model, other), users[user], items[item]
        lead = u @ i + chosen["lam"] * (u @ c) - u @ n - (u @ i if options.get("identity") else 0)
        recommend = -math.log(1 / (1 + math.exp(-lead)))
        close, away = math.exp(c @ i / chosen["tau"]), math.exp(n @ i / chosen["tau"])
        align = -math.log(close / (close + away))
        if options.get("align") == "unbounded":
            align = (n @ i - c @ i) / chosen["tau"]
        total += chosen["beta"] * recommend + chosen["alpha"] * align
    assert loss_of(model, batch) == pytest.approx(total / 24, rel=1e-4)


def test_the_bounded_alignment_cannot_fall_forever_and_its_gradient_is_the_softmaxs(world: Data, ideal: Path) -> None:
    found: dict[str, list[float]] = {}
    for align in ("softmax", "unbounded"):
        model, batch = made(world, ideal, beta=0.0, alpha=1.0, layers=0, align=align), world.batch(torch.arange(1))
        effect, negative, _ = model._pair(batch)
        for size in (1.0, -1e4, 1e4):
            with torch.no_grad():
                model.ids.weight.mul_(size)
            loss, own = losses(model, batch), model.ids.weight[batch.positives[0]]
            (slope,) = torch.autograd.grad(loss, model.ids.weight)
            gap = (negative - effect)[0].detach() / 0.2
            share = torch.sigmoid(gap @ own) if align == "softmax" else 1.0
            assert torch.allclose(slope[batch.positives[0]], (share * gap).detach(), rtol=1e-3, atol=1e-5)
            found.setdefault(align, []).append(float(loss.detach()))
    assert min(found["softmax"]) >= 0 and max(map(abs, found["softmax"])) < math.inf
    assert min(found["unbounded"]) < -100


def test_half_batches_make_the_loss_of_the_whole(world: Data, ideal: Path) -> None:
    model = made(world, ideal)
    whole = losses(model, world.batch(torch.arange(40), 1))
    halves = [losses(model, world.batch(torch.arange(at, at + 20), 1)) for at in (0, 20)]
    assert torch.allclose(torch.stack(halves).mean(), whole, atol=1e-6)
    model.seed = 1
    assert not torch.allclose(losses(model, world.batch(torch.arange(40), 1)), whole)


def test_a_row_draws_what_was_made_for_its_user(world: Data, tmp_path: Path) -> None:
    write_counterfactuals(world, tmp_path / "own", personal=True, difficulty=(1,))
    model, batch = made(world, tmp_path / "own", alpha=0.0, identity=True), world.batch(torch.arange(10))
    rows = {tuple(pair): n for n, pair in enumerate(torch.stack([model.made.users, model.made.items], 1).tolist())}
    users, total = model.graph.smooth(model.users.weight, model.ids.weight, 2)[0].detach().double().numpy(), 0.0
    for user, item in zip(batch.users.tolist(), batch.positives.tolist(), strict=True):
        h = slow_content(model, of_item(world, item))
        other = slow_content(model, of_row(tmp_path / "own", rows[user, item]))
        assert h is not None and other is not None
        lead = users[user] @ (0.4 * slow_effect(model, h - other) - slow_effect(model, other))
        total += math.log1p(math.exp(-lead))
    assert loss_of(model, batch) == pytest.approx(total / 10, rel=1e-4)


def test_a_described_item_is_its_negative_vector(world: Data, ideal: Path) -> None:
    model = made(world, ideal)
    features = {m: torch.from_numpy(np.load(ideal / f"{m}_neg.npy")[:6]).view(2, 3, -1) for m in ("image", "text")}
    encoded = model.encode(features, torch.zeros(2, 3, dtype=torch.long))
    for row in range(6):
        h = slow_content(model, of_row(ideal, row))
        assert h is not None
        assert np.allclose(encoded[row // 3, row % 3].detach(), slow_effect(model, h), atol=1e-5)


def test_each_ablation_changes_what_it_says(world: Data, ideal: Path) -> None:
    whole, batch = made(world, ideal), world.batch(torch.arange(30))
    bare = made(world, ideal, lam=0.0, alpha=0.0)
    smooth = bare.graph.smooth(bare.users.weight, bare.ids.weight, 2)[1]
    assert torch.allclose(bare.propagate().items, smooth) and not torch.allclose(whole.propagate().items, smooth)
    assert loss_of(made(world, ideal, alpha=0.0), batch) != loss_of(whole, batch)
    words = made(world, ideal, modalities=("text",))
    assert len(words.tokens) == 1 and words.modalities == ("text",)
    shuffled = made(world, ideal, edits="shuffled")
    assert set(shuffled.shelf.rows.tolist()) == set(whole.shelf.rows.tolist())
    items, owner = shuffled.shelf.of(torch.arange(world.n_items))
    assert not bool((shuffled.made.items[items] == owner).any())
    hard = made(world, ideal, difficulty=(1,))
    rows, _ = hard.shelf.of(torch.arange(world.n_items))
    assert len(rows) == 60 and hard.made.difficulty[rows].unique().tolist() == [1]


def test_on_principal_axes_of_the_items_it_is_the_same_model_of_narrower_features(world: Data, ideal: Path) -> None:
    wide, narrow = (made(world, ideal, axes=axes).eval() for axes in (64, 12))
    assert torch.equal(wide.propagate().items, made(world, ideal).eval().propagate().items)
    for name in ("image", "text"):
        rows = world.features[name].rows.astype(float)
        _, spread, axes = np.linalg.svd(rows - rows.mean(0))
        told, directions = np.load(ideal / f"{name}_neg.npy").astype(float), narrow.frames[name].directions.numpy()
        assert np.allclose(directions.T @ directions, np.eye(12), atol=1e-5)
        assert np.allclose(np.abs((axes[:3] @ directions[:, :3]).diagonal()), 1, atol=0.02)
        for kept, features in ((rows, narrow.originals[name]), (told, narrow.changed[name])):
            assert np.allclose(features.rows, (kept - rows.mean(0)) @ directions, atol=1e-4)
        assert (narrow.originals[name].rows ** 2).sum() > 0.98 * (spread[:12] ** 2).sum()
    features = {m: torch.from_numpy(np.load(ideal / f"{m}_neg.npy")[:6]) for m in ("image", "text")}
    vectors = narrow.effect(narrow.content([narrow.changed[m].of(torch.arange(6)) for m in narrow.modalities])[0])
    assert torch.allclose(narrow.encode(features), vectors, atol=1e-5)


def test_the_promise_of_what_was_released(world: Data, ideal: Path) -> None:
    released = {"ranking_weight": 0.0, "attention": "single", "align": "unbounded"}
    model = made(world, ideal, faithful=True, heads=8, **released)
    assert model.ranking_weight == 0
    for name, value in (("attention", "modalities"), ("align", "softmax"), ("ranking_weight", 1.0), ("beta", 0.5)):
        with pytest.raises(BadOption, match=name):
            made(world, ideal, faithful=True, heads=8, **{**released, name: value})


def test_features_of_another_space_are_those_of_the_folder(world: Data, ideal: Path, tmp_path: Path) -> None:
    folder = few(ideal, tmp_path / "words")
    turn = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
    for m in ("image", "text"):
        for end in ("neg", "pos"):
            np.save(folder / f"{m}_{end}.npy", np.load(folder / f"{m}_{end}.npy") @ turn)
    model = made(world, folder).eval()
    assert [linear.in_features for linear in model.tokens] == [20, 20]
    own = torch.from_numpy(world.features["text"].rows @ turn)
    assert torch.allclose(model.originals["text"].of(torch.tensor([1])), own[1], atol=1e-4)
    items = model.propagate().items - model.graph.smooth(model.users.weight, model.ids.weight, 2)[1]
    without = torch.arange(60) % 3 == 0  # nothing is known of what they look like
    assert bool((items[without] == 0).all()) and not bool((items[~without] == 0).all(1).any())
    assert math.isfinite(loss_of(model, world.batch(torch.arange(40))))


def trained(data: Data, folder: Path, epochs: int, stop: int, state: Any = None) -> Trainer:
    torch.manual_seed(1)
    model = parts.build("backbone", "causalneg", data, path=str(folder), dim=8, heads=2)
    objective = Objective(model, parts.build("sampler", "uniform", data), parts.build("loss", "bpr"))
    adam = parts.build("optimizer", "adam", objective.parameters(), lr=0.01)
    trainer = Trainer(objective, adam, Settings(batch=256, epochs=epochs, meter=0), Protocol("valid"))
    if state is not None:
        trainer.load_state(state)
    for epoch in trainer.epochs():
        if epoch.number + 1 == stop:
            break
    return trainer


def test_a_training_goes_on_bit_for_bit_and_is_served_beside_its_folder_alone(
    world: Data, ideal: Path, tmp_path: Path
) -> None:
    folder = few(ideal, tmp_path / "few")
    whole = trained(world, folder, 4, 4)
    half = trained(world, folder, 4, 2).state()
    again = trained(world, folder, 4, 4, half)
    for name, value in whole.state()["objective"].items():
        other = again.state()["objective"][name]
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other
    served = parts.build("backbone", "causalneg", world, path=str(folder), dim=8, heads=2)
    served.load_state_dict(whole.best())
    whole.objective.model.load_state_dict(whole.best())
    ours, theirs = (evaluate(model.eval(), Protocol("test")).means for model in (served, whole.objective.model))
    assert ours == theirs
    elsewhere = parts.build("backbone", "causalneg", world, path=str(ideal), dim=8, heads=2)
    with pytest.raises(RunBroken, match="other negatives"):
        elsewhere.load_state_dict(whole.best())


def test_it_keeps_the_contract_in_every_form() -> None:
    part = parts.find("backbone", "causalneg")
    contracts.check_backbone(part, identity=True, l2_reg=1e-3)
    contracts.check_backbone(part, ranking_weight=0.0)


def test_wrong_options_and_folders_are_explained(world: Data, ideal: Path, tmp_path: Path) -> None:
    for wrong in ({"tau": 0.0}, {"lam": -1.0}, {"alpha": -1.0}, {"heads": 3}, {"heads": 0}, {"difficulty": (7,)}):
        with pytest.raises(BadOption, match="causalneg"):
            made(world, ideal, **wrong)
    with pytest.raises(PartsDoNotFit, match="not in sound"):
        made(world, ideal, modalities=("sound",))
    shutil.copytree(ideal, tmp_path / "made")
    (tmp_path / "made" / "text_neg.npy").unlink()
    with pytest.raises(Exception, match=r"text_neg\.npy is missing"):
        made(world, tmp_path / "made")
