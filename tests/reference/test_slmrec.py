"""SLMRec by its equations in float64: towers, the in-batch losses and their chain, and items that lack a modality."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Negatives
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.numerics.inbatch import in_batch
from reference.shop_runs import learned_beyond_popularity, patchy_world
from reference.test_backbones import lightgcn


def make(data: Data, seed: int = 0, **options: Any) -> Any:
    """An SLMRec of small width, whose weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return parts.build("backbone", "slmrec", data, **{"dim": 6, **options})


def batch_of(data: Data, rows: int = 60) -> tuple[Batch, Negatives]:
    """Training rows, some items twice among them; no negatives, as the trainer hands over at ranking weight 0."""
    which = torch.arange(0, rows * 2, 2)
    batch = Batch(*(x.contiguous() for x in data.train[which].unbind(1)), which)
    assert len(batch.positives.unique()) < rows
    return batch, Negatives(ids=batch.positives.new_empty(rows, 0))


def slow_towers(model: Any, data: Data) -> list[Tensor]:
    """Every tower's smoothed users above items, ids first."""
    items = [model.ids.weight.double()]
    for name, view in model.views.items():
        rows = data.features[name].all().double()
        z = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) @ view.linear.weight.double().T
        z = z + view.linear.bias.double()
        present = data.features[name].present
        items.append(z if present is None else z * present[:, None])
    return [lightgcn(data.train, model.users.weight, x, model.layers)[0] for x in items]


def slow_softmax(x: Tensor, y: Tensor, ids: list[int], masked: bool) -> Tensor:
    """-log of each row's share among all, row by row."""
    losses = []
    for b in range(len(x)):
        others = [j for j in range(len(x)) if j == b or not masked or ids[j] != ids[b]]
        products = torch.stack([x[b] @ y[j] for j in others])
        losses.append(products.logsumexp(0) - x[b] @ y[b])
    return torch.stack(losses).mean()


def slow_loss(model: Any, data: Data, batch: Batch, masked: bool) -> Tensor:
    """main * L_main + alpha * the chain's losses."""
    towers = slow_towers(model, data)
    wide = torch.cat(towers, 1)
    sides = [wide[: data.n_users][batch.users], wide[data.n_users :][batch.positives]]
    u, i = (x @ j.weight.double().T + j.bias.double() for x, j in zip(sides, model.join, strict=True))
    u, i = u / u.norm(dim=1, keepdim=True), i / i.norm(dim=1, keepdim=True)
    total = model.main * slow_softmax(u, i / model.main_temperature, batch.positives.tolist(), masked)
    now = towers[0][data.n_users :]
    for stage, name, tower in zip(model.chain, model.views, towers[1:], strict=True):
        for layer in stage.own if isinstance(stage.own, torch.nn.Sequential) else [stage.own]:
            now = now @ layer.weight.double().T + layer.bias.double()
        other = tower[data.n_users :] @ stage.other.weight.double().T + stage.other.bias.double()
        present = data.features[name].present
        rows = [p for p in batch.positives.tolist() if present is None or present[p]]
        total = total + model.alpha * slow_softmax(now[rows], other[rows] / model.temperature, rows, masked)
    return total


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("patchy", [False, True])
def test_vectors_are_joined_from_the_towers(patchy: bool, training: bool, world: Data) -> None:
    data = patchy_world(world) if patchy else world
    model = make(data, layers=2).train(training)
    tables, wide = model.propagate(), torch.cat(slow_towers(model, data), 1)
    for side, table, rows in ((0, tables.users, wide[: data.n_users]), (1, tables.items, wide[data.n_users :])):
        expected = rows @ model.join[side].weight.double().T + model.join[side].bias.double()
        assert torch.allclose(table.double(), expected, atol=1e-5)
    ids = torch.tensor([[3, 0], [3, 9]])
    assert torch.allclose(tables.item_rows(ids), tables.items[ids], atol=1e-6)
    cosine = make(data, layers=2, scores="cosine").propagate()
    assert torch.allclose(cosine.items, tables.items / tables.items.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("twins", ["masked", "negatives"])
@pytest.mark.parametrize("options", [{}, {"bridge": True}, {"modalities": ["text"], "main": 0.0, "alpha": 1.0}])
@pytest.mark.parametrize("patchy", [False, True])
def test_the_losses_and_their_gradients_are_the_equations(
    patchy: bool, options: dict[str, Any], twins: str, world: Data
) -> None:
    data = patchy_world(world) if patchy else world
    model, (batch, negatives), found = make(data, twins=twins, **options), batch_of(data), []
    for way in ("fast", "slow"):
        model.zero_grad()
        if way == "fast":
            loss = model.own_loss(model.step_tables(batch), batch, negatives)
        else:
            loss = slow_loss(model, data, batch, twins == "masked")
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((float(loss.detach()), grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[1][1].items():
        assert torch.allclose(found[0][1].get(name, torch.zeros_like(gradient)), gradient, atol=1e-5), name


@pytest.mark.parametrize("block", [1, 70, 10**6])
@pytest.mark.parametrize("masked", [False, True])
def test_a_softmax_in_the_batch_needs_no_more_than_a_block(masked: bool, block: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(23, 4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in "xy")
    ids = torch.randint(9, (23,), generator=rng)
    loss, expected = in_batch(x, y, ids if masked else None, block), slow_softmax(x, y, ids.tolist(), masked)
    assert torch.allclose(loss, expected)
    found = torch.autograd.grad(3 * loss, (x, y))
    for one, two in zip(found, torch.autograd.grad(3 * expected, (x, y)), strict=True):
        assert torch.allclose(one, two)
    none = torch.zeros(0, 4, requires_grad=True)
    assert float(in_batch(none, none).detach()) == 0


def test_the_unused_penalty_is_an_option(world: Data) -> None:
    (batch, negatives), options = batch_of(world), {"main": 0.0, "alpha": 0.0}
    model = make(world, l2_reg=0.2, **options)
    rows = model.users.weight.detach()[batch.users], model.ids.weight.detach()[batch.positives]
    expected = 0.2 * sum(float((r**2).sum()) for r in rows) / 2 / len(batch)
    assert float(model.own_loss(model.propagate(), batch, negatives).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(make(world, **options).own_loss(model.propagate(), batch, negatives)) == 0


def test_other_inputs_stand_in_for_the_ids(world: Data) -> None:
    model, other = make(world), make(world, seed=1)
    inputs = other.ids.weight.detach().clone()
    expected = model.propagate(inputs).items
    model.ids.weight.data.copy_(inputs)
    assert torch.allclose(model.propagate().items, expected, atol=1e-6)
    assert model.inputs() is model.ids.weight


def test_published_behaviour_is_promised_or_refused(world: Data) -> None:
    published = {"twins": "negatives", "bridge": True, "faithful": True}
    assert make(world, **published).ranking_weight == 0
    wrong = {"twins": "masked", "bridge": False, "l2_reg": 0.1, "scores": "cosine", "main": 0.5, "axes": 4}
    for name, value in {**wrong, "ranking_weight": 1.0}.items():
        with pytest.raises(BadOption, match=name):
            make(world, **{**published, name: value})
    with pytest.raises(BadOption, match="temperature"):
        make(world, temperature=0.0)
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(replace(world, features={}))


@pytest.mark.parametrize("options", [{}, {"ranking_weight": 1.0, "main": 0.0}])
def test_it_learns_more_than_popularity(options: dict[str, Any]) -> None:
    assert learned_beyond_popularity({"name": "slmrec", "dim": 32, **options}, epochs=10) > 1.1
