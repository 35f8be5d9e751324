"""ADAR's transition point: the closed forms by bisection and simulation, the boundaries by hand, and what it draws."""

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, softplus

from foilrec import contracts, parts
from foilrec.core import Batch, Data, Negatives, Tables
from foilrec.diffusion.backwards import back
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.negatives.boundary import RATE, Boundary
from foilrec.negatives.moments import Moments
from foilrec.negatives.transition import cosine_crossing, crossing, step_of
from foilrec.numerics import streams
from foilrec.numerics.chances import normals
from foilrec.trainer import Objective

Phi = NormalDist().cdf
DIM = 8


def shelf(users: int = 32, items: int = 400) -> Data:
    """Every user took one item, many times over, so that there are many rows to draw for."""
    rows = torch.arange(users).repeat(2000)
    train = torch.stack([rows, rows], 1)
    return Data(users, items, train, train[:0], train[:0])


def space(data: Data, seed: int = 0) -> Tables:
    """Items along unequal axes off the origin, users who like the item that they took."""
    noise = torch.Generator().manual_seed(seed)
    axes = torch.tensor([2.0, 1.5, 1, 1, 0.7, 0.5, 0.3, 0.1], dtype=torch.double)
    items = torch.randn(data.n_items, DIM, generator=noise, dtype=torch.double) * axes + 0.4
    users = items[: data.n_users] - 0.4 + 0.5 * torch.randn(data.n_users, DIM, generator=noise, dtype=torch.double)
    return Tables(items=items, users=users)


def drawn(
    data: Data, tables: Tables, batch: Batch, epoch: int = 1, state: dict[str, Tensor] | None = None, **options: Any
) -> tuple[Any, Negatives]:
    """The sampler in that epoch, and what it draws; quantiles as if scores were normal, noise fresh, unless told."""
    sampler = parts.build("sampler", "adar", data, **{"sample": 0, "noises": 0, **options})
    if state is not None:
        sampler.load_state_dict(state)
    sampler.begin_epoch(epoch, None, tables)
    return sampler, sampler(tables, batch, tables.users[batch.users])


def slow_boundary(tables: Tables, share: float = 0.95) -> Tensor:
    """The quantile of every user's scores as if they were normal, [U]."""
    scores = tables.users @ tables.items.T
    return scores.mean(1) + NormalDist().inv_cdf(share) * scores.std(1, correction=0)


def own_scores(tables: Tables, batch: Batch) -> Tensor:
    return (tables.users[batch.users] * tables.items[batch.positives]).sum(1)


def scores_of(tables: Tables, batch: Batch, drawn: Negatives) -> Tensor:
    """The scores of the made-up ones, [B, count]."""
    return torch.einsum("bd,bkd->bk", tables.users[batch.users], drawn.vectors[:, 1:])


def turning(data: Data, tables: Tables) -> list[int]:
    """Users who score their item above the boundary and above the mean."""
    own = (tables.users * tables.items[: data.n_users]).sum(1)
    return (own > slow_boundary(tables)).nonzero()[:, 0].tolist()


def test_the_share_below_the_boundary_grows_all_the_way_where_the_positive_lies_above() -> None:
    noise = torch.Generator().manual_seed(0)
    for theta, gap, v in (3 * torch.rand(200, 3, generator=noise, dtype=torch.double) + 0.01).tolist():
        theta -= 1.0  # a boundary below the mean is no exception while the positive is above it
        height = max(theta, 0.0) + gap
        way = [n / 400 for n in range(400)] + [1 - 1e-12]

        def share(a: float, height: float, theta: float = theta, v: float = v) -> float:
            return Phi((theta - a * height) / (v * math.sqrt(1 - a * a)))

        shares = [share(a, height) for a in way]
        told = [each for each in shares if 1e-12 < each < 1 - 1e-12]  # as far as floats can tell them apart
        assert all(noisier > cleaner for noisier, cleaner in pairwise(told)) and shares == sorted(shares)[::-1]
        assert shares[-1] < 1e-6 and math.isclose(shares[0], Phi(theta / v))
        assert theta < 0.1 or share(1 - 1e-12, 0.9 * theta) > 0.999  # a positive below the boundary is no positive


def bisected(theta: float, height: float, noise: float) -> float:
    """The crossing by halving; 0 where even pure noise lies above."""
    if noise >= theta:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        above = middle * height + math.sqrt(1 - middle * middle) * noise > theta
        low, high = (low, middle) if above else (middle, high)
    return low


def test_the_crossing_is_where_halving_finds_it() -> None:
    noise = torch.Generator().manual_seed(1)
    theta = 3 * torch.rand(500, generator=noise, dtype=torch.double) - 0.5
    height = theta.clamp(min=0) + 0.01 + 2 * torch.rand(500, generator=noise, dtype=torch.double)
    told = 2 * torch.randn(500, generator=noise, dtype=torch.double)
    slow = [bisected(*each) for each in zip(theta.tolist(), height.tolist(), told.tolist(), strict=True)]
    assert torch.allclose(crossing(theta, height, told), torch.tensor(slow, dtype=torch.double), atol=1e-9)
    zero = torch.zeros_like(theta)
    for none in (None, zero):
        assert torch.allclose(crossing(theta, height, none), (theta / height).clamp(min=0), atol=1e-12)
        assert torch.isfinite(crossing(zero, zero, none)).all()


@pytest.mark.parametrize("q", [0.5, 0.7, 0.9])
def test_the_asked_share_of_the_draws_lies_below_the_boundary(q: float) -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(len(data.train)), 1)
    _, found = drawn(data, tables, batch, confidence=q, steps=None)
    assert found.level[0].tolist() == [0, round(10 - 10 * q)]
    tau, scores = slow_boundary(tables), scores_of(tables, batch, found)[:, 0]
    below = torch.stack([(scores[batch.users == u] <= tau[u]).double().mean() for u in turning(data, tables)])
    assert len(below) > 5 and abs(float(below.mean()) - q) < 0.01 and (below - q).abs().max() < 0.05


@pytest.mark.parametrize("q", [0.5, 0.7, 0.9])
def test_so_it_does_over_epochs_whose_noises_are_shared(q: float) -> None:
    data = shelf()
    tables = space(data)
    batch, users = data.batch(torch.arange(len(data.train)), 1), turning(data, tables)
    tau = slow_boundary(tables)[batch.users]
    shares = []
    for epoch in range(1, 17):
        _, found = drawn(data, tables, batch, epoch, confidence=q, steps=None, noises=4096, warmup=0)
        below = scores_of(tables, batch, found)[:, 0] <= tau
        shares.append(torch.stack([below[batch.users == u].double().mean() for u in users]))
    shares = torch.stack(shares).mean(0)
    assert abs(float(shares.mean()) - q) < 0.01 and (shares - q).abs().max() < 0.05


def test_rows_take_the_epochs_noises_in_turn_half_of_them_turned_around() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.randperm(3000, generator=torch.Generator().manual_seed(0)), 1)
    sampler, found = drawn(data, tables, batch, noises=64, count=2, steps=None)
    _, later = drawn(data, tables, batch, 2, noises=64, count=2, steps=None)
    key = streams.key(sampler.seed, "draw", "noises", 1)
    plain = normals(torch.arange(32), key, DIM).double() @ sampler.cloud.root.T
    every = [*plain, *(-plain)]
    mean, height = tables.items.mean(0), own_scores(tables, batch) - (tables.users @ tables.items.mean(0))[batch.users]
    theta = (slow_boundary(tables) - tables.users @ tables.items.mean(0))[batch.users]
    for place in found.mask[:, 1].nonzero()[:200, 0].tolist():
        a = float((theta / height)[place].clamp(min=0))
        for k in range(2):
            xi = every[(2 * int(batch.rows[place]) + k) % 64]
            x = mean + a * (tables.items[batch.positives[place]] - mean) + math.sqrt(1 - a * a) * xi
            assert torch.allclose(found.vectors[place, 1 + k], x, atol=1e-6)
    assert not torch.allclose(found.vectors[:, 1:], later.vectors[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_a_draw_that_stops_where_it_passes_scores_the_boundary_itself(dtype: torch.dtype) -> None:
    data = shelf()
    exact = space(data)
    tables = Tables(items=exact.items.to(dtype), users=exact.users.to(dtype))
    batch = data.batch(torch.arange(4000), 1)
    _, found = drawn(data, tables, batch, transition="draw", steps=None, count=2)
    rows = found.mask[:, 1]
    gap = (scores_of(tables, batch, found) - slow_boundary(exact)[batch.users, None])[rows]
    assert rows.any() and gap.abs().max() < (1e-5 if dtype == torch.double else 1e-4)
    assert found.level[0].tolist() == [0, 5, 5]


def test_later_steps_for_higher_positives_and_earlier_ones_for_higher_boundaries() -> None:
    chain = schedule("cosine", 50)
    theta, heights = torch.tensor(1.0), torch.linspace(1.01, 20, 200)
    for noise in (-0.5, 0.0, 0.5):
        steps = step_of(chain.signal, crossing(theta, heights, torch.tensor(noise)))
        assert (steps.diff() >= 0).all() and steps[-1] > steps[0] + 10
        steps = step_of(chain.signal, crossing(torch.linspace(0.6, 19.9, 200), torch.tensor(20.0), torch.tensor(noise)))
        assert (steps.diff() <= 0).all() and steps[-1] < steps[0] - 10
    for share in (0.0, 0.3, 0.77, 0.9999, 1.0):
        assert int(step_of(chain.signal, torch.tensor(share))) == sum(a > share for a in chain.signal.tolist())


def test_rows_without_a_transition_keep_their_uniform_negative_at_full_weight() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(64), 1)
    _, found = drawn(data, tables, batch, weight=0.3, count=2)
    turns = own_scores(tables, batch) > slow_boundary(tables)[batch.users]
    assert turns.any() and not turns.all()
    assert torch.equal(found.mask, torch.stack([torch.ones_like(turns), turns, turns], 1))
    assert (found.weights[~turns] == torch.tensor([1.0, 0.0, 0.0])).all() and torch.isfinite(found.vectors).all()
    assert torch.equal(found.vectors[:, 0], tables.items[data.easy(batch)])
    own, loss = own_scores(tables, batch), 0.0
    gaps = softplus(torch.einsum("bd,bkd->bk", tables.users[batch.users], found.vectors) - own[:, None])
    for row, turned in enumerate(turns.tolist()):
        uniform, made = gaps[row, 0], gaps[row, 1:].mean()
        loss += float(0.7 * uniform + 0.3 * made if turned else uniform) / len(turns)
    told = parts.build("loss", "bpr")(own, scores_of_all(tables, batch, found), found)
    assert math.isclose(float(told), loss, rel_tol=1e-6)
    _, kept = drawn(data, tables, batch, undecided="t_min", t_min=4)
    assert kept.mask.all()
    signal, mean = schedule("cosine", 50).signal[4].double(), tables.items.mean(0)
    near = (kept.vectors[~turns, 1] - mean) @ (normalize(tables.items[batch.positives[~turns]] - mean)).T
    assert float(near.diagonal().mean() / (tables.items[batch.positives[~turns]] - mean).norm(dim=1).mean()) == (
        pytest.approx(float(signal), abs=0.05)
    )


def scores_of_all(tables: Tables, batch: Batch, found: Negatives) -> Tensor:
    return torch.einsum("bd,bkd->bk", tables.users[batch.users], found.vectors)


@pytest.mark.parametrize(
    "options", [{}, {"transition": "draw"}, {"band": (1, 6), "count": 3}, {"reverse": 2, "dim": 8}]
)
def test_parts_of_a_batch_draw_what_the_whole_draws(options: dict[str, Any]) -> None:
    data = shelf()
    tables = space(data)
    tables = Tables(items=tables.items.float(), users=tables.users.float())
    which = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(2))[:60]

    def made(rows: Tensor) -> Tensor:
        torch.manual_seed(0)
        return drawn(data, tables, data.batch(rows, 1), **options)[1].vectors

    whole = made(which)
    assert torch.allclose(torch.cat([made(part) for part in which.split(17)]), whole, atol=1e-6)
    assert not torch.allclose(made(which + 60), whole, atol=0.1)


def test_a_row_of_a_sequence_draws_the_same_alone_and_among_the_others() -> None:
    data: Data = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    torch.manual_seed(0)
    model = parts.build("backbone", "sasrec", data, dim=DIM).eval()
    sampler = parts.build("sampler", "adar", data, boundary="midpoint").eval()
    rows = data.trained(model.history)[:120]

    def made(some: Tensor) -> Negatives:
        batch, tables = data.batch(some, 1, history=model.history), model.propagate()
        sampler.begin_epoch(1, model, tables)
        return sampler(tables, batch, model.query(tables, batch))

    with torch.no_grad():
        whole, split = made(rows), [made(part) for part in rows.split(37)]
    assert torch.allclose(torch.cat([part.vectors for part in split]), whole.vectors, atol=1e-5)
    assert torch.equal(torch.cat([part.mask for part in split]), whole.mask) and whole.mask[:, 1].any()


def test_plain_noise_is_the_textbooks() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(200), 1)
    sampler, found = drawn(data, tables, batch, noise="plain", boundary="midpoint", place=0.4, steps=20)
    eps = normals(batch.rows, sampler.key(batch, "noise"), DIM).double()
    betas = schedule("cosine", 20).betas.double()
    centre, own = (tables.users @ tables.items.mean(0))[batch.users], own_scores(tables, batch)
    tau = centre + 0.4 * (own - centre)
    for row in found.mask[:, 1].nonzero()[:, 0].tolist():
        abar = 1.0
        for beta in betas.tolist():  # the first step at which the expected score is not above tau
            abar *= 1 - beta
            if math.sqrt(abar) * own[row] <= tau[row]:
                break
        x = math.sqrt(abar) * tables.items[batch.positives[row]] + math.sqrt(1 - abar) * eps[row]
        assert torch.allclose(found.vectors[row, 1], x, atol=1e-4)


def test_every_boundary_is_what_it_says() -> None:
    data = shelf()
    tables = space(data)
    users, own, other = tables.users, tables.items[: data.n_users], tables.items[100 : 100 + data.n_users]

    def told(kind: str, place: float | None = None, sample: int = 0) -> Tensor:
        boundary = Boundary(kind, place, sample)
        boundary.look(tables.items, 5)
        if kind == "bayes":
            for half in (slice(0, 16), slice(16, 32)):
                boundary.hear(users[half], own[half], other[half])
        mean = users @ tables.items.mean(0)
        return mean + boundary(users, (users * own).sum(1) - mean, other)

    ids = torch.randint(data.n_items, (64,), generator=streams.generator(5, "boundary"))
    zs: list[list[float]] = [[], []]
    for u in range(data.n_users):
        scores = [float(users[u] @ item) for item in tables.items]
        mean = sum(scores) / len(scores)
        width = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
        s, n = float(users[u] @ own[u]), float(users[u] @ other[u])
        zs[0].append((s - mean) / width), zs[1].append((n - mean) / width)
        assert math.isclose(told("midpoint", 0.3)[u], mean + 0.3 * (s - mean), abs_tol=1e-9)
        assert math.isclose(told("margin", 0.7)[u], s - 0.7, abs_tol=1e-9)
        assert math.isclose(told("pair")[u], n, abs_tol=1e-9)
        assert math.isclose(told("quantile", 0.9)[u], mean + NormalDist().inv_cdf(0.9) * width, abs_tol=1e-6)
        assert math.isclose(told("quantile", 0.9, 64)[u], sorted(scores[i] for i in ids)[58 - 1], abs_tol=1e-9)
    means, variance = [0.0, 0.0], 0.0
    for half, rate in ((slice(0, 16), 1.0), (slice(16, 32), RATE)):
        parts_of = [torch.tensor(z[half], dtype=torch.double) for z in zs]
        means = [m + rate * (float(p.mean()) - m) for m, p in zip(means, parts_of, strict=True)]
        variance += rate * (sum(float(p.var(correction=0)) for p in parts_of) / 2 - variance)
    z = sum(means) / 2 + variance / (means[0] - means[1]) * math.log(0.8 / 0.2)
    scores = users @ tables.items.T
    assert torch.allclose(told("bayes", 0.2), scores.mean(1) + z * scores.std(1, correction=0), atol=1e-4)


def test_bayes_knows_no_boundary_before_it_has_heard_any_and_while_positives_are_no_higher() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(32), 1)
    sampler, found = drawn(data, tables, batch, boundary="bayes")
    assert not found.mask[:, 1].any() and torch.isfinite(found.vectors).all()
    for turned in (-1, 1):
        for _ in range(300):
            sampler.own_loss(tables, batch, turned * tables.users[batch.users])
        assert bool(sampler(tables, batch, tables.users[batch.users]).mask[:, 1].any()) == (turned > 0)


def test_what_bayes_has_heard_is_saved_and_goes_on() -> None:
    data = shelf()
    tables = space(data)
    first, second = data.batch(torch.arange(32), 1), data.batch(torch.arange(32, 64), 1)
    sampler, _ = drawn(data, tables, first, boundary="bayes")
    sampler.own_loss(tables, first, tables.users[first.users])
    kept = {name: value.clone() for name, value in sampler.state_dict().items()}
    again, found = drawn(data, tables, second, state=kept, boundary="bayes")
    assert torch.equal(found.vectors, sampler(tables, second, tables.users[second.users]).vectors)
    for each in (sampler, again):
        each.own_loss(tables, second, tables.users[second.users])
    assert all(
        torch.equal(a, b) for a, b in zip(sampler.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not torch.equal(kept["boundary.means"], again.state_dict()["boundary.means"])
    assert not parts.build("sampler", "adar", data).state_dict()


def test_the_cosine_transition_by_simulation() -> None:
    noise = torch.Generator().manual_seed(3)
    dim, axes = 64, torch.linspace(0.2, 1.5, 64, dtype=torch.double)
    query = torch.randn(dim, generator=noise, dtype=torch.double)
    positive = 0.12 * query * 8 + torch.randn(dim, generator=noise, dtype=torch.double)
    own, trace = cosine_similarity(query, positive, dim=0), axes.square().sum()
    for theta in (0.1, 0.25, 0.6 * float(own)):
        a = cosine_crossing(torch.tensor(theta).double(), own, positive.square().sum(), trace)
        xi = torch.randn(40_000, dim, generator=noise, dtype=torch.double) * axes
        made = a * positive + (1 - a * a).sqrt() * xi
        assert float(cosine_similarity(made, query[None]).mean()) == pytest.approx(theta, abs=0.01)
    assert cosine_crossing(torch.tensor(-0.1), torch.tensor(0.5), torch.tensor(1.0), torch.tensor(1.0)) == 0


def test_told_in_cosines_the_boundary_and_the_noise_are_those_of_directions() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(2000), 1)
    _, found = drawn(data, tables, batch, cosine=True, boundary="midpoint", place=0.5, steps=None)
    users, items = normalize(tables.users), normalize(tables.items)
    own = (users[batch.users] * items[batch.positives]).sum(1)
    centre = (users @ items.mean(0))[batch.users]
    tau = centre + 0.5 * (own - centre)
    assert torch.equal(found.mask[:, 1], own > tau.clamp(min=0))
    squares = tables.items.square().sum(1)
    share = cosine_crossing(tau, own, squares[batch.positives], squares.mean())
    rows = found.mask[:, 1]
    rest = (found.vectors[:, 1] - share[:, None] * tables.items[batch.positives]) / (1 - share.square()).sqrt()[:, None]
    second = tables.items.T @ tables.items / len(tables.items)
    assert torch.allclose(rest[rows].T @ rest[rows] / rows.sum(), second, atol=0.4)
    assert float(rest[rows].square().sum(1).mean()) == pytest.approx(float(squares.mean()), rel=0.05)


def test_the_curriculum_goes_in_a_line_after_the_warmup() -> None:
    data = shelf()
    tables = space(data)
    options = {"start": 0.9, "confidence": 0.5, "warmup": 2, "ramp": 4}
    sampler = parts.build("sampler", "adar", data, **options)
    asked = [sampler.quantile_of(epoch) for epoch in range(8)]
    assert asked[:2] == [None, None] and asked[2:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.5])
    batch = data.batch(torch.arange(64), 0)
    _, early = drawn(data, tables, batch, epoch=1, **options)
    assert torch.equal(early.ids[:, 0], data.easy(batch)) and not early.level.any()
    below = [scores_of(tables, batch, drawn(data, tables, batch, epoch, **options)[1]).mean() for epoch in (2, 4, 6)]
    assert below[0] < below[1] < below[2]
    levels = [drawn(data, tables, batch, epoch, **options)[1].level[0, 1] for epoch in (2, 4, 6)]
    assert levels == [1, 3, 5]


def test_a_band_goes_on_by_evenly_drawn_steps() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(3000), 1)
    sampler, found = drawn(data, tables, batch)
    _, widened = drawn(data, tables, batch, band=(2, 5))
    signal = schedule("cosine", 50).signal.double()
    noise = sampler.cloud.shape(normals(batch.rows, sampler.key(batch, "noise"), DIM).double())
    mean, own = tables.items.mean(0), tables.items[batch.positives]

    def steps(vectors: Tensor) -> Tensor:
        ways = mean + signal[:, None, None] * (own - mean) + (1 - signal.square()).sqrt()[:, None, None] * noise
        return (ways - vectors[None, :, 1]).square().sum(2).argmin(0)

    rows = found.mask[:, 1] & (steps(found.vectors) < 44)
    gone = (steps(widened.vectors) - steps(found.vectors))[rows]
    assert set(gone.tolist()) == {2, 3, 4, 5}
    assert torch.bincount(gone)[2:].double().div(len(gone)).sub(0.25).abs().max() < 0.05


def test_back_takes_each_row_down_its_own_ddim_steps() -> None:
    torch.manual_seed(0)
    process = Diffusion(schedule("cosine", 12), "epsilon", clip=3.0)
    net = MLP(DIM, 12)
    x = torch.randn(24, DIM)
    t = torch.arange(24) % 12
    for steps in (1, 3, 5):
        found = back(process, net.prepare(), x, t, steps)
        for row in range(24):
            start = int(t[row]) + 1
            if steps <= start:
                *_, (_, alone, _) = process.ddim(net.prepare(), x[row : row + 1], steps, start=start)
                assert torch.allclose(found[row], alone[0], atol=1e-4)
    few = back(process, net.prepare(), x[:1], t[:1], 5)  # one step from clean: one is taken
    assert torch.allclose(few, process.estimate(net.prepare(), x[:1], t[:1]))


def hosted(**options: Any) -> tuple[Objective, Data]:
    data: Data = parts.build("dataset", "shop", users=60, items=60).read()
    torch.manual_seed(0)
    model = parts.build("backbone", "bprmf", data, dim=DIM)
    objective = Objective(model, parts.build("sampler", "adar", data, **options), parts.build("loss", "bpr"))
    with torch.no_grad():
        objective.sampler.begin_epoch(3, model, model.propagate())
    return objective, data


def test_no_gradient_flows_through_what_was_made_up() -> None:
    objective, data = hosted(boundary="pair", weight=1.0)
    model, batch = objective.model, data.batch(torch.arange(40), 3)
    negatives = objective.sampler(model.propagate(), batch, model.query(model.propagate(), batch))
    assert not negatives.vectors[:, 1].detach().requires_grad
    made = negatives.vectors.grad_fn.next_functions
    assert [one[0] is not None for one in made] == [True, False]  # the uniform one is an item, and learns
    objective(batch).backward()
    moved = model.items.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    only_made = negatives.mask[:, 1]
    allowed = set(batch.positives.tolist()) | set(data.easy(batch)[~only_made].tolist())
    assert only_made.any() and set(moved) <= allowed


def test_a_corrupted_positive_pulls_the_catalogue_along_unless_an_item_is_pushed_in_its_place() -> None:
    grown = {}
    for push in ("none", "easy"):
        objective, data = hosted(boundary="pair", weight=1.0, push=push)
        model, batch = objective.model, data.batch(torch.arange(40), 3)
        negatives = objective.sampler(model.propagate(), batch, model.query(model.propagate(), batch))
        query = model.query(model.propagate(), batch).detach()
        objective(batch).backward()
        grown[push], made = model.items.weight.grad, negatives.vectors.detach()[:, 1]
        positive = model.items.weight.detach()[batch.positives]
        slow, turns = torch.zeros_like(grown[push]), negatives.mask[:, 1].tolist()
        for row, (p, n) in enumerate(zip(batch.positives.tolist(), data.easy(batch).tolist(), strict=True)):
            bad = made[row] if turns[row] else model.items.weight.detach()[n]
            pull = torch.sigmoid(query[row] @ (bad - positive[row])) * query[row] / len(batch)
            slow[p] -= pull
            if push == "easy" or not turns[row]:
                slow[n] += pull
        assert torch.allclose(grown[push], slow, atol=1e-7)
    assert grown["easy"].sum(0).abs().max() < 1e-6 < grown["none"].sum(0).abs().max()


def test_the_item_beside_is_the_best_of_its_pool_as_dns_finds_it() -> None:
    data = shelf()
    tables, batch = space(data), data.batch(torch.arange(300), 1)
    sampler, found = drawn(data, tables, batch, pool=4)
    pool, query = sampler.unseen(batch, 4), tables.users[batch.users]
    for row in range(300):
        best = max(pool[row].tolist(), key=lambda item: float(query[row] @ tables.items[item]))
        assert torch.equal(found.vectors[row, 0], tables.items[best])
    sampler.begin_epoch(0, None, tables)
    assert len(set(pool.flatten().tolist())) > 100 and (sampler(tables, batch, query).ids != pool[:, :1]).any()


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_the_denoiser_learns_beside_and_its_vectors_stay_below_the_boundary(prediction: str) -> None:
    objective, data = hosted(reverse=2, dim=DIM, prediction=prediction, sample=0)
    model, sampler = objective.model, objective.sampler
    tables, batch = model.propagate(), data.batch(torch.arange(256), 3)
    query = model.query(tables, batch)
    optimizer, losses = torch.optim.Adam(sampler.parameters(), lr=0.01), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sampler.own_loss(tables, batch, query)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is None for p in model.parameters()) and all(p.grad is not None for p in sampler.parameters())
    found = sampler(tables, batch, query)
    plain = Tables(items=tables.items.detach(), users=tables.users.detach())
    rows, tau = found.mask[:, 1], slow_boundary(plain)[batch.users]
    assert rows.any() and (scores_of(plain, batch, found)[rows, 0] <= tau[rows] + 1e-5).all()
    near = [cosine_similarity(found.vectors[rows, 1].detach(), plain.items[batch.positives][rows]).mean()]
    near.append(cosine_similarity(found.vectors[rows, 1].detach(), plain.items[batch.positives.roll(7)][rows]).mean())
    assert near[0] > near[1]


def test_the_noise_has_the_shape_of_the_catalogue() -> None:
    data = shelf()
    tables = space(data)
    batch = data.batch(torch.arange(20_000), 1)
    _, found = drawn(data, tables, batch, boundary="margin", place=1e6, steps=None)  # far below everything: all noise
    moments = Moments.of(tables.items)
    rows = found.mask[:, 1]
    assert rows.any() and torch.allclose(found.vectors[rows, 1].mean(0), moments.mean, atol=0.1)
    off = found.vectors[rows, 1] - moments.mean
    assert torch.allclose(off.T @ off / len(off), moments.covariance, atol=0.15)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": 1.0}, "confidence = 1.0"),
        ({"start": 0.0}, "start = 0.0"),
        ({"ramp": 0}, "ramp = 0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"t_min": 50}, "t_min = 50"),
        ({"band": (3, 1)}, "band"),
        ({"weight": 1.5}, "weight = 1.5"),
        ({"count": 0}, "count = 0"),
        ({"pool": 0}, "pool = 0"),
        ({"steps": 5, "reverse": 6}, "reverse = 6"),
        ({"steps": None, "reverse": 1}, "steps = None"),
        ({"steps": None, "undecided": "t_min"}, "steps = None"),
        ({"steps": None, "band": (0, 1)}, "steps = None"),
        ({"cosine": True, "start": 0.9}, "q belongs to"),
        ({"transition": "draw", "confidence": 0.7}, "q belongs to"),
        ({"cosine": True, "transition": "draw"}, "cosine knows"),
        ({"cosine": True, "reverse": 1}, "cosine knows"),
        ({"place": 1.5}, "place = 1.5"),
        ({"boundary": "margin", "place": -1.0}, "place = -1.0"),
        ({"sample": -1}, "sample = -1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words.replace("(", r"\(")):
        parts.build("sampler", "adar", shelf(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"transition": "draw", "count": 2, "steps": None},
        {"cosine": True, "undecided": "t_min", "t_min": 3},
        {"boundary": "bayes", "place": 0.1, "noise": "plain"},
        {"reverse": 3, "prediction": "epsilon", "band": (2, 4), "lr": 0.01},
        {"sample": 0, "start": 0.9, "ramp": 3, "push": "easy", "count": 2},
        {"push": "easy", "pool": 4},
    ],
)
def test_the_contract_holds_with_other_options(options: dict[str, Any]) -> None:
    contracts.check_sampler(parts.find("sampler", "adar"), **options)


def test_a_denoiser_of_another_width_is_refused() -> None:
    data = shelf()
    with pytest.raises(PartsDoNotFit, match=r"set sampler\.dim"):
        parts.build("sampler", "adar", data, reverse=1).begin_epoch(0, None, space(data))
