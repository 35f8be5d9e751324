"""Graphs and kernels against dense matrices, and the draws without replacement against successive ones."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from foilrec.graphs.sparse import (
    Graph,
    by_rows,
    interaction_graph,
    inverse_root_degrees,
    nearest_pairs,
    neighbour_mean,
    weighted_subset,
)
from foilrec.numerics import kernels
from foilrec.numerics.rows import adam_rows, sum_rows

Chi = Callable[[Tensor, Tensor], float]
U, I, D = 13, 9, 5


def pairs_of(seed: int = 0) -> Tensor:
    """Distinct pairs in any order; user 12 and item 8 have none."""
    taken = torch.rand(U - 1, I - 1, generator=torch.Generator().manual_seed(seed)) < 0.4
    pairs = taken.nonzero()
    return pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))]


def dense_normalised(pairs: Tensor, users: int = U, items: int = I) -> Tensor:
    """[[0, R], [R^T, 0]] scaled by D^-1/2 on both sides, rows without an edge all zero."""
    whole = torch.zeros(users + items, users + items, dtype=torch.float64)
    for u, i in pairs.tolist():
        whole[u, users + i] += 1
        whole[users + i, u] += 1
    degrees = whole.sum(1)
    roots = torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)
    return roots[:, None] * whole * roots


def tables(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random rows of users and items, with gradient."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(n, D, generator=generator).requires_grad_() for n in (U, I))
    return users, items


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_smooth_is_the_mean_of_dense_powers_and_so_is_its_gradient(layers: int) -> None:
    pairs, (users, items) = pairs_of(), tables()
    graph, matrix = interaction_graph(pairs, U, I), dense_normalised(pairs)
    start = torch.cat([users, items]).detach().double().requires_grad_()
    expected = sum(torch.linalg.matrix_power(matrix, n) @ start for n in range(layers + 1)) / (layers + 1)
    found = torch.cat(graph.smooth(users, items, layers))
    assert torch.allclose(found.double(), expected, atol=1e-6)
    # a gradient with many zero rows, as a batch leaves it
    weights = torch.randn(U + I, D, generator=torch.Generator().manual_seed(9))
    weights[torch.arange(U + I) % 3 > 0] = 0
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(torch.cat([users.grad, items.grad]).double(), start.grad, atol=1e-6)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("turned", [False, True])
def test_a_graph_is_its_matrix_and_carries_gradients(turned: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    rows, columns = torch.randint(0, U, (40,), generator=generator), torch.randint(0, I, (40,), generator=generator)
    values = torch.randn(40, generator=generator)
    dense = torch.zeros(U, I).index_put_((rows, columns), values, accumulate=True)  # repeated entries add up
    dense = dense.T if turned else dense
    graph = Graph(rows, columns, values, (U, I))
    x = torch.randn(dense.shape[1], D, generator=generator).requires_grad_()
    found = graph.turn(x) if turned else graph(x)
    assert torch.allclose(found, dense @ x, atol=1e-5)
    weights = torch.randn(found.shape, generator=generator)
    (found * weights).sum().backward()
    assert torch.allclose(x.grad, dense.T @ weights, atol=1e-5)


def test_a_graph_is_no_part_of_a_checkpoint() -> None:
    assert not interaction_graph(pairs_of(), U, I).state_dict()


def test_entries_by_rows_keep_their_values() -> None:
    rows, columns, values = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 4, 0, 3]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    starts, sorted_columns, sorted_values = by_rows(rows, columns, values, 4)
    assert starts.tolist() == [0, 1, 2, 4, 4]
    assert sorted_columns.tolist() == [4, 3, 1, 0]
    assert sorted_values.tolist() == [2, 4, 1, 3]


def test_weights_of_pairs_are_inverse_roots_of_both_degrees() -> None:
    pairs = pairs_of()
    degrees = {side: pairs[:, side].tolist() for side in (0, 1)}
    expected = [(degrees[0].count(u) * degrees[1].count(i)) ** -0.5 for u, i in pairs.tolist()]
    assert torch.allclose(inverse_root_degrees(pairs, U, I), torch.tensor(expected))


WEIGHTS = torch.tensor([0.1, 0.5, 1.0, 2.0])


def successive(count: int) -> dict[tuple[int, ...], float]:
    """P(set) when items are drawn one after another in proportion to what is left."""
    law: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(4), count):
        left, chance = float(WEIGHTS.sum()), 1.0
        for item in order:
            chance *= float(WEIGHTS[item]) / left
            left -= float(WEIGHTS[item])
        law[tuple(sorted(order))] = law.get(tuple(sorted(order)), 0.0) + chance
    return law


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_weighted_subset_has_the_law_of_successive_draws(count: int, chi_square: Chi) -> None:
    law, generator, times = successive(count), torch.Generator().manual_seed(7), 6000
    places = {chosen: n for n, chosen in enumerate(sorted(law))}
    drawn = [places[tuple(weighted_subset(WEIGHTS, count, generator).tolist())] for _ in range(times)]
    expected = torch.tensor([law[chosen] for chosen in sorted(law)]) * times
    assert sum(law.values()) == pytest.approx(1)
    assert chi_square(torch.bincount(torch.tensor(drawn), minlength=len(law)), expected) > 1e-4


def test_a_weighted_subset_of_all_or_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    assert weighted_subset(WEIGHTS, 4, generator).tolist() == [0, 1, 2, 3]
    assert weighted_subset(WEIGHTS, 0, generator).tolist() == []


@pytest.mark.parametrize("block", [2**20, 200])
def test_nearest_rows_are_the_dense_cosine_top_k_itself_first(block: int) -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    ids = nearest_pairs(features, 5, block=block)[0]
    for item in range(20):
        cosines = {j: float(torch.cosine_similarity(features[item], features[j], dim=0)) for j in range(20)}
        others = sorted((j for j in range(20) if j != item), key=lambda j: -cosines[j])
        assert ids[item].tolist() == [item, *others[:4]]


def test_nearest_rows_leave_out_what_is_not_there() -> None:
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    present = torch.arange(12) % 3 > 0
    ids = nearest_pairs(features, 4, present)[0]
    assert present[ids[present]].all()
    assert (ids[~present] == torch.arange(12)[~present][:, None]).all()
    assert torch.equal(ids[present][:, 0], torch.arange(12)[present])
    few = nearest_pairs(features, 10, present & (torch.arange(12) < 4))[0]
    assert few.shape == (12, 2), "never more neighbours than there are"


def test_equal_cosines_stand_in_the_order_of_their_ids() -> None:
    features = torch.ones(300, 2)
    ids = nearest_pairs(features, 6)[0]
    assert ids[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert ids[200].tolist() == [200, 0, 1, 2, 3, 4]


def test_neighbour_mean_is_one_over_k_times_the_share() -> None:
    ids = torch.tensor([[0, 1], [1, 2], [2, 2]])
    rows, columns, values = neighbour_mean(ids, torch.tensor([1.0, 0.5, 0.25]))
    dense = torch.zeros(3, 3).index_put_((rows, columns), values, accumulate=True)
    assert dense.tolist() == [[0.5, 0.5, 0], [0, 0.25, 0.25], [0, 0, 0.25]]


def csr(seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A sparse matrix by rows (some of them empty, some long) and the same one dense."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(U, I, generator=generator) * (torch.rand(U, I, generator=generator) < 0.5)
    dense[3] = 0
    return by_rows(*dense.nonzero().unbind(1), dense[dense != 0], U), dense


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiply(scale: float, plus: bool, dtype: torch.dtype) -> None:
    rows, dense = csr(0)
    x = torch.randn(I, D, generator=torch.Generator().manual_seed(1), dtype=dtype)
    x[::2] = 0
    x[0, 4] = 2.0  # a row with a single number that is not zero
    added = torch.randn(U, D, generator=torch.Generator().manual_seed(2), dtype=dtype) if plus else None
    found = kernels.multiply(rows, x, plus=added, scale=scale)
    expected = scale * (dense.to(dtype) @ x + (0 if added is None else added))
    assert found.dtype == dtype
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("both_forms")
def test_multiply_takes_a_view_that_is_not_contiguous() -> None:
    rows, dense = csr(3)
    x = torch.randn(D, I, generator=torch.Generator().manual_seed(1)).t()
    assert torch.allclose(kernels.multiply(rows, x), dense @ x, atol=1e-5)


@pytest.mark.usefixtures("both_forms")
def test_candidate_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(6, D, generator=generator), torch.randn(I, D, generator=generator)
    ids = torch.randint(0, I, (6, 11), generator=generator)
    expected = [[float(query[b] @ table[i]) for i in row] for b, row in enumerate(ids.tolist())]
    assert torch.allclose(kernels.candidate_scores(query, table, ids), torch.tensor(expected), atol=1e-5)


@pytest.mark.usefixtures("both_forms")
def test_ranks_put_equal_scores_in_the_order_of_ids() -> None:
    scores = torch.randint(0, 4, (5, 20), generator=torch.Generator().manual_seed(0)).float()
    starts, wanted = torch.tensor([0, 2, 2, 5, 6, 7]), torch.tensor([3, 19, 0, 7, 7, 11, 4])
    found = kernels.ranks(scores, starts, wanted).tolist()
    expected = []
    for row in range(5):
        order = sorted(range(20), key=lambda i, row=row: (-float(scores[row, i]), i))
        expected += [order.index(int(i)) for i in wanted[starts[row] : starts[row + 1]]]
    assert found == expected


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("most", [1, 4, 20, 25])
def test_best_is_the_start_of_the_sorted_row(most: int) -> None:
    scores = torch.randint(0, 5, (30, 20), generator=torch.Generator().manual_seed(most)).float()
    scores[torch.rand(30, 20, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    scores[4] = torch.nan
    ids, values = kernels.best(scores, most)
    for row in range(30):
        kept = [i for i in range(20) if not scores[row, i].isnan()]
        order = sorted(kept, key=lambda i, row=row: (-float(scores[row, i]), i))[:most]
        assert ids[row].tolist() == order + [-1] * (most - len(order))
        assert values[row, : len(order)].tolist() == scores[row, order].tolist()
        assert (values[row, len(order) :] == -torch.inf).all()


@pytest.mark.usefixtures("both_forms")
def test_sum_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    ids, values = torch.randint(0, 8, (20,), generator=generator), torch.randn(20, D, generator=generator)
    distinct, sums = sum_rows(ids, values, 10)
    assert sorted(distinct.tolist()) == sorted(set(ids.tolist()))
    for i, total in zip(distinct.tolist(), sums, strict=True):
        assert torch.allclose(total, values[ids == i].sum(0), atol=1e-5)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_row_differences(dtype: type) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(dtype)
    plus, minus = torch.tensor([0, 7, 3, 3]), torch.tensor([1, 2, 3, 0])
    found = kernels.differences(rows, plus, minus)
    expected = [[float(rows[p, d]) - float(rows[n, d]) for d in range(3)] for p, n in zip(plus, minus, strict=True)]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


def test_adam_rows_agree_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for on in ("1", "0"):
        monkeypatch.setenv("FOILREC_NUMBA", on)
        kernels.compiled.cache_clear()
        generator = torch.Generator().manual_seed(0)
        table, first, second = torch.randn(9, D, generator=generator), torch.zeros(9, D), torch.zeros(9, D)
        for step in range(1, 5):
            rows = torch.randperm(9, generator=generator)[:4]
            gradient = torch.randn(4, D, generator=generator)
            adam_rows(rows, gradient, table, first, second, step=step, lr=0.1, betas=(0.9, 0.99), eps=1e-8)
        ends.append((table, first, second))
    monkeypatch.undo()
    kernels.compiled.cache_clear()
    for fast, slow in zip(*ends, strict=True):
        assert torch.allclose(fast, slow, atol=1e-5)
