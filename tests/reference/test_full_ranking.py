"""Full ranking, written slowly: sort everything for one user after another, and count by hand."""

import math
from dataclasses import replace

import pytest
import torch

from foilrec.core import Backbone, Data, Tables
from foilrec.evaluation import Protocol, evaluate, top_k
from foilrec.numerics import kernels

KS, N_USERS, N_ITEMS = (1, 3, 20, 100), 40, 50


class Given(Backbone):
    """Fixed small whole-number vectors: many scores tie, and none is ever rounded."""

    def propagate(self, inputs: torch.Tensor | None = None) -> Tables:
        draw = torch.Generator().manual_seed(5)
        users, items = (torch.randint(-1, 3, (n, 3), generator=draw).float() for n in (N_USERS, N_ITEMS))
        return Tables(items, users)


def world() -> Data:
    """Few and many held-out items; users without any; pairs that come twice, also across the split."""
    draw = torch.Generator().manual_seed(6)

    def pairs(rows: int) -> torch.Tensor:
        few = torch.randint(0, N_USERS - 5, (rows,), generator=draw)
        return torch.stack([few, torch.randint(0, N_ITEMS, (rows,), generator=draw)], 1)

    much = torch.stack([torch.zeros(20, dtype=torch.long), torch.arange(20) * 2], 1)  # user 0 wants many
    return Data(N_USERS, N_ITEMS, pairs(250), pairs(60), torch.cat([pairs(80), much]))


def ranking(data: Data, user: int, masked: set[int]) -> list[int]:
    """What the user is shown: every item that is not masked, by score, equal scores by id."""
    tables = Given(data).propagate()
    assert tables.users is not None
    scores = [
        sum(a * b for a, b in zip(tables.users[user].tolist(), row, strict=True)) for row in tables.items.tolist()
    ]
    return sorted((i for i in range(N_ITEMS) if i not in masked), key=lambda i: (-scores[i], i))


def items_of(pairs: torch.Tensor, user: int) -> set[int]:
    """Distinct items of a user."""
    return {i for u, i in pairs.tolist() if u == user}


def by_hand(shown: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """Every metric of one user, from the top of the list down."""
    hits, dcg, precisions, first = 0, 0.0, 0.0, 0.0
    for place, item in enumerate(shown[:k]):
        if item in wanted:
            hits += 1
            dcg += 1 / math.log2(place + 2)
            precisions += hits / (place + 1)
            first = first or 1 / (place + 1)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), k)))
    return {
        "recall": hits / len(wanted),
        "ndcg": dcg / ideal,
        "precision": hits / k,
        "map": precisions / min(len(wanted), k),
        "ap": precisions / len(wanted),
        "hit": float(hits > 0),
        "mrr": first,
    }


@pytest.mark.parametrize("protocol", [Protocol("valid"), Protocol("test"), Protocol("test", ("train", "valid"))])
@pytest.mark.usefixtures("both_forms")
def test_evaluate_is_the_slow_loop(protocol: Protocol) -> None:
    data = world()
    protocol = replace(protocol, ks=KS, metrics=("recall", "ndcg", "precision", "map", "ap", "hit", "mrr"))
    scores = evaluate(Given(data), protocol, lists=True)
    pairs = getattr(data, protocol.split)
    assert scores.users.tolist() == sorted({u for u, _ in pairs.tolist()})
    counts = {k: [0] * N_ITEMS for k in KS}
    for place, user in enumerate(scores.users.tolist()):
        wanted = items_of(pairs, user)
        masked = set[int]().union(*(items_of(getattr(data, phase), user) for phase in protocol.masked)) - wanted
        shown = ranking(data, user, masked)
        for k in KS:
            for name, value in by_hand(shown, wanted, k).items():
                assert float(scores.per_user[f"{name}@{k}"][place]) == pytest.approx(value, abs=1e-12)
            for item in shown[:k]:
                counts[k][item] += 1
    taken = [sum(i == item for _, i in data.train.tolist()) for item in range(N_ITEMS)]
    for k in KS:
        total = sum(counts[k])
        assert scores.means[f"coverage@{k}"] == sum(c > 0 for c in counts[k]) / N_ITEMS
        mean = sum(c * t for c, t in zip(counts[k], taken, strict=True)) / total
        assert scores.means[f"popularity@{k}"] == pytest.approx(mean, abs=1e-12)
        spread = sum(abs(a - b) for a in counts[k] for b in counts[k]) / (2 * N_ITEMS * total)
        assert scores.means[f"gini@{k}"] == pytest.approx(spread, abs=1e-12)


@pytest.mark.parametrize("k", [1, 7, N_ITEMS - 1, N_ITEMS, N_ITEMS + 20])
@pytest.mark.usefixtures("both_forms")
def test_top_k_is_a_sort(k: int) -> None:
    data = world()
    users = torch.tensor([39, 3, 0, 3])
    ids, values = top_k(Given(data), users, k, data.seen)
    assert ids.shape == values.shape == (4, k)
    for row, user in enumerate(users.tolist()):
        shown = ranking(data, user, items_of(data.train, user))[:k]
        assert ids[row].tolist() == shown + [-1] * (k - len(shown))
        assert (values[row] == -torch.inf).tolist() == [False] * len(shown) + [True] * (k - len(shown))


@pytest.mark.parametrize("many", [0, 3, 1000])
@pytest.mark.usefixtures("both_forms")
def test_places_whichever_way_they_are_counted(many: int) -> None:
    draw = torch.Generator().manual_seed(7)
    for levels in (3, 10**6):  # most scores tie; hardly any does
        scores = torch.randint(0, levels, (6, 200), generator=draw).float()
        wanted = [torch.randperm(200, generator=draw)[:n].sort().values for n in (0, 1, 5, 40, 9, 150)]
        hole = torch.rand(scores.shape, generator=draw) < 0.2
        for row, mine in enumerate(wanted):
            hole[row, mine] = False
        scores[hole] = torch.nan
        starts = torch.tensor([0, *map(len, wanted)]).cumsum(0)
        found = kernels.places(scores, starts, torch.cat(wanted), many)
        order = [sorted((i for i in range(200) if not hole[r, i]), key=lambda i: (-float(s[i]), i))
                 for r, s in enumerate(scores)]  # fmt: skip
        assert found.tolist() == [order[r].index(i) for r, mine in enumerate(wanted) for i in mine.tolist()]
