"""BM3 against its equations, written row by row in float64."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Negatives, Tables
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.evaluation import Protocol
from foilrec.numerics import streams
from foilrec.trainer import Objective, Settings, Trainer
from reference.shop_runs import learned_beyond_popularity, patchy_world

ROWS = torch.arange(0, 120, 3)


@pytest.fixture(scope="module")
def patchy(world: Data) -> Data:
    """The small shop, some of whose items lack the image, some the text, and one both."""
    return patchy_world(world)


def make(data: Data, seed: int = 0, **options: Any) -> Any:
    """A small BM3 whose weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = parts.build("backbone", "bm3", data, **{"dim": 6, **options})
    model.seed = 4
    return model


def batch_of(data: Data, rows: Tensor = ROWS, epoch: int = 2) -> Batch:
    """Some training rows."""
    users, positives = data.train[rows].unbind(1)
    return Batch(users.contiguous(), positives.contiguous(), rows, epoch)


def nothing(batch: Batch) -> Negatives:
    """No negatives."""
    return Negatives(ids=torch.empty(len(batch), 0, dtype=torch.long))


def smoothed(data: Data, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """LightGCN by a dense matrix, items with their free rows on top."""
    a = torch.zeros(120, 120, dtype=torch.float64)
    a[data.train[:, 0], 60 + data.train[:, 1]] = 1
    a += a.T.clone()
    root = a.sum(1).clamp(min=1).rsqrt()
    matrix, y = root[:, None] * a * root, torch.cat([users, items])
    total, now = y, y
    for _ in range(layers):
        now = matrix @ now
        total = total + now
    return total[:60] / (layers + 1), total[60:] / (layers + 1) + items


def masks(model: Any, batch: Batch, count: int) -> Iterator[Tensor]:
    """What of each target is kept, in the order in which the targets are made: users, items, each modality."""
    draw = streams.generator(model.seed, "dropout", batch.epoch, int(batch.rows[0]))
    for _ in range(count):
        yield (torch.rand(len(batch), 6, generator=draw) >= model.dropout).double()


def far(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of two vectors."""
    return 1 - (x @ y) / (x.norm() * y.norm()).clamp(min=1e-8)


def slow(model: Any, data: Data, batch: Batch, layers: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss by its formula, a row at a time, and the leaves it follows from."""
    leaf = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    users, items = smoothed(data, leaf["users.weight"], leaf["ids.weight"], layers)
    kept = list(masks(model, batch, 2 + len(data.features)))

    def f(x: Tensor) -> Tensor:
        return leaf["predictor.weight"] @ x + leaf["predictor.bias"]

    total = torch.zeros((), dtype=torch.float64)
    owners = {m: int(data.features[m].has(batch.positives).sum()) for m in data.features}
    for b, (u, i) in enumerate(zip(batch.users.tolist(), batch.positives.tolist(), strict=True)):
        user, item = (users[u].detach() * kept[0][b], items[i].detach() * kept[1][b])
        total = total + (far(f(users[u]), item) + far(f(items[i]), user)) / len(batch)
        for m, name in enumerate(data.features):
            if not data.features[name].has(torch.tensor(i)):
                continue
            content = leaf.get(f"content.{name}.weight", data.features[name].all().double())[i]
            z = leaf[f"heads.{name}.weight"] @ content + leaf[f"heads.{name}.bias"]
            terms = far(f(z), item) + far(f(z), z.detach() * kept[2 + m][b])
            total = total + model.content_weight * terms / owners[name]
    total = total + model.emb_reg * (users.norm() + items.norm()) / 60
    rows = users[batch.users].square().sum() + items[batch.positives].square().sum()
    return total + model.l2_reg * rows / 2 / len(batch), leaf


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 2, "dropout": 0.3, "emb_reg": 0.0, "l2_reg": 0.2, "content_weight": 0.7},
        {"train_features": True, "dropout": 0.0},
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_the_loss_and_its_gradients_are_the_formula(
    options: dict[str, Any], whole: bool, world: Data, patchy: Data
) -> None:
    data = world if whole else patchy
    model, batch = make(data, **options), batch_of(data)
    loss = model.train().own_loss(model.step_tables(batch), batch, nothing(batch))
    expected, leaf = slow(model, data, batch, options.get("layers", 1))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        assert float(leaf[name].grad.abs().max()) > 0
        assert torch.allclose(parameter.grad.double(), leaf[name].grad, atol=1e-6, rtol=1e-3), name


def test_scores_are_of_predicted_vectors(world: Data) -> None:
    model = make(world, layers=2)
    users, items = smoothed(world, model.users.weight.detach().double(), model.ids.weight.detach().double(), 2)
    weight, bias = (p.detach().double() for p in (model.predictor.weight, model.predictor.bias))
    for training in (True, False):
        tables = model.train(training).propagate()
        assert torch.allclose(tables.items.double(), items @ weight.T + bias, atol=1e-6)
        assert torch.allclose(tables.users.double(), users @ weight.T + bias, atol=1e-6)
        ids = torch.tensor([[1, 5], [5, 5]])
        assert torch.allclose(tables.item_rows(ids), tables.items[ids], atol=1e-6)
        assert torch.allclose(tables.user_rows(ids), tables.users[ids], atol=1e-6)
    inputs = torch.randn(60, 6)
    users, items = smoothed(world, model.users.weight.detach().double(), inputs.double(), 2)
    assert torch.allclose(model.propagate(inputs).items.double(), items @ weight.T + bias, atol=1e-5)
    assert model.inputs() is model.ids.weight


def test_dropped_entries_follow_from_seed_epoch_and_row(world: Data) -> None:
    def loss(seed: int = 4, epoch: int = 2, rows: Tensor = ROWS, noise: int = 0) -> float:
        model, batch = make(world), batch_of(world, rows, epoch)
        model.seed = seed
        torch.manual_seed(noise)
        return float(model.own_loss(model.propagate(), batch, nothing(batch)).detach())

    assert loss() == loss(noise=1)
    assert loss() != loss(seed=5)
    assert loss() != loss(epoch=3)


def test_targets_have_no_gradient_and_their_share_is_kept(world: Data) -> None:
    model = make(world, dropout=0.3)
    x = torch.ones(4000, 6, requires_grad=True)
    target = model._target(x, torch.Generator().manual_seed(0))
    assert not target.requires_grad
    assert set(target.unique().tolist()) == {0.0, 1.0}
    assert float(target.mean()) == pytest.approx(0.7, abs=0.01)


class Deaf(torch.nn.Module):
    """A sampler that nobody may ask."""

    def forward(self, *given: Any) -> Negatives:
        """Never called."""
        raise AssertionError("asked for negatives")


def test_without_a_ranking_weight_no_negatives_are_drawn(world: Data) -> None:
    batch, loss = batch_of(world), parts.build("loss", "bpr")
    model = make(world)
    alone = Objective(model, Deaf(), loss)(batch)  # type: ignore[arg-type]
    assert torch.allclose(alone, model.own_loss(model.propagate(), batch, nothing(batch)))
    with pytest.raises(AssertionError, match="asked"):
        Objective(make(world, ranking_weight=0.5), Deaf(), loss)(batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_ranking_weight_scales_the_ranking_loss(weight: float, world: Data) -> None:
    batch, loss, sampler = batch_of(world), parts.build("loss", "bpr"), parts.build("sampler", "uniform", world)
    model = make(world, ranking_weight=weight)
    negatives = sampler(Tables(items=torch.zeros(60, 1)), batch, torch.zeros(len(batch), 1))
    tables = model.propagate()
    gap = (tables.users[batch.users] * (tables.items[negatives.ids[:, 0]] - tables.items[batch.positives])).sum(1)
    expected = weight * torch.nn.functional.softplus(gap).mean() + model.own_loss(tables, batch, negatives)
    assert torch.allclose(Objective(model, sampler, loss)(batch), expected, rtol=1e-5)
    wrapped = parts.build("backbone", "aligned", world, inner={"name": "bm3", "dim": 6, "ranking_weight": weight})
    assert wrapped.ranking_weight == weight


def test_trained_features_may_get_gradients_by_rows(world: Data) -> None:
    found = []
    for rows in (False, True):
        model, batch = make(world, train_features=True), batch_of(world)
        assert not rows or model.use_row_gradients()
        model.own_loss(model.propagate(), batch, nothing(batch)).backward()
        gradient = model.content["text"].weight.grad
        assert gradient.is_sparse == rows
        found.append(gradient.to_dense() if rows else gradient)
    assert torch.allclose(*found, atol=1e-7)
    assert not make(world).use_row_gradients()


def test_an_item_that_lacks_a_modality_has_no_term_in_it(patchy: Data) -> None:
    model = make(patchy, emb_reg=0.0)
    rows = (patchy.train[:, 1] == 5).nonzero()[:, 0]  # it has neither image nor text
    if not len(rows):
        rows = (patchy.train[:, 1] == 3).nonzero()[:, 0]
    batch = batch_of(patchy, rows)
    model.own_loss(model.propagate(), batch, nothing(batch)).backward()
    assert not model.heads["image"].weight.grad.any()


def test_faithful_names_the_option_that_departs(world: Data) -> None:
    make(world, faithful=True, train_features=True)
    for changed in ({"ranking_weight": 1.0}, {"l2_reg": 0.1}, {"content_weight": 1.0}, {"init": "normal"}):
        with pytest.raises(BadOption, match=next(iter(changed))):
            make(world, faithful=True, train_features=True, **changed)
    with pytest.raises(BadOption, match="train_features"):
        make(world, faithful=True)
    with pytest.raises(BadOption, match=r"dropout = 1\.0"):
        make(world, dropout=1.0)
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(replace(world, features={}))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_it_learns_what_the_shop_likes(weight: float) -> None:
    backbone = {"name": "bm3", "ranking_weight": weight, "dropout": 0.3}
    assert learned_beyond_popularity(backbone, epochs=20) > 1.2


@pytest.mark.parametrize("name", ["bm3", "lattice"])
def test_a_resumed_training_goes_on_bit_for_bit(name: str, world: Data) -> None:
    def trainer() -> Trainer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = parts.build("backbone", name, world, dim=6)
        objective = Objective(model, parts.build("sampler", "uniform", world), parts.build("loss", "bpr"))
        adam = parts.build("optimizer", "adam", objective.parameters(), lr=0.01)
        protocol = Protocol(split="valid", ks=(20,), metrics=("recall",))
        return Trainer(objective, adam, Settings(batch=64, epochs=4, meter=0), protocol)

    whole, first, second = trainer(), trainer(), trainer()
    losses = [epoch.loss for epoch in whole.epochs()]
    running = first.epochs()
    early = [next(running).loss, next(running).loss]
    second.load_state(first.state())
    assert early + [epoch.loss for epoch in second.epochs()] == losses
    for one, two in zip(whole.objective.parameters(), second.objective.parameters(), strict=True):
        assert torch.equal(one, two)
