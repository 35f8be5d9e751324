"""AHNS: negatives whose hardness adapts to the positive's score."""

from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import at_least, must_hold
from foilrec.numerics import kernels


class AHNS(Sampler):
    """Adaptive hardness: j = argmin over the candidates of |s_uj - beta (s_ui + alpha)^(p + 1)|. Lai et al., AAAI 2024.

    With p < -1 the wanted score falls as the positive's rises: a positive that is not learnt yet gets a hard negative,
    one that stands high an easy one, which is often spared being a hidden positive. p = -1 wants the same score, beta,
    for every row. The power has a pole at s_ui = -alpha, and no meaning below it: s_ui + alpha counts as at least
    `floor`, where the wanted score is so high that the hardest candidate is taken, as in dns. log_q is absent.

    pool: candidates a row, 8 .. 64. alpha: 0.1 .. 1. beta: 0.1 .. 0.4. p: -2 as published, below -1. floor: above 0.
    """

    def __init__(
        self,
        data: Data,
        *,
        pool: int = 32,
        alpha: float = 1.0,
        beta: float = 0.1,
        p: float = -2.0,
        floor: float = 0.001,
    ) -> None:
        super().__init__(data)
        must_hold(
            "ahns",
            **at_least(0, alpha=alpha),
            pool=(pool, pool >= 1, "at least 1"),
            beta=(beta, beta > 0, "above 0"),
            floor=(floor, floor > 0, "above 0"),
            p=(p, p <= -1, "at most -1: above it harder positives would get easier negatives"),
        )
        self.pool, self.alpha, self.beta, self.p, self.floor = pool, alpha, beta, p, floor

    def wanted(self, positive: Tensor) -> Tensor:
        """The score that a negative should have, for a positive of that score."""
        return self.beta * (positive + self.alpha).clamp(min=self.floor) ** (self.p + 1)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1]."""
        ids, items = self.unseen(batch, self.pool), tables.items.detach()
        own = (query.detach() * items[batch.positives]).sum(1, keepdim=True)
        distance = (kernels.candidate_scores(query, items, ids) - self.wanted(own)).abs()
        return Negatives(ids=ids.gather(1, distance.argmin(1, keepdim=True)))
