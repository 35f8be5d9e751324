"""Samplers against their definitions: the choice of DNS by a loop, and the law of the ranks it draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Tables
from foilrec.errors import BadOption
from foilrec.numerics import kernels

Chi = Callable[[Tensor, Tensor], float]


def catalogue(n: int, rows: int) -> tuple[Data, Tables, Batch, Tensor]:
    """One user with nothing taken, n items of distinct scores (item j has rank n - j), many training rows."""
    train = torch.tensor([[1, 0]])
    data = Data(2, n, train, train[:0], train[:0])
    tables = Tables(items=torch.arange(n, dtype=torch.float32)[:, None])
    users = torch.zeros(rows, dtype=torch.long)
    return data, tables, Batch(users, users, torch.arange(rows)), torch.ones(rows, 1)


def random_case(world: Data, rows: int = 50) -> tuple[Tables, Batch, Tensor]:
    """Random vectors, and a batch of training rows."""
    generator = torch.Generator().manual_seed(0)
    items, users = (torch.randn(60, 8, generator=generator) for _ in range(2))
    which = torch.arange(rows)
    batch = Batch(world.train[which, 0], world.train[which, 1], which, epoch=1)
    return Tables(items=items, users=users), batch, users[batch.users]


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("top", [1, 3, 12])
def test_dns_keeps_the_best_of_its_candidates(top: int, world: Data) -> None:
    tables, batch, query = random_case(world)
    sampler = parts.build("sampler", "dns", world, pool=12, top=top)
    chosen = sampler(tables, batch, query).ids.tolist()
    candidates = sampler.unseen(batch, 12).tolist()
    for b, row in enumerate(candidates):
        scored = sorted(((float(query[b] @ tables.items[i]), i) for i in row), reverse=True)
        assert [round(float(query[b] @ tables.items[i]), 5) for i in chosen[b]] == [
            round(s, 5) for s, _ in scored[:top]
        ]
        assert set(chosen[b]) <= set(row)


def test_dns_with_a_count_keeps_some_of_its_best_evenly(chi_square: Chi) -> None:
    data, tables, batch, query = catalogue(1000, 20_000)
    best = parts.build("sampler", "dns", data, pool=16, top=4)(tables, batch, query).ids
    some = parts.build("sampler", "dns", data, pool=16, top=4, count=2)(tables, batch, query).ids
    assert some.shape == (20_000, 2)
    places = some[:, :, None] == best[:, None, :]
    assert places.any(2).all()
    clear = (best.diff(dim=1) != 0).all(1)  # no item twice among the best
    kept = places[clear].any(1)
    assert (kept.sum(1) == 2).all(), "two different ones"
    # each of the 6 pairs of places is as likely as any other
    pairs = (kept.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    expected = torch.zeros(16)
    expected[[3, 5, 6, 9, 10, 12]] = len(pairs) / 6
    assert chi_square(torch.bincount(pairs, minlength=16), expected) > 1e-4


@pytest.mark.parametrize("pool", [1, 5, 20])
def test_the_best_of_m_candidates_has_rank_law_1_minus_1_minus_r_over_n_to_the_m(pool: int, chi_square: Chi) -> None:
    n, rows = 50, 20_000
    data, tables, batch, query = catalogue(n, rows)
    ids = parts.build("sampler", "dns", data, pool=pool)(tables, batch, query).ids.flatten()
    rank = n - ids  # 1 .. n, 1 the best
    r = torch.arange(n + 1, dtype=torch.float64)
    at_most = 1 - (1 - r / n) ** pool
    counts, expected = torch.bincount(rank, minlength=n + 1)[1:], at_most.diff() * rows
    enough = int((expected >= 5).sum())  # the far tail in one cell
    counts = torch.cat([counts[:enough], counts[enough:].sum()[None]])
    expected = torch.cat([expected[:enough], expected[enough:].sum()[None]])
    if enough == n:
        counts, expected = counts[:-1], expected[:-1]
    assert chi_square(counts, expected) > 1e-4


def test_dns_that_keeps_its_whole_pool_is_uniform(chi_square: Chi) -> None:
    n, rows = 40, 5_000
    data, tables, batch, query = catalogue(n, rows)
    ids = parts.build("sampler", "dns", data, pool=4, top=4)(tables, batch, query).ids
    assert chi_square(torch.bincount(ids.flatten(), minlength=n), torch.full((n,), rows * 4 / n)) > 1e-4
    ids = parts.build("sampler", "dns", data, pool=4, top=4, count=1)(tables, batch, query).ids
    assert chi_square(torch.bincount(ids.flatten(), minlength=n), torch.full((n,), rows / n)) > 1e-4


@pytest.mark.parametrize("options", [{"pool": 4, "top": 5}, {"top": 0}, {"top": 2, "count": 3}, {"count": 0}])
def test_dns_refuses_numbers_that_do_not_rise(options: dict[str, int], world: Data) -> None:
    with pytest.raises(BadOption, match="dns"):
        parts.build("sampler", "dns", world, **options)


def test_dns_draws_the_same_in_both_forms(world: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, batch, query = random_case(world)
    sampler = parts.build("sampler", "dns", world, pool=10, top=3, count=2)
    fast = sampler(tables, batch, query).ids
    monkeypatch.setenv("FOILREC_NUMBA", "0")
    kernels.compiled.cache_clear()
    slow = sampler(tables, batch, query).ids
    kernels.compiled.cache_clear()
    assert torch.equal(fast, slow)
