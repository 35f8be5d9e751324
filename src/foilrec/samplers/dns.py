"""Dynamic negative sampling."""

from torch import Tensor

from foilrec import kernels
from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import BadOption


class DNS(Sampler):
    """The `top` candidates that the model now likes best, of `pool` uniform ones. Zhang et al., SIGIR 2013.

    top > 1 is DNS(M, N) of Shi et al., WWW 2023, with N = pool and M = top: it optimises a one-way partial AUC, and a
    smaller M / N suits a smaller cut-off. With pool = top it is uniform. The best of M candidates has rank about
    I / (M + 1); hidden positives rank high, so false negatives grow with the pool.

    pool: candidates a row, 2 .. 200. top: how many of the best to keep, 1 .. pool; all of them are used, or `count` of
    them drawn at random when count is given.
    """

    def __init__(self, data: Data, *, pool: int = 16, top: int = 1, count: int | None = None) -> None:
        super().__init__(data)
        if not 1 <= (1 if count is None else count) <= top <= pool:
            raise BadOption(f"dns: count = {count}, top = {top}, pool = {pool} must rise in this order, from 1.")
        self.pool, self.top, self.count = pool, top, count

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, top], or [B, count]; best first when all are used."""
        candidates = self.unseen(batch, self.pool)
        scores = kernels.candidate_scores(query, tables.items, candidates)
        best = candidates.gather(1, scores.topk(self.top, dim=1).indices)
        if self.count is not None and self.count < self.top:
            keys = kernels.words(batch.rows, self.key(batch, "keep"), self.top)  # type: ignore[arg-type]
            best = best.gather(1, keys.topk(self.count, dim=1).indices)
        return Negatives(ids=best)
