"""Metrics: equal to ir-measures, right at the edges, and named as a recipe names them."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foilrec.errors import BadOption
from foilrec.metrics import LISTS, METRICS, coverage, gini, parse, popularity, recommended

with warnings.catch_warnings():  # of the library's own making, on import
    warnings.simplefilter("ignore")
    import ir_measures

THEIRS = {"recall": "R", "ndcg": "nDCG", "precision": "P", "ap": "AP", "hit": "Success", "mrr": "RR"}
KS = (1, 3, 10, 40)


def flat(places: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out places by user -> ranks, row, wanted."""
    wanted = torch.tensor([len(mine) for mine in places])
    ranks = torch.tensor([place for mine in places for place in mine], dtype=torch.long)
    return ranks, torch.repeat_interleave(torch.arange(len(places)), wanted), wanted


def theirs(places: list[list[int]], n_items: int) -> dict[str, dict[int, float]]:
    """ir-measures' values by measure and user, for items whose id is their place."""
    measures = [ir_measures.parse_measure(f"{name}@{k}") for name in THEIRS.values() for k in KS]
    qrels = [ir_measures.Qrel(str(u), str(place), 1) for u, mine in enumerate(places) for place in mine]
    run = [ir_measures.ScoredDoc(str(u), str(i), float(-i)) for u in range(len(places)) for i in range(n_items)]
    found: dict[str, dict[int, float]] = {str(measure): {} for measure in measures}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in ir_measures.iter_calc(measures, qrels, run):
            found[str(one.measure)][int(one.query_id)] = one.value
    return found


def check(places: list[list[int]], n_items: int) -> None:
    """Every metric of every user equals ir-measures', and map is ap over its own denominator."""
    expected, (ranks, row, wanted) = theirs(places, n_items), flat(places)
    for k in KS:
        for mine, other in THEIRS.items():
            values = METRICS[mine](ranks, row, wanted, k)
            assert values.dtype == torch.float64
            want = [expected[f"{other}@{k}"].get(u, 0.0) for u in range(len(places))]
            torch.testing.assert_close(values, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)
        ap, map_ = METRICS["ap"](ranks, row, wanted, k), METRICS["map"](ranks, row, wanted, k)
        torch.testing.assert_close(map_ * wanted.clamp(max=k), ap * wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("places", "n_items"),
    [
        ([[0]], 1),  # one item
        ([[0, 1, 2, 3, 4]], 5),  # all of them wanted, k beyond the last
        ([[4, 0, 2], [], [1]], 5),  # in no order; a user without held-out items
        ([[29], [9], [10], [2], [3]], 30),  # on both sides of every cut-off
        ([list(range(30)), list(range(20, 30))], 30),  # more wanted than k
    ],
)
def test_equal_to_ir_measures_at_the_edges(places: list[list[int]], n_items: int) -> None:
    check(places, n_items)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.integers(0, 24)).map(list), min_size=1, max_size=5).filter(any))
def test_equal_to_ir_measures(places: list[list[int]]) -> None:
    check(places, 25)


@pytest.mark.parametrize("name", METRICS)
def test_neither_order_nor_company_changes_a_value(name: str) -> None:
    ranks, row, wanted = flat([[7, 2, 30], [0], [11, 5]])
    values, order = METRICS[name](ranks, row, wanted, 10), torch.randperm(6)
    assert torch.equal(METRICS[name](ranks[order], row[order], wanted, 10), values)
    assert METRICS[name](*flat([[0]]), 10**9) == METRICS[name](*flat([[0]]), 10) or name == "precision"
    assert METRICS[name](*flat([]), 10).shape == (0,)


def test_map_is_the_published_tables() -> None:
    ranks, row, wanted = flat([[0, 2, 8]])  # as MMRec: (1/1 + 2/3) / min(3, k)
    found = [float(METRICS["map"](ranks, row, wanted, k)) for k in (1, 2, 3, 5)]
    assert found == pytest.approx([1, 1 / 2, 5 / 9, 5 / 9], abs=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_a_name_and_its_function(name: str) -> None:
    assert parse(f"{name}@20") == (METRICS[name], 20)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("recal@20", "did you mean 'recall'"),
        ("zzz@20", "There are: recall"),
        ("recall", "recall@20"),
        ("recall@", "recall@20"),
        ("recall@0", "recall@20"),
        ("recall@-5", "recall@20"),
        ("recall@²", "recall@20"),
    ],
)
def test_a_wrong_name_is_explained(name: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        parse(name)


def test_lists_as_a_whole() -> None:
    lists, taken = torch.tensor([[0, 1], [0, 2], [0, -1]]), torch.tensor([10, 4, 1, 100])
    counts = recommended(lists, 4)
    assert counts.tolist() == [3, 1, 1, 0]
    assert coverage(counts, taken) == 0.75
    assert popularity(counts, taken) == pytest.approx((30 + 4 + 1) / 5)
    pairs = sum(abs(a - b) for a in counts.tolist() for b in counts.tolist())  # the mean difference, its other form
    assert gini(counts, taken) == pytest.approx(pairs / (2 * 4 * 5), abs=1e-15)
    assert [metric(torch.zeros(4), taken) for metric in LISTS.values()] == [0, 0, 0]
