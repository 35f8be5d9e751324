"""CNSDiff: candidates, mixing, error and contrast written slowly, and what must hold of its draws."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from foilrec import parts
from foilrec.core import Backbone, Data, Tables
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.negatives.moments import Moments
from foilrec.negatives.pacing import drifted
from foilrec.numerics import kernels
from foilrec.numerics.chances import betas, normals

DIM = 8
RELEASED = {
    "schedule": "diffrec",
    "clip": None,
    "normalise": False,
    "reverse": "whole",
    "calibrate": None,
    "reweight": True,
    "unit": True,
    "learns": "items",
    "faithful": True,
}


def make(data: Data, **options: Any) -> Any:
    """A sampler whose weights are drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return parts.build("sampler", "cnsdiff", data, **{"dim": DIM, "hidden": 5, **options})


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


@pytest.mark.parametrize(("a", "b"), [(1.0, 9.0), (5.0, 5.0), (9.0, 1.0), (1.0, 1.0), (0.5, 0.9)])
def test_beta_numbers_follow_their_law(a: float, b: float, chi_square: Callable[[Tensor, Tensor], float]) -> None:
    count, cells = 40_000, 20
    found = betas(torch.arange(count // 2), 3, 2, a, b).double()
    assert found.min() >= 0 and found.max() <= 1
    assert float(found.mean()) == pytest.approx(a / (a + b), abs=5e-3)
    assert float(found.var()) == pytest.approx(a * b / (a + b) ** 2 / (a + b + 1), rel=0.05)
    angle = torch.linspace(0, math.pi / 2, 400_001, dtype=torch.float64)[1:-1]  # x = sin^2 angle
    density = angle.sin() ** (2 * a - 1) * angle.cos() ** (2 * b - 1)
    cell = (angle.sin().square() * cells).long().clamp(max=cells - 1)
    wanted = torch.zeros(cells, dtype=torch.float64).index_add_(0, cell, density)
    wanted = wanted / wanted.sum() * count
    many = wanted > 5
    counts = torch.bincount((found.flatten() * cells).long().clamp(max=cells - 1), minlength=cells)
    rest = torch.stack([x[~many].sum() for x in (counts.double(), wanted)])
    joined = [torch.cat([x[many].double(), rest[k : k + 1]]) for k, x in enumerate((counts, wanted))]
    assert chi_square(joined[0], joined[1]) > 1e-4
    assert torch.equal(betas(torch.tensor([7]), 3, 2, a, b)[0], betas(torch.arange(9), 3, 4, a, b)[7, :2])


def network_by_hand(sampler: Any, x: Tensor, t: int) -> Tensor:
    """A tanh layer on [x, step] and a linear one."""
    net = sampler.net
    x = normalize(x, dim=0) if sampler.unit else x
    hidden = torch.tanh(net.first.weight.double() @ torch.cat([x, net.steps[t].double()]) + net.first.bias.double())
    value: Tensor = net.later[1].weight.double() @ hidden + net.later[1].bias.double()
    return value


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, RELEASED, {"calibrate": None, "least": 0.2}], ids=["fixed", "released", "free"]
)
@pytest.mark.parametrize("epoch", [0, 60, 200])
def test_negatives_are_mixed_from_the_best_candidate_and_a_random_item(
    options: dict[str, Any], epoch: int, world: Data
) -> None:
    sampler, model, rows = make(world, **options), host(world), torch.tensor([3, 0, 60, 200, 151])
    found = drawn(sampler, model, rows, epoch)
    tables, batch = model.propagate(), world.batch(rows, epoch)
    query = model.query(tables, batch)
    cloud, chain = Moments.of(tables.items), sampler.diffusion.schedule
    mean = tables.items.mean(0) if sampler.normalise else torch.zeros(DIM)
    scale = (tables.items - mean).square().mean().sqrt() if sampler.normalise else torch.ones(())
    a, b = (drifted(epoch, 120, *ends) for ends in ((1.0, 9.0), (9.0, 1.0)))
    mix = betas(rows, sampler.key(batch, "mix"), 1, a, b)[:, 0].double()
    for row in range(len(rows)):
        own, candidates = tables.items[batch.positives[row]], []
        for start in (18, 14, 10):
            clean = ((own - mean) / scale).double()
            eps = normals(rows[row : row + 1], sampler.key(batch, f"start {start}"), DIM)[0].double()
            x = chain.signal[start - 1] * clean + chain.spread[start - 1] * eps
            for t in range(19 if sampler.whole else start - 1, -1, -1):
                x0 = network_by_hand(sampler, x, t)
                x0 = x0.clamp(-4, 4) if sampler.diffusion.clip else x0
                x = chain.c1[t] * x0 + chain.c2[t] * x
            candidates.append(x * scale + mean)
        scores = [float(query[row].double() @ x) for x in candidates]
        best = scores.index(max(scores))
        hard, share = candidates[best], sampler.least + (1 - sampler.least) * mix[row]
        if sampler.most is not None:
            heights = [float(cloud.heights(query[row : row + 1], x.float()[None])[0]) for x in (own, hard)]
            if heights[1] > 0.95 * heights[0]:
                if heights[0] > 0:
                    hard = cloud.mean + 0.95 * heights[0] / heights[1] * (hard - cloud.mean)
                else:
                    share = torch.zeros(()).double()
        easy = tables.items[world.easy(batch)[row]]
        assert torch.allclose(found.vectors[row, 0].double(), share * hard + (1 - share) * easy, atol=2e-4)
        assert int(found.level[row, 0]) == best


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"reweight": True}, {"causal": 0.0}, RELEASED])
def test_the_own_loss_is_the_one_written_slowly(options: dict[str, Any], world: Data) -> None:
    sampler, model, rows = make(world, **options), host(world), torch.arange(0, 250, 9)
    tables, batch = model.propagate(), world.batch(rows, 1)
    sampler.begin_epoch(1, model, tables)
    query, chain, count = model.query(tables, batch), sampler.diffusion.schedule, len(rows)
    mean = tables.items.mean(0) if sampler.normalise else torch.zeros(DIM)
    scale = (tables.items - mean).square().mean().sqrt() if sampler.normalise else torch.ones(())
    own, easy = tables.items[batch.positives].double(), tables.items[world.easy(batch)].double()
    variance, snr, error, causal = chain.sigma.double().square(), chain.snr.double(), 0.0, 0.0
    variance[0] = variance[1]
    for row in range(count):
        word = int(kernels.words(rows[row : row + 1], sampler.key(batch, "step"), 1)[0]) % 2**64
        t, clean = word * 20 >> 64, (own[row] - mean) / scale
        eps = normals(rows[row : row + 1], sampler.key(batch, "noise"), DIM)[0].double()
        found = network_by_hand(sampler, chain.signal[t] * clean + chain.spread[t] * eps, t)
        gain = float(snr[t - 1] - snr[t]) if t and sampler.reweight else 1.0
        error += gain * float((found - clean).square().mean()) / count
        before = chain.signal[max(0, t - 1)] * clean + chain.spread[max(0, t - 1)] * eps
        v, w = float(variance[t]), float(variance[t - 1]) if t else 1.0
        gaps = (found - before).square().mean()
        causal += 0.5 * (math.log(w / v) - 1 + v / w + float(gaps) / w) / count
    total = (error + sampler.causal * causal) * (1e-6 if options == RELEASED else 1.0)
    hard = sampler._hard(sampler.frames, batch, query, tables.items[batch.positives])[0].double()
    near = own + 0.01 * normals(rows, sampler.key(batch, "jitter"), DIM).double()
    for row in range(count):
        others = [math.exp(float(cosine_similarity(own[row], n, dim=0)) / 2) for n in torch.cat([hard, easy])]
        close = float(cosine_similarity(own[row], near[row], dim=0)) / 2
        total += 0.3 * (math.log(sum(others)) - close) / count
    assert float(sampler.own_loss(tables, batch, query)) == pytest.approx(total, rel=2e-4)


@torch.no_grad()
def test_hard_ones_score_no_more_than_a_share_of_their_positive(world: Data) -> None:
    model, rows = host(world), torch.arange(300)
    tables, batch = model.propagate(), world.batch(rows, 200)
    cloud, query = Moments.of(tables.items), model.query(tables, batch)
    own, easy = (cloud.heights(query, tables.items[x]) for x in (batch.positives, world.easy(batch)))
    made, free = (
        cloud.heights(query, drawn(make(world, calibrate=most), model, rows, 200).vectors)[:, 0] for most in (0.9, None)
    )
    assert (made <= torch.maximum(0.9 * own, easy) + 1e-4).all()
    assert (free > torch.maximum(0.9 * own, easy) + 1e-4).any()


def test_the_mixture_drifts_from_random_to_hard(world: Data) -> None:
    model, rows = host(world), torch.arange(400)
    easy, shares = model.propagate().items.detach(), []
    for epoch in (0, 60, 120, 500):
        batch = world.batch(rows, epoch)
        sampler = make(world, calibrate=None)
        found = drawn(sampler, model, rows, epoch).vectors[:, 0]
        random = easy[world.easy(batch)]
        with torch.no_grad():
            tables = model.propagate()
            hard = sampler._hard(sampler.frames, batch, model.query(tables, batch), tables.items[batch.positives])[0]
        shares.append(float(((found - random).norm(dim=1) / (hard - random).norm(dim=1)).mean()))
    assert shares == pytest.approx([0.1, 0.5, 0.9, 0.9], abs=0.03)


def test_draws_follow_from_seed_epoch_and_row_alone(world: Data) -> None:
    sampler, model, rows = make(world, calibrate=None), host(world), torch.arange(40)
    whole = drawn(sampler, model, rows).vectors
    assert torch.allclose(whole, torch.cat([drawn(sampler, model, half).vectors for half in rows.split(17)]), atol=1e-5)
    assert torch.equal(whole, drawn(make(world, calibrate=None), model, rows).vectors)
    for other in (drawn(sampler, model, rows, seed=1), drawn(sampler, model, rows, epoch=2)):
        assert not torch.isclose(whole, other.vectors).all(2).any()


def gradients(sampler: Any, model: Backbone, value: Tensor) -> tuple[bool, bool]:
    """Whether a value moves the backbone's items, and the network."""
    for part in (sampler, model):
        part.zero_grad(set_to_none=True)
    value.backward()
    reached = [any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in (model, sampler)]
    return reached[0], reached[1]


@pytest.mark.parametrize(
    ("options", "reached"),
    [
        ({"contrast": 0.0}, (False, True)),
        ({}, (True, True)),
        (RELEASED, (True, False)),
        ({"learns": "items", "contrast": 0.0}, (True, False)),
    ],
)
def test_who_learns_from_the_own_loss(options: dict[str, Any], reached: tuple[bool, bool], world: Data) -> None:
    sampler, model, batch = make(world, **options), host(world), world.batch(torch.arange(30), 1)
    tables = model.propagate()
    with torch.no_grad():
        sampler.begin_epoch(1, model, tables)
    assert gradients(sampler, model, sampler.own_loss(tables, batch, model.query(tables, batch))) == reached


def test_gradient_of_a_negative_is_the_random_items_share_of_it(world: Data) -> None:
    sampler, model, batch = make(world), host(world), world.batch(torch.arange(30), 1)
    items = model.propagate().items.detach().requires_grad_()
    tables = Tables(items=items, users=model.users.weight.detach())
    with torch.no_grad():
        sampler.begin_epoch(1, model, tables)
    sampler(tables, batch, model.query(tables, batch)).vectors.sum().backward()
    mix = betas(torch.arange(30), sampler.key(batch, "mix"), 1, *(drifted(1, 120, *e) for e in ((1, 9), (9, 1))))
    hard = sampler._hard(sampler.frames, batch, model.query(tables, batch).detach(), items.detach()[batch.positives])
    slow = torch.zeros(world.n_items).index_add_(0, world.easy(batch), 1 - (mix * hard[1])[:, 0])
    assert items.grad is not None and torch.allclose(items.grad, slow[:, None].expand_as(items), atol=1e-5)


def test_wrong_options_are_explained(world: Data) -> None:
    for wrong, words in (
        ({"starts": (21,)}, "starts"),
        ({"starts": ()}, "starts"),
        ({"steps": 1, "starts": (1,)}, "steps = 1"),
        ({"first": (0.0, 1.0)}, "first"),
        ({"epochs": 0}, "epochs"),
        ({"least": 2.0}, "least"),
        ({"temperature": 0.0}, "temperature"),
        ({"calibrate": 0.0}, "calibrate"),
        ({"faithful": True}, "faithful = true means"),
    ):
        with pytest.raises(BadOption, match=words):
            make(world, **wrong)
    model = host(world)
    with pytest.raises(PartsDoNotFit, match=r"set sampler\.dim"):
        make(world, dim=4).begin_epoch(0, model, model.propagate())


def test_every_start_can_be_the_best(world: Data) -> None:
    levels = drawn(make(world), host(world), torch.arange(400)).level
    assert set(itertools.chain.from_iterable(levels.tolist())) == {0, 1, 2}
