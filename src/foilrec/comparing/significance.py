"""Intervals and tests for means over users and seeds: a bootstrap, a t test, and Holm's correction.

Letters: n users, S seeds, K columns (one a mean of interest), R resamples.

Two things are drawn at random in an experiment: the users, and the seeds of the trainings. A mean is linear in both, so
its uncertainty is that of the users' means over seeds [n] plus that of the seeds' means over users [S].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CELLS = 2**22  # counts of users held at once


def resampled_users(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Means of values [n, K] over n users drawn with replacement, the same for all columns: [R, K]."""
    n = len(values)
    block = max(1, min(resamples, CELLS // n))
    place, means = torch.arange(block)[:, None] * n, []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=generator).add_(place[:rows])
        counts = torch.bincount(drawn.view(-1), minlength=rows * n).view(rows, n)
        means.append(counts.to(values.dtype) @ values / n)
    return torch.cat(means)


def resampled_seeds(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Means of values [S, K] over S - 1 seeds drawn with replacement: [R, K].

    S - 1, so that the variance of the draws is that of a mean of S: S draws would give (S - 1) / S of it, half for two
    seeds. One seed is always drawn: it cannot tell how seeds differ.
    """
    seeds = len(values)
    return values[torch.randint(seeds, (resamples, max(1, seeds - 1)), generator=generator)].mean(1)


def interval(draws: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """The percentile interval of draws [R, K]: low [K] and high [K]; draws that are no number do not count."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    low, high = torch.nanquantile(draws, ends, dim=0)
    return low, high


def t_test(effect: float, samples: Sequence[Tensor]) -> float:
    """The two-sided p of a mean effect, where each of the samples [n] adds the variance of its own mean.

    With the users' and the seeds' differences as samples this is the quasi-F test of crossed random effects; degrees of
    freedom are Satterthwaite's. Samples of one value tell no variance and do not count; without any, p is 1.
    """
    known = [(float(sample.var()) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    total = sum(variance for variance, _ in known)
    if not known or effect == 0:
        return 1.0
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / df for variance, df in known)
    return student(effect / math.sqrt(total), freedom)


def student(t: float, freedom: float) -> float:
    """The probability that Student's t with so many degrees of freedom is at least as far from 0 as t.

    >>> round(student(2.776445, 4), 6), round(student(-1, 1), 6), student(0, 7)
    (0.05, 0.5, 1.0)
    """
    return _beta(freedom / (freedom + t * t), t * t / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), with rest = 1 - x, by its continued fraction."""
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(rest, x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(10_000):  # modified Lentz
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        fraction *= c * d
        if i and abs(1 - c * d) < 1e-15:
            break
    return math.exp(front) / a * (fraction - 1)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's step-down correction for that many tests at once: the i-th smallest p of m times m - i, made monotone.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    corrected, least = [0.0] * len(probabilities), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, probabilities[i] * (len(probabilities) - rank)))
        corrected[i] = least
    return corrected
