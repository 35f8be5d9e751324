"""WARP: the first of some tries that violates the margin, weighted by the rank that the number of tries suggests."""

from typing import Literal

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import at_least, must_hold
from foilrec.numerics import kernels

_EULER = 0.5772156649015329


class WARP(Sampler):
    """The first uniform unseen item that scores above s_ui - margin. Weston, Bengio and Usunier, IJCAI 2011.

    If t tries were needed, the positive's rank among the N unseen items is about floor(N / t), and the negative weighs
    Phi(floor(N / t)), Phi(k) = 1 + 1/2 + ... + 1/k: the worse the positive stands, the larger the step. A row whose
    tries all keep the margin has no negative (mask), so that ever fewer rows teach as a model gets better: the meter
    counts the draws that are left. All tries are drawn and scored at once, which changes no choice. dns looks at all
    its candidates instead of stopping at the first, and weighs nothing. log_q is absent: the stop depends on scores.

    tries: how many at most, 5 .. 100. margin: 0 .. 1, 1 as published. phi: the "harmonic" sums of the paper, or "log",
    log(floor(N / t)), as in later codes, which weighs 0 where t > N / 2.
    """

    def __init__(
        self, data: Data, *, tries: int = 10, margin: float = 1.0, phi: Literal["harmonic", "log"] = "harmonic"
    ) -> None:
        super().__init__(data)
        must_hold("warp", **at_least(1, tries=tries), **at_least(0, margin=margin))
        self.tries, self.margin, self.phi = tries, margin, phi

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1] with weights Phi, and a mask of the rows that found one."""
        ids, items = self.unseen(batch, self.tries), tables.items.detach()
        own = (query.detach() * items[batch.positives]).sum(1, keepdim=True)
        violates = kernels.candidate_scores(query, items, ids) > own - self.margin
        first = violates.int().argmax(1, keepdim=True)
        free = self.data.n_items - self.data.seen.on(ids.device).counts[batch.users][:, None]
        weights = self.weight(free // (first + 1)).to(query.dtype)
        return Negatives(ids=ids.gather(1, first), weights=weights, mask=violates.any(1, keepdim=True))

    def weight(self, rank: Tensor) -> Tensor:
        """Phi of estimated ranks, at least 1 each."""
        rank = rank.clamp(min=1).double()
        return rank.log() if self.phi == "log" else torch.digamma(rank + 1) + _EULER
