"""Parts that meet: what one says of its tables, rows or graphs is what the other is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foilrec import parts
from foilrec.core import Data
from foilrec.data import Neighbours
from foilrec.errors import PartsDoNotFit, RunBroken
from foilrec.evaluation import Protocol
from foilrec.graphs.nearest import neighbours
from foilrec.graphs.sparse import nearest_pairs
from foilrec.recipe import Recipe
from foilrec.repeat import repeat
from foilrec.trainer import Objective, Settings, Trainer


def made(sampler: dict[str, object], backbone: dict[str, object], loss: str = "bpr", epochs: int = 1) -> Trainer:
    """A trainer of parts on the small shop."""
    data = parts.build("dataset", "shop", users=60, items=60).read()
    chosen = Recipe.from_tree({"backbone": backbone, "sampler": sampler, "loss": {"name": loss}})
    objective = Objective(*chosen.build(data))
    adam = torch.optim.Adam(objective.parameters())
    return Trainer(objective, adam, Settings(epochs=epochs, batch=256), Protocol("valid"))


def with_graph(world: Data, ids: torch.Tensor) -> Data:
    return replace(world, neighbours={"text": Neighbours(ids.int(), None)})


def test_an_item_that_fills_its_row_up_with_itself_keeps_its_neighbours(world: Data) -> None:
    own = torch.arange(60)[:, None]
    ids = torch.cat([own, (own + 1) % 60, (own + 2) % 60, own, own, own], 1)
    ids[5] = torch.tensor([4, 5, 5, 9, 5, 8])
    found = neighbours(with_graph(world, ids), "text", 3).ids
    assert found[0].tolist() == [0, 1, 2] and found[5].tolist() == [5, 4, 9]
    assert neighbours(with_graph(world, own.expand(60, 4)), "text", 3).ids.equal(own.expand(60, 3))


def test_a_walk_drops_an_item_from_its_own_neighbours_and_no_other(world: Data) -> None:
    from foilrec.samplers.kgpolicy import _nearest

    own = torch.arange(60)[:, None]
    ids = (own + torch.arange(1, 5)) % 60  # none names itself
    ids[7] = torch.tensor([3, 7, 9, 11])
    found = _nearest(with_graph(world, ids), "text", 3)
    assert found[0].tolist() == [1, 2, 3] and found[7].tolist() == [3, 9, 11]


def test_a_row_of_zeros_is_near_nothing() -> None:
    ids, cosines = nearest_pairs(torch.tensor([[1.0, 0], [0, 0], [2, 1], [1, 1]]), 3)
    assert ids.tolist() == [[0, 2, 3], [1, 1, 1], [2, 3, 0], [3, 2, 0]] and cosines[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("inner", ["bprmf", "lightgcn", "slmrec", "bm3"])
@pytest.mark.parametrize("training", [True, False])
def test_cosine_says_the_same_users_in_tables_and_in_queries(inner: str, training: bool, world: Data) -> None:
    model = parts.build("backbone", "cosine", world, inner=parts.build("backbone", inner, world), temperature=0.2)
    batch = world.batch(torch.arange(50), seed=1)
    model.begin_epoch(0)
    tables = model.train(training).step_tables(batch) if training else model.eval().propagate()
    query = model.query(tables, batch)
    for told in (tables.users[batch.users], tables.user_rows(batch.users)):
        assert torch.allclose(told, query, atol=1e-5)
    assert torch.allclose(tables.users.norm(dim=1), torch.tensor(5.0))


@pytest.mark.parametrize("inner", ["lightgcn", "vbpr", "slmrec", "bm3", "mcdrec"])
def test_without_its_diffusion_aligned_is_its_inner_backbone_in_every_step(inner: str, world: Data) -> None:
    torch.manual_seed(0)
    options = {"representation": False, "drop": 0.0, "theta": 0.0} if inner == "mcdrec" else {}
    model = parts.build("backbone", inner, world, **options)
    around = parts.build("backbone", "aligned", world, inner=model, mu=0.0, weight=0.0, ego="inputs").train()
    batch = world.batch(torch.arange(50), seed=1)
    assert torch.equal(around.step_tables(batch).items, model.train().step_tables(batch).items)


def test_one_diffusion_in_another_is_refused(world: Data) -> None:
    around = parts.build("backbone", "aligned", world, inner=parts.build("backbone", "mcdrec", world))
    with pytest.raises(PartsDoNotFit, match="representation = false"):
        around.step_tables(world.batch(torch.arange(50), seed=1))


@pytest.mark.parametrize("backbone", ["bprmf", "vbpr", "bm3"])
@pytest.mark.parametrize("beside", ["dens", "cnsdiff", "adar", "kgpolicy"])
def test_in_the_samplers_pass_no_backbone_moves(backbone: str, beside: str) -> None:
    wide = {"dim": 128} if backbone == "vbpr" else {}
    mixed = {"name": "mixed", "parts": [{"name": "dmns", "passes": "alternate", **wide}, {"name": beside, **wide}]}
    trainer = made(mixed, {"name": backbone})
    model, sampler = trainer.objective.model, trainer.objective.train().sampler
    model.begin_epoch(0)
    sampler.begin_epoch(3, model, model.propagate())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for batch in model.data.batches(256, 0, 3):
        trainer._step(batch, "sampler")
    assert all(map(torch.equal, before, model.parameters()))


def test_padding_touches_no_item(world: Data) -> None:
    data = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    model = parts.build("backbone", "sasrec", data, dim=8)
    model.use_row_gradients()
    rows = data.trained(model.history)
    batch = data.batch(rows[:3], seed=1, history=model.history)
    objective = Objective(model, parts.build("sampler", "uniform", data), parts.build("loss", "bce")).train()
    objective(batch).backward()
    touched = next(p.grad for p in model.parameters() if p.grad is not None and p.grad.is_sparse).coalesce()
    named = {int(i) for i in batch.past.items.flatten() if i >= 0} | set(batch.positives.tolist())
    given = set(
        objective.sampler(model.propagate(), batch, model.query(model.propagate(), batch)).ids.flatten().tolist()
    )
    assert set(touched.indices()[0].tolist()) <= named | given


def test_a_series_that_was_trained_on_other_data_is_refused(tmp_path: Path) -> None:
    tree = {"data": {"name": "shop", "users": 60, "items": 60}, "backbone": {"name": "bprmf", "dim": 4}}
    chosen = Recipe.from_tree({"name": "small", **tree, "train": {"epochs": 1, "batch": 256}})
    repeat(chosen, [0, 1], tmp_path)
    assert len(repeat(chosen, [0, 1], tmp_path, data=chosen.read(), resume=True)) == 2
    other = parts.build("dataset", "shop", users=60, items=60, seed=9).read()
    with pytest.raises(RunBroken, match="other data"):
        repeat(chosen, [0, 1], tmp_path, data=other, resume=True)


def test_the_teacher_learns_that_a_chain_has_run() -> None:
    inner = {"name": "aligned", "inner": {"name": "bprmf"}}
    trainer = made({"name": "ufnrec", "start": 0}, inner, "bce", epochs=3)
    assert [epoch.number for epoch in trainer.epochs()] == [0, 1, 2]
    model, sampler = trainer.objective.model, trainer.objective.sampler
    assert bool(model.ready) and bool(sampler._average["ready"])


def test_a_mask_that_only_some_blocks_tell_is_kept(monkeypatch: pytest.MonkeyPatch, world: Data) -> None:
    from foilrec.samplers import cached

    monkeypatch.setattr(cached, "ROWS", 4)
    model = parts.build("backbone", "bprmf", world, dim=4)
    most = int((60 - world.seen.counts).min()) + 1
    inner = parts.build("sampler", "dns", world, pool=0, top=most)
    keeper = parts.build("sampler", "cached", world, inner=inner)
    tables = model.propagate()
    keeper.begin_epoch(0, model, tables)
    batch = world.batch(torch.arange(len(world.train)), seed=1)
    told = inner(tables, batch, model.query(tables, batch))
    assert told.mask is not None and torch.equal(keeper(tables, batch, model.query(tables, batch)).mask, told.mask)
    assert keeper.kept["mask"].dtype == torch.bool


def test_what_is_not_due_is_not_begun(world: Data) -> None:
    model, begun = parts.build("backbone", "bprmf", world, dim=4), []
    for name, wanted in (("rankwindow", [0, 3]), ("srns", [0, 1, 2, 3])):  # srns remembers
        inner = parts.build("sampler", name, world)
        keeper = parts.build("sampler", "cached", world, inner=inner, every=3)
        begun.clear()
        real = inner.begin_epoch
        inner.begin_epoch = lambda epoch, *rest, real=real: (begun.append(epoch), real(epoch, *rest))
        for epoch in range(4):
            keeper.begin_epoch(epoch, model, model.propagate())
        assert begun == wanted


def test_draws_of_several_widths_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, world: Data) -> None:
    from foilrec.samplers import cached

    monkeypatch.setattr(cached, "ROWS", 64)
    model = parts.build("backbone", "bprmf", world, dim=4)
    keeper = parts.build("sampler", "cached", world, inner=parts.build("sampler", "inbatch", world, count=0))
    with pytest.raises(PartsDoNotFit, match="set its count"):
        keeper.begin_epoch(0, model, model.propagate())


def test_the_cost_is_that_of_the_epoch_that_was_measured(world: Data) -> None:
    from foilrec.auditing.audit import cost

    met: list[int] = []

    class Heard(type(parts.build("sampler", "uniform", world))):  # type: ignore[misc]
        def forward(self, tables, batch, query):  # type: ignore[no-untyped-def]
            met.append(batch.epoch)
            return super().forward(tables, batch, query)

    model = parts.build("backbone", "bprmf", world, dim=4)
    cost(Objective(model, Heard(world), parts.build("loss", "bpr")), world, 7)
    assert set(met) == {7}


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "cached", "inner": {"name": "realhns"}},
        {"name": "mixed", "parts": [{"name": "uniform"}, {"name": "gdnsm"}]},
    ],
)
def test_what_has_not_begun_inside_another_is_told(sampler: dict[str, object]) -> None:
    from foilrec.auditing.audit import audit_samplers

    tree = {"data": {"name": "shop", "users": 60, "items": 60}, "train": {"epochs": 1, "batch": 256}}
    chosen = Recipe.from_tree({**tree, "backbone": {"name": "bprmf"}, "sampler": sampler})
    assert any("begins with epoch" in note for note in audit_samplers(chosen, [chosen.sampler.name]).notes)


def test_every_state_of_a_sequence_is_spread() -> None:
    data = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    model = parts.build("backbone", "sasrec", data, dim=8).eval()
    batch = data.batch(data.trained(model.history)[:40], seed=1, history=model.history)
    tables, loss = model.propagate(), parts.build("loss", "directau", gamma=5.0)
    query, spread = model.query(tables, batch), loss._spread
    met: list[int] = []
    loss._spread = lambda rows, ids: (met.append(len(ids.unique())), spread(rows, ids))[1]
    negatives = parts.build("sampler", "uniform", data)(tables, batch, query)
    loss.of_vectors(data, tables, batch, query, tables.item_rows(negatives.ids), negatives)
    assert met[0] == 40


@pytest.mark.parametrize("name", ["genni", "softmax_sir"])
def test_the_largest_word_draws_no_hidden_item(name: str, monkeypatch: pytest.MonkeyPatch, world: Data) -> None:
    from foilrec.numerics import kernels

    monkeypatch.setattr(kernels, "words", lambda rows, key, count: torch.full((len(rows), count), -1))
    model = parts.build("backbone", "bprmf", world, dim=4)
    with torch.no_grad():
        model.items.weight.zero_()
    batch = world.batch(torch.arange(len(world.train)), seed=1)
    taken = world.seen.contains(batch.users, torch.full((len(batch), 1), 59))[:, 0]
    assert taken.any()
    tables = model.propagate()
    options = {"subset": 0} if name == "genni" else {}
    found = parts.build("sampler", name, world, **options)(tables, batch, model.query(tables, batch))
    assert found.log_q.isfinite().all() and not world.seen.contains(batch.users, found.ids).any()


@pytest.mark.parametrize(("name", "options"), [("bce", {}), ("gbce", {"t": 0.0, "items": 60})])
def test_a_row_without_negatives_keeps_its_positive_whole(name: str, options: dict[str, object]) -> None:
    from foilrec.core import Negatives

    mask = torch.tensor([[False, False], [True, False]])
    negatives = Negatives(ids=torch.zeros(2, 2, dtype=torch.long), mask=mask)
    found = parts.build("loss", name, **options)(torch.zeros(2), torch.zeros(2, 2), negatives)
    assert float(found) == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_items_of_a_batch_are_counted_among_the_rows_that_have_a_past() -> None:
    data = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    model, sampler = parts.build("backbone", "gru4rec", data), parts.build("sampler", "inbatch", data)
    sampler.begin_epoch(0, model, model.propagate())
    begun: set[int] = set()
    told: list[tuple[int, int]] = []
    for user, item in data.train.tolist():  # in order of time within a user
        if user in begun:
            told.append((user, item))
        begun.add(user)
    counts = [sum(item == j for _, item in told) for j in range(60)]
    assert sampler.log_count.exp().tolist() == pytest.approx([max(1, count) for count in counts])
    taken = {user: {item for who, item in data.train.tolist() if who == user} for user in range(60)}
    rest = [len(told) - sum(counts[item] for item in taken[user]) for user in range(60)]
    assert sampler.log_rest.exp().tolist() == pytest.approx(rest)
    assert sampler.log_q_is == "approximate" and parts.build("sampler", "inbatch", data).log_q_is == "exact"
    inner = [parts.build("sampler", name, data) for name in ("uniform", "inbatch")]
    mixed = parts.build("sampler", "mixed", data, parts=inner)
    assert mixed.log_q_is == "exact"
    mixed.begin_epoch(0, model, model.propagate())
    assert mixed.log_q_is == "approximate"
