"""DMNS: its network, chain, error and weights written slowly, and what must hold of its draws."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from foilrec import parts
from foilrec.core import Backbone, Data, Tables, score
from foilrec.diffusion.film import Film
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.negatives.moments import Moments
from foilrec.numerics import chances, kernels

DIM = 8
PUBLISHED = {"schedule": "linear", "prediction": "epsilon", "error": "absolute", "clip": None, "normalise": False}


def make(data: Data, **options: Any) -> Any:
    """A sampler that begins at once, its weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return parts.build("sampler", "dmns", data, **{"dim": DIM, "start_epoch": 0, "steps": 40, **options})


def host(data: Data) -> Backbone:
    """A LightGCN as wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Backbone = parts.build("backbone", "lightgcn", data, dim=DIM)
    return model


@torch.no_grad()
def drawn(sampler: Any, model: Backbone, rows: Tensor, epoch: int = 1, seed: int = 0) -> Any:
    """Negatives of some training rows in an epoch."""
    sampler.seed, tables = seed, model.propagate()
    sampler.begin_epoch(epoch, model, tables)
    batch = sampler.data.batch(rows, epoch)
    return sampler(tables, batch, model.query(tables, batch))


def film_by_hand(net: Film, x: Tensor, t: int, user: Tensor) -> Tensor:
    """Two modulations of one row, coordinate by coordinate."""
    told = net.step_map(net.steps[t]).double() + user
    told = told / (1 + (-told).exp())
    for layer in net.maps:
        both = [
            sum(w * z for w, z in zip(row, told.tolist(), strict=True)) + bias
            for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        x = torch.stack([(1 + both[d]) * x[d] + both[len(x) + d] for d in range(len(x))])
    return x


@torch.no_grad()
def test_the_network_modulates_coordinate_by_coordinate() -> None:
    torch.manual_seed(0)
    net, x, user, t = Film(6, 4), torch.randn(5, 6), torch.randn(5, 6), torch.tensor([0, 3, 1, 1, 2])
    made = net.prepare([user])(x, t)
    for b in range(5):
        assert torch.allclose(
            made[b].double(), film_by_hand(net, x[b].double(), int(t[b]), user[b].double()), atol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {**PUBLISHED, "calibrate": None, "faithful": True}], ids=["fixed", "published"]
)
def test_negatives_are_the_states_after_those_steps(options: dict[str, Any], world: Data) -> None:
    sampler, model, rows = make(world, **{"calibrate": None, **options}), host(world), torch.tensor([3, 0, 60, 200])
    found = drawn(sampler, model, rows)
    tables, batch = model.propagate(), world.batch(rows, 1)
    assert tables.users is not None
    frames = {"items": tables.items, "users": tables.users}
    mean = {name: x.mean(0) if sampler.normalise else torch.zeros(DIM) for name, x in frames.items()}
    scale = {
        name: (x - mean[name]).square().mean().sqrt() if sampler.normalise else torch.ones(())
        for name, x in frames.items()
    }
    chain = sampler.diffusion.schedule
    for b in range(len(rows)):
        user = ((tables.users[batch.users[b]] - mean["users"]) / scale["users"]).double()

        def noise(name: object, row: int = int(rows[b])) -> Tensor:
            return chances.normals(torch.tensor([row]), sampler.key(batch, f"chain {name}"), DIM)[0].double()

        x, states = noise("begin"), {}
        for t in range(39, -1, -1):
            x0 = sampler.diffusion.to_x0(x, t, film_by_hand(sampler.net, x, t, user))
            x0 = x0 if sampler.diffusion.clip is None else x0.clamp(-4, 4)
            x = chain.c1[t] * x0 + chain.c2[t] * x + (chain.sigma[t] * noise(t) if t else 0)
            states[t] = x * scale["items"] + mean["items"]
        for k, place in enumerate([20, 10, 5, 4]):  # T / 2, T / 4, T / 8, T / 10
            assert torch.allclose(found.vectors[b, 1 + k].double(), states[place], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"error": "absolute", "prediction": "epsilon", "schedule": "linear-scaled"}])
def test_the_diffusions_error_is_the_one_written_slowly(options: dict[str, Any], world: Data) -> None:
    sampler, model, rows = make(world, inner_steps=2, **options), host(world), torch.arange(0, 200, 9)
    tables, batch = model.propagate(), world.batch(rows, 1)
    sampler.begin_epoch(1, model, tables)
    assert tables.users is not None
    frames = {
        name: (x.mean(0), (x - x.mean(0)).square().mean().sqrt())
        for name, x in vars(tables).items()
        if name in ("items", "users")
    }
    (mean, scale), (centre, width), total = frames["items"], frames["users"], 0.0
    chain = sampler.diffusion.schedule
    for b, copy in itertools.product(range(len(rows)), range(2)):
        t = step_of(sampler, batch, f"step {copy}", rows[b])
        eps = chances.normals(rows[b : b + 1], sampler.key(batch, f"noise {copy}"), DIM)[0].double()
        clean = ((tables.items[batch.positives[b]] - mean) / scale).double()
        user = ((tables.users[batch.users[b]] - centre) / width).double()
        found = film_by_hand(sampler.net, chain.signal[t] * clean + chain.spread[t] * eps, t, user)
        gaps = found - (eps if options else clean)
        total += float(gaps.abs().mean() if options else gaps.square().mean())
    loss = sampler.own_loss(tables, batch, model.query(tables, batch))
    assert float(loss) == pytest.approx(total / len(rows) / 2, rel=1e-4)


def step_of(sampler: Any, batch: Any, stream: str, row: Tensor) -> int:
    """The step that a row is noised to: a random word's place among 40."""
    word = kernels.words(row[None], sampler.key(batch, stream), 1)[0]
    return (int(word) % 2**64) * 40 >> 64


@torch.no_grad()
def test_with_bpr_the_loss_is_the_mean_of_weighted_terms(world: Data) -> None:
    sampler, model, rows = make(world, calibrate=0.3), host(world), torch.arange(150)
    negatives = drawn(sampler, model, rows)
    tables, batch = model.propagate(), world.batch(rows, 1)
    query = model.query(tables, batch)
    positive, negative = score(query, tables.item_rows(batch.positives)), score(query, negatives.vectors)
    assert not negatives.mask.all() and negatives.mask[:, 0].all()
    total = 0.0
    for b in range(len(rows)):
        terms = [
            weight * float(softplus(negative[b, k] - positive[b]))
            for k, weight in enumerate((1.0, 0.7, 0.8, 0.9, 1.0))
            if negatives.mask[b, k]
        ]
        total += sum(terms) / len(terms)
    assert float(parts.build("loss", "bpr")(positive, negative, negatives)) == pytest.approx(
        total / len(rows), rel=1e-5
    )
    assert torch.allclose(negatives.vectors[:, 0], tables.items[world.easy(batch)], atol=1e-6)


@torch.no_grad()
def test_calibrated_vectors_score_no_more_than_a_share_of_their_positive(world: Data) -> None:
    model, rows = host(world), torch.arange(300)
    tables, batch = model.propagate(), world.batch(rows, 1)
    cloud, query = Moments.of(tables.items), model.query(tables, batch)
    own = cloud.heights(query, tables.items[batch.positives])[:, None]
    found, free = (drawn(make(world, calibrate=most), model, rows) for most in (0.9, None))
    above = [cloud.heights(query, each.vectors[:, 1:]) > 0.9 * own + 1e-4 for each in (found, free)]
    assert not above[0][found.mask[:, 1:]].any() and above[1].any()


def test_draws_follow_from_seed_epoch_and_row_alone(world: Data) -> None:
    sampler, model, rows = make(world), host(world), torch.arange(40)
    whole = drawn(sampler, model, rows).vectors
    assert torch.allclose(whole, torch.cat([drawn(sampler, model, half).vectors for half in rows.split(17)]), atol=1e-5)
    assert torch.equal(whole, drawn(make(world), model, rows).vectors)
    for other in (drawn(sampler, model, rows, seed=1), drawn(sampler, model, rows, epoch=2)):
        assert not torch.isclose(whole[:, 1:], other.vectors[:, 1:]).all(2).any()


def test_the_further_a_trained_chain_has_come_the_higher_its_user_scores_it(world: Data) -> None:
    items = torch.randn(world.n_items, DIM, generator=torch.Generator().manual_seed(1))
    taken = torch.zeros(world.n_users, DIM).index_add_(0, world.train[:, 0], items[world.train[:, 1]])
    tables = Tables(items=items, users=taken / world.seen.counts[:, None].sqrt())  # who likes what he took
    assert tables.users is not None
    sampler = make(world, calibrate=None)
    sampler.begin_epoch(1, host(world), tables)
    adam = torch.optim.Adam(sampler.parameters(), lr=0.02)
    for epoch in range(100):
        batch = next(iter(world.batches(256, 0, epoch)))
        adam.zero_grad()
        sampler.own_loss(tables, batch, tables.users[batch.users]).backward()
        adam.step()
    batch = world.batch(torch.arange(400), 1)
    query = tables.users[batch.users]
    found = sampler(tables, batch, query)
    easy, *levels = Moments.of(items).heights(query, found.vectors).mean(0).tolist()
    assert found.level[0].tolist() == [0, 1, 2, 3, 4]
    assert abs(easy) < 0.2 < levels[0] < min(levels[1:])  # the last three are close to each other


def test_gradient_of_its_error_reaches_the_network_alone_and_of_the_draw_the_easy_item_alone(world: Data) -> None:
    sampler, model, batch = make(world), host(world), world.batch(torch.arange(30), 1)
    tables = model.propagate()
    with torch.no_grad():
        sampler.begin_epoch(1, model, tables)
    sampler.own_loss(tables, batch, model.query(tables, batch)).backward()
    assert all(p.grad is not None for p in sampler.parameters()) and all(p.grad is None for p in model.parameters())
    vectors = sampler(tables, batch, model.query(tables, batch)).vectors
    sampler.zero_grad(set_to_none=True)
    vectors[:, 1:].sum().backward(retain_graph=True)
    assert all(p.grad is None for p in sampler.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    vectors[:, 0].sum().backward()
    assert model.items.weight.grad is not None and model.items.weight.grad.any()


def test_wrong_options_are_explained(world: Data) -> None:
    for wrong, words in (
        ({"steps": 20}, "each at a step of its own"),
        ({"levels": (1.0,), "weights": (1.0,)}, "falling from below 1"),
        ({"weights": (1.0,)}, "as many as levels"),
        ({"inner_steps": 0}, "inner_steps = 0"),
        ({"calibrate": -1.0}, "calibrate"),
        ({"schedule": "linear"}, "starts its chains from pure noise"),
        ({"faithful": True}, "faithful = true means schedule = 'linear'"),
    ):
        with pytest.raises(BadOption, match=words):
            make(world, **wrong)
    model = host(world)
    with pytest.raises(PartsDoNotFit, match=r"set sampler\.dim"):
        make(world, dim=4).begin_epoch(0, model, model.propagate())
