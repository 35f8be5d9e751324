"""MCDRec by its equations: U-Net, estimates, the denoised graph, BM3's agreement, and pools from its chain."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, pad

from foilrec import parts
from foilrec.contracts import check_backbone
from foilrec.core import Batch, Data, Negatives
from foilrec.diffusion.unet import UNet, dropped
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.numerics import streams
from foilrec.trainer import Objective
from reference.shop_runs import learned_beyond_popularity, patchy_world
from reference.test_backbones import lightgcn


def make(data: Data, seed: int = 0, **options: Any) -> Any:
    """An MCDRec of small width before epoch 1, whose weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = parts.build("backbone", "mcdrec", data, **{"dim": 16, "steps": 6, **options})
    model.seed = 3
    model.begin_epoch(1)
    return model


def batch_of(data: Data, rows: int = 50, epoch: int = 1) -> Batch:
    """The first rows of an epoch."""
    return next(iter(data.batches(rows, 7, epoch)))


def content_of(model: Any, data: Data) -> list[Tensor]:
    """h_m of every item, or the learned vector."""
    found = []
    for name, content in model.contents.items():
        rows = data.features[name].all() @ content.linear.weight.T + content.linear.bias
        present = data.features[name].present
        if present is not None:
            rows = torch.stack([row if here else content.null for row, here in zip(rows, present, strict=True)])
        found.append(rows)
    return found


def joined(model: Any, rows: Tensor, contents: list[Tensor], noise: torch.Generator | None = None) -> Tensor:
    """MLP([p ; h_m ...]) with two layers of ReLU, off its mean over items unless as published."""
    x = torch.cat([rows, *contents], 1)
    for layer in model.join[:2]:
        x = dropped((x @ layer.weight.T + layer.bias).clamp(min=0), 0.1, noise)
    x = x @ model.join[2].weight.T + model.join[2].bias
    return x - x.sum(0) / len(x) if model.centred else x


def cosine_gap(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos, row by row."""
    return 1 - (x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1)


@pytest.mark.parametrize("join", ["centred", "published"])
@pytest.mark.parametrize("estimates", ["batch", "all"])
@pytest.mark.parametrize("patchy", [False, True])
@torch.no_grad()
def test_a_step_joins_its_estimates_with_content(patchy: bool, estimates: str, join: str, world: Data) -> None:
    data = patchy_world(world) if patchy else world
    model, batch = make(data, estimates=estimates, join=join, drop=0.0, theta=0.0), batch_of(data)
    model.end_epoch(0)
    every = [*batch.positives.tolist(), *data.easy(batch).tolist()]
    counts = Counter(every if estimates == "batch" else range(data.n_items))
    items = torch.tensor(sorted(counts))
    noise = streams.generator(3, "noise", 1, int(batch.rows[0]))
    half = torch.randint(6, (len(items) // 2 + 1,), generator=noise)
    steps = torch.cat([half, 5 - half])[: len(items)]
    eps, table = torch.randn(len(items), 16, generator=noise), model.ids.weight
    abar = model.representation.diffusion.schedule.abar[steps, None]
    noisy, contents = abar.sqrt() * table[items] + (1 - abar).sqrt() * eps, content_of(model, data)
    x = model.representation.estimator(noisy, steps, [c[items] for c in contents])
    each = torch.tensor([counts[i] for i in items.tolist()])
    loss = ((table[items] - x).square().mean(1) * each).sum() / each.sum()
    rows = 0.5 * table + 0.5 * model.representation.clean
    rows[items] = 0.5 * table[items] + 0.5 * x
    smooth, _ = lightgcn(data.train, model.users.weight, joined(model, rows, contents, noise), 1)
    users, out = smooth[: data.n_users], smooth[data.n_users :] + table.double()
    weight, bias = model.predictor.weight.double(), model.predictor.bias.double()
    tables = model.step_tables(batch)
    assert float(tables.alignment) == pytest.approx(float(loss), rel=1e-4)
    assert torch.allclose(tables.items.double(), out @ weight.T + bias, atol=1e-5)
    assert torch.allclose(tables.users.double(), users @ weight.T + bias, atol=1e-5)


@torch.no_grad()
def test_a_centred_join_has_no_direction_in_common(world: Data) -> None:
    told = {}
    for join in ("centred", "published"):
        model = make(world, join=join).eval()
        before = model.propagate().items
        model.join[2].bias += 1.0  # the same for all items
        told[join] = torch.allclose(model.propagate().items, before, atol=1e-4)
    assert told == {"centred": True, "published": False}


@torch.no_grad()
def test_evaluation_joins_the_whole_chains_rows(world: Data) -> None:
    model = make(world).eval()
    table, contents = model.ids.weight, content_of(model, world)
    for rows in (table, None):
        if rows is None:
            model.end_epoch(1)
            rows = 0.5 * table + 0.5 * list(model.denoise(1))[-1][1]
        smooth, _ = lightgcn(world.train, model.users.weight, joined(model, rows, contents), 1)
        out = smooth[world.n_users :].float() + table
        assert torch.allclose(model.propagate().items, model.predictor(out), atol=1e-5)
    again = make(world, seed=1).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.propagate().items, model.propagate().items)


@pytest.mark.parametrize("edges", ["multiplied", "inverted"])
@pytest.mark.parametrize("drop", [0.1, 0.0])
def test_the_graph_of_an_epoch_is_weighed_by_likeness(drop: float, edges: str, world: Data) -> None:
    model = make(world, drop=drop, edges=edges)
    model.end_epoch(0)
    model.begin_epoch(1)
    starts, columns, values = model.graph.by_rows()
    pairs = list(zip(torch.arange(60).repeat_interleave(starts.diff()).tolist(), columns.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == int((1 - drop) * len(world.train))
    assert set(pairs) <= {tuple(pair) for pair in world.train.tolist()}
    users, items = model.users.weight.detach().double(), model.representation.clean.double()
    g = {(u, i): 1 + 0.3 * float(torch.cosine_similarity(users[u], items[i], dim=0)) for u, i in pairs}
    for (u, i), value in zip(pairs, values.tolist(), strict=True):
        of_user = sum(x for (a, _), x in g.items() if a == u)
        of_item = sum(x for (_, b), x in g.items() if b == i)
        expected = (g[u, i] if edges == "multiplied" else 1.0) / math.sqrt(of_user * of_item)
        assert value == pytest.approx(expected, rel=1e-5)


def test_edges_follow_from_seed_and_epoch_and_evaluation_has_them_all(world: Data) -> None:
    model = make(world)
    first = model.graph.by_rows()[1].tolist()
    model.begin_epoch(2)
    assert model.graph.by_rows()[1].tolist() != first
    model.begin_epoch(1)
    assert model.graph.by_rows()[1].tolist() == first
    items = model.eval().propagate().items
    model.begin_epoch(2)
    assert torch.equal(model.propagate().items, items)


def test_inverted_weights_fall_with_likeness(world: Data) -> None:
    graphs = {}
    for edges in ("multiplied", "inverted"):
        model = make(world, drop=0.0, edges=edges)
        rows = model.graph.by_rows()
        users = torch.arange(60).repeat_interleave(rows[0].diff())
        like = torch.cosine_similarity(model.users.weight[users], model.ids.weight[rows[1].long()]).detach()
        graphs[edges] = torch.corrcoef(torch.stack([like, rows[2] / model.whole.by_rows()[2]]))[0, 1]
    assert graphs["multiplied"] > 0.2
    assert graphs["inverted"] < -0.2


@pytest.mark.parametrize("patchy", [False, True])
def test_agreement_is_bm3s_with_the_ids_as_the_contents_target(patchy: bool, world: Data) -> None:
    data = patchy_world(world) if patchy else world
    model, batch = make(data, weight=0.0), batch_of(data)
    tables = model.step_tables(batch)
    noise = streams.generator(3, "targets", 1, int(batch.rows[0]))
    users, items = tables.before[0][batch.users].detach(), tables.before[1][batch.positives].detach()
    goal = [dropped(x, 0.3, noise) for x in (items, users, model.ids.weight.detach()[batch.positives])]
    f = model.predictor
    expected = cosine_gap(f(users), goal[0]).mean() + cosine_gap(f(items), goal[1]).mean()
    for name, content in zip(model.contents, content_of(model, data), strict=True):
        rows = content[batch.positives]
        apart = cosine_gap(f(rows), goal[2]) + cosine_gap(f(rows), dropped(rows, 0.3, noise))
        here = data.features[name].has(batch.positives)
        expected = expected + 2 * apart[here].sum() / len(batch)
    norms = float((tables.before[0].detach() ** 2).sum()) ** 0.5 + float((tables.before[1].detach() ** 2).sum()) ** 0.5
    expected = float(expected.detach()) + 0.1 * norms / data.n_items
    found = model.own_loss(tables, batch, Negatives(ids=batch.positives.new_empty(len(batch), 0)))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_bpr_term_is_added_or_left_out_as_in_the_code(world: Data) -> None:
    batch, found = batch_of(world), []
    for ranking_weight in (1.0, 0.0, 0.5):
        model = make(world, ranking_weight=ranking_weight)
        whole = Objective(model, parts.build("sampler", "uniform", world), parts.build("loss", "bpr"))
        found.append(float(whole(batch).detach()))
    assert found[0] - found[1] > 0.1
    assert found[2] == pytest.approx((found[0] + found[1]) / 2, rel=1e-5)


def slow_unet(net: UNet, picture: Tensor, t: int) -> Tensor:
    """One picture [C, s, s] through the U-Net of DDPM, level by level, from its description."""
    angles = [t * 10000 ** (-j / 3) for j in range(4)]
    step = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    swish = lambda x: x / (1 + torch.exp(-x))  # noqa: E731
    step = net.of_step[2](swish(net.of_step[0](step)))

    def block(layer: Any, x: Tensor) -> Tensor:
        made = swish(group_norm(x[None], 8, layer.norms[0].weight, layer.norms[0].bias))
        made = conv2d(made, layer.convolutions[0].weight, layer.convolutions[0].bias, padding=1)
        made = made + layer.step(swish(step))[None, :, None, None]
        made = swish(group_norm(made, 8, layer.norms[1].weight, layer.norms[1].bias))
        return (layer.straight(x[None]) + layer.convolutions[1](made))[0]

    x = net.first(picture[None])[0]
    kept, down, up = [x], iter(net.down), iter(net.up)
    sizes = [net.side // 2**level for level in range(net.side.bit_length())]
    for size in sizes:
        for _ in range(2):
            x = block(next(down), x)
            kept.append(x)
        if size > 1:
            whole = next(down)
            x = conv2d(pad(x[None], (1, 1, 1, 1)), whole.weight, whole.bias)[0][:, ::2, ::2]
            kept.append(x)
    x = block(net.middle[0], x)
    value = group_norm(x[None], 8, net.attention.norm.weight, net.attention.norm.bias)
    x = x + net.attention.maps["out"](net.attention.maps["value"](value))[0]  # one pixel attends to itself alone
    x = block(net.middle[1], x)
    for size in reversed(sizes):
        for _ in range(3):
            x = block(next(up), torch.cat([x, kept.pop()]))
        if size < net.side:
            x = next(up)(x.repeat_interleave(2, 1).repeat_interleave(2, 2)[None])[0]
    return net.last(swish(group_norm(x[None], 8, net.norm.weight, net.norm.bias)))[0]


@pytest.mark.parametrize("dim", [16, 64])
@torch.no_grad()
def test_the_unet_is_ddpms(dim: int) -> None:
    torch.manual_seed(0)
    net, x, conditions = UNet(dim, 5, 2), torch.randn(3, dim), [torch.randn(3, dim) for _ in range(2)]
    t = torch.tensor([0, 4, 2])
    found, side = net.prepare(conditions, block=2)(x, t), net.side
    for n in range(3):
        picture = torch.stack([x[n], *(c[n] for c in conditions)]).view(3, side, side)
        assert torch.allclose(found[n], slow_unet(net, picture, int(t[n]))[0].flatten(), atol=1e-5)
    noisy = [net.prepare(conditions, torch.Generator().manual_seed(seed))(x, t) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.allclose(noisy[0], noisy[2])


def test_the_unet_has_the_published_parameters_and_looks_at_the_order_of_numbers() -> None:
    torch.manual_seed(0)
    net, x, conditions = UNet(64, 20, 2), torch.randn(2, 64), [torch.randn(2, 64) for _ in range(2)]
    assert sum(p.numel() for p in net.parameters()) == 137_667
    order = torch.randperm(64)
    with torch.no_grad():
        plain = net.prepare(conditions)(x, torch.tensor(3))
        mixed = net.prepare([c[:, order] for c in conditions])(x[:, order], torch.tensor(3))
    assert not torch.allclose(plain[:, order], mixed, atol=1e-3)
    for wrong in (32, 36, 4):
        with pytest.raises(BadOption, match="dim"):
            UNet(wrong, 5, 1)


@pytest.mark.parametrize("options", [{"estimator": "unet"}, {"representation": False}, {"ranking_weight": 0.0}])
def test_every_form_keeps_the_contract(options: dict[str, Any]) -> None:
    check_backbone(parts.find("backbone", "mcdrec"), **{"dim": 16, **options})


def test_the_rows_of_a_missing_modality_change_nothing(world: Data) -> None:
    data = patchy_world(world)
    rows = data.features["image"].rows.copy()
    rows[~data.features["image"].present.numpy()] = 1e6
    other = replace(data, features={**data.features, "image": replace(data.features["image"], rows=rows)})
    assert torch.equal(make(data).propagate().items, make(other).propagate().items)


@pytest.mark.parametrize("estimator", ["mlp", "unet"])
def test_ccdrec_takes_its_pools_from_the_chain(estimator: str, world: Data) -> None:
    model, sampler = make(world, estimator=estimator), parts.build("sampler", "ccdrec", world, candidates=30, delta=1)
    for epoch, place in ((1, 3), (2, 1), (3, 0)):
        sampler.begin_epoch(epoch, model, model.propagate())
        pool = dict(model.denoise(epoch - 1))
        assert list(pool) == [5, 4, 3, 2, 1, 0]
        assert torch.equal(sampler.pool, pool[place])
        assert not sampler.pool.requires_grad
        batch = batch_of(world, epoch=epoch)
        drawn = sampler(model.propagate(), batch, torch.zeros(len(batch), 16))
        assert not world.seen.contains(batch.users, drawn.ids).any()


def test_aligned_brings_its_own_diffusion(world: Data) -> None:
    inner = {"name": "mcdrec", "dim": 16, "representation": False}
    model, batch = parts.build("backbone", "aligned", world, inner=inner, steps=6), batch_of(world)
    sampler = parts.build("sampler", "ccdrec", world, candidates=30)
    whole = Objective(model, sampler, parts.build("loss", "bpr")).train()
    for epoch in (0, 1):
        model.begin_epoch(epoch)
        sampler.begin_epoch(epoch, model, model.propagate())
        loss = whole(batch_of(world, epoch=epoch))
        loss.backward()
        model.end_epoch(epoch)
    assert torch.isfinite(loss)
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert model.step_tables(batch).alignment > 0
    with pytest.raises(PartsDoNotFit, match="aligned"):
        next(model.inner.denoise(0))


def test_published_behaviour_is_promised_or_refused(world: Data) -> None:
    published = {"estimator": "unet", "estimates": "all", "edges": "inverted", "join": "published"}
    published |= {"ranking_weight": 0.0, "faithful": True}
    make(world, **published)
    wrong = {"estimator": "mlp", "estimates": "batch", "edges": "multiplied", "ranking_weight": 1.0, "axes": 4}
    wrong |= {"join": "centred"}
    for name, value in {**wrong, "schedule": "cosine", "scale": "unit", "agreement": 0.0}.items():
        with pytest.raises(BadOption, match=name):
            make(world, **{**published, name: value})
    for wrong_value in ({"theta": 1.0}, {"drop": 1.0}, {"share": 2.0}, {"weight": -1.0}):
        with pytest.raises(BadOption, match=next(iter(wrong_value))):
            make(world, **wrong_value)
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(replace(world, features={}))


def test_it_learns_more_than_popularity() -> None:
    assert learned_beyond_popularity({"name": "mcdrec", "dim": 32}, epochs=20, lr=0.005) > 1.1
