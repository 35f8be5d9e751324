"""Ranking metrics, each from the places of the held-out items: exact at every cut-off, without any top-k list.

Everywhere: ranks [E] are places from 0 among all items that are not hidden, user [E] says whose they are (0 .. n - 1),
wanted [n] is how many held-out items each user has (at least 1), k is the cut-off. The result is [n] in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from foilrec.errors import BadOption, did_you_mean

Metric = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _sum(values: Tensor, user: Tensor, n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64, device=values.device).index_add_(0, user, values.double())


def recall(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """Hits in the first k over all that is wanted, |hits| / |T| (not over min(k, |T|)).

    >>> recall(torch.tensor([0, 5]), torch.tensor([0, 0]), torch.tensor([2]), 5).tolist()
    [0.5]
    """
    return _sum(ranks < k, user, len(wanted)) / wanted


def precision(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """Hits in the first k over k, also where the catalogue is smaller.

    >>> precision(torch.tensor([0, 5]), torch.tensor([0, 0]), torch.tensor([2]), 5).tolist()
    [0.2]
    """
    return _sum(ranks < k, user, len(wanted)) / k


def hit(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """1 if anything wanted is among the first k, else 0.

    >>> hit(torch.tensor([4, 9]), torch.tensor([0, 1]), torch.tensor([1, 1]), 5).tolist()
    [1.0, 0.0]
    """
    return (_sum(ranks < k, user, len(wanted)) > 0).double()


def ndcg(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """Sum over hits of 1 / log2(place + 2), over the same sum for the best ranking, min(|T|, k) hits at the top.

    >>> ndcg(torch.tensor([1]), torch.tensor([0]), torch.tensor([1]), 5).tolist()  # 1 / log2(3)
    [0.6309297535714575]
    """
    gain = torch.where(ranks < k, 1 / (ranks.double() + 2).log2(), 0.0)
    longest = int(wanted.max()) if len(wanted) else 0
    best = (1 / (torch.arange(min(k, longest), dtype=torch.float64, device=ranks.device) + 2).log2()).cumsum(0)
    return _sum(gain, user, len(wanted)) / best[wanted.clamp(max=k) - 1]


def mrr(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """1 / (place + 1) of the first hit, 0 if it is not among the first k.

    >>> mrr(torch.tensor([3, 1]), torch.tensor([0, 0]), torch.tensor([2]), 5).tolist()
    [0.5]
    """
    first = torch.full((len(wanted),), torch.iinfo(torch.long).max, device=ranks.device)
    first = first.scatter_reduce(0, user, ranks, "amin")
    return torch.where(first < k, 1 / (first.double() + 1), 0.0)


def average_precision(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """Sum over hits in the first k of the precision at their places, over min(|T|, k), as MMRec's map has it.

    >>> average_precision(torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([3]), 2).tolist()  # (1/1) / 2
    [0.5]
    """
    return _precisions(ranks, user, wanted, k) / wanted.clamp(max=k)


def average_precision_over_all(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    """The same sum over |T|, as trec_eval and ir-measures have AP@k.

    >>> average_precision_over_all(torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([3]), 2).tolist()
    [0.3333333333333333]
    """
    return _precisions(ranks, user, wanted, k) / wanted


def _precisions(ranks: Tensor, user: Tensor, wanted: Tensor, k: int) -> Tensor:
    order = torch.argsort(ranks)
    order = order[torch.argsort(user[order], stable=True)]  # by user, then by place
    starts = wanted.cumsum(0) - wanted
    nth = torch.arange(len(ranks), device=ranks.device) - starts[user[order]] + 1  # this is the user's nth hit
    at = torch.where(ranks[order] < k, nth / (ranks[order].double() + 1), 0.0)
    return _sum(at, user[order], len(wanted))


METRICS: dict[str, Metric] = {"recall": recall, "ndcg": ndcg, "precision": precision, "map": average_precision,
                              "ap": average_precision_over_all, "hit": hit, "mrr": mrr}


def parse(text: str) -> tuple[Metric, int]:
    """The function and the cut-off of «recall@20»."""
    name, at, k = text.partition("@")
    if name not in METRICS:
        raise BadOption(f"There is no metric {name!r}{did_you_mean(name, METRICS)} There are {', '.join(METRICS)}; "
                        "write recall@20.")
    if not at or not k.isdigit() or int(k) < 1:
        raise BadOption(f"{text!r} needs a cut-off of at least 1, such as {name}@20.")
    return METRICS[name], int(k)


def coverage(lists: Tensor, popularity: Tensor) -> float:
    """Share of the catalogue that is recommended to anyone: lists [n, k] (-1: no item), popularity [I]."""
    return len(lists[lists >= 0].unique()) / len(popularity)


def gini(lists: Tensor, popularity: Tensor) -> float:
    """How unevenly items are recommended: sum_i (2 i - I - 1) c_i / (I sum c), c in rising order, i from 1; 0 is even.

    >>> gini(torch.tensor([[0, 1]]), torch.ones(2)), gini(torch.tensor([[0], [0]]), torch.ones(2))
    (0.0, 0.5)
    """
    n = len(popularity)
    counts = torch.bincount(lists[lists >= 0], minlength=n).double().sort().values
    place = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=lists.device) - n - 1
    return float((place * counts).sum() / (n * counts.sum().clamp(min=1)))


def popularity(lists: Tensor, popularity: Tensor) -> float:
    """Mean training count of what is recommended."""
    return float(popularity[lists[lists >= 0]].double().mean())


LIST_METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {"coverage": coverage, "gini": gini,
                                                               "popularity": popularity}
