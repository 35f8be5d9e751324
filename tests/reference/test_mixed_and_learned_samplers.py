"""Samplers that mix, remember or learn, against their formulas written slowly, and what must hold of each."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, leaky_relu, softplus

from foilrec import parts
from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.hardness import Meter
from foilrec.numerics import clusters, kernels
from foilrec.numerics.chances import chances, gumbel, normals
from foilrec.recipe import Recipe
from foilrec.stretch import train
from foilrec.trainer import Epoch, Objective

DIM = 8


def case(world: Data, rows: int = 40, layers: int = 3, epoch: int = 1) -> tuple[Tables, Batch, Tensor]:
    """Random layers, items their mean, and a batch of training rows; everything wants its gradient."""
    generator = torch.Generator().manual_seed(0)
    made = tuple(torch.randn(world.n_items, DIM, generator=generator, requires_grad=True) for _ in range(layers))
    users = torch.randn(world.n_users, DIM, generator=generator, requires_grad=True)
    which = torch.arange(rows)
    batch = Batch(world.train[which, 0], world.train[which, 1], which, epoch=epoch)
    items = torch.stack(made).mean(0)
    tables = Tables(items=items, users=users, layers=made if layers > 1 else ())
    return tables, batch, users[batch.users]


def plain(value: Tensor) -> float:
    """A number without its gradient."""
    return float(value.detach())


def make(name: str, data: Data, **options: Any) -> Any:
    """A sampler, whatever weights it has drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return parts.build("sampler", name, data, **options)


def model(data: Data, **options: Any) -> Backbone:
    """A LightGCN as wide as the case."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: Backbone = parts.build("backbone", "lightgcn", data, dim=DIM, **options)
    return built


def test_chances_lie_between_0_and_1_evenly_and_gumbel_draws_a_softmax(chi_square: Callable[..., float]) -> None:
    many = chances(torch.arange(20_000), 5, 3)
    assert many.min() > 0
    assert many.max() < 1
    assert chi_square(torch.bincount((many.flatten() * 20).long(), minlength=20), torch.full((20,), 3000.0)) > 1e-4
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = (scores + gumbel(torch.arange(20_000), 6, 4)).argmax(1)
    assert chi_square(torch.bincount(drawn, minlength=4), scores.softmax(0) * 20_000) > 1e-4


@pytest.mark.usefixtures("both_forms")
def test_words_are_splitmix_of_row_and_column() -> None:
    whole, golden = 2**64, 0x9E3779B97F4A7C15

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % whole
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % whole
        return x ^ (x >> 31)

    for row, words in zip(
        (0, 3, 10**9), kernels.words(torch.tensor([0, 3, 10**9]), 2**62 + 5, 4).tolist(), strict=True
    ):
        base = mixed((2**62 + 5) ^ mixed(row))
        slow = [mixed((base + (k + 1) * golden) % whole) for k in range(4)]
        assert words == [x - whole * (x >= whole // 2) for x in slow]


@pytest.mark.usefixtures("both_forms")
def test_normals_are_normal_and_go_by_row_and_column(chi_square: Callable[..., float]) -> None:
    many = normals(torch.arange(20_000), 5, 5)
    place = (torch.special.ndtr(many.double()) * 20).long()
    assert chi_square(torch.bincount(place.flatten(), minlength=20), torch.full((20,), 5000.0)) > 1e-4
    assert (torch.corrcoef(many.T) - torch.eye(5)).abs().max() < 0.03 and many.abs().max() < 5.3
    assert torch.equal(normals(torch.arange(7, 9), 5, 3), many[7:9, :3])


# mixgcf


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("count", [1, 3])
def test_mixgcf_mixes_the_positive_into_the_hardest_of_each_layer(count: int, world: Data) -> None:
    tables, batch, query = case(world)
    sampler = make("mixgcf", world, pool=5, count=count)
    made = sampler(tables, batch, query).vectors
    ids = sampler.unseen(batch, 5 * count).view(len(batch), count, 5)
    share = chances(torch.arange(len(batch)), sampler.key(batch, "mix"), 3 * count).view(len(batch), count, 3)
    for b, k in itertools.product(range(len(batch)), range(count)):
        total = torch.zeros(DIM)
        for at, layer in enumerate(tables.layers):
            a, p = share[b, k, at], layer[batch.positives[b]]
            mixed = [a * p + (1 - a) * layer[i] for i in ids[b, k]]  # eq. 5, before the choice of eq. 6
            total += max(mixed, key=lambda n: plain(query[b] @ n))
        assert torch.allclose(made[b, k], total / 3, atol=1e-5)


def test_mixgcf_at_its_limits_is_dns_by_layer_and_the_positive_itself(world: Data) -> None:
    tables, batch, query = case(world)
    assert torch.allclose(
        make("mixgcf", world, alpha=(1, 1))(tables, batch, query).vectors[:, 0],
        tables.items[batch.positives],
        atol=1e-6,
    )
    single, batch, query = case(world, layers=1)
    plain = make("mixgcf", world, pool=6, alpha=(0, 0))(single, batch, query).vectors[:, 0]
    scores = (single.items[make("mixgcf", world).unseen(batch, 6)] * query[:, None]).sum(2)
    assert torch.allclose((plain * query).sum(1), scores.max(1).values, atol=1e-5)


@pytest.mark.parametrize("name", ["mixgcf", "dens"])
def test_the_gradient_of_a_made_up_negative_reaches_every_layer_in_training_alone(name: str, world: Data) -> None:
    tables, batch, query = case(world)
    sampler = make(name, world, **({"dim": DIM} if name == "dens" else {}))
    with torch.no_grad():  # as the trainer asks samplers without weights
        made = sampler(tables, batch, query).vectors
    made.sum().backward()
    touched = [set(layer.grad.any(1).nonzero().flatten().tolist()) for layer in tables.layers]
    assert all(touched)
    assert all((set(batch.positives.tolist()) <= t) == (name == "mixgcf") for t in touched)
    assert tables.users is not None
    assert tables.users.grad is None
    with torch.no_grad():
        assert not sampler.eval()(tables, batch, query).vectors.requires_grad


@pytest.mark.parametrize("name", ["mixgcf", "dens"])
def test_a_backbone_that_hides_its_layers_is_told_what_to_set(name: str, world: Data) -> None:
    sampler = make(name, world, **({"dim": DIM} if name == "dens" else {}))
    for host in (model(world), parts.build("backbone", "aligned", world, inner={"name": "lightgcn"})):
        with pytest.raises(PartsDoNotFit, match=r"set backbone\.keep_layers = true"):
            sampler.begin_epoch(0, host, host.propagate())
    shown = model(world, keep_layers=True)
    sampler.begin_epoch(0, shown, shown.propagate())
    flat = parts.build("backbone", "bprmf", world, dim=DIM)
    sampler.begin_epoch(0, flat, flat.propagate())


@pytest.mark.parametrize(("name", "keep"), [("mixgcf", True), ("dens", True), ("dens", False), ("kgpolicy", False)])
def test_a_step_of_training_is_the_same_for_any_batch_size(name: str, keep: bool, world: Data) -> None:
    host = model(world, keep_layers=True) if keep else parts.build("backbone", "bprmf", world, dim=DIM)
    sampler = make(name, world, **({} if name == "mixgcf" else {"dim": DIM}))
    drawn = []
    for size in (7, 40):
        found = []
        for rows in torch.arange(40).split(size):
            batch = Batch(world.train[rows, 0].contiguous(), world.train[rows, 1].contiguous(), rows, 3)
            tables = host.propagate()
            found.append(sampler(tables, batch, host.query(tables, batch)).look_up(host, tables))
        drawn.append(torch.cat(found))
    assert torch.allclose(*drawn, atol=1e-6)


# dens


def dens_by_hand(sampler: Any, tables: Tables, batch: Batch, query: Tensor) -> tuple[list[list[int]], Tensor]:
    """The chosen items by row and layer, and the contrasts, a row at a time."""
    ids, w = sampler.unseen(batch, sampler.pool), 1 - min(1, batch.epoch / sampler.warmup)
    chosen, losses = [], []
    for b in range(len(batch)):
        u, picked, sums = query[b], [], torch.zeros(4)
        for layer in tables.layers or (tables.items,):
            p = layer[batch.positives[b]]
            p_r = p * torch.sigmoid(sampler.item_gate(p) + sampler.user_gate(u))
            relevant = [
                layer[i] * torch.sigmoid(sampler.negative_gate(layer[i]) + sampler.positive_gate(p_r)) for i in ids[b]
            ]
            scores = [plain(u @ (w * layer[i] - r)) for i, r in zip(ids[b], relevant, strict=True)]
            best = scores.index(max(scores))
            picked.append(int(ids[b, best]))
            n, n_r = layer[ids[b, best]], relevant[best]
            sums = sums + torch.stack([u @ p_r, u @ (p - p_r), u @ n_r, u @ (n - n_r)])
        s_p_r, s_p_ir, s_n_r, s_n_ir = sums / len(picked)
        losses.append(sum(softplus(gap) for gap in (s_p_ir - s_p_r, s_n_r - s_n_ir, s_n_r - s_p_r, s_p_ir - s_n_ir)))
        chosen.append(picked)
    return chosen, sampler.gamma / 4 * torch.stack(losses).mean()  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("epoch", [0, 40, 200])
def test_dens_chooses_and_contrasts_as_written(layers: int, epoch: int, world: Data) -> None:
    tables, batch, query = case(world, layers=layers, epoch=epoch)
    sampler = make("dens", world, pool=5, dim=DIM)
    chosen, contrasts = dens_by_hand(sampler, tables, batch, query)
    drawn = sampler(tables, batch, query)
    if layers == 1:
        assert drawn.ids.flatten().tolist() == [picked[0] for picked in chosen]
    else:
        rows = [torch.stack([tables.layers[at][i] for at, i in enumerate(picked)]).mean(0) for picked in chosen]
        assert torch.allclose(drawn.vectors[:, 0], torch.stack(rows), atol=1e-6)
    loss = sampler.own_loss(tables, batch, query)
    assert torch.allclose(loss, contrasts, atol=1e-5)
    wanted = [*sampler.parameters(), *(tables.layers or (tables.items,))]
    for mine, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(contrasts, wanted), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_the_gates_of_dens_learn_alone_or_with_users_and_items(world: Data) -> None:
    tables, batch, query = case(world)
    alone = make("dens", world, dim=DIM, joint=False)
    optimizer, told = torch.optim.Adam(alone.parameters(), lr=0.05), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = alone.own_loss(tables, batch, query)
        loss.backward()
        optimizer.step()
        told.append(float(loss.detach()))
    assert told[-1] < 0.8 * told[0]
    assert all(layer.grad is None for layer in tables.layers)
    make("dens", world, dim=DIM).own_loss(tables, batch, query).backward()
    assert all(layer.grad.any() for layer in tables.layers)
    assert not make("dens", world, dim=DIM, gamma=0).own_loss(tables, batch, query)


def test_dens_with_closed_gates_is_dns_in_each_layer(world: Data) -> None:
    tables, batch, query = case(world, epoch=0)
    sampler = make("dens", world, dim=DIM)
    torch.nn.init.constant_(sampler.negative_gate.bias, -1e4)
    made = sampler(tables, batch, query).vectors
    plain = make("mixgcf", world, pool=6, alpha=(0, 0))(tables, batch, query).vectors
    assert torch.allclose(made, plain, atol=1e-6)
    with pytest.raises(PartsDoNotFit, match=r"set sampler\.dim"):
        make("dens", world, dim=5).begin_epoch(0, torch.nn.Linear(1, 1), tables)


# realhns


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("epoch", [3, 6, 12])
def test_realhns_takes_the_best_of_the_window_that_is_not_too_like_the_positive(epoch: int, world: Data) -> None:
    tables, batch, query = case(world, epoch=epoch)
    sampler = make("realhns", world, pool=20, low=0.1, high=0.5, count=3, start=4)
    sampler.begin_epoch(epoch, model(world), tables)
    drawn = sampler(tables, batch, query)
    hard = min(max(0, math.ceil((epoch - 4) / 2)), 3)
    assert drawn.ids.shape == (40, 1 + hard)
    assert torch.equal(drawn.ids[:, :1], sampler.unseen(batch, 1, "easy"))
    assert (drawn.level == torch.tensor([0] + [1] * hard)).all()
    if hard:
        average = clusters.tightness(tables.items, 60, torch.Generator().manual_seed(0))
        assert sampler.most == pytest.approx(min(average / 5 * 1.15 ** math.ceil((epoch - 4) / 2), average))
    stood_in = 0
    for b, row in enumerate(sampler.unseen(batch, 20).tolist()):
        ranked = sorted(row, key=lambda i: -plain(query[b] @ tables.items[i]))
        p = tables.items[batch.positives[b]]
        window = [i for i in ranked[2:10] if plain(cosine_similarity(p, tables.items[i], dim=0)) <= sampler.most]
        missing = hard - len(window)
        expected = window[:hard] + ([] if missing <= 0 else list(reversed(ranked))[:missing])
        stood_in += missing > 0
        assert drawn.ids[b, 1:].tolist() == expected
    assert epoch != 12 or stood_in < 40


def test_tightness_is_1_for_rows_that_are_centres_and_less_for_scattered_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=generator)
    assert clusters.tightness(rows, 50, generator) == pytest.approx(1, abs=1e-6)
    scattered = [clusters.tightness(rows, count, generator) for count in (1, 5, 20)]
    assert 0 < scattered[0] < scattered[1] < scattered[2] < 1
    assert clusters.tightness(torch.zeros(5, 3), 2, generator) == 0


# bns


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("per", ["interactions", "users"])
def test_bns_takes_the_candidate_of_least_risk(per: str, world: Data) -> None:
    tables, batch, query = case(world)
    sampler = make("bns", world, pool=6, count=2, weight=3.0, per=per, reference=9)
    drawn = sampler(tables, batch, query).ids
    candidates, others = sampler.unseen(batch, 6), sampler.unseen(batch, 9, "reference")
    total = len(world.train) if per == "interactions" else world.n_users
    for b in range(len(batch)):
        beside = [plain(query[b] @ tables.items[i]) for i in others[b]]
        risks = []
        for i in candidates[b]:
            s = plain(query[b] @ tables.items[i])
            f = (sum(o < s - 1e-6 for o in beside) + 0.5 * sum(abs(o - s) <= 1e-6 for o in beside) + 0.5) / 10
            p = float((world.train[:, 1] == i).sum()) / total
            unbias = (1 - f) * (1 - p) / (1 - f - p + 2 * f * p)
            info = 1 - 1 / (1 + math.exp(s - plain(query[b] @ tables.items[batch.positives[b]])))
            risks.append(info * (1 - unbias) - 3 * info * unbias)
        best = sorted(range(6), key=risks.__getitem__)[:2]
        assert drawn[b].tolist() == [int(candidates[b, k]) for k in best]


def test_the_posterior_of_bns_falls_with_rank_and_prior_and_never_breaks(world: Data) -> None:
    unbias = parts.find("sampler", "bns").unbias  # type: ignore[attr-defined]
    share, prior = torch.linspace(0.01, 0.99, 50), torch.linspace(0, 1, 50)
    table = unbias(share[:, None], prior[None])
    assert table.isfinite().all()
    assert (table.diff(dim=0) <= 1e-6).all()
    assert (table.diff(dim=1) <= 1e-6).all()
    assert torch.allclose(unbias(torch.tensor(0.5), prior), 1 - prior, atol=1e-6)
    assert make("bns", world, scale=1e9).prior.max() == 1


# srns


def filled(world: Data, epochs: int, **options: Any) -> tuple[Any, list[Tables], Batch, Tensor]:
    """An srns that has begun some epochs, each with other vectors."""
    sampler, seen = make("srns", world, memory=3, extend=5, pool=12, window=3, **options), []
    host = model(world)
    for epoch in range(epochs):
        tables, batch, _ = case(world, epoch=epoch)
        assert tables.users is not None
        with torch.no_grad():
            tables = Tables(items=tables.items * (1 + epoch) ** 0.5, users=tables.users.roll(epoch, 1))
            sampler.begin_epoch(epoch, host, tables)
        seen.append(tables)
    return sampler, seen, batch, seen[-1].users[batch.users]  # type: ignore[index]


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_srns_prefers_scores_that_are_high_and_vary(epochs: int, world: Data) -> None:
    sampler, seen, batch, query = filled(world, epochs, alpha=4.0, warmup=8)
    drawn = sampler(seen[-1], batch, query).ids[:, 0]
    pool = sampler._pool(batch.users)
    assert not world.seen.contains(batch.users, pool).any()
    latest = torch.stack([pool_scores(seen[-1], u, p) for u, p in zip(batch.users, pool, strict=True)])
    kept = sampler._renewed(batch.users, batch.rows, sampler.key(batch, "row"), latest.half().float())
    for b, u in enumerate(batch.users.tolist()):
        found = []
        for k in kept[b].tolist():
            gaps = [plain(pool_scores(t, u, pool[b])[k] - t.users[u] @ t.items[batch.positives[b]]) for t in seen[-3:]]  # type: ignore[index]
            p = 1 / (1 + torch.exp(-torch.tensor(gaps, dtype=torch.float64)))
            found.append(float(p[-1] + 4.0 * min(1, batch.epoch / 8) * p.std(correction=0)))
        chosen = [found[k] for k in range(3) if int(pool[b, kept[b, k]]) == int(drawn[b])]
        assert max(chosen) == pytest.approx(max(found), abs=2e-2)  # half precision


def pool_scores(tables: Tables, user: Any, ids: Tensor) -> Tensor:
    """The scores of some items for one user."""
    assert tables.users is not None
    return (tables.items[ids] * tables.users[user]).sum(1)


def test_the_memory_of_srns_holds_what_it_met_and_leans_to_high_scores(world: Data) -> None:
    sampler, seen, _, _ = filled(world, 3)
    before, every = sampler.places.long().clone(), torch.arange(world.n_users)
    scores = torch.stack([pool_scores(seen[-1], u, p) for u, p in zip(every, sampler._pool(every), strict=True)])
    ranks = []
    for temperature in (100.0, 0.05):
        sampler.temperature = temperature
        after = torch.stack([sampler._renewed(every, every + 60 * n, 7, scores) for n in range(50)])
        assert (after.sort(2).values.diff(dim=2) > 0).all(), "none twice"
        ranks.append(
            float((scores[:, None] > scores[:, :, None]).sum(2).expand(50, -1, -1).gather(2, after).double().mean())
        )
        outside = (
            (after[..., None] != before[None, :, None]).all(3).sum(2)
        )  # what is not from the memory is from 5 others
        assert outside.max() == 3
    assert ranks[1] < ranks[0] - 1


def test_the_pool_of_srns_stays_that_of_its_scores_when_the_meter_asks_by_another_seed(world: Data) -> None:
    sampler, _, batch, _ = filled(world, 2)
    pool = sampler._pool(batch.users)
    sampler.seed = 77
    assert torch.equal(sampler._pool(batch.users), pool)
    sampler.begin_epoch(2, model(world), case(world)[0])
    assert torch.equal(sampler._pool(batch.users), pool)


def test_srns_keeps_under_100_mb_at_babys_size() -> None:
    users, items, rows = 19_445, 7_050, 118_551
    train = torch.stack([torch.arange(rows) % users, torch.arange(rows) % items], 1)
    data = Data(users, items, train, train[:0], train[:0])
    with torch.device("meta"):
        buffers = list(parts.build("sampler", "srns", data).buffers())
    assert sum(buffer.numel() * buffer.element_size() for buffer in buffers) < 30e6


# cached


class Counting(Sampler):
    """Uniform draws of their epoch, and how often it was asked."""

    log_q_is = "exact"
    asked = 0

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Two items a row, with weights and log_q that tell the row."""
        self.asked += len(batch)
        assert batch.rows is not None
        rows = batch.rows[:, None].expand(-1, 2).float()
        return Negatives(ids=self.unseen(batch, 2), weights=rows, log_q=-rows)


def test_cached_repeats_the_draws_of_its_refresh_and_tells_their_age(world: Data) -> None:
    inner = Counting(world)
    sampler = make("cached", world, inner=inner, every=3)
    sampler.seed, host = 11, model(world)
    assert sampler.log_q_is == "exact"
    for epoch in range(7):
        tables, batch, query = case(world, epoch=epoch, layers=1)
        sampler.begin_epoch(epoch, host, tables)
        drawn, fresh = sampler(tables, batch, query), epoch - epoch % 3
        expected = inner.unseen(replace(batch, epoch=fresh), 2)
        assert torch.equal(drawn.ids, expected)
        assert drawn.group == (epoch % 3, epoch % 3)
        assert torch.equal(drawn.weights[:, 0], batch.rows.float())  # type: ignore[union-attr]
        assert torch.equal(drawn.log_q, -drawn.weights)
    assert inner.asked == 3 * len(world.train)


def test_the_meter_tells_how_stale_cached_draws_are(world: Data) -> None:
    host, loss = model(world), parts.build("loss", "bpr")
    sampler = make("cached", world, inner=parts.build("sampler", "dns", world, pool=8), every=4)
    found = {}
    with torch.no_grad():
        for epoch in range(3):
            sampler.begin_epoch(epoch, host, host.propagate())
            torch.nn.init.normal_(host.items.weight, generator=torch.Generator().manual_seed(epoch))  # type: ignore[union-attr, arg-type]
            found |= Meter(world, 200)(host, sampler, loss, epoch)
    assert {"all", "group 0", "group 1", "group 2"} == set(found)


def test_cached_takes_no_vectors_and_keeps_uniform_draws_by_default(world: Data) -> None:
    tables, batch, query = case(world, layers=1)
    host = parts.build("backbone", "bprmf", world, dim=DIM)
    with pytest.raises(PartsDoNotFit, match="MixGCF makes vectors up"):
        make("cached", world, inner=parts.build("sampler", "mixgcf", world)).begin_epoch(0, host, tables)
    sampler = make("cached", world)
    sampler.begin_epoch(1, host, tables)
    assert torch.equal(sampler(tables, batch, query).ids, sampler.unseen(batch, 1))
    law = world.n_items - world.seen.counts[batch.users]
    assert torch.allclose(sampler(tables, batch, query).log_q[:, 0].exp() * law, torch.ones(len(batch)))


# kgpolicy


def test_kgpolicy_walks_along_edges_alone_and_by_its_policy(world: Data, chi_square: Callable[..., float]) -> None:
    tables, _, _ = case(world, layers=1)
    sampler = make("kgpolicy", world, steps=1, degree=4, dim=DIM)
    with torch.no_grad():
        sampler.of_user.copy_(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1)))
        sampler.of_kind.copy_(torch.tensor([0.3, -0.2]))
    user, item = world.train[0].tolist()
    near = sampler.edges[item].tolist()
    allowed = [i for i in near if i != item and not (world.seen.of(user) == i).any()]
    assert tables.users is not None
    logits = [
        plain(
            tables.users[user]
            @ sampler.of_user.T
            @ leaky_relu((sampler.of_item @ tables.items[item]) * tables.items[i])
        )
        + plain(sampler.of_kind[at // 4])
        for at, i in enumerate(near)
    ]
    mass, weights = torch.zeros(world.n_items), torch.tensor(logits, dtype=torch.float64).exp()
    for i, w in zip(near, weights, strict=True):
        mass[i] += float(w) * (i in allowed)
    rows = 20_000
    users, items = (torch.full((rows,), x) for x in (user, item))
    batch = Batch(users, items, torch.arange(rows), 1)
    drawn = sampler(tables, batch, tables.users[users]).ids
    assert chi_square(torch.bincount(drawn.flatten(), minlength=world.n_items), mass / mass.sum() * rows) > 1e-4


@pytest.mark.parametrize("steps", [2, 3])
def test_a_longer_walk_ends_where_edges_lead_or_at_an_even_draw(steps: int, world: Data) -> None:
    tables, batch, query = case(world, rows=len(world.train), layers=1)
    sampler = make("kgpolicy", world, steps=steps, degree=3, dim=DIM)
    drawn = sampler(tables, batch, query).ids
    assert not world.seen.contains(batch.users, drawn).any()
    reached = torch.zeros(world.n_items, world.n_items, dtype=torch.bool).scatter_(1, sampler.edges, True)
    walk = torch.eye(world.n_items, dtype=torch.bool)
    for _ in range(steps):
        walk = (walk.float() @ reached.float()) > 0
    ends, spare = walk[batch.positives, drawn[:, 0]], sampler.unseen(batch, 1, "elsewhere")[:, 0]
    assert (ends | (drawn[:, 0] == spare)).all()
    assert ends.double().mean() > 0.9


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_has_the_gradient_of_the_expected_reward(baseline: bool, world: Data) -> None:
    tables, _, _ = case(world, layers=1)
    sampler = make("kgpolicy", world, steps=1, degree=3, dim=DIM, baseline=baseline)
    user, item = world.train[3].tolist()
    rows = 40_000
    users, items = (torch.full((rows,), x) for x in (user, item))
    assert tables.users is not None
    sampler.own_loss(tables, Batch(users, items, torch.arange(rows), 1), tables.users[users]).backward()
    found = sampler.of_kind.grad.clone()
    near = sampler.edges[item]
    closed = world.seen.contains(torch.tensor([user]), near[None])[0] | (near == item)
    rows_of_edges = tables.items[near].detach()
    logits = (leaky_relu(tables.items[item].detach() * rows_of_edges) * tables.users[user].detach()).sum(1)
    kind = torch.zeros(2, requires_grad=True)
    pi = (logits + kind[sampler.kinds]).masked_fill(closed, -torch.inf).softmax(0)
    reward = rows_of_edges @ (tables.users[user] + tables.items[item]).detach()
    (-(pi * reward).sum()).backward()
    assert torch.allclose(found, kind.grad, atol=0.05 * float(reward.abs().max()))  # type: ignore[arg-type]
    assert tables.users.grad is None


def test_the_policy_improves_a_toy_reward_and_touches_nothing_else(world: Data) -> None:
    tables, _, _ = case(world, layers=1)
    sampler = make("kgpolicy", world, degree=6, dim=DIM)
    optimizer, told = torch.optim.Adam(sampler.parameters(), lr=0.05), []
    for epoch in range(60):
        batch = case(world, rows=len(world.train), layers=1, epoch=epoch)[1]
        assert tables.users is not None
        query = tables.users[batch.users]
        drawn = sampler(tables, batch, query).ids[:, 0]
        wish = query + tables.items[batch.positives]
        told.append(plain((wish * tables.items[drawn]).sum(1).mean()))
        optimizer.zero_grad()
        sampler.own_loss(tables, batch, query).backward()
        optimizer.step()
    assert sum(told[-10:]) / 10 > sum(told[:3]) / 3 + 1
    assert tables.users is not None
    assert tables.users.grad is None


def test_kgpolicy_without_a_graph_says_so(world: Data) -> None:
    bare = replace(world, features={}, neighbours={})
    with pytest.raises(PartsDoNotFit, match="neither graphs nor features"):
        make("kgpolicy", bare, dim=DIM).begin_epoch(0, model(world), case(world)[0])
    with pytest.raises(PartsDoNotFit, match=r"set sampler\.dim"):
        make("kgpolicy", world, dim=5).begin_epoch(0, model(world), case(world)[0])


# all of them

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("mixgcf", {"pool": 0}),
    ("mixgcf", {"alpha": (0.7, 0.2)}),
    ("mixgcf", {"alpha": (0.5,)}),
    ("dens", {"warmup": 0}),
    ("realhns", {"low": 0.5, "high": 0.2}),
    ("bns", {"pool": 3, "count": 4}),
    ("srns", {"memory": 9, "extend": 8}),
    ("cached", {"every": 0}),
    ("kgpolicy", {"steps": 0}),
]


@pytest.mark.parametrize(("name", "options"), REFUSED)
def test_senseless_numbers_are_refused(name: str, options: dict[str, Any], world: Data) -> None:
    with pytest.raises(BadOption, match=name):
        make(name, world, **options)


SHOP = {"name": "shop", "users": 60, "items": 60}
RUNS: list[dict[str, Any]] = [
    {"name": "mixgcf"},
    {"name": "dens", "dim": 16, "warmup": 4},
    {"name": "realhns", "start": 0, "delta": 1, "count": 2},
    {"name": "bns"},
    {"name": "srns", "pool": 32, "extend": 16, "warmup": 3},
    {"name": "cached", "every": 3, "inner": {"name": "dns", "pool": 4}},
    {"name": "kgpolicy", "dim": 16},
]


def recipe(sampler: dict[str, Any]) -> Recipe:
    """A LightGCN on the shop, its layers shown where they are asked for."""
    return Recipe.from_tree(
        {
            "name": "again",
            "threads": 1,
            "data": SHOP,
            "backbone": {"name": "lightgcn", "dim": 16, "keep_layers": sampler["name"] in ("mixgcf", "dens")},
            "sampler": sampler,
            "optimizer": {"name": "adam", "lr": 0.02},
            "train": {"batch": 128, "epochs": 5, "patience": 0, "meter": 50},
            "evaluate": {"ks": [20], "metrics": ["recall", "ndcg"]},
        }
    )


@pytest.mark.parametrize("sampler", RUNS, ids=[str(one["name"]) for one in RUNS])
def test_an_interrupted_run_goes_on_bit_for_bit(sampler: dict[str, Any], world: Data, tmp_path: Path) -> None:
    def halt(told: Epoch) -> None:
        if told.number == 1:
            raise KeyboardInterrupt

    chosen = recipe(sampler)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "halted", data=world, on_epoch=halt)
    resumed = train(chosen, tmp_path / "halted", data=world, resume=True)
    straight = train(chosen, tmp_path / "straight", data=world)
    assert [line["loss"] for line in resumed.epochs()] == [line["loss"] for line in straight.epochs()]
    assert [line["hardness"] for line in resumed.epochs()] == [line["hardness"] for line in straight.epochs()]
    assert resumed.scores["test"] == straight.scores["test"]


@pytest.mark.parametrize("sampler", RUNS, ids=[str(one["name"]) for one in RUNS])
def test_what_a_sampler_remembers_and_learned_comes_back(sampler: dict[str, Any], world: Data) -> None:
    host, *others = (recipe(sampler).build(world) for _ in range(2))
    tables = host[0].propagate()
    for epoch in range(3):
        with torch.no_grad():
            host[1].begin_epoch(epoch, host[0], tables)
    for parameter in host[1].parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    (other,) = others
    other[1].load_state_dict(host[1].state_dict())
    if sampler["name"] == "realhns":
        other[1].begin_epoch(2, host[0], tables)
    batch = next(world.batches(30, 0, 2))
    query = host[0].query(tables, batch)
    drawn = [one[1](tables, batch, query).look_up(host[0], tables) for one in (host, other)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("sampler", RUNS, ids=[str(one["name"]) for one in RUNS])
def test_every_weight_of_a_sampler_hears_of_training(sampler: dict[str, Any], world: Data) -> None:
    backbone, made, loss = recipe(sampler).build(world)
    objective = Objective(backbone, made, loss).train()
    with torch.no_grad():
        made.begin_epoch(0, backbone, backbone.propagate())

    def batches() -> Iterator[Batch]:
        yield from world.batches(128, 0, 0)

    for batch in batches():
        objective(batch).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())
    assert all(parameter.grad is not None for parameter in backbone.parameters())
