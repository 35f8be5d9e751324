"""Cosine scores, written slowly, and what holds of them."""

import math

import pytest
import torch

from foilrec import parts
from foilrec.core import Backbone, Data, Negatives
from foilrec.errors import BadOption
from foilrec.evaluation import Protocol, evaluate


def wrapped(data: Data, inner: str = "lightgcn", temperature: float = 0.25) -> Backbone:
    torch.manual_seed(0)
    model: Backbone = parts.build("backbone", "cosine", data, inner={"name": inner, "dim": 6}, temperature=temperature)
    return model


@pytest.mark.parametrize("inner", ["bprmf", "lightgcn", "vbpr", "freedom"])
def test_scores_are_cosines_over_the_temperature(inner: str, world: Data) -> None:
    model = wrapped(world, inner)
    batch = next(iter(world.batches(9, 0)))
    tables, own = model.step_tables(batch), model.inner.step_tables(batch)  # type: ignore[union-attr, operator]
    query = model.query(tables, batch)
    for row, (user, item) in enumerate(zip(batch.users, batch.positives, strict=True)):
        u, i = (t.tolist() for t in (own.user_rows(user[None])[0], own.item_rows(item[None])[0]))
        wanted = sum(a * b for a, b in zip(u, i, strict=True)) / math.hypot(*u) / math.hypot(*i) / 0.25
        found = query[row] @ tables.item_rows(batch.positives)[row]
        assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_ranking_does_not_see_how_long_rows_are(world: Data) -> None:
    model = wrapped(world)
    before = evaluate(model, Protocol("valid")).means
    with torch.no_grad():
        model.inner.items.weight.mul_(5)  # type: ignore[union-attr, operator]
        model.inner.users.weight.mul_(5)  # type: ignore[union-attr, operator]
    assert evaluate(model, Protocol("valid")).means == pytest.approx(before)


def test_penalties_are_of_the_inner_rows(world: Data) -> None:
    torch.manual_seed(0)
    inner = {"name": "lightgcn", "dim": 6, "emb_reg": 0.5}
    model: Backbone = parts.build("backbone", "cosine", world, inner=inner)
    batch = next(iter(world.batches(9, 0)))
    negatives = Negatives(ids=torch.zeros(9, 1, dtype=torch.long))
    tables = model.step_tables(batch)
    own = model.inner.own_loss(model.inner.step_tables(batch), batch, negatives)  # type: ignore[union-attr, operator]
    assert model.own_loss(tables, batch, negatives).item() == pytest.approx(own.item()) != 0


def test_the_temperature_is_above_0(world: Data) -> None:
    with pytest.raises(BadOption, match="temperature = 0"):
        wrapped(world, temperature=0.0)
