"""Metrics equal ir-measures' on random and adversarial rankings, and their own definitions in plain Python."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foilrec.errors import BadOption
from foilrec.measures.metrics import METRICS, coverage, gini, parse, popularity, recommended

with warnings.catch_warnings():  # the oracle imports deprecated names
    warnings.simplefilter("ignore")
    import ir_measures
    from ir_measures import AP, RR, P, R, Success, nDCG

KS = (1, 2, 3, 5, 10, 50)
ORACLE = {"recall": R, "ndcg": nDCG, "precision": P, "ap": AP, "hit": Success, "mrr": RR}


def oracle(places: list[list[int]], n_items: int, name: str, k: int) -> list[float]:
    """What ir-measures says for users whose held-out items stand at the given places of a full ranking."""
    qrels = [ir_measures.Qrel(f"{u:04}", str(p), 1) for u, taken in enumerate(places) for p in taken]
    run = [
        ir_measures.ScoredDoc(f"{u:04}", str(p), float(n_items - p)) for u in range(len(places)) for p in range(n_items)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = {v.query_id: v.value for v in ir_measures.iter_calc([ORACLE[name] @ k], qrels, run)}
    return [values[f"{u:04}"] for u in range(len(places))]


def ours(places: list[list[int]], name: str, k: int) -> torch.Tensor:
    """The same by our metric."""
    ranks = torch.tensor([p for taken in places for p in taken])
    row = torch.tensor([u for u, taken in enumerate(places) for _ in taken])
    return METRICS[name](ranks, row, torch.tensor([len(taken) for taken in places]), k)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """A catalogue's size, and for each user the distinct places of what he wants, in any order."""
    n = draw(st.integers(1, 12))
    wants = st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)
    return n, draw(st.lists(wants, min_size=1, max_size=4))


@settings(max_examples=25, deadline=None)
@given(rankings())
def test_metrics_equal_ir_measures(case: tuple[int, list[list[int]]]) -> None:
    n_items, places = case
    for name in ORACLE:
        for k in KS:
            assert ours(places, name, k).tolist() == pytest.approx(oracle(places, n_items, name, k), abs=1e-12), (
                name,
                k,
            )


@settings(max_examples=50, deadline=None)
@given(rankings())
def test_map_is_average_precision_over_what_fits(case: tuple[int, list[list[int]]]) -> None:
    _, places = case
    for k in KS:
        for taken, value in zip(places, ours(places, "map", k).tolist(), strict=True):
            hits = [p for p in sorted(taken) if p < k]
            total = math.fsum((i + 1) / (p + 1) for i, p in enumerate(hits))
            assert value == pytest.approx(total / min(len(taken), k), abs=1e-12)


def test_list_metrics_by_hand() -> None:
    counts = recommended(torch.tensor([[0, 1], [0, -1]]), 4)
    assert counts.tolist() == [2, 1, 0, 0]
    taken = torch.tensor([10, 4, 1, 1])
    assert coverage(counts, taken) == 0.5
    assert popularity(counts, taken) == pytest.approx((2 * 10 + 4) / 3)
    assert gini(torch.full((4,), 3), taken) == 0
    assert gini(torch.tensor([0, 0, 0, 9]), taken) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "said"), [("recal@20", "did you mean 'recall'"), ("recall", "recall@20"), ("ndcg@0", "ndcg")]
)
def test_parse_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        parse(text)
