"""Backbones against their equations, written with dense matrices and loops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from foilrec import parts
from foilrec.core import Backbone, Batch, Data, Negatives, Tables, score
from foilrec.data import Features, Neighbours
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.tables.embeddings import emb_loss, l2_loss, table
from foilrec.trainer import Objective

Chi = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def patchy(world: Data) -> Data:
    """The small shop, some of whose items lack the image, some the text, and one both."""
    features = dict(world.features)
    for name, missing in (("image", [3, 4, 5, 40]), ("text", [5, 6])):
        present = torch.ones(60, dtype=torch.bool)
        present[missing] = False
        features[name] = replace(features[name], present=present)
    return replace(world, features=features)


def make(name: str, data: Data, seed: int = 0, **options: Any) -> Any:
    """A backbone whose weights are a function of the seed, small in width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return parts.build("backbone", name, data, dim=6, **options)


def batch_of(data: Data, k: int, rows: int = 40) -> tuple[Batch, Negatives]:
    """Training rows, and unseen items with some repeats."""
    which = torch.arange(0, rows * 3, 3)
    users, positives = data.train[which].unbind(1)
    batch = Batch(users.contiguous(), positives.contiguous(), which)
    return batch, Negatives(ids=data.seen.unseen(batch.users, which, k, 1))


def normalised(pairs: Tensor, users: int, items: int) -> Tensor:
    """D^-1/2 A D^-1/2 of the bipartite graph, dense."""
    matrix = torch.zeros(users + items, users + items, dtype=torch.float64)
    matrix[pairs[:, 0], users + pairs[:, 1]] = 1
    matrix += matrix.T.clone()
    roots = matrix.sum(1).clamp(min=1).rsqrt()
    return roots[:, None] * matrix * roots


def lightgcn(pairs: Tensor, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, list[Tensor]]:
    """The mean of E, N E, N N E ... and each of them."""
    matrix = normalised(pairs, len(users), len(items))
    each = [torch.cat([users, items]).double()]
    for _ in range(layers):
        each.append(matrix @ each[-1])
    return torch.stack(each).mean(0), each


def table_penalty(weights: tuple[float, float], rows: list[Tensor], size: int) -> Tensor:
    """emb_reg: sum of norms over B; l2_reg: half the sum of squares over B."""
    return sum(weights[0] * r.norm() / size + weights[1] * r.pow(2).sum() / (2 * size) for r in rows)


def test_a_penalty_is_its_formula() -> None:
    one, other = torch.randn(7, 3), torch.randn(7, 4, 3)
    norms = [sum(float(x) ** 2 for x in part.flatten()) ** 0.5 for part in (one, other)]
    assert float(emb_loss(one, other)) == pytest.approx(sum(norms) / 7, rel=1e-5)
    assert float(l2_loss(one, other)) == pytest.approx(sum(n**2 for n in norms) / 14, rel=1e-5)


def test_a_table_starts_with_the_spread_it_says() -> None:
    assert float(table(2000, 50, "normal").weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    bound = (6 / 2050) ** 0.5
    xavier = table(2000, 50, "xavier").weight.detach()
    assert float(xavier.abs().max()) <= bound
    assert float(xavier.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_bprmf_is_two_tables(world: Data) -> None:
    model = make("bprmf", world)
    tables, (batch, _) = model.propagate(), batch_of(world, 1)
    assert torch.equal(tables.items, model.items.weight)
    assert torch.equal(model.query(tables, batch), model.users.weight[batch.users])


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("loss", ["bpr", "softmax", "bsl"])
def test_a_step_by_rows_is_the_dense_one(loss: str, k: int, world: Data) -> None:
    grads, totals = [], []
    for rows in (False, True):
        model = make("bprmf", world, emb_reg=0.3, l2_reg=0.2)
        if rows:
            model.use_row_gradients()
        objective = Objective(model, parts.build("sampler", "uniform", world, count=k), parts.build("loss", loss))
        totals.append(objective(batch_of(world, k)[0]))
        totals[-1].backward()
        grads.append([table.weight.grad.to_dense() for table in (model.users, model.items)])
    assert torch.allclose(*totals, rtol=1e-5)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bprmf", {"emb_reg": 0.3, "l2_reg": 0.2}),
        ("lightgcn", {"emb_reg": 0.3, "l2_reg": 0.2}),
        ("vbpr", {"emb_reg": 0.3, "l2_reg": 0.2}),
        ("freedom", {"head_weight": 0.5}),
        ("lattice", {"l2_reg": 0.2}),
    ],
)
def test_many_negatives_read_once_are_those_read_one_by_one(
    name: str, options: dict[str, float], patchy: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch, negatives), found = batch_of(patchy, 5), []
    for slow in (False, True):
        model = make(name, patchy, **options)
        model.begin_epoch(0)
        tables = model.train().step_tables(batch)
        query, total = model.query(tables, batch), model.own_loss(tables, batch, negatives)
        if slow:
            monkeypatch.setattr("foilrec.backbones.lightgcn.squared_once", lambda ids, look_up: look_up(ids))
            monkeypatch.setattr("foilrec.backbones.lattice.squared_once", lambda ids, look_up: look_up(ids))
            monkeypatch.setattr("foilrec.core.squared_once", lambda ids, look_up: look_up(ids))
            total = model.own_loss(tables, batch, negatives)
            scores = [score(query, tables.item_rows(ids)) for ids in (batch.positives, negatives.ids)]
        else:
            scores = list(tables.scores(query, batch.positives, negatives.ids))
        total = total + sum((x.sigmoid() * (1 + torch.arange(x.numel()).view_as(x))).sum() for x in scores)
        total.backward()
        found.append((total, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (one, mine), (other, theirs) = found
    assert torch.allclose(one, other, rtol=1e-5) and mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[n], theirs[n], rtol=1e-4, atol=1e-4) for n in mine)


def test_penalties_of_rows_of_zeros_have_no_gradient(world: Data) -> None:
    model = make("bprmf", world, emb_reg=0.3, l2_reg=0.2)
    model.use_row_gradients()
    torch.nn.init.zeros_(model.users.weight)
    torch.nn.init.zeros_(model.items.weight)
    Objective(model, parts.build("sampler", "uniform", world), parts.build("loss", "bpr"))(
        batch_of(world, 1)[0]
    ).backward()
    assert not model.users.weight.grad.to_dense().any() and not model.items.weight.grad.to_dense().any()


@pytest.mark.parametrize("rows", [False, True])
def test_row_gradients_are_the_dense_ones(rows: bool, world: Data) -> None:
    model, (batch, negatives) = make("bprmf", world, emb_reg=0.1), batch_of(world, 3)
    if rows:
        assert model.use_row_gradients()
    tables = model.propagate()
    gap = (model.query(tables, batch)[:, None] * negatives.look_up(model, tables)).sum()
    (gap + model.own_loss(tables, batch, negatives)).backward()
    plain = make("bprmf", world)
    u, n = plain.users.weight[batch.users], plain.items.weight[negatives.ids]
    rest = table_penalty((0.1, 0), [u, plain.items.weight[batch.positives], n], len(batch))
    ((u[:, None] * n).sum() + rest).backward()
    for name in ("users", "items"):
        found = getattr(model, name).weight.grad
        assert found.is_sparse == rows
        expected = getattr(plain, name).weight.grad
        assert torch.allclose(found.to_dense(), expected, atol=1e-6)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_lightgcn_is_the_mean_of_its_layers(layers: int, keep: bool, world: Data) -> None:
    model = make("lightgcn", world, layers=layers, keep_layers=keep)
    tables = model.propagate()
    users, items = (getattr(model, n).weight.detach().clone().requires_grad_() for n in ("users", "items"))
    expected, each = lightgcn(world.train, users, items, layers)
    found = torch.cat([tables.users, tables.items])
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert len(tables.layers) == (layers + 1 if keep else 0)
    for layer, dense in zip(tables.layers, each, strict=False):
        assert torch.allclose(layer.double(), dense[world.n_users :], atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(model.users.weight.grad, users.grad, atol=1e-5)
    assert torch.allclose(model.items.weight.grad, items.grad, atol=1e-5)


def test_lightgcn_smooths_the_inputs_it_is_given(world: Data) -> None:
    model, inputs = make("lightgcn", world), torch.randn(60, 6, generator=torch.Generator().manual_seed(3))
    expected, _ = lightgcn(world.train, model.users.weight.detach(), inputs, 2)
    tables = model.propagate(inputs)
    assert torch.allclose(torch.cat([tables.users, tables.items]).double(), expected, atol=1e-6)
    assert model.inputs() is model.items.weight


@pytest.mark.parametrize("form", ["ids", "vectors"])
@pytest.mark.parametrize("name", ["bprmf", "lightgcn", "vbpr"])
def test_penalties_are_on_the_rows_of_the_batch_and_on_layer_0(name: str, form: str, world: Data) -> None:
    model = make(name, world, emb_reg=0.3, l2_reg=0.02)
    tables, (batch, negatives) = model.propagate(), batch_of(world, 2)
    items = tables.items if name == "vbpr" else model.items.weight
    rows = [model.users.weight[batch.users], items[batch.positives]]
    if form == "ids":
        rows.append(items[negatives.ids])
    else:
        negatives = Negatives(vectors=torch.randn(len(batch), 2, rows[0].shape[1]))
    expected = table_penalty((0.3, 0.02), rows, len(batch))
    assert torch.allclose(model.own_loss(tables, batch, negatives), expected, rtol=1e-5)
    assert float(make(name, world).own_loss(tables, batch, negatives).detach()) == 0


def test_vbpr_items_are_a_free_half_and_a_projected_half(patchy: Data) -> None:
    model = make("vbpr", patchy)
    torch.nn.init.normal_(model.linear.bias)
    tables = model.propagate()
    image, text = (torch.from_numpy(np.array(patchy.features[m].rows, np.float32)) for m in ("image", "text"))
    weight, bias = model.linear.weight.detach(), model.linear.bias.detach()
    for item in range(60):
        has = [bool(patchy.features[m].present[item]) for m in ("image", "text")]
        content = torch.cat([image[item] * has[0], text[item] * has[1]])
        half = weight @ content + bias if any(has) else torch.zeros(6)
        expected = torch.cat([model.ids.weight.detach()[item], half])
        assert torch.allclose(tables.items[item], expected, atol=1e-5)
    ids = torch.tensor([[5, 7], [7, 7]])
    assert torch.allclose(tables.item_rows(ids), tables.items[ids], atol=1e-6)
    assert model.users.weight.shape[1] == 12


def test_vbpr_sends_the_dense_gradient_to_its_rows(world: Data) -> None:
    model, other, (_, negatives) = make("vbpr", world), make("vbpr", world), batch_of(world, 3)
    model.propagate().item_rows(negatives.ids).pow(2).sum().backward()
    features = torch.cat([world.features[m].all() for m in ("image", "text")], 1)
    whole = torch.cat([other.ids.weight, features @ other.linear.weight.T + other.linear.bias], 1)
    whole[negatives.ids].pow(2).sum().backward()
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if name != "users.weight":
            assert torch.allclose(one.grad, two.grad, atol=1e-4), name


def test_vbpr_encodes_an_item_that_is_only_described(world: Data) -> None:
    model = make("vbpr", world)
    described = {m: world.features[m].of(torch.tensor([[2, 9]])) for m in ("image", "text")}
    encoded = model.encode(described)
    items = model.propagate().items
    assert encoded.shape == (1, 2, 12)
    assert torch.allclose(encoded[0, :, 6:], items[[2, 9], 6:], atol=1e-6)
    assert torch.allclose(encoded[0, :, :6], model.ids.weight.mean(0).expand(2, 6), atol=1e-6)
    negatives = Negatives(features=described)
    assert torch.equal(negatives.look_up(model, model.propagate()), encoded)
    with pytest.raises(PartsDoNotFit, match="cannot encode"):
        make("lightgcn", world).encode(described)


@pytest.mark.parametrize("name", ["vbpr", "freedom"])
def test_a_backbone_of_content_refuses_data_without_any(name: str, world: Data) -> None:
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(name, replace(world, features={}))


def look_alikes(data: Data, k: int, shares: dict[str, float]) -> Tensor:
    """S, row by row: the mean over the k most similar by cosine, itself included, mixed over what an item has."""
    matrix = torch.zeros(data.n_items, data.n_items, dtype=torch.float64)
    has = {m: [f.present is None or bool(f.present[i]) for i in range(len(f))] for m, f in data.features.items()}
    for item in range(data.n_items):
        total = sum(share for m, share in shares.items() if has[m][item])
        if not total:
            matrix[item, item] = 1  # nothing is known of it: only itself
            continue
        for m, share in shares.items():
            if has[m][item]:
                rows = torch.from_numpy(np.array(data.features[m].rows, np.float64))
                others = [j for j in range(data.n_items) if has[m][j] and j != item]
                cosine = {j: float(torch.cosine_similarity(rows[item], rows[j], dim=0)) for j in others}
                near = [item, *sorted(others, key=lambda j, c=cosine: -c[j])[: k - 1]]
                matrix[item, near] += share / total / k
    return matrix


def dense(model: Any) -> Tensor:
    """The look-alike graph of a FREEDOM as a dense matrix."""
    return model.alike(torch.eye(60)).double()


@pytest.mark.parametrize("shares", [None, {"image": 0.5, "text": 1.5}, {"text": 1.0}])
def test_freedom_s_is_the_mean_over_look_alikes_by_shares(shares: dict[str, float] | None, patchy: Data) -> None:
    model = make("freedom", patchy, neighbours=7, shares=shares)
    given = {m: s for m, s in (shares or {"image": 0.1, "text": 0.9}).items() if s}
    expected = look_alikes(patchy, 7, given)
    assert torch.allclose(dense(model), expected, atol=1e-6)
    assert torch.allclose(expected.sum(1), torch.ones(60, dtype=torch.float64))


def test_freedom_takes_ready_made_neighbours(world: Data) -> None:
    others = torch.randint(1, 60, (60, 4), generator=torch.Generator().manual_seed(0))
    ids = ((torch.arange(60)[:, None] + torch.cat([torch.zeros(60, 1).long(), others], 1)) % 60).int()
    data = replace(world, features={}, neighbours={"sound": Neighbours(ids)})
    expected = torch.zeros(60, 60, dtype=torch.float64)
    for item in range(60):
        for other in ids[item, :4].tolist():
            expected[item, other] += 1 / 4
    assert torch.allclose(dense(make("freedom", data, neighbours=4)), expected, atol=1e-6)
    with pytest.raises(BadOption, match="neighbours = 6"):
        make("freedom", data, neighbours=6)


def test_freedom_explains_wrong_options(world: Data) -> None:
    with pytest.raises(BadOption, match=r"prune = 1\.0"):
        make("freedom", world, prune=1.0)
    with pytest.raises(BadOption, match="image, text"):
        make("freedom", world, shares={"sound": 1.0})


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize(("layers", "hops"), [(2, 1), (1, 2), (3, 0)])
def test_freedoms_whole_forward(layers: int, hops: int, patchy: Data) -> None:
    model = make("freedom", patchy, layers=layers, hops=hops, neighbours=6, prune=0.7)
    model.seed = 5
    model.begin_epoch(2)
    users, items = model.users.weight.detach(), model.ids.weight.detach()
    semantic = torch.linalg.matrix_power(look_alikes(patchy, 6, {"image": 0.1, "text": 0.9}), hops) @ items.double()
    kept = edges(model)
    for training, pairs in ((True, kept), (False, patchy.train)):
        tables = model.train(training).propagate()
        smoothed, _ = lightgcn(pairs, users, items, layers)
        assert torch.allclose(tables.users.double(), smoothed[:60], atol=1e-6)
        assert torch.allclose(tables.items.double(), smoothed[60:] + semantic, atol=1e-6)
    assert len(kept) < len(patchy.train)


def edges(model: Any) -> Tensor:
    """The pairs of a FREEDOM's training graph."""
    starts, columns, _ = model.graph.by_rows()
    return torch.stack([torch.arange(60).repeat_interleave(starts.diff()), columns.long()], 1)


@pytest.mark.parametrize("prune", [0.8, 0.25, 0.0])
def test_pruning_keeps_its_share_of_distinct_training_edges(prune: float, world: Data) -> None:
    model = make("freedom", world, prune=prune)
    model.begin_epoch(0)
    kept = {tuple(pair) for pair in edges(model).tolist()}
    assert len(kept) == len(edges(model)) == int((1 - prune) * len(world.train))
    assert kept <= {tuple(pair) for pair in world.train.tolist()}


def test_pruning_is_a_function_of_seed_and_epoch(world: Data) -> None:
    def drawn(seed: int, epoch: int) -> list[Any]:
        model = make("freedom", world)
        model.seed = seed
        model.begin_epoch(7)
        model.begin_epoch(epoch)
        return edges(model).tolist()

    assert drawn(1, 3) == drawn(1, 3)
    assert drawn(1, 3) != drawn(1, 4)
    assert drawn(1, 3) != drawn(2, 3)


def test_pruned_edges_are_weighted_by_the_degrees_of_the_sample(world: Data) -> None:
    model = make("freedom", world)
    model.begin_epoch(0)
    pairs, values = edges(model), model.graph.by_rows()[2]
    users, items = pairs[:, 0].tolist(), pairs[:, 1].tolist()
    expected = [(users.count(u) * items.count(i)) ** -0.5 for u, i in pairs.tolist()]
    assert torch.allclose(values, torch.tensor(expected))


def test_pruning_drops_the_edges_of_busy_users_and_items_more_often(world: Data) -> None:
    model, times = make("freedom", world, prune=0.8), 300
    counts = torch.zeros(60, 60)
    for epoch in range(times):
        model.begin_epoch(epoch)
        counts[tuple(edges(model).t())] += 1
    kept, odds = counts[tuple(world.train.t())] / times, model.odds
    order = odds.argsort()
    low, high = order[: len(order) // 4], order[-len(order) // 4 :]
    # at this share of few among many, inclusion is nearly in proportion to the weights
    ratio = float(kept[high].mean() / kept[low].mean())
    assert ratio == pytest.approx(float(odds[high].mean() / odds[low].mean()), rel=0.25)
    assert ratio > 1.3


def head_loss(model: Any, data: Data, batch: Batch, ids: Tensor, query: Tensor) -> Tensor:
    """sum_m mean_b mean_k softplus(h_u . (W F_n + b - W F_p - b)), pairs that lack the modality left out."""
    total = torch.zeros((), dtype=torch.float64)
    for m, head in model.heads.items():
        weight, bias = head.weight.detach().double(), torch.randn(len(head.weight)).double()  # whatever b is
        rows = data.features[m].all().double()
        for b in range(len(batch)):
            for k in range(ids.shape[1]):
                p, n = int(batch.positives[b]), int(ids[b, k])
                if data.features[m].present is None or data.features[m].present[[p, n]].all():
                    zp, zn = weight @ rows[p] + bias, weight @ rows[n] + bias
                    total += softplus(query[b].double() @ (zn - zp)) / ids.shape[1] / len(batch)
    return total


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_freedoms_heads_are_their_formula(k: int, frozen: bool, patchy: Data) -> None:
    model = make("freedom", patchy, head_weight=0.5, train_features=not frozen)
    tables, (batch, negatives) = model.propagate(), batch_of(patchy, k)
    query = tables.users[batch.users].detach() * 10
    scaled = Tables(items=tables.items, users=tables.users * 10)
    expected = 0.5 * head_loss(model, patchy, batch, negatives.ids, query)
    assert torch.allclose(model.own_loss(scaled, batch, negatives).double(), expected, rtol=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_two_ways_of_the_heads_are_equal_with_their_gradients(frozen: bool, patchy: Data) -> None:
    (batch, one), found = batch_of(patchy, 1), []
    for ids in (one.ids, one.ids.expand(-1, 2).contiguous()):  # the same negative twice has the same mean
        model = make("freedom", patchy, head_weight=1.0, train_features=not frozen)
        loss = model.own_loss(model.propagate(), batch, Negatives(ids=ids))
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        found.append((loss, grads))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-6), name


@pytest.mark.parametrize("k", [1, 3])
def test_heads_on_axes_read_the_features_best_narrow_form(k: int, patchy: Data) -> None:
    model, narrow = make("freedom", patchy, head_weight=0.5, axes=5), dict(patchy.features)
    for name, feature in patchy.features.items():
        rows, here = feature.all(), feature.has(torch.arange(patchy.n_items))
        centred = (rows - rows[here].mean(0)).numpy()
        _, _, axes = np.linalg.svd(centred[here.numpy()], full_matrices=False)
        best, made = (centred @ axes[:5].T)[here.numpy()], model.frozen[name].all().numpy()
        assert made.shape == (patchy.n_items, 5) and not made[~here.numpy()].any()
        assert 0.97 < np.square(made).sum() / np.square(best).sum() < 1.0001  # no five axes hold more than the first
        narrow[name] = replace(feature, rows=made)
    tables, (batch, negatives) = model.propagate(), batch_of(patchy, k)
    query = tables.users[batch.users].detach()
    expected = 0.5 * head_loss(model, replace(patchy, features=narrow), batch, negatives.ids, query)
    assert torch.allclose(model.own_loss(tables, batch, negatives).double(), expected, rtol=1e-4)


def test_axes_wider_than_the_features_leave_them_and_trained_features_have_none(world: Data) -> None:
    whole, wide = (make("freedom", world, head_weight=0.1, axes=axes) for axes in (None, 10_000))
    assert all(torch.equal(whole.frozen[name].all(), wide.frozen[name].all()) for name in world.features)
    with pytest.raises(PartsDoNotFit, match="constant"):
        make("freedom", world, head_weight=0.1, axes=5, train_features=True)


def test_a_head_weight_of_0_makes_no_heads(world: Data) -> None:
    model, (batch, negatives) = make("freedom", world, train_features=True), batch_of(world, 1)
    assert {name for name, _ in model.named_parameters()} == {"users.weight", "ids.weight"}
    assert float(model.own_loss(model.propagate(), batch, negatives)) == 0
    heads = make("freedom", world, head_weight=0.1)
    assert not any(name.startswith("content") for name, _ in heads.named_parameters())
    vectors = Negatives(vectors=torch.zeros(len(batch), 1, 6))
    assert float(heads.own_loss(heads.propagate(), batch, vectors)) == 0, "heads compare items that exist"


@pytest.mark.parametrize("k", [1, 3])
def test_trained_features_get_the_dense_gradient(k: int, world: Data) -> None:
    model, (batch, negatives) = make("freedom", world, head_weight=1.0, train_features=True), batch_of(world, k)
    tables = model.propagate()
    model.own_loss(tables, batch, negatives).backward()
    query = tables.users.detach()[batch.users]
    for name, feature in world.features.items():
        assert torch.equal(model.content[name].weight, feature.all())
        rows = feature.all().requires_grad_()
        z = rows @ model.heads[name].weight.detach().T
        gaps = ((z[negatives.ids] - z[batch.positives][:, None]) * query[:, None]).sum(2)
        softplus(gaps).mean().backward()
        assert torch.allclose(model.content[name].weight.grad, rows.grad, atol=1e-6)
        assert float(rows.grad.abs().max()) > 0


def test_features_below_float32_are_read_as_numbers(world: Data) -> None:
    half = {m: Features(np.asarray(f.rows, np.float16)) for m, f in world.features.items()}
    model: Backbone = make("freedom", replace(world, features=half), head_weight=1.0)
    batch, negatives = batch_of(world, 1)
    data = replace(world, features={m: Features(f.rows.astype(np.float32)) for m, f in half.items()})
    other = make("freedom", data, head_weight=1.0)
    values = [float(x.own_loss(x.propagate(), batch, negatives).detach()) for x in (model, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("name", ["bprmf", "lightgcn", "vbpr", "freedom"])
def test_rows_that_a_sampler_looked_at_without_gradient_still_have_one_for_the_loss(name: str, world: Data) -> None:
    model, (batch, negatives) = make(name, world), batch_of(world, 2)
    tables = model.propagate()
    with torch.no_grad():
        seen = [tables.user_rows(batch.users), tables.item_rows(batch.positives), tables.item_rows(negatives.ids)]
    again = [tables.user_rows(batch.users), tables.item_rows(batch.positives), tables.item_rows(negatives.ids)]
    for before, after in zip(seen, again, strict=True):
        assert not before.requires_grad
        assert after.requires_grad
        assert torch.equal(before, after.detach())


def test_tables_with_other_items_do_not_keep_the_rows_of_the_old_ones() -> None:
    tables, ids = Tables(items=torch.zeros(4, 2), users=torch.zeros(3, 2)), torch.tensor([[0, 1]])
    assert tables.item_rows(ids) is tables.item_rows(ids)
    assert float(tables.item_rows(ids).sum()) == 0
    assert float(replace(tables, items=torch.ones(4, 2)).item_rows(ids).sum()) == 4
