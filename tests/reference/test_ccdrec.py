"""CCDRec's three modules by slow formulas: the aligned tables, the pools, the curriculum, the draw from the best."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foilrec import parts
from foilrec.core import Batch, Data, Negatives
from foilrec.data import Features
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.negatives.ranked import pick_ranked
from foilrec.numerics import streams
from foilrec.numerics.principal import principal
from foilrec.seen import SeenIndex


def aligned(data: Data, inner: str = "freedom", seed: int = 0, **options: Any) -> Any:
    """An aligned backbone with first weights of that seed."""
    torch.manual_seed(seed)
    around = {"name": inner, **({"neighbours": 4, "prune": 0.5} if inner == "freedom" else {})}
    model = parts.build("backbone", "aligned", data, inner=around, steps=6, **options)
    model.seed = 3
    model.begin_epoch(1)
    return model


def batch_of(data: Data, rows: int = 50, epoch: int = 1) -> Batch:
    """The first rows of an epoch."""
    return next(iter(data.batches(rows, 7, epoch)))


def estimate(model: Any, noisy: Tensor, tokens: list[Tensor], step: Tensor) -> Tensor:
    """CCDRec's estimator, one row at a time, from its description."""
    dim, mixer = noisy.shape[1], model.estimator
    out = []
    for n in range(len(noisy)):
        s = step[n] if step.dim() else step
        angles = [float(s) * 10000 ** (-j / (dim // 2 - 1)) for j in range(dim // 2)]
        tau = torch.tensor([torch.sin(torch.tensor(a)) for a in angles] + [torch.cos(torch.tensor(a)) for a in angles])
        rows = torch.stack([noisy[n], *(t[n] for t in tokens), tau])
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        logits = (rows @ mixer.query) @ (rows @ mixer.key).T / dim**0.5
        out.append((torch.softmax(logits, 1) @ (rows @ mixer.value)).mean(0))
    return torch.stack(out)


def tokens_of(model: Any, items: Tensor) -> list[Tensor]:
    """h^m = W_m F_m + b_m of some items."""
    return [
        torch.from_numpy(model.data.features[m].rows[items.numpy()]).float() @ head.weight.T + head.bias
        for m, head in model.heads.items()
    ]


@pytest.mark.parametrize("fuse", ["batch", "all"])
@pytest.mark.parametrize("mu", [0.5, 0.3])
@torch.no_grad()
def test_a_step_fuses_its_items_with_their_estimates(mu: float, fuse: str, world: Data) -> None:
    model, batch = aligned(world, mu=mu, fuse=fuse), batch_of(world)
    if fuse == "all":
        model.end_epoch(0)
    easy = world.easy(batch)
    items = torch.tensor(sorted({*batch.positives.tolist(), *easy.tolist()}))
    counts = Counter([*batch.positives.tolist(), *easy.tolist()])
    generator = streams.generator(3, "noise", 1, int(batch.rows[0]))
    half = torch.randint(6, (len(items) // 2 + 1,), generator=generator)
    steps = torch.cat([half, 5 - half])[: len(items)]
    eps = torch.randn(len(items), 64, generator=generator)
    table, abar = model.inputs().detach(), model.diffusion.schedule.abar
    noisy = abar[steps, None].sqrt() * table[items] + (1 - abar[steps, None]).sqrt() * eps
    found = estimate(model, noisy, tokens_of(model, items), steps).detach()
    each = torch.tensor([counts[i] for i in items.tolist()])
    loss = ((table[items] - found).square().mean(1) * each).sum() / each.sum()
    fused = model.inner.semantic(1).detach()
    fused = (1 - mu) * fused + mu * model.clean if fuse == "all" else fused
    fused[items] = (1 - mu) * model.inner.semantic(1).detach()[items] + mu * found
    expected, tables = model.inner.propagate(fused), model.step_tables(batch)
    assert float(tables.alignment) == pytest.approx(float(loss), rel=1e-4)
    assert torch.allclose(tables.items, expected.items, atol=1e-5)
    assert torch.allclose(tables.users, expected.users, atol=1e-5)
    nothing = Negatives(ids=easy[:, None])
    assert float(model.own_loss(tables, batch, nothing)) == pytest.approx(float(tables.alignment))
    assert float(model.own_loss(model.propagate(), batch, nothing)) == 0


def test_the_chain_after_an_epoch_is_the_posterior_walk(world: Data) -> None:
    model = aligned(world)
    generator = streams.generator(3, "chain", 4)
    table = model.inputs().detach()
    betas = torch.linspace(1e-4, 2e-2, 6, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    x = abar[5].sqrt() * table.double() + (1 - abar[5]).sqrt() * torch.randn(table.shape, generator=generator)
    tokens, pools = tokens_of(model, torch.arange(world.n_items)), {}
    for t in range(5, -1, -1):
        clean = estimate(model, x.float(), tokens, torch.tensor(t)).double()
        before = abar[t - 1] if t else torch.tensor(1.0)
        c1 = betas[t] * before.sqrt() / (1 - abar[t])
        c2 = (1 - before) * (1 - betas[t]).sqrt() / (1 - abar[t])
        x = c1 * clean + c2 * x
        if t:
            x = x + (betas[t] * (1 - before) / (1 - abar[t])).sqrt() * torch.randn(table.shape, generator=generator)
        pools[t] = x
    for t, rows in model.denoise(4):
        assert not rows.requires_grad
        assert torch.allclose(rows.double(), pools[t], atol=1e-4)
    model.end_epoch(4)
    assert torch.allclose(model.clean.double(), pools[0], atol=1e-4)
    h = model.ego().detach()
    inner = model.inner.propagate(0.5 * h + 0.5 * model.clean)
    assert torch.allclose(model.propagate().items, inner.items, atol=1e-6)


@pytest.mark.parametrize("inner", ["bprmf", "lightgcn", "vbpr", "freedom"])
def test_without_mu_and_weight_it_is_the_inner_backbone_alone(inner: str, world: Data) -> None:
    model, batch = aligned(world, inner, mu=0.0, weight=0.0, ego="inputs"), batch_of(world)
    alone = model.inner
    sampler, loss = parts.build("sampler", "uniform", world), parts.build("loss", "bpr")
    gradients = []
    for host in (model, alone):
        host.zero_grad()
        tables = host.step_tables(batch)
        query = host.query(tables, batch)
        negatives = sampler(tables, batch, query)
        vectors = negatives.look_up(host, tables)
        total = loss((query * tables.item_rows(batch.positives)).sum(1), (query[:, None] * vectors).sum(2), negatives)
        (total + host.own_loss(tables, batch, negatives)).backward()
        gradients.append({n: p.grad for n, p in alone.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient.to_dense(), gradients[1][name].to_dense(), atol=1e-6), name
    model.end_epoch(1)
    assert torch.equal(model.eval().propagate().items, alone.eval().propagate().items)


def test_published_behaviour_is_promised_or_refused(world: Data) -> None:
    assert aligned(world, faithful=True).smoothed
    for name, value in {
        "fuse": "all",
        "ego": "inputs",
        "stop_target": True,
        "scale": "unit",
        "schedule": "cosine",
    }.items():
        with pytest.raises(BadOption, match=name):
            aligned(world, faithful=True, **{name: value})


def test_stop_target_keeps_the_loss_from_pulling_the_rows(world: Data) -> None:
    pulls = []
    for stop in (False, True):
        model, batch = aligned(world, "bprmf", stop_target=stop), batch_of(world)
        model.step_tables(batch).alignment.backward()
        pulls.append(model.inner.items.weight.grad)
    assert not torch.allclose(*pulls)


def test_an_item_without_a_modality_has_no_token_of_it(world: Data) -> None:
    text = world.features["text"]
    rows = text.rows.copy()
    present = torch.ones(world.n_items, dtype=torch.bool)
    present[::3] = False
    rows[::3] = 1e6
    patchy = Data(
        world.n_users, world.n_items, world.train, world.valid, world.test,
        features={**world.features, "text": Features(rows, present)},
    )  # fmt: skip
    model = aligned(patchy, "lightgcn", modalities=("text",))
    lone = [rows for _, rows in model.denoise(0)][-1]
    model.heads["text"] = nn.Linear(text.dim, 64)
    again = [rows for _, rows in model.denoise(0)][-1]
    assert torch.equal(lone[::3], again[::3])
    assert not torch.isclose(lone[1::3], again[1::3]).all()
    with pytest.raises(PartsDoNotFit, match="sound"):
        aligned(world, modalities=("sound",))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"delta": 2, "end": 9}, [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5]),
        ({"delta": 5, "end": 7}, [1, 1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 5]),
        ({"delta": 2, "end": 9, "legacy": True}, [1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5]),
        ({"delta": 2, "end": 9, "legacy": True, "start": 1}, [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5]),
        ({"stage": 4}, [4] * 12),
    ],
)
def test_the_stage_of_an_epoch(options: dict[str, Any], expected: list[int], world: Data) -> None:
    sampler = parts.build("sampler", "ccdrec", world, **options)
    assert [sampler.stage_of(n) for n in range(12)] == expected


@pytest.mark.parametrize(
    ("steps", "legacy", "after"),
    [(20, False, [5, 10, 15, 20]), (5, False, [2, 3, 4, 5]), (20, True, [6, 11, 16, 20]), (5, True, [2, 3, 4, 5])],
)
def test_pools_are_taken_after_these_many_steps_back(steps: int, legacy: bool, after: list[int], world: Data) -> None:
    sampler = parts.build("sampler", "ccdrec", world, legacy=legacy)
    assert [steps - sampler.place_of(stage, steps) for stage in (1, 2, 3, 4)] == after


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("similarity", ["product", "cosine"])
def test_a_hard_negative_is_among_the_best_by_likeness_to_the_positive(
    similarity: str, per_row: bool, world: Data
) -> None:
    model = aligned(world)
    sampler = parts.build(
        "sampler", "ccdrec", world, candidates=30, top=0.1, similarity=similarity, per_row=per_row, delta=1, end=3
    )
    easier = []
    for epoch in (1, 3, 4):
        tables, batch = model.propagate(), batch_of(world, 400, epoch)
        sampler.begin_epoch(epoch, model, tables)
        pool = (
            tables.items
            if epoch == 4
            else next(rows for t, rows in model.denoise(epoch - 1) if t == (3, 1, 0)[epoch - 1])
        )
        pool = torch.nn.functional.normalize(pool) if similarity == "cosine" else pool
        drawn = sampler(tables, batch, tables.users[batch.users])
        assert not sampler.pool.requires_grad
        assert not world.seen.contains(batch.users, drawn.ids).any()
        assert torch.equal(drawn.ids[:, 0], world.easy(batch))
        assert drawn.level[0].tolist() == [0, {1: 2, 3: 4, 4: 5}[epoch]]
        assert drawn.weights[0].tolist() == pytest.approx([0.4, 1.6])
        likeness = pool[batch.positives] @ pool.T
        rank = (likeness > likeness.gather(1, drawn.ids[:, 1:])).float().mean(1)
        easier.append(float(rank.mean()))
        assert float(rank.mean()) < 0.25
    assert max(easier) < 0.25


def test_epoch_0_has_easy_negatives_alone_and_another_backbone_is_refused(world: Data) -> None:
    model, sampler = aligned(world), parts.build("sampler", "ccdrec", world)
    sampler.begin_epoch(0, model, model.propagate())
    batch = batch_of(world, epoch=0)
    drawn = sampler(model.propagate(), batch, torch.zeros(len(batch), 64))
    assert torch.equal(drawn.ids[:, 0], world.easy(batch))
    assert drawn.shape == (50, 1)
    with pytest.raises(PartsDoNotFit, match="aligned"):
        sampler.begin_epoch(0, model.inner, model.propagate())


def test_the_two_weights_make_the_papers_loss(world: Data) -> None:
    positive, negative = torch.randn(6), torch.randn(6, 2)
    weights = torch.tensor([2 - 2 * 0.7, 2 * 0.7]).expand(6, 2)
    found = parts.build("loss", "bpr")(positive, negative, Negatives(ids=torch.zeros(6, 2).long(), weights=weights))
    by_side = [-torch.nn.functional.logsigmoid(positive - negative[:, k]).mean() for k in (0, 1)]
    assert float(found) == pytest.approx(float(0.3 * by_side[0] + 0.7 * by_side[1]), rel=1e-5)


@pytest.mark.usefixtures("both_forms")
def test_the_draw_is_even_among_the_best_unseen_candidates() -> None:
    rows, many, keep = 6000, 12, 3
    ids = torch.tensor([3, 8, 8, 1, 0, 9, 4, 4, 7, 2, 5, 6])
    taken = torch.tensor([[0, 9], [0, 8], [0, 1], [1, 0]])
    index = SeenIndex(taken, 2, 10)
    seen = index.starts, index.items
    likeness = torch.tensor([9.0, 8, 8, 7, 1, 99, 5, 5, 6, 5, 0, 0])
    users = torch.zeros(rows, dtype=torch.long)
    found = pick_ranked(likeness.expand(rows, many).clone(), ids, users, torch.arange(rows), seen, keep, 5)
    counts = Counter(found.tolist())
    assert set(counts) == {3, 7, 4}  # 9, 8, 1 are taken; 4 is the first of those that tie for the last place
    for item in (3, 7, 4):
        assert abs(counts[item] / rows - 1 / 3) < 4 * (2 / 9 / rows) ** 0.5


def test_both_forms_of_the_draw_agree(no_numba: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from foilrec.numerics import kernels

    index = SeenIndex(torch.randint(0, 40, (200, 2), generator=torch.Generator().manual_seed(0)), 40, 40)
    seen = index.starts, index.items
    ids = torch.randint(0, 40, (25,), generator=torch.Generator().manual_seed(1))
    likeness = torch.randint(0, 6, (300, 25), generator=torch.Generator().manual_seed(2)).float()
    users, rows = torch.arange(300) % 40, torch.arange(300)
    slow = pick_ranked(likeness.clone(), ids, users, rows, seen, 4, 9)
    monkeypatch.setenv("FOILREC_NUMBA", "1")
    kernels.compiled.cache_clear()
    assert torch.equal(pick_ranked(likeness.clone(), ids, users, rows, seen, 4, 9), slow)


@pytest.mark.usefixtures("both_forms")
def test_a_user_who_took_every_candidate_gets_an_unseen_item() -> None:
    train = torch.tensor([[0, i] for i in range(8)] + [[1, 0]])
    data = Data(2, 10, train, train[:0], train[:0])
    sampler = parts.build("sampler", "ccdrec", data, candidates=200, top=0.01)
    batch, pool = Batch(torch.zeros(8).long(), train[:8, 1], torch.arange(8), 1), torch.eye(10)
    assert set(sampler._like(batch, pool).tolist()) <= {8, 9}
    index = data.seen
    none = pick_ranked(
        torch.zeros(3, 8), torch.arange(8), torch.zeros(3).long(), torch.arange(3), (index.starts, index.items), 2, 1
    )
    assert none.tolist() == [-1, -1, -1]


def test_content_on_its_axes_is_what_varies_most(world: Data) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 3, generator=generator) @ torch.randn(3, 20, generator=generator) + 5
    present = torch.arange(50) % 7 > 0
    found, kept = principal(rows, 3, present), rows[present] - rows[present].mean(0)
    assert torch.allclose(found[present] @ found[present].T, kept @ kept.T, atol=1e-3)  # rank 3: nothing is lost
    assert not found[~present].any()
    assert torch.equal(found, principal(rows, 3, present))
    assert aligned(world, axes=8).heads["text"].in_features == 8
    with pytest.raises(BadOption, match="axes"):
        aligned(world, axes=8, faithful=True)


def test_wrong_options_are_explained(world: Data) -> None:
    for wrong in ({"omega": 1.5}, {"delta": 0}, {"top": 0.0}, {"stage": 6}, {"start": 3}):
        with pytest.raises(BadOption, match="ccdrec"):
            parts.build("sampler", "ccdrec", world, **wrong)
    with pytest.raises(BadOption, match="mu"):
        aligned(world, mu=1.5)
    with pytest.raises(BadOption, match="pruen"):
        parts.build("backbone", "aligned", world, inner={"name": "freedom", "pruen": 0.8})


@torch.no_grad()
def test_a_chain_is_given_again_as_long_as_nothing_that_it_follows_from_has_changed(world: Data) -> None:
    model = aligned(world)
    model.end_epoch(2)
    kept, other = dict(model.denoise(2)), dict(model.denoise(3))
    assert all(rows is kept[t] for t, rows in model.denoise(2))  # what end_epoch ran
    model._chain = (), []
    assert all(torch.equal(rows, kept[t]) for t, rows in model.denoise(2))  # what it would run afresh
    model.end_epoch(2)
    next(iter(model.heads.values())).bias.add_(1)
    afresh = dict(model.denoise(2))
    assert not any(torch.equal(afresh[t], kept[t]) or torch.equal(other[t], kept[t]) for t in kept)
