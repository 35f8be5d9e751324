"""The graded sampler: the percentile it states is the percentile it draws, and what its guards pass over."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec import parts
from foilrec.core import Batch, Data, Tables
from foilrec.errors import BadOption, PartsDoNotFit


def wide(users: int = 40, items: int = 4000) -> Data:
    """Every user has taken two items of many."""
    train = torch.stack([torch.arange(2 * users) % users, torch.arange(2 * users)], 1)
    return Data(users, items, train, train[:0], train[:0])


def drawn(data: Data, rows: int, epoch: int = 0, **options: Any) -> tuple[Tensor, Tables, Batch]:
    """Percentiles of the drawn items among each user's unseen ones, by score and by likeness."""
    generator = torch.Generator().manual_seed(0)
    tables = Tables(*(torch.randn(n, 8, generator=generator) for n in (data.n_items, data.n_users)))
    sampler = parts.build("sampler", "graded", data, **options)
    sampler.begin_epoch(epoch, None, tables)
    users = torch.arange(rows) % data.n_users
    batch = Batch(users, users.clone(), torch.arange(rows), epoch)
    return sampler(tables, batch, tables.users[users]).ids, tables, batch


def percentiles(values: Tensor, ids: Tensor, data: Data, users: Tensor) -> Tensor:
    """The share of unseen items below each drawn one: values [B, I] -> [B]."""
    out = []
    for b, (i, u) in enumerate(zip(ids[:, -1].tolist(), users.tolist(), strict=True)):
        free = torch.ones(data.n_items, dtype=torch.bool)
        free[data.train[data.train[:, 0] == u, 1]] = False
        out.append(float((values[b, free] < values[b, i]).sum() / (free.sum() - 1)))
    return torch.tensor(out)


@pytest.mark.parametrize("by", ["user", "positive"])
@pytest.mark.parametrize(("epoch", "target"), [(0, 0.6), (2, 0.75), (4, 0.85), (7, 0.97)])
def test_the_mean_percentile_is_the_target_of_the_stage(epoch: int, target: float, by: str) -> None:
    data = wide()
    options = {"targets": (0.6, 0.75, 0.85, 0.97), "delta": 2, "by": by, "candidates": 20}
    ids, tables, batch = drawn(data, 3000, epoch, **options)
    many, rows = max(20, math.ceil(target / (1 - target) - 1e-6)), normalize(tables.items)
    values = tables.users[batch.users] @ tables.items.T if by == "user" else rows[batch.positives] @ rows.T
    found = percentiles(values, ids, data, batch.users)
    spread = math.sqrt(target * (1 - target) / (many + 2) + 0.25 / (many + 1) ** 2)  # rounding j adds its own variance
    assert abs(float(found.mean()) - target) < 4 * spread / math.sqrt(len(found))
    assert not data.seen.contains(batch.users, ids).any()


def test_with_a_target_of_the_best_of_the_candidates_it_is_dns() -> None:
    data = wide()
    ids, tables, batch = drawn(data, 400, targets=(1 - 1 / 9,), candidates=8)
    candidates = parts.build("sampler", "graded", data).unseen(batch, 8)
    scores = (tables.users[batch.users][:, None] * tables.items[candidates]).sum(2)
    assert torch.equal(ids[:, 0], candidates.gather(1, scores.argmax(1, keepdim=True))[:, 0])


@pytest.mark.parametrize("guard", [{"ceiling": 0.0}, {"likeness": 0.1}])
def test_a_guard_passes_over_to_the_next_easier_candidate(guard: dict[str, float]) -> None:
    data = wide()
    ids, tables, batch = drawn(data, 600, targets=(0.95,), candidates=20, **guard)
    scores, own = tables.users[batch.users] @ tables.items.T, tables.items[batch.positives]
    positive = (tables.users[batch.users] * own).sum(1)
    chosen = scores.gather(1, ids)[:, 0]
    if "ceiling" in guard:
        least = torch.stack([scores[b, c].min() for b, c in enumerate(candidates_of(data, batch))])
        assert ((chosen <= positive) | (chosen == least)).all()  # the easiest of all, where every one beats it
    else:
        cosine = (normalize(tables.items[ids[:, 0]]) * normalize(own)).sum(1)
        assert float((cosine <= 0.1).float().mean()) > 0.99
    free, _, _ = drawn(data, 600, targets=(0.95,), candidates=20)
    assert float(scores.gather(1, free).mean()) > float(chosen.mean())


def candidates_of(data: Data, batch: Batch) -> Tensor:
    """The candidates of each row."""
    return parts.build("sampler", "graded", data).unseen(batch, 20)


def test_an_easy_negative_beside_it_takes_its_share() -> None:
    data = wide()
    ids, _, batch = drawn(data, 50, omega=0.7)
    assert torch.equal(ids[:, 0], data.easy(batch))
    assert ids.shape == (50, 2)


def test_by_aligned_it_reads_the_rows_of_the_chain(world: Data) -> None:
    model = parts.build("backbone", "aligned", world, inner={"name": "lightgcn"}, steps=4)
    sampler = parts.build("sampler", "graded", world, by="aligned", targets=(0.9,))
    sampler.begin_epoch(3, model, model.propagate())
    *_, (_, rows) = model.denoise(2)
    assert torch.allclose(sampler.pool, normalize(rows))
    with pytest.raises(PartsDoNotFit, match="positive"):
        sampler.begin_epoch(3, model.inner, model.propagate())


def test_wrong_options_are_explained() -> None:
    for wrong in ({"targets": ()}, {"targets": (0.5, 1.0)}, {"delta": 0}, {"candidates": 1}, {"omega": 2.0}):
        with pytest.raises(BadOption, match="graded"):
            parts.build("sampler", "graded", wide(), **wrong)
