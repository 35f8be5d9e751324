"""The hardness meter, written slowly: every measure by loops over draws and items, on worlds full of ties."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables
from foilrec.hardness import Meter, Reading
from foilrec.measures import beside, gauges

USERS, ITEMS, DIM = 30, 32, 4  # 32: means over the items are exact too


class Given(Backbone):
    """Items of coordinates 1 and -1, users of small whole numbers: scores and cosines are exact, and many tie."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        draw = torch.Generator().manual_seed(1)
        items = torch.randint(0, 2, (ITEMS, DIM), generator=draw) * 2.0 - 1
        return Tables(items, torch.randint(-2, 3, (USERS, DIM), generator=draw).float())


class Told(Sampler):
    """Negatives that a test has written down, by training row."""

    def __init__(self, data: Data, told: Negatives) -> None:
        super().__init__(data)
        self.told = told

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        assert batch.rows is not None
        kept = ("ids", "vectors", "weights", "level", "mask")
        fields = {name: getattr(self.told, name) for name in kept}
        chosen = {name: None if value is None else value[batch.rows] for name, value in fields.items()}
        return Negatives(**chosen, group=self.told.group)


def world() -> Data:
    """Random interactions, with users who hold out nothing, and held-out pairs that were taken in training too."""
    draw = torch.Generator().manual_seed(2)

    def pairs(rows: int, users: int) -> Tensor:
        who = torch.randint(0, users, (rows,), generator=draw)
        return torch.stack([who, torch.randint(0, ITEMS, (rows,), generator=draw)], 1)

    return Data(USERS, ITEMS, pairs(150, USERS), pairs(60, USERS - 5), pairs(1, 1))


def taken(data: Data, user: int) -> set[int]:
    return {i for u, i in data.train.tolist() if u == user}


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cos(a: list[float], b: list[float]) -> float:
    return round(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)), 6)


def place(value: float, others: list[float]) -> float:
    return sum(1.0 if other < value else 0.5 if other == value else 0.0 for other in others) / len(others)


def quartiles(values: list[float]) -> list[float]:
    ordered, found = sorted(values), []
    for share in (0.25, 0.5, 0.75):
        at = share * (len(ordered) - 1)
        low = ordered[int(at)]
        found.append(low + (ordered[min(int(at) + 1, len(ordered) - 1)] - low) * (at - int(at)))
    return found


def by_hand(data: Data, told: Negatives, columns: list[int], *, grade: float | None = None) -> dict[str, object]:
    """Every measure on the draws in some columns, at one level if it is given."""
    tables = Given(data).propagate()
    assert tables.users is not None
    items, people = tables.items.tolist(), tables.users.tolist()
    wanted = {(u, i) for u, i in data.valid.tolist() if i not in taken(data, u)}
    score, likeness, gaps, heights, slopes, drawn, chances, frees = [], [], [], [], [], [], [], []
    near: dict[str, list[float]] = {
        n: [] for n in ("norm", "nearest_cosine", "nearest", "nearest_taken", "to_positive")
    }
    length = sum(math.hypot(*item) for item in items) / ITEMS
    for row, (u, p) in enumerate(data.train.tolist()):
        free = [i for i in range(ITEMS) if i not in taken(data, u)]
        left = [k for k in range(told.shape[1]) if told.mask is None or told.mask[row, k]]
        for k in left:
            if k not in columns or (grade is not None and told.level is not None and told.level[row, k] != grade):
                continue
            v = items[told.ids[row, k]] if told.ids is not None else told.vectors[row, k].tolist()  # type: ignore[index]
            s, plus = dot(people[u], v), dot(people[u], items[p])
            score.append(place(s, [dot(people[u], items[i]) for i in free]))
            likeness.append(place(cos(v, items[p]), [cos(items[i], items[p]) for i in free]))
            gaps.append(s - plus)
            middle = sum(dot(people[u], item) for item in items) / ITEMS
            ratio = (s - middle) / (plus - middle) if plus > middle else 9.0 * (s > middle)
            heights.append(min(max(ratio, 0.0), 1.5))
            slopes.append(1 / (1 + math.exp(plus - s)) / len(left))
            drawn.append((row, u, None if told.ids is None else int(told.ids[row, k])))
            chances.append(sum((u, i) in wanted for i in free) / len(free))
            frees.append(free)
            near["norm"].append(math.hypot(*v) / length)
            near["nearest_cosine"].append(1 - max(cos(v, item) for item in items))
            near["nearest"].append(min(math.dist(v, item) for item in items) / length)
            near["nearest_taken"].append(min(math.dist(v, items[i]) for i in taken(data, u)) / length)
            near["to_positive"].append(math.dist(v, items[p]) / length)
    n = len(score)
    middle_item = [sum(column) / ITEMS for column in zip(*items, strict=True)]
    found: dict[str, object] = {
        "draws": n,
        "drift": math.hypot(*middle_item) / length,
        "percentile": sum(score) / n,
        "percentile_quartiles": quartiles(score),
        "similarity": sum(likeness) / n,
        "similarity_quartiles": quartiles(likeness),
        "gap": sum(gaps) / n,
        "height": sum(heights) / n,
        "above": sum(gap > 0 for gap in gaps) / n,
        "gradient_top": sum(sorted(slopes, reverse=True)[: math.ceil(n / 100)]) / sum(slopes),
    }
    if told.ids is None:
        return found | {name: sum(values) / n for name, values in near.items()}
    counts = [sum(i == item for _, _, i in drawn) for item in range(ITEMS)]
    hits = sum((u, i) in wanted for _, u, i in drawn)
    missed = [math.prod(1 - 1 / len(free) for free in frees if item in free) for item in range(ITEMS)]
    different = sum(c > 0 for c in counts)
    return found | {
        "hits": hits,
        "false_rate": hits / n,
        "false_ratio": hits / sum(chances),
        "coverage": different / ITEMS,
        "coverage_ratio": different / sum(1 - chance for chance in missed),
        "gini": sum(abs(a - b) for a in counts for b in counts) / (2 * ITEMS * n),
        "repeats": 1 - len({(row, i) for row, _, i in drawn}) / n,
    }


def agrees(reading: Reading, slow: dict[str, object]) -> None:
    for name, value in slow.items():
        mine = getattr(reading, name)
        assert (list(mine) if isinstance(mine, tuple) else mine) == pytest.approx(value, abs=2e-6), name
    missing = {name for name in reading.as_dict() if name not in slow}
    assert missing <= {"false_low", "false_high"}


def ids(rows: int, count: int, seed: int) -> Tensor:
    return torch.randint(0, ITEMS, (rows, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("count", "seed"), [(1, 3), (3, 4), (12, 5)])
@pytest.mark.usefixtures("both_forms")
def test_items_are_measured_as_loops_measure_them(count: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "BLOCK", 4 * ITEMS * 7)  # several blocks, the last one short
    monkeypatch.setattr("foilrec.hardness.ROWS", 40)
    data = world()
    told = Negatives(ids=ids(150, count, seed))
    readings = Meter(data, 10_000)(Given(data), Told(data, told), parts.build("loss", "bpr"))
    assert list(readings) == ["all"]
    agrees(readings["all"], by_hand(data, told, list(range(count))))


@pytest.mark.parametrize("seed", [6, 7])
def test_stages_groups_and_masks_are_told_apart(seed: int) -> None:
    data = world()
    draw = torch.Generator().manual_seed(seed)
    level = torch.randint(0, 3, (150, 4), generator=draw).float()
    mask = torch.rand(150, 4, generator=draw) < 0.8
    mask[:, 0] = True
    told = Negatives(ids=ids(150, 4, seed), level=level, mask=mask, group=(0, 1, 1, 0))
    readings = Meter(data, 10_000)(Given(data), Told(data, told), parts.build("loss", "bpr"))
    assert list(readings) == ["all", "stage 0", "stage 1", "stage 2", "group 0", "group 1"]
    agrees(readings["all"], by_hand(data, told, [0, 1, 2, 3]))
    for stage in range(3):
        agrees(readings[f"stage {stage}"], by_hand(data, told, [0, 1, 2, 3], grade=stage))
    agrees(readings["group 0"], by_hand(data, told, [0, 3]))
    agrees(readings["group 1"], by_hand(data, told, [1, 2]))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_vectors_are_measured_as_loops_measure_them(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "BLOCK", 4 * ITEMS * 11)
    data = world()
    draw = torch.Generator().manual_seed(8)
    made = torch.randint(-1, 2, (150, 2, DIM), generator=draw).float()
    made[made.abs().sum(2) == 0] = 1.0
    told = Negatives(vectors=made * scale)
    reading = Meter(data, 10_000)(Given(data), Told(data, told), parts.build("loss", "bpr"))["all"]
    slow = by_hand(data, told, [0, 1])
    # cosines of vectors of length sqrt(2) and sqrt(3) are rounded, so that ties may be broken either way
    for name in ("similarity", "similarity_quartiles"):
        slow.pop(name)
    for name, value in slow.items():
        mine = getattr(reading, name)
        assert (list(mine) if isinstance(mine, tuple) else mine) == pytest.approx(value, abs=2e-6), name


def test_the_gradient_is_that_of_any_loss() -> None:
    data = world()
    told = Negatives(ids=ids(150, 5, 9))
    model = Given(data)
    reading = Meter(data, 10_000)(model, Told(data, told), parts.build("loss", "softmax", temperature=0.5))["all"]
    tables, slopes = model.propagate(), []
    assert tables.users is not None
    for row, (u, p) in enumerate(data.train.tolist()):
        logits = [2 * dot(tables.users[u].tolist(), tables.items[i].tolist()) for i in [p, *told.ids[row].tolist()]]  # type: ignore[index]
        total = sum(math.exp(x) for x in logits)
        slopes += [math.exp(x) / total for x in logits[1:]]
    top = sum(sorted(slopes, reverse=True)[: math.ceil(len(slopes) / 100)]) / sum(slopes)
    assert reading.gradient_top == pytest.approx(top, rel=1e-5)


@pytest.mark.parametrize("hits", [0, 1, 2, 17, 400])
def test_the_bounds_leave_two_and_a_half_percent_on_each_side(hits: int) -> None:
    low, high = gauges.poisson_bounds(hits)
    assert low <= hits <= high

    def at_most(k: int, mean: float) -> float:
        return math.fsum(math.exp(j * math.log(mean) - mean - math.lgamma(j + 1)) for j in range(k + 1))

    assert at_most(hits, high) == pytest.approx(0.025, abs=1e-9)
    if hits:
        assert 1 - at_most(hits - 1, low) == pytest.approx(0.025, abs=1e-9)
    bounds = [gauges.poisson_bounds(n) for n in range(hits, hits + 3)]
    assert all(a < b for x, y in pairwise(bounds) for a, b in zip(x, y, strict=True))
