"""Bayesian negative sampling: the candidate of the least risk of being false."""

from typing import Literal

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import must_hold
from foilrec.numerics import kernels


class BNS(Sampler):
    """Weighs how much a candidate teaches against how likely it is false. Liu and Wang, ICDE 2023.

    F is the share of the user's unseen items that score below candidate j, P the prior that j is false. With scores of
    true and false negatives as order statistics, the posterior of being true is
    unbias = (1 - F)(1 - P) / ((1 - F)(1 - P) + F P), and of some uniform candidates the one with the least
    info (1 - (1 + weight) unbias), info = sigma(s_uj - s_ui), stays: hard ones as long as they are likely true. F is
    estimated from `reference` uniform unseen items of the row, as (below + half the equal + 1/2) / (reference + 1),
    never 0 or 1 (published: all items, whose scores cost more than a step of training). dns is the case unbias = 1.

    pool: candidates a row, 5 .. 20. count: how many of the least risky stay. weight: lambda, what a false negative
    costs beside what a true one brings, 1 .. 10. per: the prior is the item's training count per "interactions" as
    published, 1e-5 .. 1e-2 and of little weight, or per "users", the chance that a user took it. scale: multiplies the
    prior, 1 .. 100; it stays below 1. reference: items that F is estimated from, 32 .. 256.
    """

    prior: Tensor

    def __init__(
        self,
        data: Data,
        *,
        pool: int = 5,
        count: int = 1,
        weight: float = 5.0,
        per: Literal["interactions", "users"] = "interactions",
        scale: float = 1.0,
        reference: int = 64,
    ) -> None:
        super().__init__(data)
        must_hold(
            "bns",
            count=(count, count >= 1, "at least 1"),
            pool=(pool, pool >= count, f"at least count = {count}"),
            reference=(reference, reference >= 1, "at least 1"),
            weight=(weight, weight >= 0, "at least 0"),
            scale=(scale, scale >= 0, "at least 0"),
        )
        self.pool, self.count, self.weight, self.reference = pool, count, weight, reference
        total = max(1, len(data.train)) if per == "interactions" else data.n_users
        prior = (scale * data.popularity / total).clamp(0, 1)
        self.register_buffer("prior", prior.to(torch.get_default_dtype()), persistent=False)

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count], the least risky first."""
        ids, others = self.unseen(batch, self.pool), self.unseen(batch, self.reference, "reference")
        asked = torch.cat([batch.positives[:, None], ids, others], 1)
        scores = kernels.candidate_scores(query, tables.items, asked)
        own, scores, beside = scores.split([1, self.pool, self.reference], 1)
        info = (scores - own).sigmoid()
        risk = info * (1 - (1 + self.weight) * self.unbias(below(scores, beside), self.prior[ids]))
        return Negatives(ids=ids.gather(1, risk.topk(self.count, dim=1, largest=False).indices))

    @staticmethod
    def unbias(share: Tensor, prior: Tensor) -> Tensor:
        """The posterior of being a true negative, of F strictly between 0 and 1 and P in 0 .. 1."""
        true = (1 - share) * (1 - prior)
        return true / (true + share * prior)


def below(scores: Tensor, beside: Tensor) -> Tensor:
    """The estimate of F for scores [B, M] from those of others [B, R]: [B, M], strictly between 0 and 1."""
    gaps = scores[:, :, None] - beside[:, None]
    return ((gaps > 0).sum(2) + 0.5 * (gaps == 0).sum(2) + 0.5) / (beside.shape[1] + 1)
