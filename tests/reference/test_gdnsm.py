"""GDNSM: guidance, chains and losses written slowly, levels that grade, and what must hold of its draws."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, linear, softplus

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Tables, score
from foilrec.data import Features
from foilrec.diffusion.guidance import composed, kept, subsets
from foilrec.diffusion.mlp import MLP
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.negatives.moments import Moments
from foilrec.negatives.nearseen import near_seen
from foilrec.negatives.pacing import opened
from foilrec.numerics import chances
from foilrec.recipe import Recipe
from foilrec.stretch import Stretch, train
from foilrec.trainer import Epoch, Objective, Settings, Trainer
from reference.shop_runs import patchy_world

DIM = 8


def make(data: Data, **options: Any) -> Any:
    """A sampler of all levels from the first epoch on, its weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return parts.build("sampler", "gdnsm", data, **{"dim": DIM, "start_epoch": 0, "steps": 6, **options})


def host(data: Data, seed: int = 0) -> Backbone:
    """A LightGCN as wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Backbone = parts.build("backbone", "lightgcn", data, dim=DIM)
    return model


def drawn(sampler: Any, model: Backbone, rows: Tensor, epoch: int = 1, seed: int = 0) -> Any:
    """Negatives of some training rows in an epoch."""
    sampler.seed, tables = seed, model.propagate()
    with torch.no_grad():
        sampler.begin_epoch(epoch, model, tables)
    batch = sampler.data.batch(rows, epoch)
    return sampler(tables, batch, model.query(tables, batch))


# pacing and guidance


@pytest.mark.parametrize(("epoch", "count"), [(0, 0), (29, 0), (30, 5), (45, 7), (60, 10), (90, 15), (300, 15)])
def test_so_much_of_the_pool_is_open(epoch: int, count: int, world: Data) -> None:
    assert opened(epoch, 30, 1.0, 5, 3) == count
    sampler = make(world, draws=5, start_epoch=30)
    assert drawn(sampler, host(world), torch.arange(9), epoch).shape == (9, 1 + count)


def test_pacing_by_other_powers_and_from_the_start() -> None:
    assert [opened(e, 10, 2.0, 4, 2) for e in (9, 10, 12, 14, 15)] == [0, 4, 5, 7, 8]
    assert opened(40, 10, 0.5, 3, 9) == 6
    assert opened(0, 0, 1.0, 4, 7) == 28


def test_sets_of_conditions_in_increasing_size() -> None:
    assert subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_row_keeps_all_conditions_or_lacks_some_in_each_way_alike(
    count: int, chi_square: Callable[[Tensor, Tensor], float]
) -> None:
    drop, rows = 0.05, 40_000
    found = kept(chances.chances(torch.arange(rows), 7, 1)[:, 0], drop, count)
    places = (found.long() << torch.arange(count)).sum(1)  # the bits of what is kept
    wanted = torch.full((2**count,), drop * rows)
    wanted[-1] = rows * (1 - drop * (2**count - 1))
    assert chi_square(torch.bincount(places, minlength=2**count), wanted) > 1e-4
    assert kept(torch.rand(50), 0.0, count).all()


@pytest.mark.parametrize("level", [(0,), (1,), (0, 1), (1, 0), (2, 0, 1)])
def test_guidance_composes_one_condition_after_the_other(level: tuple[int, ...]) -> None:
    scales, outputs = [1.3, 0.7, 2.0], {}

    def output(known: tuple[int, ...]) -> Tensor:
        key = tuple(sorted(known))
        return outputs.setdefault(key, torch.randn(4, generator=torch.Generator().manual_seed(len(outputs))))

    value = output(())
    for size, m in enumerate(level):
        value = value + scales[m] * (output(level[: size + 1]) - output(level[:size]))
    sets, shares = composed([level], scales)
    assert torch.allclose(sum(s * output(k) for s, k in zip(shares[0], sets, strict=True)), value, atol=1e-6)
    assert float(shares.sum()) == pytest.approx(1)


def test_at_scale_1_guidance_is_the_conditional_output_alone() -> None:
    sets, shares = composed([(0,), (1, 0)], [1.0, 1.0])
    told = [{sets[s]: float(x) for s, x in enumerate(row) if x} for row in shares]
    assert told == [{(0,): 1.0}, {(0, 1): 1.0}]


@pytest.mark.parametrize("hidden", [(), (5,), (6, 7)])
def test_a_mixture_of_outputs_is_each_networks_own_mixed(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = MLP(DIM, 4, [3, 5, 2], hidden=hidden, step_dim=6, always=1).double()
    conditions = [torch.randn(7, width).double() for width in (3, 5, 2)]
    has = torch.rand(7, 2) > 0.3
    sets, shares = composed([(0,), (1,), (1, 0)], [1.5, 1.1])
    x, t = torch.randn(3, 7, DIM).double(), torch.tensor(2)
    made = net.mixture(conditions, has, sets, shares)(x, t)
    for k, row in enumerate(shares.tolist()):
        slow = torch.zeros(7, DIM).double()
        for share, told in zip(row, sets, strict=True):
            slow += share * net(x[k], t, conditions, has & torch.tensor([m in told for m in range(2)]))
        assert torch.allclose(made[k], slow, atol=1e-6)


# chains and losses, slowly


def conditions_by_hand(sampler: Any, tables: Tables, user: int, item: int) -> tuple[Tensor, list[Tensor], list[bool]]:
    """A row's scaled user, its projected contents, and which of them there are."""
    assert tables.users is not None
    scale = (tables.users - tables.users.mean(0)).square().mean().sqrt()
    given, has = [], []
    for name, content in zip(sampler.modalities, sampler.generator.contents, strict=True):
        features = sampler.data.features[name]
        here = torch.ones(sampler.data.n_items) > 0 if features.present is None else features.present
        rows = torch.from_numpy(features.rows).double()[here]
        spread = (rows - rows.mean(0)).square().mean().sqrt()
        row = (torch.from_numpy(features.rows[item]).double() - rows.mean(0)) / spread
        given.append(linear(row, content.linear.weight.double(), content.linear.bias.double()))
        has.append(bool(here[item]))
    return (tables.users[user] - tables.users.mean(0)).double() / scale, given, has


def output_by_hand(sampler: Any, x: Tensor, t: int, user: Tensor, given: list[Tensor], keep: list[bool]) -> Tensor:
    """The network on one row."""
    net = sampler.generator.net
    step = net.step_map(net.steps)[t].double()
    told = [c if here else null.double() for c, null, here in zip(given, net.nulls, keep, strict=True)]
    value: Tensor = linear(torch.cat([x, step, user, *told]), net.first.weight.double(), net.first.bias.double())
    for layer in net.later:
        value = linear(value, layer.weight.double(), layer.bias.double()) if hasattr(layer, "weight") else layer(value)
    return value


def guided_by_hand(sampler: Any, x: Tensor, t: int, row: Any, level: tuple[int, ...]) -> Tensor:
    """e_0 + s (e_1 - e_0) + ... for one row, composed from the last modality back, as x_0 within the clip."""
    user, given, has = row
    order = sorted(level, reverse=sampler.hard_first)

    def output(known: list[int]) -> Tensor:
        return output_by_hand(sampler, x, t, user, given, [m in known and has[m] for m in range(len(given))])

    value = output([])
    for size, m in enumerate(order):
        value = value + sampler.scales[m] * (output(order[: size + 1]) - output(order[:size]))
    process = sampler.generator.diffusion
    value = process.to_x0(x, t, value)
    return value if process.clip is None else value.clamp(-process.clip, process.clip)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"reverse_steps": None, "stop_step": 0, "hidden": 5, "scale": {"image": 1.3, "text": 2.0}},
        {"reverse_steps": 3, "stop_step": 2, "draws": 2},
        {"reverse_steps": None, "prediction": "epsilon", "schedule": "linear-scaled", "compose": "easy_first"},
        {"reverse_steps": 2, "prediction": "v", "clip": 0.7, "hidden": 3},
    ],
    ids=["every step", "ddim", "epsilon", "v"],
)
def test_the_guided_chain_is_the_one_written_slowly(options: dict[str, Any], world: Data) -> None:
    data, rows = patchy_world(world), torch.tensor([3, 0, 11, 60, 200])
    sampler, model = make(data, calibrate=None, **options), host(data)
    found = drawn(sampler, model, rows)
    tables, batch = model.propagate(), data.batch(rows, 1)
    mean, scale = tables.items.mean(0), (tables.items - tables.items.mean(0)).square().mean().sqrt()
    chain, draws, steps = sampler.generator.diffusion.schedule, sampler.draws, sampler.back
    signal, spread = chain.signal.double(), chain.spread.double()
    for b, k in itertools.product(range(len(rows)), range(3 * draws)):
        row = conditions_by_hand(sampler, tables, int(batch.users[b]), int(batch.positives[b]))

        def noise(name: object, row: int = int(rows[b]), k: int = k) -> Tensor:
            key = sampler.key(batch, f"chain {name}")
            return chances.normals(torch.tensor([row]), key, 3 * draws * DIM).view(-1, DIM)[k].double()

        x = noise("begin")
        stop, size = sampler.stop, len(chain) - sampler.stop
        times = range(len(chain) - 1, stop - 2, -1)
        for t, to in itertools.pairwise(
            times if steps is None else [stop + size * j // steps - 1 for j in range(steps, -1, -1)]
        ):
            x0 = guided_by_hand(sampler, x, t, row, sampler.levels[k // draws])
            if steps is None:
                x = chain.c1[t] * x0 + chain.c2[t] * x + (chain.sigma[t] * noise(t) if t else 0)
            else:
                eps = (x - signal[t] * x0) / spread[t]
                x = x0 if to < 0 else signal[to] * x0 + spread[to] * eps
        assert torch.allclose(found.vectors[b, 1 + k].double(), x * scale + mean, atol=1e-4), (b, k)
        assert int(found.level[b, 1 + k]) == 1 + k // draws


@torch.no_grad()
@pytest.mark.parametrize("dropout", ["one", "averaged"])
def test_the_diffusions_error_is_the_one_written_slowly(dropout: str, world: Data) -> None:
    data, rows = patchy_world(world), torch.arange(0, 300, 7)
    sampler, model = make(data, dropout=dropout, drop=0.2, inner_steps=2), host(data)
    tables, batch = model.propagate(), data.batch(rows, 1)
    sampler.begin_epoch(1, model, tables)
    mean, scale = tables.items.mean(0), (tables.items - tables.items.mean(0)).square().mean().sqrt()
    generator, total, counted = sampler.generator, 0.0, 0
    nulls = [null.double() for null in generator.net.nulls]
    for b, copy in itertools.product(range(len(rows)), range(2)):
        t, eps, chance = (x[b] for x in sampler._noise(batch, copy))
        user, given, has = conditions_by_hand(sampler, tables, int(batch.users[b]), int(batch.positives[b]))
        outcome, keep = int(chance / 0.2), [True, True]
        if outcome < 3:
            keep = [(False, True), (True, False), (False, False)][outcome]
        if dropout == "averaged":
            if not all(keep):  # the text's null stands in the image's place once
                given = [(given[0] + nulls[0] + nulls[1]) / 3, (given[1] + 2 * nulls[1]) / 3]
            given = [
                linear(x, layer.weight.double(), layer.bias.double())
                for x, layer in zip(given, generator.further, strict=True)
            ]
            keep = [True, True]
        here = [k and h for k, h in zip(keep, has, strict=True)]
        clean = ((tables.items[batch.positives[b]] - mean) / scale).double()
        x_t = generator.diffusion.schedule.signal[t] * clean + generator.diffusion.schedule.spread[t] * eps
        total += float((output_by_hand(sampler, x_t, int(t), user, given, here) - clean).square().sum())
        counted += DIM
    loss = sampler.own_loss(tables, batch, model.query(tables, batch))
    assert float(loss) == pytest.approx(total / counted, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_with_bpr_the_loss_is_that_of_the_easy_one_and_beta_times_the_mean_of_the_used(
    beta: float, world: Data
) -> None:
    sampler, model, rows = make(world, beta=beta, draws=2, calibrate=0.3), host(world), torch.arange(200)
    negatives = drawn(sampler, model, rows)
    tables, batch = model.propagate(), world.batch(rows, 1)
    query = model.query(tables, batch)
    positive, negative = score(query, tables.item_rows(batch.positives)), score(query, negatives.vectors)
    assert negatives.mask is not None and not negatives.mask[:, 1:].all() and negatives.mask[:, 0].all()
    total = 0.0
    for b in range(len(rows)):
        gaps = [float(softplus(negative[b, k] - positive[b])) for k in range(7) if negatives.mask[b, k]]
        total += gaps[0] + beta * (sum(gaps[1:]) / len(gaps[1:]) if gaps[1:] else 0.0)
    loss = parts.build("loss", "bpr")(positive, negative, negatives)
    assert float(loss) == pytest.approx(total / len(rows), rel=1e-5)
    easy = tables.items[world.easy(batch)]
    assert torch.allclose(negatives.vectors[:, 0], easy, atol=1e-6)


def test_before_its_first_level_it_is_the_easy_negative_alone(world: Data) -> None:
    batch = world.batch(torch.arange(30), 3)
    found = drawn(make(world, start_epoch=4), host(world), torch.arange(30), epoch=3)
    assert torch.equal(found.ids[:, 0], world.easy(batch)) and found.weights is None


# what must hold of the vectors


def test_calibrated_vectors_score_no_more_than_a_share_of_their_positive(world: Data) -> None:
    model, rows = host(world), torch.arange(300)
    tables, batch = model.propagate(), world.batch(rows, 1)
    cloud, query = Moments.of(tables.items), model.query(tables, batch)
    own = cloud.heights(query, tables.items[batch.positives])[:, None]
    for most in (None, 0.8):
        found = drawn(make(world, calibrate=most), model, rows)
        heights = cloud.heights(query, found.vectors[:, 1:])
        used = torch.ones_like(heights) > 0 if found.mask is None else found.mask[:, 1:]
        above = heights > (0.8 * own).clamp(min=0 if most is None else -torch.inf) + 1e-4
        assert bool(above[used].any()) == (most is None)


@pytest.mark.parametrize("options", [{}, {"reverse_steps": None}, {"difficulty": "score", "draws": 2}])
def test_draws_follow_from_seed_epoch_and_row_alone(options: dict[str, Any], world: Data) -> None:
    sampler, model, rows = make(world, **options), host(world), torch.arange(40)
    whole = drawn(sampler, model, rows).vectors
    halves = torch.cat([drawn(sampler, model, half).vectors for half in rows.split(17)])
    assert torch.allclose(whole, halves, atol=1e-5)
    assert torch.equal(whole, drawn(make(world, **options), model, rows).vectors)
    for other in (drawn(sampler, model, rows, seed=1), drawn(sampler, model, rows, epoch=2)):
        assert not torch.isclose(whole[:, 1:], other.vectors[:, 1:]).all(2).any()
    fewer = make(world, **options, start_epoch=1)
    if "difficulty" not in options:  # epoch 1 of start 1 opens the first level, with the same noise
        first = drawn(fewer, model, rows).vectors
        assert torch.allclose(first, whole[:, : first.shape[1]], atol=1e-5)


@pytest.mark.parametrize("difficulty", ["level", "score"])
def test_a_pool_made_as_the_epoch_begins_is_what_a_step_would_make(difficulty: str, world: Data) -> None:
    model, rows, found = host(world), torch.arange(5, 90, 3), {}
    for name, options in {
        "step": {},
        "epoch": {"refresh": "epoch"},
        "half": {"refresh": "epoch", "keep": "float16"},
    }.items():
        found[name] = drawn(make(world, draws=2, difficulty=difficulty, **options), model, rows)
    assert torch.allclose(found["step"].vectors, found["epoch"].vectors, atol=1e-5)
    assert torch.allclose(found["step"].vectors, found["half"].vectors, atol=2e-3)
    assert torch.equal(found["step"].level, found["epoch"].level)


def test_a_pool_that_memory_does_not_allow_is_refused_at_once(world: Data) -> None:
    sampler, model = make(world, refresh="epoch", memory=1e-5, start_epoch=50), host(world)
    with pytest.raises(BadOption, match=r"comes to .* GB, and memory = 1e-05 allows less"):
        sampler.begin_epoch(0, model, model.propagate())


def test_by_score_the_easiest_of_the_whole_pool_come_first(world: Data) -> None:
    model, rows = host(world), torch.arange(60)
    tables, batch = model.propagate(), world.batch(rows, 1)
    cloud, query = Moments.of(tables.items), model.query(tables, batch)
    every = drawn(make(world, draws=2, calibrate=None), model, rows).vectors[:, 1:]
    some = drawn(make(world, draws=2, calibrate=None, difficulty="score", start_epoch=1), model, rows)
    heights = cloud.heights(query, every).sort(1).values[:, :2]
    assert some.shape == (60, 3)
    assert torch.allclose(cloud.heights(query, some.vectors[:, 1:]), heights, atol=1e-4)


def test_the_guard_leaves_out_what_lies_nearest_to_an_item_taken(world: Data) -> None:
    noise = torch.Generator().manual_seed(0)
    items, vectors = torch.randn(world.n_items, DIM, generator=noise), torch.randn(30, 4, DIM, generator=noise)
    users, taken = torch.arange(30), (world.seen.starts, world.seen.items)
    vectors[:10, 0] = 3 * items[[int(world.seen.of(u)[0]) for u in range(10)]]
    for least in (-1.0, 0.6, 0.95):
        found = near_seen(vectors, items, users, taken, least)
        for b, k in itertools.product(range(30), range(4)):
            cosines = cosine_similarity(vectors[b, k], items, dim=1)
            at = int(cosines.argmax())
            assert bool(found[b, k]) == (at in world.seen.of(b).tolist() and float(cosines[at]) > least)
    assert near_seen(vectors, items, users, taken, 0.95)[:10, 0].all()
    sampler, model = make(world, guard=-1.0, calibrate=None), host(world)
    negatives = drawn(sampler, model, torch.arange(200))
    wrong = near_seen(negatives.vectors[:, 1:], model.propagate().items, world.train[:200, 0], taken, -1.0)
    assert wrong.any() and torch.equal(negatives.mask[:, 1:], ~wrong)


@torch.no_grad()
def test_levels_are_measured_within_their_size(world: Data) -> None:
    model = host(world)
    tables = model.propagate()
    sampler = make(world, level_order="measured", draws=3)
    sampler.begin_epoch(2, model, tables)
    order, sampler.levels = sampler.levels, subsets(2)  # what is measured does not hang on the order that it gives
    likeness = sampler._likeness(2, model, tables)
    assert order == sorted(subsets(2), key=lambda level: (len(level), likeness[level])) and order[2] == (0, 1)
    batch = next(iter(world.batches(256, sampler.seed, 2)))
    made, own = sampler._generate(batch, model.query(tables, batch), 9), tables.items[batch.positives]
    mean = tables.items.mean(0)
    for place, level in enumerate(sampler.levels):
        slow = [
            float(cosine_similarity(made[b, 3 * place + d] - mean, own[b] - mean, dim=0))
            for b in range(len(batch))
            for d in range(3)
        ]
        assert sum(slow) / len(slow) == pytest.approx(likeness[level], abs=0.02)


def toy(items: int = 400, users: int = 60, wide: int = 12) -> tuple[Data, Tables]:
    """Items of what is seen, what is read, and what is neither; text tells more. Users like a mixture of theirs."""
    noise = torch.Generator().manual_seed(0)
    seen, read, own = (torch.randn(items, wide, generator=noise) for _ in range(3))
    rows = 0.6 * seen @ torch.randn(wide, wide, generator=noise) + read @ torch.randn(wide, wide, generator=noise)
    rows = 0.02 * (rows / wide**0.5 + 0.3 * own) + 0.01
    train = torch.stack(
        [torch.arange(users).repeat_interleave(20), torch.randint(items, (20 * users,), generator=noise)], 1
    )
    train = train.unique(dim=0)
    liked = torch.zeros(users, wide).index_add_(0, train[:, 0], rows[train[:, 1]] - rows.mean(0))
    features = {"image": Features(seen.numpy()), "text": Features(read.numpy())}
    return Data(users, items, train, train[:0], train[:0], features), Tables(items=rows, users=liked / 5)


@pytest.mark.parametrize("hidden", [0, 32])
def test_the_more_a_level_knows_the_more_like_the_positive_it_is(hidden: int) -> None:
    data, tables = toy()
    sampler = make(data, dim=12, steps=20, hidden=hidden, scale=1.05)
    model = parts.build("backbone", "bprmf", data, dim=12)
    adam = torch.optim.Adam(sampler.parameters(), lr=0.01)
    sampler.begin_epoch(0, model, tables)
    for epoch in range(120):
        batch = next(iter(data.batches(512, 0, epoch)))
        adam.zero_grad()
        sampler.own_loss(tables, batch, tables.user_rows(batch.users)).backward()
        adam.step()
    batch = data.batch(torch.arange(500), 0)
    query, own, mean = tables.users[batch.users], tables.items[batch.positives], tables.items.mean(0)
    sampler.levels = [(), *sampler.levels]  # the user alone
    made = generate(sampler, batch, query)
    alike = cosine_similarity(made - mean, (own - mean)[:, None], dim=2).mean(0).tolist()
    user, image, text, both = alike
    assert user < image < text < both and image - user > 0.1 and both > 0.8
    lengths = made.norm(dim=2) / own.norm(dim=1, keepdim=True)
    assert all(0.5 < float(mean) < 2 for mean in lengths[:, 1:].mean(0))
    assert ((lengths > 0.5) & (lengths < 2))[:, 2:].float().mean() > 0.95


def generate(sampler: Any, batch: Batch, query: Tensor) -> Tensor:
    """One vector of each level."""
    made: Tensor = sampler._generate(batch, query, len(sampler.levels))
    return made


# whose gradient goes where


def gradients(objective: Objective, batch: Batch, turn: Any) -> tuple[bool, bool]:
    """Whether the backbone, and whether the sampler, get one."""
    objective.zero_grad(set_to_none=True)
    objective(batch, turn).backward()
    found = [[p.grad is not None for p in part.parameters()] for part in (objective.model, objective.sampler)]
    assert all(len(set(side)) == 1 for side in found)
    return found[0][0], found[1][0]


@pytest.mark.parametrize("refresh", ["step", "epoch"])
def test_a_step_of_one_leaves_the_other_bit_for_bit(refresh: str, world: Data) -> None:
    model, sampler = host(world), make(world, refresh=refresh)
    objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
    optimizer = parts.build("optimizer", "adam", objective.parameters(), lr=0.1)
    batch = world.batch(torch.arange(64), 1)
    with torch.no_grad():
        sampler.begin_epoch(1, model, model.propagate())
    objective(batch).backward()
    optimizer.step()  # moments of Adam would move parameters without a gradient, if they had one of zero
    for turn, moved, still in (("sampler", sampler, model), ("model", model, sampler)):
        before = [[p.detach().clone() for p in part.parameters()] for part in (moved, still)]
        assert gradients(objective, batch, turn) == (turn == "model", turn == "sampler")
        optimizer.step()
        assert not any(torch.equal(*pair) for pair in zip(before[0], moved.parameters(), strict=True))
        assert all(torch.equal(*pair) for pair in zip(before[1], still.parameters(), strict=True))


def test_joint_gradients_are_those_of_the_two_turns(world: Data) -> None:
    model, sampler = host(world), make(world)
    objective, batch = Objective(model, sampler, parts.build("loss", "bpr")).train(), world.batch(torch.arange(64), 1)
    with torch.no_grad():
        sampler.begin_epoch(1, model, model.propagate())
    found = {}
    for turn in ("both", "sampler", "model"):
        gradients(objective, batch, turn)
        found[turn] = [None if p.grad is None else p.grad.clone() for p in objective.parameters()]
    for both, own, other in zip(*found.values(), strict=True):
        assert torch.allclose(both, other if own is None else own, atol=1e-7)


def test_alternating_passes_and_an_own_learning_rate(world: Data) -> None:
    told: list[str] = []

    class Listening(Objective):
        def forward(self, batch: Batch, turn: Any = "both") -> Tensor:
            told.append(turn)
            total: Tensor = super().forward(batch, turn)
            return total

    for passes, turns in (("joint", ["both"] * 2), ("alternate", ["sampler"] * 2 + ["model"] * 2)):
        told.clear()
        objective = Listening(host(world), make(world, passes=passes), parts.build("loss", "bpr"))
        adam = parts.build("optimizer", "adam", objective.parameters())
        protocol = Recipe().protocol("valid")
        steps: list[tuple[int, int]] = []
        trainer = Trainer(
            objective,
            adam,
            Settings(batch=300, epochs=1, meter=0),
            protocol,
            on_step=lambda *step, to=steps: to.append(step),
        )
        list(trainer.epochs())
        assert told == turns and steps[-1] == (len(turns), len(turns))


@pytest.mark.parametrize("backbone", ["bprmf", "freedom", "vbpr", "sasrec"])
def test_it_works_beside_backbones_of_every_kind(backbone: str) -> None:
    data = contracts.small_world()
    torch.manual_seed(0)
    model, loss = parts.build("backbone", backbone, data), parts.build("loss", "bpr")
    width = model.propagate().items.shape[1]
    for refresh in ("step", "epoch"):
        sampler = make(data, dim=width, refresh=refresh, level_order="measured")
        objective = Objective(model, sampler, loss)
        adam = parts.build("optimizer", "adam", objective.parameters(), lr=0.01)
        trainer = Trainer(objective, adam, Settings(batch=256, epochs=2, meter=32), Recipe().protocol("valid"))
        *_, last = trainer.epochs()
        assert math.isfinite(last.loss) and last.hardness is not None
        assert set(last.hardness) == {"all", "stage 0", "stage 1", "stage 2", "stage 3"}


# whole runs


def recipe(**sampler: Any) -> Recipe:
    """A short training on the shop."""
    return Recipe.from_tree(
        {
            "name": "gdnsm",
            "threads": 1,
            "data": {"name": "shop", "users": 80, "items": 80},
            "backbone": {"name": "lightgcn", "dim": 16},
            "sampler": {"name": "gdnsm", "dim": 16, "steps": 6, "start_epoch": 1, **sampler},
            "optimizer": {"name": "adam", "lr": 0.02},
            "train": {"batch": 256, "epochs": 4, "patience": 0, "meter": 64},
            "evaluate": {"ks": [20], "metrics": ["recall"]},
        }
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"refresh": "epoch", "passes": "alternate", "lr": 0.005, "level_order": "measured"}],
    ids=["", "all"],
)
def test_an_interrupted_training_goes_on_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    chosen = recipe(**options)

    def halt(told: Epoch) -> None:
        if told.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "halted", on_epoch=halt)
    resumed, straight = train(chosen, tmp_path / "halted", resume=True), train(chosen, tmp_path / "straight")
    weights = [run.model.state_dict() for run in (resumed, straight)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert [line["loss"] for line in resumed.epochs()] == [line["loss"] for line in straight.epochs()]
    stages = [set(line["hardness"]) for line in straight.epochs()]
    assert stages[0] == {"all", "stage 0"} and stages[3] == {"all", "stage 0", "stage 1", "stage 2", "stage 3"}


def test_the_optimizer_has_groups_of_their_own(tmp_path: Path) -> None:
    for options, rates in (({}, [0.02, 0.02]), ({"lr": 0.3}, [0.02, 0.3])):
        trainer = Stretch(recipe(**options), tmp_path / f"{len(options)}").trainer
        groups = trainer.optimizer.param_groups
        assert [group["lr"] for group in groups] == rates
        named = [list(map(id, part.parameters())) for part in (trainer.objective.model, trainer.objective.sampler)]
        assert [[id(p) for p in group["params"]] for group in groups] == named
    inner = {
        "name": "mixed",
        "parts": [{"name": "uniform"}, dict(recipe(lr=0.3, passes="alternate").tree()["sampler"])],
    }
    tree = {**recipe().tree(), "sampler": inner}
    trainer = Stretch(Recipe.from_tree(tree), tmp_path / "mixed").trainer
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.02, 0.3]


# options


def test_data_without_features_and_vectors_of_another_width_do_not_fit(world: Data) -> None:
    with pytest.raises(PartsDoNotFit, match="gdnsm is guided by item features"):
        make(replace(world, features={}))
    with pytest.raises(PartsDoNotFit, match="has image, text"):
        make(world, modalities=("image", "sound"))
    model = host(world)
    with pytest.raises(PartsDoNotFit, match=r"gdnsm is 4 wide and the backbone's vectors 8: set sampler\.dim"):
        make(world, dim=4).begin_epoch(0, model, model.propagate())


def test_one_modality_and_three(world: Data) -> None:
    model, rows = host(world), torch.arange(20)
    alone = drawn(make(world, modalities=("text",)), model, rows)
    assert alone.shape == (20, 2)
    three = replace(world, features={**world.features, "sound": world.features["text"]})
    found = drawn(make(three, drop=0.1, draws=2), model, rows)
    assert found.shape == (20, 15) and found.level[0].unique().tolist() == list(range(8))


def test_wrong_options_are_explained(world: Data) -> None:
    for wrong, words in (
        ({"draws": 0}, "draws = 0"),
        ({"start_epoch": -1}, "start_epoch"),
        ({"power": 0.0}, "power"),
        ({"drop": 0.4}, "below 1 / 3"),
        ({"stop_step": 6}, "stop_step"),
        ({"reverse_steps": 7}, "reverse_steps"),
        ({"reverse_steps": 0}, "reverse_steps"),
        ({"calibrate": 0.0}, "calibrate"),
        ({"scale": {"image": 1.0}}, "name each of image, text"),
        ({"dropout": "averaged", "modalities": ("text",)}, "two modalities"),
        ({"schedule": "linear", "steps": 50}, "starts its chains from pure noise"),
        ({"faithful": True}, "faithful = true means"),
    ):
        with pytest.raises(BadOption, match=words):
            make(world, **wrong)


def test_the_released_form_is_named_and_can_be_had(world: Data) -> None:
    released = {
        "compose": "easy_first",
        "prediction": "epsilon",
        "reverse_steps": None,
        "stop_step": 0,
        "clip": None,
        "normalise": False,
        "dropout": "averaged",
        "calibrate": None,
        "faithful": True,
    }
    sampler, model = make(world, **released), host(world)
    found = drawn(sampler, model, torch.arange(12))
    assert torch.isfinite(found.vectors).all() and found.mask is None
    tables, batch = model.propagate(), world.batch(torch.arange(12), 1)
    assert torch.isfinite(sampler.own_loss(tables, batch, model.query(tables, batch)))
