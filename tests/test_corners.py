"""Corners that were once wrong: rare options, tiny or odd data, and parts that meet seldom."""

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn.functional import normalize

import foilrec as foilrec_package
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
from foilrec.mining.mine import Rules, mine
from foilrec.mining.quarry import Quarry
from foilrec.numerics import streams
from foilrec.reading import read
from foilrec.recipe import Recipe
from foilrec.run import Run
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


def test_users_of_whom_nothing_was_seen_are_named_and_left_out(foilrec: Command, tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{(3 * u + k) % 40}", 10 * k + u % 3) for u in range(30) for k in range(8)]
    rows += [("late", f"i{k}", 1000 + k) for k in range(3)]
    path = tmp_path / "clicks.csv"
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows), encoding="utf-8")
    data = read(path, time="time", split="random")
    cold = replace(data, train=data.train[data.train[:, 0] != data.user_number("late")])
    recipe = small(data={"name": "table", "path": str(path), "user": "user", "item": "item"})
    run = train(recipe, tmp_path / "run", data=cold)
    assert "late" not in run.recommend(top=2)["user"].to_list()
    assert run.recommend("u1", top=2)["user"].to_list() == ["u1", "u1"]
    assert repr(run) == f"Run({str(tmp_path / 'run')!r})"
    with pytest.raises(BadOption, match="no user late, or no training row of them"):
        run.recommend(["late"])


def test_serving_needs_the_backbone_alone(ideal: Path, tmp_path: Path) -> None:
    away = tmp_path / "made"
    shutil.copytree(ideal, away)
    recipe = small(backbone={"name": "vbpr", "dim": 4}, sampler={"name": "neggen", "path": str(away)})
    run = train(recipe, tmp_path / "run")
    shutil.rmtree(away)
    assert Run(run.folder).recommend(top=1).height == 60


def test_to_be_told_to_end_saves_what_was_trained(tmp_path: Path) -> None:
    words = ["train", "shop.toml", "train.epochs=100000", "train.patience=0", "--out", "run"]
    (tmp_path / "shop.toml").write_text(small().to_toml(), encoding="utf-8")
    command = [sys.executable, "-c", "from foilrec.cli import main; main()", *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        met = ""
        while "epoch" not in met:  # the first line of an epoch
            met = process.stderr.readline() or process.stdout.readline()
        process.terminate()
        said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_a_part_may_lie_in_the_folder_of_the_command(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '"""Mine."""\nfrom foilrec.core import Negatives, Sampler\n\n\nclass {0}(Sampler):\n    """Mine."""\n\n'
    text += "    def forward(self, tables, batch, query):\n        {1}\n"
    (tmp_path / "mine_here.py").write_text(
        text.format("Few", "return Negatives(ids=self.unseen(batch, 1)[1:])")
        + text.format("Nothing", "return None").partition("\n\n\n")[2]
        + text.format("Before", "return Negatives(ids=self.unseen(batch, 2) * 0 - 1)").partition("\n\n\n")[2]
        + text.format("Beyond", "return Negatives(ids=self.unseen(batch, 2) * 0 + 10**9)").partition("\n\n\n")[2]
        + text.format("Crash", 'raise ValueError("no idea")').partition("\n\n\n")[2],
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    for name, told in (
        ("Few", "Few gave 39 rows of Negatives for a batch of 40"),
        ("Nothing", "Nothing gave NoneType for a batch of 40"),
        ("Before", "Before gave item -1 as a negative, and the data has 0 .. "),
        ("Beyond", "Beyond gave item 1000000000 as a negative, and the data has 0 .. "),
        ("Crash", "ValueError: no idea"),
    ):
        said = foilrec("check", f"mine_here:{name}")
        assert said.code == 1 and f"BROKEN sampler/mine_here:{name}: " in said.out and told in said.out
    said = foilrec("check", "nowhere_at_all:Part")
    assert said.code == 2 and "PYTHONPATH" in said.err


def test_an_audit_says_when_a_sampler_has_not_begun(foilrec: Command, tmp_path: Path) -> None:
    path = tmp_path / "late.toml"
    path.write_text(small(sampler={"name": "realhns"}).to_toml(), encoding="utf-8")
    said = foilrec("audit", str(path), "--epochs", "2", "--rows", "100")
    assert "realhns begins with epoch 6, counted from 0, and 2 epochs were trained" in said.out
    said = foilrec("audit", str(path), "sampler=uniform", "--epochs", "2", "--rows", "100")
    assert "begins with epoch" not in said.out


def test_one_word_stands_for_an_inner_part_or_a_list_of_one() -> None:
    changed = small().with_changes(
        "backbone=cosine", "backbone.inner=lightgcn", "evaluate.ks=20", "evaluate.metrics=[recall, ndcg]"
    )
    model = changed.build(changed.read())[0]
    assert type(model.inner).__name__ == "LightGCN"
    assert changed.evaluate.ks == (20,) and changed.evaluate.metrics == ("recall", "ndcg")
    mixed = small().with_changes("sampler=mixed", "sampler.parts=[uniform, dns]")
    assert [type(part).__name__ for part in mixed.build(mixed.read())[1].parts] == ["Uniform", "DNS"]


def test_a_folder_by_the_name_of_a_reader_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    with pytest.raises(BadData, match=r"write \./shop"):
        read("shop")


def test_the_same_clicks_under_another_name_can_be_compared(foilrec: Command, tmp_path: Path) -> None:
    for name in ("first", "second"):
        world = parts.build("dataset", "shop", users=60, items=60).read()
        train(small(seed=0 if name == "first" else 1), tmp_path / name, data=replace(world, name=name))
    assert foilrec("compare", str(tmp_path / "first"), str(tmp_path / "second")).code == 0


def test_ranks_beyond_the_catalogue_are_refused() -> None:
    rows = torch.randn(9, 4)
    with pytest.raises(BadOption, match="ranks begin at 10, and there are 9 items"):
        mine(rows, rows, torch.tensor([[0, 1]]), Rules(ranks=(10, 20)))


def test_a_margin_beside_queries_that_know_the_answer_is_refused() -> None:
    rows = torch.randn(9, 4)
    quarry = Quarry(rows, rows, torch.tensor([[0, 1]]), after=True)
    with pytest.raises(BadOption, match="how late it came"):
        quarry.mine(Rules(ranks=(1, 3), margin=0.1))
    quarry.mine(Rules(ranks=(1, 3)))


def test_a_name_without_its_family_is_told_which_it_is(foilrec: Command) -> None:
    said = foilrec("show", "dns")
    assert said.code == 2 and "dns is a sampler: `foilrec show sampler dns`" in said.err
    said = foilrec("check", "sampler/nope")
    assert said.code == 2 and "There are: adar" in said.err


def test_a_table_of_items_tells_more_or_less_than_there_is(tmp_path: Path) -> None:
    clicks, items = tmp_path / "clicks.csv", tmp_path / "items.csv"
    clicks.write_text("user,item\n" + "".join(f"u{u},i{(u + k) % 20}\n" for u in range(20) for k in range(6)))
    items.write_text("id,title\n" + "".join(f"i{i},thing {i}\n" for i in range(3, 25)))
    data = parts.build("dataset", "table", path=str(clicks), user="user", item="item", items=str(items)).read()
    assert "5 items of items.csv have no interactions and are left out" in data.notes
    assert "items.csv does not tell of 3 of the 20 items" in data.notes


def test_the_version_is_where_it_is_looked_for() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", foilrec_package.__version__)
