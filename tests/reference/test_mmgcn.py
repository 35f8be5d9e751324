"""MMGCN by its equations, node by node in float64; the untrained tables; items that lack a modality."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Negatives
from foilrec.errors import BadOption, PartsDoNotFit
from reference.shop_runs import learned_beyond_popularity, patchy_world


def make(data: Data, seed: int = 0, **options: Any) -> Any:
    """An MMGCN of small width, whose weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return parts.build("backbone", "mmgcn", data, **{"dim": 6, "latent": {"image": 5}, **options})


def leaky(x: Tensor) -> Tensor:
    """x above 0, a hundredth of it below."""
    return torch.where(x > 0, x, 0.01 * x)


def slow(model: Any, data: Data, inputs: Tensor | None = None) -> Tensor:
    """Users above items after all layers, one node at a time."""
    near: list[list[int]] = [[] for _ in range(data.n_users + data.n_items)]
    for u, i in data.train.tolist():
        near[u].append(data.n_users + i)
        near[data.n_users + i].append(u)
    ids = torch.cat([model.ids[0].weight, model.ids[1].weight if inputs is None else inputs]).double()
    total = torch.zeros(len(near), ids.shape[1], dtype=torch.float64)
    for name, tower in model.towers.items():
        feature = data.features[name]
        has = [True] * data.n_users + [feature.present is None or bool(feature.present[i]) for i in range(data.n_items)]
        rows = feature.all().double()
        if tower.content.linear is not None:
            rows = rows @ tower.content.linear.weight.double().T + tower.content.linear.bias.double()
        x = torch.cat([tower.tastes.weight.double(), rows])
        x = x / x.norm(dim=1, keepdim=True)
        for layer in range(model.depth):
            sent, own, mix = tower.sent[layer].double(), tower.own[layer], tower.mixes[layer]
            new = []
            for node, others in enumerate(near):
                heard = [x[o] @ sent.T for o in others if layer or has[o]]
                h = leaky(torch.stack(heard).mean(0)) if heard else torch.zeros(len(sent), dtype=torch.float64)
                mine = ids[node].clone()
                if layer or has[node]:
                    mine = mine + leaky(own.weight.double() @ x[node] + own.bias.double())
                both = torch.cat([h, mine]) if tower.concat else h + mine
                new.append(leaky(mix.weight.double() @ both + mix.bias.double()))
            x = torch.stack(new)
        total = total + x
    return total * model.scale


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize(
    "options", [{}, {"combine": "add", "merge": "sum"}, {"layers": 2, "modalities": ["text"]}, {"latent": {}}]
)
@pytest.mark.parametrize("patchy", [False, True])
def test_every_node_is_its_equation(options: dict[str, Any], patchy: bool, world: Data) -> None:
    data = patchy_world(world) if patchy else world
    model = make(data, **options)
    tables, expected = model.propagate(), slow(model, data)
    assert torch.allclose(torch.cat([tables.users, tables.items]).double(), expected, atol=1e-5)


@pytest.mark.parametrize("patchy", [False, True])
def test_gradients_are_those_of_the_equations(patchy: bool, world: Data) -> None:
    data = patchy_world(world) if patchy else world
    model, found = make(data), []
    weights = torch.randn(data.n_users + data.n_items, 6, generator=torch.Generator().manual_seed(1))
    for outcome in (torch.cat([model.propagate().users, model.propagate().items]), slow(model, data)):
        model.zero_grad()
        (outcome * weights).sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-4), name


def test_other_inputs_stand_in_for_the_items_ids(world: Data) -> None:
    model, inputs = make(world), torch.randn(world.n_items, 6)
    assert torch.allclose(
        model.propagate(inputs).items.double(), slow(model, world, inputs)[world.n_users :], atol=1e-5
    )
    assert model.inputs() is model.ids[1].weight


def test_the_rows_of_a_missing_modality_change_nothing(world: Data) -> None:
    data = patchy_world(world)
    rows = data.features["image"].rows.copy()
    rows[~data.features["image"].present.numpy()] = 1e6
    other = replace(data, features={**data.features, "image": replace(data.features["image"], rows=rows)})
    assert torch.equal(make(data).propagate().items, make(other).propagate().items)


def test_frozen_tables_are_saved_and_never_trained(world: Data) -> None:
    tables = {"ids.0.weight", "ids.1.weight", "towers.image.tastes.weight", "towers.text.tastes.weight"}
    for how, expected in (("trained", True), ("frozen", False)):
        model = make(world, tables=how)
        model.propagate().items.sum().backward()
        assert tables <= set(model.state_dict())
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (expected or name not in tables), name
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_penalty_is_on_the_batchs_ids_and_on_the_tastes_for_images(world: Data) -> None:
    model, rows = make(world, reg=0.3), torch.arange(40)
    batch = Batch(*(x.contiguous() for x in world.train[:40].unbind(1)), rows)
    negatives = Negatives(ids=world.seen.unseen(batch.users, rows, 1, 1))
    users, items = (table.weight.detach() for table in model.ids)
    pairs = [(u, i) for u, p, n in zip(batch.users, batch.positives, negatives.ids[:, 0], strict=True) for i in (p, n)]
    squares = torch.stack([users[u] ** 2 + items[i] ** 2 for u, i in pairs]).mean()
    expected = 0.3 * (squares + (model.towers["image"].tastes.weight.detach() ** 2).mean())
    assert float(model.own_loss(model.propagate(), batch, negatives).detach()) == pytest.approx(
        float(expected), rel=1e-5
    )
    assert float(make(world).own_loss(model.propagate(), batch, negatives)) == 0


def test_published_behaviour_is_promised_or_refused(world: Data) -> None:
    published = {"tables": "frozen", "latent": None, "faithful": True}
    make(world, **published)
    for name, value in {"tables": "trained", "combine": "add", "merge": "sum", "layers": 2, "axes": 4}.items():
        with pytest.raises(BadOption, match=name):
            make(world, **{**published, name: value})
    with pytest.raises(BadOption, match="layers"):
        make(world, layers=0)
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(replace(world, features={}))


@pytest.mark.parametrize("tables", ["trained", "frozen"])
def test_it_learns_more_than_popularity(tables: str) -> None:
    assert learned_beyond_popularity({"name": "mmgcn", "dim": 32, "tables": tables}, epochs=10) > 1.1
