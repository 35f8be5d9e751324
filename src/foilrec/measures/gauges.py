"""What is measured on negatives, as functions of plain tensors: percentiles, distances, and how sure a count is."""

import math

import numpy as np
import torch
from torch import Tensor

FEW = 8  # values a row up to which counting is faster than sorting the row


def percentiles(scores: Tensor, values: Tensor, free: Tensor) -> Tensor:
    """The share of each row's scores below a value, ties half: scores [B, I] (NaN where an item does not count),
    values [B, K], free [B] (how many count) -> float64 [B, K], 0 the lowest and 1 the highest.

    >>> percentiles(torch.tensor([[1.0, 2.0, torch.nan, 2.0]]), torch.tensor([[2.0, 9.0]]), torch.tensor([3])).tolist()
    [[0.6666666666666666, 1.0]]
    """
    rows, asked = scores.cpu().numpy(), values.cpu().numpy()
    twice = np.empty(asked.shape)
    for r, (row, mine) in enumerate(zip(rows, asked, strict=True)):
        if len(mine) <= FEW:
            twice[r] = [np.count_nonzero(row < x) + np.count_nonzero(row <= x) for x in mine]
        else:  # NaN is sorted to the end, where no value reaches it
            ordered = np.sort(row)
            twice[r] = np.searchsorted(ordered, mine) + np.searchsorted(ordered, mine, side="right")
    return torch.from_numpy(twice) / (2 * free.cpu()[:, None])


def nearest(vectors: Tensor, items: Tensor, starts: Tensor, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For vectors [N, D] the item of the highest cosine, the closest one of all, and the closest that each row has
    taken, ids [N]: items [I, D], starts [N + 1] and taken [E] as SeenIndex.gather gives them."""
    dots, squares = (vectors @ items.T).cpu().numpy(), items.square().sum(1).cpu().numpy()
    cosine = (dots / np.sqrt(squares).clip(1e-12)).argmax(1)
    dots -= squares / 2  # the higher, the closer
    row = np.repeat(np.arange(len(dots)), starts.diff().numpy())
    ids = taken.numpy()
    mine = dots[row, ids]
    most = np.full(len(dots), -np.inf, dots.dtype)
    np.maximum.at(most, row, mine)
    own, best = np.zeros(len(dots), np.int64), mine == most[row]
    own[row[best]] = ids[best]
    by_cosine, closest, taken = (torch.from_numpy(x).to(vectors.device) for x in (cosine, dots.argmax(1), own))
    return by_cosine, closest, taken


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of vectors [..., D], exactly 0 for equal ones."""
    one, other = (torch.nn.functional.normalize(x, dim=-1) for x in (a, b))
    return (one - other).square().sum(-1) / 2


def drift(items: Tensor) -> float:
    """How long the mean of vectors [I, D] is, in mean lengths of one: 0 they cancel, 1 they are all the same.

    >>> drift(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), drift(torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
    (0.0, 1.0)
    """
    return float(items.mean(0).norm() / items.norm(dim=1).mean().clamp(min=1e-12))


def heights(negative: Tensor, positive: Tensor) -> Tensor:
    """Scores above a user's mean over the positive's, within 0 .. 1.5: negative [B, K], positive [B, 1] -> [B, K].

    Deviations of the user's scores would cancel. Where the positive is below the mean, all above it count 1.5.

    >>> heights(torch.tensor([[-1.0, 0.5, 9.0]]), torch.tensor([[1.0]])).tolist()
    [[0.0, 0.5, 1.5]]
    """
    return (negative / positive.clamp(min=torch.finfo(positive.dtype).tiny)).clamp(0, 1.5)


def largest_share(sizes: Tensor, part: float = 0.01) -> float:
    """What share of the sum of sizes [N] the largest `part` of them holds, at least one of them.

    >>> largest_share(torch.tensor([1.0, 7.0, 2.0]))
    0.7
    """
    total = sizes.double().sum()
    top = sizes.double().topk(max(1, math.ceil(part * len(sizes)))).values.sum()
    return float(top / total) if total > 0 else 0.0


def reached(users: Tensor, free: Tensor, starts: Tensor, taken: Tensor, n_items: int) -> float:
    """How many different items uniform draws for users [N] reach on average, each from what its user has not taken.

    An item is missed by all draws of those who have not taken it, free [N] of the n_items each; starts and taken as
    SeenIndex.gather(distinct users) gives them.

    >>> reached(torch.tensor([0, 0]), torch.tensor([2, 2]), torch.tensor([0, 1]), torch.tensor([2]), 3)
    1.5
    """
    distinct, place = users.unique(return_inverse=True)
    miss = torch.zeros(len(distinct), dtype=torch.float64)
    miss.index_add_(0, place, torch.log1p(-1 / free.double()).clamp(min=-700.0))  # free = 1 always hits
    row = torch.repeat_interleave(torch.arange(len(distinct)), starts.diff())
    never = miss.sum() - torch.bincount(taken, weights=miss[row], minlength=n_items)
    return float(-torch.expm1(never.clamp(max=0.0)).sum())


def poisson_bounds(hits: int, sure: float = 0.95) -> tuple[float, float]:
    """Between which means a count of rare events points (exact, Garwood 1936): 0 hits still give an upper bound.

    >>> [round(bound, 2) for bound in (*poisson_bounds(0), *poisson_bounds(10))]
    [0.0, 3.69, 4.8, 18.39]
    """
    tail = (1 - sure) / 2
    return (_gamma_quantile(hits, tail) if hits else 0.0), _gamma_quantile(hits + 1, 1 - tail)


def _gamma_quantile(shape: int, chance: float) -> float:
    """Where the gamma distribution of that shape has that much mass below: a bisection."""
    low, high = 0.0, shape + 10 * math.sqrt(shape) + 20
    a = torch.tensor(float(shape), dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        if float(torch.special.gammainc(a, torch.tensor(middle, dtype=torch.float64))) < chance:
            low = middle
        else:
            high = middle
    return (low + high) / 2
