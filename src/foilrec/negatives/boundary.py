"""Where a user's scores stop being those of negatives: estimates of the boundary between them and the positives."""

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foilrec.errors import BadOption
from foilrec.negatives.moments import Moments
from foilrec.numerics import streams

Kind = Literal["quantile", "midpoint", "margin", "pair", "bayes"]
PLACES = {"quantile": 0.95, "midpoint": 0.5, "margin": 1.0, "pair": 0.0, "bayes": 0.5}
RATE = 0.02  # of the running means of "bayes": about fifty batches are remembered


class Boundary(nn.Module):
    """theta [B]: how far above the mean of his scores over the catalogue each row's user has the boundary.

    Told off the height of the positive above that mean, S, and a random item. With v the deviation of his scores:

    "quantile"  what a share `place` of the catalogue scores below: of so many random items as `sample` says, the same
                for all users in an epoch, the order statistic; with sample = 0 as if scores were normal,
                v Phi^-1(place), which on real scores, of a longer tail, is too low (docs/fidelity/adar.md)
    "midpoint"  place S
    "margin"    S - place
    "pair"      the height of the random item
    "bayes"     v z, where z is the point between two normal laws of equal variance, fitted to the heights over v of the
                batches' positives and random items by running means, at which both are equally likely, place being the
                share of positives: (z+ + z-) / 2 + var / (z+ - z-) ln((1 - place) / place). Infinite before anything
                was heard, and while positives do not stand higher

    kind: one of these. place: its number (None: .95, .5, 1, none, .5). sample: of "quantile": N leave a deviation of
    sqrt(place (1 - place) / (N + 2)) in the share, .05 for 19, the best of which is above .95 on average, .01 for 512.
    """

    means: Tensor
    variance: Tensor
    heard: Tensor

    def __init__(self, kind: Kind, place: float | None = None, sample: int = 19) -> None:
        super().__init__()
        self.kind, self.place, self.sample = kind, PLACES[kind] if place is None else place, sample
        most = math.inf if kind == "margin" else 1.0
        if kind != "pair" and not 0 < self.place < most:
            raise BadOption(f"boundary = {kind!r}: place = {place} must lie between 0 and {most:g}.")
        if sample < 0:
            raise BadOption(f"boundary = {kind!r}: sample = {sample} must be at least 0.")
        self.moments: Moments | None = None
        self.items: Tensor | None = None
        if kind == "bayes":
            self.register_buffer("means", torch.zeros(2))
            self.register_buffer("variance", torch.zeros(()))
            self.register_buffer("heard", torch.zeros((), dtype=torch.long))

    def look(self, items: Tensor, key: int) -> Moments:
        """Takes in the items [I, D] of an epoch: their moments, and the random ones that quantiles are of."""
        self.moments = Moments.of(items)
        if self.sample and self.kind == "quantile":
            drawn = torch.randint(len(items), (self.sample,), generator=streams.generator(key, "boundary"))
            self.items = items.detach()[drawn.to(items.device)] - self.moments.mean
        return self.moments

    def forward(self, query: Tensor, height: Tensor, other: Tensor) -> Tensor:
        """theta [B] for query [B, D], the positives' heights [B], and the random items, other [B, D]."""
        assert self.moments is not None, "look comes first"
        if self.kind == "pair":
            return (query * (other - self.moments.mean)).sum(1)
        if self.kind == "margin":
            return height - self.place
        if self.kind == "midpoint":
            return height * self.place
        if self.items is not None:
            at = round(self.place * (self.sample + 1))  # of N even numbers, the k-th lies at k / (N + 1)
            if at >= self.sample:
                return (self.items @ query.T).amax(0)
            return _smallest(query @ self.items.T, max(1, at))
        return self.height() * self.moments.spread(query)[1]

    def height(self) -> Tensor | float:
        """Where the boundary of "quantile" and "bayes" lies in standard deviations, []."""
        if self.kind == "quantile":
            return NormalDist().inv_cdf(self.place)
        low, high = self.means[1], self.means[0]
        if not self.heard or high <= low:
            return math.inf
        middle: Tensor = (low + high) / 2 + self.variance / (high - low) * math.log((1 - self.place) / self.place)
        return middle

    @torch.no_grad()
    def hear(self, query: Tensor, positives: Tensor, others: Tensor) -> None:
        """Moves the running means of "bayes" by a batch: query, positives and random items [B, D]."""
        assert self.moments is not None, "look comes first"
        both = [self.moments.heights(query, rows).float() for rows in (positives, others)]
        means = torch.stack([heights.mean() for heights in both])
        variance = torch.stack([heights.var(correction=0) for heights in both]).mean()
        rate = RATE if self.heard else 1.0
        self.means.lerp_(means, rate)
        self.variance.lerp_(variance, rate)
        self.heard += 1


def _smallest(scores: Tensor, place: int) -> Tensor:
    """The place-th smallest of each row, [B, N] -> [B]."""
    if scores.device.type == "cpu":  # some ten times faster than torch's own there
        return torch.from_numpy(np.sort(scores.numpy(), axis=1)[:, place - 1].copy())
    smallest: Tensor = scores.kthvalue(place, dim=1).values
    return smallest
