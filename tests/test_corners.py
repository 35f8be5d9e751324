"""Corners that were once wrong: rare options, tiny or odd data, and parts that meet seldom."""

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn.functional import normalize

from commands import Command
from foilrec import parts
from foilrec.auditing.advice import advise
from foilrec.auditing.audit import audit_samplers
from foilrec.content.listing import listing
from foilrec.core import Batch, Data, Negatives, Tables
from foilrec.data import Features, Neighbours
from foilrec.errors import BadData, BadOption, PartsDoNotFit
from foilrec.graphs.nearest import neighbours
from foilrec.hardness import Meter
from foilrec.launch import launch
from foilrec.numerics import streams
from foilrec.reading import read
from foilrec.recipe import Recipe
from foilrec.stretch import train


def small(**tables: Any) -> Recipe:
    """A recipe on the small shop that is trained in a moment."""
    tree: dict[str, Any] = {
        "name": "small",
        "threads": 1,
        "data": {"name": "shop", "users": 60, "items": 60},
        "backbone": {"name": "lightgcn", "dim": 8},
        "train": {"batch": 256, "epochs": 2, "patience": 0},
    }
    return Recipe.from_tree(tree | tables)


def batch_of(data: Data, rows: int = 40, **more: Any) -> Batch:
    """The first training rows."""
    return data.batch(torch.arange(rows), **more)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_meter_draws_other_easy_negatives_than_the_training(seed: int, world: Data) -> None:
    met: list[Batch] = []

    class Heard(type(parts.build("sampler", "uniform", world))):  # type: ignore[misc]
        def forward(self, tables: Tables, batch: Batch, query: torch.Tensor) -> Negatives:
            met.append(batch)
            return Negatives(ids=self.data.easy(batch)[:, None])

    model = parts.build("backbone", "bprmf", world, dim=4)
    Meter(world, 200, seed=seed)(model, Heard(world), parts.build("loss", "bpr"), epoch=3)
    theirs = world.easy(replace(met[0], seed=seed))
    assert float((world.easy(met[0]) == theirs).double().mean()) < 0.2


def test_none_is_written_as_a_word_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    given = small(sampler={"name": "dmns", "calibrate": None})
    path.write_text(given.to_toml(), encoding="utf-8")
    assert 'calibrate = "none"' in given.to_toml()
    assert (
        Recipe.load(path).digest
        == given.digest
        == small().with_changes("sampler=dmns", "sampler.calibrate=none").digest
    )
    assert given.digest != small(sampler={"name": "dmns"}).digest
    assert given.build(given.read())[1].most is None
    assert Recipe.from_tree({"sampler": {"name": "adar", "lr": None}}).sampler.options == {}, "None is its default"
    with pytest.raises(BadOption, match="Write none for None"):
        small().with_changes("sampler=dmns", "sampler.calibrate=None")


@pytest.mark.parametrize("name", ["cnsdiff", "dmns", "gdnsm"])
def test_what_was_published_can_be_asked_for_in_a_recipe(name: str) -> None:
    found = small(sampler={"name": name}).with_changes("sampler.faithful=true")
    for _ in range(40):  # each refusal says what one option has to be
        try:
            found.build(found.read())
            return
        except BadOption as error:
            told = re.search(r"faithful = true means (\w+) = (.+), not ", str(error))
            assert told, error
            word = ast.literal_eval(told[2])
            found = found.with_changes(f"sampler.{told[1]}={toml_word(word)}")
    pytest.fail(f"{name}: no end of refusals")


def toml_word(value: Any) -> str:
    """A value on a command line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_word, value))}]"
    return (
        {None: "none", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def test_options_of_an_inner_part_do_not_depend_on_their_order() -> None:
    for changes in (
        ["sampler.inner.pool=8", "sampler.inner.name=dns"],
        ["sampler.inner.name=dns", "sampler.inner.pool=8"],
    ):
        assert small().with_changes("sampler=cached", *changes).sampler.options["inner"] == {"name": "dns", "pool": 8}


def test_the_sum_of_a_softmax_counts_the_columns_that_are_left() -> None:
    positive, negative = torch.zeros(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    log_q, mask = torch.full((1, 4), -2.0), torch.tensor([[True, False, True, False]])
    loss = parts.build("loss", "softmax")
    some = Negatives(ids=torch.zeros(1, 4, dtype=torch.long), log_q=log_q, mask=mask)
    few = Negatives(ids=torch.zeros(1, 2, dtype=torch.long), log_q=log_q[:, :2])
    assert torch.allclose(loss(positive, negative, some), loss(positive, negative[:, [0, 2]], few))


def test_settings_of_the_data_reach_what_is_generated_for(foilrec: Command, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(small().to_toml(), encoding="utf-8")
    said = foilrec("generate", str(path), "-o", "core=5000", "--backend", "rules", "--out", str(tmp_path / "made"))
    assert said.code == 2 and "core" in said.err


def test_a_teacher_is_kept_of_a_backbone_that_keeps_more_than_weights(ideal: Path, tmp_path: Path) -> None:
    recipe = small(backbone={"name": "causalneg", "dim": 8, "path": str(ideal)}, sampler={"name": "ufnrec", "start": 0})
    assert train(recipe, tmp_path / "run").finished


def test_histories_of_one_row_are_refused_in_words() -> None:
    rows = [(user, item) for user in range(6) for item in (user, user + 6, user + 12)]
    frame = pl.DataFrame({"user": [f"u{u}" for u, _ in rows], "item": [f"i{i}" for _, i in rows], "time": range(18)})
    data = read(frame, time="time", split="leave-one-out")
    with pytest.raises(BadData, match="no training row has anything before it"):
        launch(small(backbone={"name": "sasrec", "dim": 8}), data)


def test_a_sampler_that_gave_nothing_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advise({}) == ["The sampler gave no negative for any of the rows that were measured: all were masked."]
    monkeypatch.setattr(Meter, "__call__", lambda self, *_: {})
    with pytest.raises(PartsDoNotFit, match="warp is left out: after the last epoch it gave no negative"):
        audit_samplers(small(), ["warp"])


def test_more_axes_than_items_are_as_many_as_there_are(world: Data) -> None:
    wide = {"image": Features(torch.randn(60, 80).numpy())}
    data = replace(world, features=wide)
    inner = parts.build("backbone", "bprmf", data, dim=8)
    model = parts.build("backbone", "aligned", data, inner=inner, axes=70).train()
    assert torch.isfinite(model.step_tables(batch_of(data)).items).all()


def test_a_small_share_of_a_catalogue_is_one_item_at_least(world: Data) -> None:
    assert parts.build("sampler", "ccdrec", world, candidates=0.005).candidates == 1


def test_a_modality_that_is_not_there_is_named(world: Data) -> None:
    with pytest.raises(PartsDoNotFit, match=r"vbpr projects item features \['img'\].*image, text"):
        parts.build("backbone", "vbpr", world, modalities=("img",))


@pytest.mark.usefixtures("both_forms")
def test_a_full_user_leads_srns_to_no_item_beyond_the_last(world: Data) -> None:
    full = torch.stack([torch.zeros(60, dtype=torch.long), torch.arange(60)], 1)
    others = world.train[world.train[:, 0] != 0]
    data = replace(world, train=torch.cat([full, others]))
    sampler = parts.build("sampler", "srns", data)
    assert int(sampler._pool(torch.arange(60)).max()) < 60


def test_layers_of_a_cosine_backbone_have_its_table_as_their_mean(world: Data) -> None:
    inner = parts.build("backbone", "lightgcn", world, dim=8, keep_layers=True)
    tables = parts.build("backbone", "cosine", world, inner=inner).propagate()
    assert len(tables.layers) == len(inner.propagate().layers) > 1
    assert torch.allclose(torch.stack(tables.layers).mean(0), normalize(inner.propagate().items, dim=1), atol=1e-6)


def test_rows_looked_up_without_gradient_are_not_kept(world: Data) -> None:
    tables = parts.build("backbone", "bprmf", world, dim=4).propagate()
    with torch.no_grad():
        tables.user_rows(torch.arange(3))
    assert not tables._looked_up
    ids = torch.arange(3)
    assert tables.user_rows(ids) is tables.user_rows(ids)


def test_the_item_itself_stands_first_in_a_ready_made_graph(world: Data) -> None:
    ids = torch.stack([torch.arange(60).roll(1), torch.arange(60), torch.arange(60).roll(2)], 1)
    cosines = torch.tensor([1.0, 1.0, 0.5]).expand(60, 3)
    data = replace(world, neighbours={"text": Neighbours(ids, cosines)})
    found = neighbours(data, "text", 2)
    assert torch.equal(found.ids, torch.stack([torch.arange(60), torch.arange(60).roll(1)], 1))


@pytest.mark.usefixtures("both_forms")
def test_a_walk_with_nowhere_to_go_ends_at_an_even_draw(world: Data) -> None:
    near = torch.arange(60).roll(1)
    data = replace(world, features={}, neighbours={"text": Neighbours(torch.stack([torch.arange(60), near], 1))})
    sampler = parts.build("sampler", "kgpolicy", data, dim=4, steps=2)
    model = parts.build("backbone", "bprmf", data, dim=4)
    tables, batch = model.propagate(), batch_of(data, 300)
    drawn = sampler(tables, batch, model.query(tables, batch)).ids[:, 0]
    goal = near[near[batch.positives]]
    closed = data.seen.contains(batch.users, goal[:, None])[:, 0]
    spare = data.seen.unseen(batch.users, batch.rows, 1, streams.key(sampler.seed, "draw", "elsewhere", 0))[:, 0]
    assert bool(closed.any()) and bool((~closed).any())
    assert torch.equal(drawn, torch.where(closed, spare, goal))


def test_an_encoder_reads_the_columns_that_a_reader_reads(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,name,product_title,text\n1,a brand,a lamp,it shines\n", encoding="utf-8")
    assert listing(str(path)).texts == ["a lamp. it shines"]
    path.write_text("id,text\n1,it shines\n", encoding="utf-8")
    assert listing(str(path)).texts == ["it shines"]
