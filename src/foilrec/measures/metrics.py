"""Ranking metrics, each a few lines over ranks; and what the lists as a whole look like.

Letters: n users, E held-out items, I items. `ranks` [E] is the place of each held-out item among all items that its
user could have been shown, 0 the first; `row` [E] says whose it is, 0..n-1, in any order; `wanted` [n] is |T(u)|, how
many held-out items each user has; `k` may be above the number of items. A user without held-out items gets 0: leave
such users out of a mean. All sums are in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from foilrec.errors import BadOption, did_you_mean

Metric = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _sum(row: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    return torch.bincount(row, values.double(), minlength=len(wanted)).double()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)


def _hits(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    return torch.bincount(row[ranks < k], minlength=len(wanted)).double()


def recall(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """hits@k / |T(u)|: [n]. The denominator is not min(|T(u)|, k), so 1 is out of reach where |T(u)| > k.

    Held-out items at places 0 and 5 for one user, 1 for another:

    >>> recall(torch.tensor([0, 5, 1]), torch.tensor([0, 0, 1]), torch.tensor([2, 1]), 3).tolist()
    [0.5, 1.0]
    """
    return _share(_hits(ranks, row, wanted, k), wanted)


def precision(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """hits@k / k: [n]. The denominator stays k where fewer than k items exist.

    >>> precision(torch.tensor([0, 5, 1]), torch.tensor([0, 0, 1]), torch.tensor([2, 1]), 4).tolist()
    [0.25, 0.25]
    """
    return _hits(ranks, row, wanted, k) / k


def hit(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """1 if any held-out item is among the first k, else 0: [n].

    >>> hit(torch.tensor([0, 5, 7]), torch.tensor([0, 0, 1]), torch.tensor([2, 1]), 4).tolist()
    [1.0, 0.0]
    """
    return (_hits(ranks, row, wanted, k) > 0).double()


def mrr(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """1 / (1 + place of the first held-out item), 0 if that place is k or beyond: [n].

    >>> mrr(torch.tensor([3, 1, 7]), torch.tensor([0, 0, 1]), torch.tensor([2, 1]), 4).tolist()
    [0.5, 0.0]
    """
    near = ranks < k
    inverse = torch.zeros(len(wanted), dtype=torch.float64)
    return inverse.scatter_reduce(0, row[near], 1 / (1 + ranks[near].double()), "amax")


def ndcg(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """DCG@k / ideal DCG@k: [n], with DCG@k = sum of 1 / log2(place + 2) over the held-out items at places below k.

    The ideal has held-out items at places 0 .. min(|T(u)|, k) - 1. One of two at the first place: 1 / (1 + 0.63093).

    >>> [round(x, 5) for x in ndcg(torch.tensor([0, 9]), torch.tensor([0, 0]), torch.tensor([2]), 5).tolist()]
    [0.61315]
    """
    near = ranks < k
    gain = _sum(row[near], 1 / torch.log2(ranks[near].double() + 2), wanted)
    longest = min(k, int(wanted.max())) if len(wanted) else 0
    ideal = (1 / torch.log2(torch.arange(longest, dtype=torch.float64) + 2)).cumsum(0)
    best = torch.cat([torch.ones(1, dtype=torch.float64), ideal])[wanted.clamp(max=k)]
    return gain / best


def _precision_sum(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """The sum over hits of precision at the place of the hit, [n]."""
    near = ranks < k
    ranks, row = ranks[near], row[near]
    order = ranks.argsort()
    order = order[row[order].argsort(stable=True)]
    ranks, row = ranks[order], row[order]
    counts = torch.bincount(row, minlength=len(wanted))
    before = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return _sum(row, (before + 1) / (ranks + 1).double(), wanted)


def map_(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """`map`: sum over hits of precision at the place of the hit / min(|T(u)|, k): [n].

    This is the denominator behind the published tables of MMRec and RecBole; `ap` divides as trec_eval does. Hits at
    places 0 and 2 of three held-out items, k = 3: (1/1 + 2/3) / 3.

    >>> [round(x, 5) for x in map_(torch.tensor([0, 2, 8]), torch.zeros(3).long(), torch.tensor([3]), 3).tolist()]
    [0.55556]
    """
    return _share(_precision_sum(ranks, row, wanted, k), wanted.clamp(max=k))


def ap(ranks: Tensor, row: Tensor, wanted: Tensor, k: int) -> Tensor:
    """Sum over hits of precision at the place of the hit / |T(u)|, as trec_eval and ir-measures (AP@k) have it: [n].

    Equal to `map` where |T(u)| <= k; hits at places 0 and 1 of three held-out items, k = 2: (1/1 + 2/2) / 3.

    >>> [round(x, 5) for x in ap(torch.tensor([0, 1, 8]), torch.zeros(3).long(), torch.tensor([3]), 2).tolist()]
    [0.66667]
    """
    return _share(_precision_sum(ranks, row, wanted, k), wanted)


METRICS: dict[str, Metric] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "map": map_,
    "ap": ap,
    "hit": hit,
    "mrr": mrr,
}


def parse(name: str) -> tuple[Metric, int]:
    """The function and the k that a name like "recall@20" stands for.

    >>> parse("map@5") == (map_, 5)
    True
    """
    metric, _, k = name.partition("@")
    if metric not in METRICS:
        raise BadOption(
            f"There is no metric {metric!r}{did_you_mean(metric, METRICS) or '.'} There are: {', '.join(METRICS)}."
        )
    if not (k.isascii() and k.isdigit() and int(k) > 0):
        raise BadOption(f"{name!r} does not say how many places to look at: write {metric}@20, say.")
    return METRICS[metric], int(k)


def recommended(lists: Tensor, n_items: int) -> Tensor:
    """How often each item is in lists [n, k] of ids, -1 for nothing: [I].

    >>> recommended(torch.tensor([[0, 2], [2, -1]]), 4).tolist()
    [1, 0, 2, 0]
    """
    return torch.bincount(lists.flatten() + 1, minlength=n_items + 1)[1:]


def coverage(counts: Tensor, taken: Tensor) -> float:
    """The share of the catalogue that is recommended to anyone: |{i: counts_i > 0}| / I.

    >>> coverage(torch.tensor([1, 0, 2, 0]), torch.zeros(4))
    0.5
    """
    return float((counts > 0).double().mean())


def gini(counts: Tensor, taken: Tensor) -> float:
    """How unevenly items are recommended: 0 if all alike, 1 - 1/I if one item has every place.

    sum over i = 1..I of (2i - I - 1) c_i / (I sum c), where c are the counts in rising order.

    >>> gini(torch.tensor([3, 3, 3, 3]), torch.zeros(4)), gini(torch.tensor([0, 8, 0, 0]), torch.zeros(4))
    (0.0, 0.75)
    """
    c, n = counts.double().sort().values, len(counts)
    weights = 2 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    return float((weights * c).sum() / (n * c.sum()).clamp(min=1))


def popularity(counts: Tensor, taken: Tensor) -> float:
    """The mean training count of a recommended item: sum of counts_i taken_i / sum of counts_i.

    >>> popularity(torch.tensor([1, 0, 3]), torch.tensor([8, 50, 4]))
    5.0
    """
    return float((counts.double() * taken).sum() / counts.sum().clamp(min=1))


LISTS: dict[str, Callable[[Tensor, Tensor], float]] = {"coverage": coverage, "gini": gini, "popularity": popularity}
"""What is measured on everybody's lists together: functions of `counts` [I], how often each item is recommended, and
`taken` [I], how often it was taken in training."""
