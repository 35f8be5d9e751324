"""Rows instead of whole tables: a walk's rows, differences, sums and Adam's step against their dense forms."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Data
from foilrec.graphs.sparse import Graph, interaction_graph
from foilrec.graphs.walks import Walk
from foilrec.numerics import kernels
from foilrec.numerics.rows import ProjectedDifferences, RowScores, adam_rows, add_rows, once, squared_once
from foilrec.tables.by_rows import RowTables
from foilrec.tables.late import LateTables

U, I, D = 14, 9, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def graphs() -> tuple[Graph, Graph]:
    """A user-item graph in which some have no edge, and a graph of items."""
    pairs = (random(U - 2, I - 1) > 0.5).nonzero()
    beside = (random(I, I, seed=1) > 0.7).nonzero()
    return interaction_graph(pairs, U, I), Graph(*beside.T, random(len(beside), seed=2), (I, I))


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_rows_of_a_walk_are_those_of_the_whole_and_so_are_their_gradients(layers: int, aside: bool) -> None:
    graph, beside = graphs()
    late = [random(n, D, seed=s).requires_grad_() for s, n in enumerate((U, I, I))]
    whole = [x.detach().clone().requires_grad_() for x in late]
    walk = Walk(graph, late[0], late[1], layers, *((beside, late[2]) if aside else ()))
    users, items = graph.smooth(whole[0], whole[1], layers)
    items = items + (beside(whole[2]) if aside else 0)
    asked = torch.tensor([3, 0, 3, 13]), torch.tensor([[8, 1], [1, 1]]), torch.tensor([4, 8])
    found = walk.users(asked[0]), walk.items(asked[1]), walk.items(asked[2])
    expected = users[asked[0]], items[asked[1]], items[asked[2]]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    weights = [random(*x.shape, seed=9 + k) for k, x in enumerate(found)]
    for rows in (found, expected):
        torch.stack([(x * w).sum() for x, w in zip(rows, weights, strict=True)]).sum().backward()
    for one, other in list(zip(late, whole, strict=True))[: 3 if aside else 2]:
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_a_walk_may_go_back_twice() -> None:
    graph, _ = graphs()
    users, items = random(U, D).requires_grad_(), random(I, D, seed=1).requires_grad_()
    total = Walk(graph, users, items, 2).users(torch.arange(4)).square().sum()
    total.backward(retain_graph=True)
    once = users.grad.clone()
    total.backward()
    assert torch.allclose(users.grad, 2 * once)


@pytest.mark.skipif(kernels.compiled() is None, reason="numba is not installed: tables are made whole")
@pytest.mark.parametrize("options", [("lightgcn", {}), ("freedom", {"prune": 0.5, "neighbours": 4, "hops": 2})])
def test_a_training_step_is_the_same_by_rows_and_by_tables(
    options: tuple[str, dict[str, Any]], world: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parts.build("backbone", options[0], world, **options[1]).train()
    model.begin_epoch(1)
    batch = next(iter(world.batches(50, 0)))
    gradients = []
    for late in (True, False):
        monkeypatch.setattr(Walk, "pays", staticmethod(lambda *_, on=late: on))
        model.zero_grad()
        tables = model.propagate()
        assert isinstance(tables, LateTables) is late
        (tables.user_rows(batch.users) * tables.item_rows(batch.positives)).sum().sigmoid().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.skipif(kernels.compiled() is None, reason="numba is not installed: tables are made whole")
@pytest.mark.parametrize("options", [("lightgcn", {}), ("freedom", {"neighbours": 4, "hops": 2}), ("lattice", {})])
def test_late_tables_looked_at_without_gradient_still_carry_one(
    options: tuple[str, dict[str, Any]], world: Data
) -> None:
    model = parts.build("backbone", options[0], world, **options[1]).train()
    model.begin_epoch(0)
    tables = model.propagate()
    assert isinstance(tables, LateTables)
    with torch.no_grad():
        seen = tables.items
    assert not seen.requires_grad
    assert tables.items.requires_grad
    assert torch.allclose(seen, tables.items.detach(), atol=1e-6)
    assert torch.allclose(tables.item_rows(torch.arange(7)), seen[:7], atol=1e-6)
    assert not isinstance(model.eval().propagate(), LateTables)


@pytest.mark.usefixtures("both_forms")
def test_add_rows() -> None:
    ids, values, out = torch.tensor([2, 0, 2]), random(3, D), random(4, D, seed=1)
    expected = [out[r] + sum((values[k] for k in range(3) if ids[k] == r), torch.zeros(D)) for r in range(4)]
    add_rows(ids, values, out)
    assert torch.allclose(out, torch.stack(expected), atol=1e-6)


@pytest.mark.usefixtures("both_forms")
def test_projected_differences_have_the_dense_gradient_by_rows() -> None:
    table, plain = random(8, D).requires_grad_(), random(8, D).requires_grad_()
    matrix, other = random(3, D, seed=1).requires_grad_(), random(3, D, seed=1).requires_grad_()
    plus, minus, weight = torch.tensor([1, 1, 4, 6]), torch.tensor([4, 0, 1, 6]), random(4, 3, seed=3)
    made, expected = ProjectedDifferences.apply(table, matrix, plus, minus), (plain[plus] - plain[minus]) @ other.T
    assert torch.allclose(made, expected, atol=1e-6)
    (made * weight).sum().backward()
    (expected * weight).sum().backward()
    assert table.grad.is_sparse
    assert table.grad._indices()[0].tolist() == [0, 1, 4, 6]
    assert torch.allclose(table.grad.to_dense(), plain.grad, atol=1e-5)
    assert torch.allclose(matrix.grad, other.grad, atol=1e-5)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_makes_the_same_step_of_row_and_dense_gradients(decay: float) -> None:
    ours, theirs = torch.nn.Parameter(random(30, D)), torch.nn.Parameter(random(30, D))
    one = parts.build("optimizer", "adam", [ours], lr=0.02, weight_decay=decay)
    other = torch.optim.Adam([theirs], lr=0.02, weight_decay=decay, fused=False, foreach=False)
    for step in range(6):
        ids, values = (
            torch.randint(0, 30, (12,), generator=torch.Generator().manual_seed(step)),
            random(12, D, seed=step),
        )
        ours.grad = torch.sparse_coo_tensor(ids[None], values, (30, D), check_invariants=False)
        theirs.grad = ours.grad.to_dense()
        one.step()
        other.step()
        assert torch.allclose(ours, theirs, atol=1e-6)
    again = parts.build("optimizer", "adam", [ours], lr=0.02, weight_decay=decay)
    again.load_state_dict(one.state_dict())
    assert int(again.state[ours]["step"]) == 6


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("others", [False, True])
def test_a_row_that_occurs_twice_gets_the_sum_of_its_gradients(others: bool) -> None:
    ids, values, ends = torch.tensor([7, 2, 7, 9, 2, 7]), random(6, D), []
    summed = torch.stack([values[[1, 4]].sum(0), values[[0, 2, 5]].sum(0), values[3]])
    for rows, gradient in ((ids, values), (torch.tensor([2, 7, 9]), summed)):
        tables = random(12, D, seed=1), random(12, D, seed=2), random(12, D, seed=3).square()
        adam_rows(rows, gradient, *tables, step=2, lr=0.1, betas=(0.9, 0.99), eps=1e-8, others=others)
        ends.append(torch.stack(tables))
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.usefixtures("both_forms")
def test_once_finds_each_id_and_its_places() -> None:
    one, other = torch.tensor([5, 3, 5]), torch.tensor([[9, 3], [0, 5], [9, 9]])
    distinct, places = once(one, other)
    assert distinct.tolist() == [0, 3, 5, 9]
    assert torch.equal(distinct[places[0]], one) and torch.equal(distinct[places[1]], other)
    nothing, (where,) = once(torch.empty(3, 0, dtype=torch.long))
    assert not len(nothing) and where.shape == (3, 0)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("k", [0, 1, 4])
def test_rows_that_are_read_once_have_the_squares_of_all(k: int) -> None:
    ids, table = torch.randint(0, 6, (8, k), generator=torch.Generator().manual_seed(k)), random(9, D)
    one, other = table.clone().requires_grad_(), table.clone().requires_grad_()
    found, expected = squared_once(ids, lambda ids: one[ids]).square().sum(), other[ids].square().sum()
    assert torch.allclose(found, expected, rtol=1e-5)
    found.backward()
    expected.backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-5)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("by_rows", [True, False])
def test_scores_of_rows_are_their_formula_with_their_gradients(by_rows: bool, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    query, table = random(20, D).requires_grad_(), random(9, D, seed=1).requires_grad_()
    positives = torch.randint(0, 7, (20,), generator=generator)
    negatives = torch.randint(0, 7, (20, k), generator=generator)
    assert RowScores.serves(query, table)
    found = RowScores.apply(query, table, positives, negatives, by_rows)
    slow, other = query.detach().double().requires_grad_(), table.detach().double().requires_grad_()
    right = torch.stack([slow[b] @ other[positives[b]] for b in range(20)])
    wrong = torch.stack([torch.stack([slow[b] @ other[n] for n in negatives[b]]) for b in range(20)])
    squares = torch.stack([x.square().sum() for x in (slow, other[positives], other[negatives])])
    weights = random(20, seed=2), random(20, k, seed=3), random(3, seed=4)
    for mine, theirs in zip(found, (right, wrong, squares), strict=True):
        assert torch.allclose(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    sum((x * w).sum() for x, w in zip(found, weights, strict=True)).backward()
    sum((x * w).sum() for x, w in zip((right, wrong, squares), weights, strict=True)).backward()
    assert torch.allclose(query.grad.double(), slow.grad, rtol=1e-4, atol=1e-5)
    assert table.grad.is_sparse == by_rows
    if by_rows:
        assert table.grad._indices()[0].tolist() == sorted({*positives.tolist(), *negatives.flatten().tolist()})
    assert torch.allclose(table.grad.to_dense().double(), other.grad, rtol=1e-4, atol=1e-5)


def test_scores_of_rows_are_read_in_place_only_where_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    query, table = random(3, D), random(9, D, seed=1)
    positives, negatives = torch.tensor([1, 2, 3]), torch.tensor([[4, 5]] * 3)
    tables = RowTables(items=table)
    fast = tables.scores(query, positives, negatives)
    assert tables.squares(query, positives, negatives) is not None
    assert tables.squares(query, positives, negatives.clone()) is None, "other rows have other sums"
    assert not RowScores.serves(query.double(), table.double())
    monkeypatch.setenv("FOILREC_NUMBA", "0")
    kernels.compiled.cache_clear()
    plain = RowTables(items=table)
    slow = plain.scores(query, positives, negatives)
    assert plain.squares(query, positives, negatives) is None
    monkeypatch.undo()
    kernels.compiled.cache_clear()
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(fast, slow, strict=True))


def test_adam_moves_the_rows_that_no_one_touched() -> None:
    table, first, second = random(4, D), random(4, D, seed=1), random(4, D, seed=2).square()
    before, m, v = table.clone(), 0.9 * first, 0.99 * second
    adam_rows(
        torch.tensor([2]),
        torch.ones(1, D),
        table,
        first,
        second,
        step=3,
        lr=0.1,
        betas=(0.9, 0.99),
        eps=1e-8,
        others=True,
    )
    expected = before - 0.1 * (m / (1 - 0.9**3)) / ((v / (1 - 0.99**3)).sqrt() + 1e-8)
    assert torch.allclose(table[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-6)
    assert not torch.allclose(table[2], expected[2], atol=1e-3)


def test_a_walk_is_freed_with_its_last_holder() -> None:
    graph, beside = graphs()
    gc.disable()
    try:
        walk = Walk(graph, random(U, D).requires_grad_(), random(I, D).requires_grad_(), 2, beside, random(I, D))
        path = weakref.ref(walk._path)
        rows = walk.items(torch.arange(3))
        rows.sum().backward()
        del walk, rows
        assert path() is None
    finally:
        gc.enable()
