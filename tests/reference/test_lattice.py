"""LATTICE against its dense form, its published variants, and what its sparse form must not hold."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Negatives
from foilrec.data import Features, Neighbours
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.graphs.edges import Edges, normalised
from reference.shop_runs import learned_beyond_popularity, patchy_world

K = 7


@pytest.fixture(scope="module")
def patchy(world: Data) -> Data:
    """The small shop, some of whose items lack the image, some the text, and one both."""
    return patchy_world(world)


def make(data: Data, seed: int = 0, **options: Any) -> Any:
    """A small LATTICE whose weights are a function of the seed, with modality weights that differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = parts.build("backbone", "lattice", data, **{"dim": 6, "feature_dim": 5, "neighbours": K, **options})
        torch.nn.init.normal_(model.alike.mix)
        return model


def batch_of(data: Data, rows: int = 40) -> tuple[Batch, Negatives]:
    """Training rows and unseen items."""
    which = torch.arange(0, rows * 3, 3)
    users, positives = data.train[which].unbind(1)
    batch = Batch(users.contiguous(), positives.contiguous(), which)
    return batch, Negatives(ids=data.seen.unseen(batch.users, which, 2, 1))


def cosine_graph(rows: Tensor, has: Tensor, clamp: bool) -> Tensor:
    """S~ [I, I]: each row's K greatest cosines, itself among them, every other entry 0."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    ranked = cosines.detach().clone()
    ranked[:, ~has] = -9
    ranked.fill_diagonal_(9)
    kept = torch.zeros_like(cosines).scatter(1, ranked.topk(K).indices, 1.0)
    made = cosines * kept * has[:, None]
    return made.clamp(min=0) if clamp else made


def dense_norm(matrix: Tensor) -> Tensor:
    """D^-1/2 S D^-1/2 by two dense products with diagonal matrices, as the published code has it."""
    degree = matrix.sum(1)
    root = torch.where(degree == 0, 1.0, degree) ** -0.5 * (degree != 0)
    return torch.diag(root) @ matrix @ torch.diag(root)


def item_graph(model: Any, data: Data, weights: dict[str, Tensor]) -> Tensor:
    """S [I, I] from W, b and the modality weights, in float64 and dense."""
    names = sorted(data.features)
    has = torch.stack([data.features[n].has(torch.arange(60)) for n in names], 1)
    nothing = ~has.any(1)
    raw = {n: data.features[n].all().double() for n in names}
    frozen, learned = torch.zeros(60, 60).double(), torch.zeros(60, 60).double()
    share = weights["mix"].exp() * (has | nothing[:, None])
    share = share / share.sum(1, keepdim=True)
    for m, n in enumerate(names):
        here = has[:, m]
        one = cosine_graph(torch.where(here[:, None], raw[n], 1.0), here, model.alike.clamp)
        rows = raw[n] @ weights[f"transforms.{n}.weight"].T + weights[f"transforms.{n}.bias"]
        two = cosine_graph(rows, here, model.alike.clamp)
        one, two = (s + torch.diag(nothing.double()) for s in (one, two))
        frozen = frozen + share[:, m : m + 1] * dense_norm(one)
        learned = learned + share[:, m : m + 1] * (dense_norm(two) if model.alike.each else two)
    if not model.alike.each:
        learned = dense_norm(learned)
    return model.alike.skip * frozen + (1 - model.alike.skip) * learned


def interactions(data: Data, row: bool) -> Tensor:
    """N [U + I, U + I]: symmetric without self loops, or D^-1 (A + 1)."""
    a = torch.zeros(120, 120, dtype=torch.float64)
    a[data.train[:, 0], 60 + data.train[:, 1]] = 1
    a += a.T.clone()
    if row:
        a += torch.eye(120)
        return a / a.sum(1, keepdim=True)
    root = a.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * a * root


def slow(model: Any, data: Data, row: bool = False, hops: int = 1) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Users, items and the leaves they follow from, by dense matrices in float64."""
    leaves = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    inner = {n.removeprefix("alike."): p for n, p in leaves.items()}
    h = torch.linalg.matrix_power(item_graph(model, data, inner), hops) @ leaves["ids.weight"]
    y, matrix = torch.cat([leaves["users.weight"], leaves["ids.weight"]]), interactions(data, row)
    layers = (y + matrix @ y + matrix @ matrix @ y) / 3
    return layers[:60], layers[60:] + h / h.norm(dim=1, keepdim=True), leaves


VARIANTS: list[dict[str, Any]] = [
    {},
    {"interactions": "row"},
    {"normalise": "each", "skip": 0.4},
    {"hops": 2, "skip": 0.0, "clamp": False},
]


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("whole", [True, False])
def test_numbers_and_gradients_are_those_of_the_dense_form(
    options: dict[str, Any], whole: bool, world: Data, patchy: Data
) -> None:
    data = world if whole else patchy
    model = make(data, **options)
    model.begin_epoch(0)
    batch, negatives = batch_of(data)
    tables = model.train().propagate()
    users, items, leaves = slow(model, data, options.get("interactions") == "row", options.get("hops", 1))
    ids = torch.cat([batch.positives[:, None], negatives.ids], 1)
    mine = (tables.user_rows(batch.users)[:, None] * tables.item_rows(ids)).sum(2)
    theirs = (users[batch.users][:, None] * items[ids]).sum(2)
    assert torch.allclose(mine.double(), theirs, atol=1e-5)
    assert torch.allclose(model.eval().propagate().items.double(), items, atol=1e-5)
    mine.sigmoid().sum().backward()
    theirs.sigmoid().sum().backward()
    for name, parameter in model.named_parameters():
        gradient = leaves[name].grad
        if model.alike.skip < 1 and not name.startswith("alike"):
            assert float(gradient.abs().max()) > 0
        assert torch.allclose(parameter.grad.double(), gradient, atol=2e-5, rtol=1e-3), name


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("options", VARIANTS)
def test_a_later_step_walks_the_same_graph_without_training_it(
    options: dict[str, Any], world: Data, patchy: Data
) -> None:
    for data in (world, patchy):
        model = make(data, **options).train()
        model.begin_epoch(0)
        model.propagate().items.sum().backward()
        model.zero_grad()
        batch, negatives = batch_of(data)
        tables = model.propagate()
        users, items, leaves = slow(model, data, options.get("interactions") == "row", options.get("hops", 1))
        ids = torch.cat([batch.positives[:, None], negatives.ids], 1)
        mine, theirs = (tables.user_rows(batch.users), tables.item_rows(ids)), (users[batch.users], items[ids])
        for u, i in (mine, theirs):
            (u[:, None] * i).sum(2).sigmoid().sum().backward()
        for name in ("users.weight", "ids.weight"):
            mine, theirs = model.get_parameter(name).grad, leaves[name].grad
            assert torch.allclose(mine.double(), theirs, atol=2e-5, rtol=1e-3), name
        assert all(parameter.grad is None for parameter in model.alike.parameters())


def test_ego_is_h_before_its_length_is_made_one(world: Data) -> None:
    model = make(world)
    inner = {n: p.detach().double() for n, p in model.alike.named_parameters()}
    h = item_graph(model, world, inner) @ model.ids.weight.detach().double()
    assert torch.allclose(model.eval().ego().double(), h, atol=1e-6)
    assert model.inputs() is model.ids.weight
    users, items = torch.zeros(60, 6), torch.nn.functional.normalize(model.ego(), dim=1)
    model.users.weight.data.zero_()
    assert torch.allclose(model.propagate(torch.zeros(60, 6)).items, items, atol=1e-6)
    assert torch.equal(model.propagate(torch.zeros(60, 6)).users, users)


def test_an_item_without_any_modality_has_only_itself(patchy: Data) -> None:
    model = make(patchy).eval()
    assert torch.allclose(model.ego()[5], model.ids.weight[5], atol=1e-6)
    built = model.alike.now()
    weights = torch.zeros(60, 60).scatter_add_(1, built.edges.ids, built.matrix.by_rows()[2].view(60, -1))
    assert int((weights[5] != 0).sum()) == 1
    assert not weights[torch.arange(60) != 5, 5].any(), "nobody's neighbour"


def test_the_first_batch_of_an_epoch_alone_trains_the_graph_unless_every_does(world: Data) -> None:
    for choice, expected in (("first", [True, False]), ("every", [True, True])):
        model = make(world, graph_gradient=choice).train()
        for epoch in range(2):
            model.begin_epoch(epoch)
            with torch.no_grad():
                model.propagate()  # as a sampler does before the first batch
            found = []
            for _ in range(2):
                model.zero_grad(set_to_none=True)
                model.propagate().items.square().sum().backward()
                found.append(model.alike.transforms["text"].weight.grad is not None)
            assert found == expected


def test_later_batches_see_the_graph_of_the_first_and_evaluation_the_newest(world: Data) -> None:
    model = make(world, skip=0.0).train()
    model.begin_epoch(0)
    with torch.no_grad():
        before = model.propagate().items
        model.alike.transforms["text"].weight.add_(torch.randn(5, model.alike.transforms["text"].in_features))
        assert torch.equal(model.propagate().items, before)
        after = model.eval().propagate().items
        assert not torch.allclose(after, before, atol=1e-3)
        assert torch.equal(model.eval().propagate().items, after)
        model.begin_epoch(1)
        assert torch.allclose(model.train().propagate().items, after, atol=1e-6)


@pytest.mark.parametrize("outputs", [True, False])
def test_the_penalty_is_on_inputs_or_on_outputs_over_the_batch(outputs: bool, world: Data) -> None:
    options = {"penalise": "outputs", "reg_batch": 64} if outputs else {}
    model = make(world, l2_reg=0.3, **options).eval()
    tables, (batch, negatives) = model.propagate(), batch_of(world)
    users, items = (tables.users, tables.items) if outputs else (model.users.weight, model.ids.weight)
    squares = sum(x.square().sum() for x in (users[batch.users], items[batch.positives], items[negatives.ids]))
    expected = 0.3 * squares / 2 / (64 if outputs else len(batch))
    assert torch.allclose(model.own_loss(tables, batch, negatives), expected, rtol=1e-5)
    assert float(make(world).own_loss(tables, batch, negatives)) == 0


def test_trained_features_move_and_the_frozen_graph_does_not(world: Data) -> None:
    model = make(world, train_features=True).train()
    frozen = model.alike.frozen.clone()
    model.begin_epoch(0)
    model.propagate().items.square().sum().backward()
    for name in world.features:
        assert float(model.alike.content[name].weight.grad.abs().max()) > 0
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    model.begin_epoch(1)
    assert torch.equal(model.alike.frozen, frozen)
    assert not [n for n, _ in make(world).named_parameters() if "content" in n]


def test_ready_made_neighbours_are_the_frozen_graph(world: Data) -> None:
    others = [torch.randperm(59, generator=torch.Generator().manual_seed(i))[: K - 1] + 1 for i in range(60)]
    ids = (torch.arange(60)[:, None] + torch.cat([torch.zeros(60, 1).long(), torch.stack(others)], 1)) % 60
    cosines = torch.rand(60, K)
    data = replace(world, features={}, neighbours={"sound": Neighbours(ids.int(), cosines)})
    model = make(data, skip=1.0).eval()
    dense = torch.zeros(60, 60).scatter_add_(1, ids, cosines).double()
    assert torch.allclose(model.ego().double(), dense_norm(dense) @ model.ids.weight.detach().double(), atol=1e-6)
    with pytest.raises(PartsDoNotFit, match="no cosines"):
        make(replace(data, neighbours={"sound": Neighbours(ids)}), skip=1.0)
    with pytest.raises(PartsDoNotFit, match="lightgcn"):
        make(data)
    weighed = replace(world, neighbours={"text": Neighbours(ids)})  # cosines of those pairs by the features at hand
    rows = torch.nn.functional.normalize(world.features["text"].all(), dim=1)
    expected = (rows[:, None] * rows[ids]).sum(2).clamp(min=0)
    assert torch.allclose(make(weighed).alike.frozen[:, K:], normalised(ids, expected), atol=1e-6)


def test_faithful_names_the_option_that_departs(world: Data) -> None:
    published: dict[str, Any] = {
        "interactions": "row",
        "penalise": "outputs",
        "l2_reg": 1e-5,
        "reg_batch": 1024,
        "clamp": False,
        "train_features": True,
    }
    make(world, faithful=True, **published)
    for name in ("interactions", "penalise", "reg_batch", "clamp", "train_features"):
        with pytest.raises(BadOption, match=name):
            make(world, faithful=True, **{k: v for k, v in published.items() if k != name})
    for changed in ({"graph_gradient": "every"}, {"normalise": "each"}, {"init": "normal"}):
        with pytest.raises(BadOption, match=next(iter(changed))):
            make(world, faithful=True, **published, **changed)
    with pytest.raises(BadOption, match=r"skip = 1\.5"):
        make(world, skip=1.5)


@pytest.mark.usefixtures("both_forms")
def test_edges_multiply_and_dot_with_both_gradients() -> None:
    ids = torch.randint(0, 9, (9, 4), generator=torch.Generator().manual_seed(0))
    weights, x = torch.randn(9, 4, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    edges, outer = Edges(ids), torch.randn(9, 3)
    product, dots = edges(weights, x), edges.dot(x)
    (product * outer).sum().add((dots * weights.detach()).sum()).backward()
    mine = weights.grad, x.grad
    w, y = (t.detach().clone().requires_grad_() for t in (weights, x))
    dense, along = (w[:, :, None] * y[ids]).sum(1), (y[:, None] * y[ids]).sum(2)
    (dense * outer).sum().add((along * weights.detach()).sum()).backward()
    assert torch.allclose(product, dense, atol=1e-5)
    assert torch.allclose(dots, along, atol=1e-5)
    for one, two in zip(mine, (w.grad, y.grad), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_a_row_that_sums_to_nothing_becomes_nothing() -> None:
    ids, weights = torch.tensor([[0, 1], [1, 0], [2, 2]]), torch.tensor([[1.0, 3.0], [1.0, 0.0], [0.0, 0.0]])
    weights.requires_grad_()
    made = normalised(ids, weights)
    assert torch.allclose(made, torch.tensor([[0.25, 1.5], [1.0, 0.0], [0.0, 0.0]]))
    made.sum().backward()
    assert weights.grad.isfinite().all()


def test_zero_rows_of_features_are_no_numbers_gone_wrong(world: Data) -> None:
    rows = world.features["text"].all().numpy().copy()
    rows[[1, 2]] = 0
    model = make(replace(world, features={"text": Features(rows)})).train()
    model.begin_epoch(0)
    model.propagate().items.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("choice", ["first", "every"])
def test_it_learns_what_the_shop_likes(choice: str) -> None:
    assert learned_beyond_popularity({"name": "lattice", "graph_gradient": choice}, epochs=10) > 1.2
