"""Dynamic negative sampling."""

from collections.abc import Iterator

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import BadOption
from foilrec.negatives.unseen import unseen_scores
from foilrec.numerics import kernels


class DNS(Sampler):
    """The `top` candidates that the model now likes best, of `pool` uniform ones. Zhang et al., SIGIR 2013.

    top > 1 is DNS(M, N) of Shi et al., WWW 2023, with N = pool and M = top: it optimises a one-way partial AUC, and a
    smaller M / N suits a smaller cut-off. With pool = top it is uniform. The best of M candidates has rank about
    I / (M + 1); hidden positives rank high, so false negatives grow with the pool. warp stops at the first that is
    hard enough, ahns aims at a score, rankwindow at ranks.

    pool: candidates a row, 2 .. 200; 0 makes every unseen item one, so that the `top` are the model's first, exactly.
    top: how many of the best to keep, 1 .. pool; all of them are used, or `count` of them drawn at random when count
    is given. whole: score every item, a block of rows at a time, instead of the candidates: the same choice, and with
    top = 1 the exact log_q = log(((N - r + 1) / N)^M - ((N - r) / N)^M) of rank r among N unseen items. Without the
    extra `fast` it is also the cheaper way from about I / 80 candidates on; pool = 0 does it always, and knows log_q
    where count is given.
    """

    def __init__(
        self, data: Data, *, pool: int = 16, top: int = 1, count: int | None = None, whole: bool = False
    ) -> None:
        super().__init__(data)
        if pool < 0 or not 1 <= (1 if count is None else count) <= top <= (pool or data.n_items):
            most = f"pool = {pool}" if pool else f"the {data.n_items:,} items"
            raise BadOption(f"dns: count = {count}, top = {top} and {most} must rise in this order, from 1.")
        self.pool, self.top, self.count, self.whole = pool, top, count, whole or not pool
        if (whole and top == 1) or (not pool and count is not None):
            self.log_q_is = "exact"

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, top], or [B, count]; best first when all are used."""
        if not self.pool:
            return self._first(tables, batch, query)
        candidates, log_q = self.unseen(batch, self.pool), None
        if self.whole:
            best, log_q = self._ranked(tables, batch, query, candidates)
        else:
            scores = kernels.candidate_scores(query, tables.items, candidates)
            best = candidates.gather(1, _top(scores, self.top))
        if self.count is not None and self.count < self.top:
            best = best.gather(1, self._keys(batch).topk(self.count, dim=1).indices)
        return Negatives(ids=best, log_q=log_q)

    def _keys(self, batch: Batch) -> Tensor:
        return kernels.words(rows_of(batch), self.key(batch, "keep"), self.top)

    def _first(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """The first of all unseen items; a user who has fewer of them gets a mask."""
        self.data.seen.need_unseen(batch.users)
        best = torch.cat([kernels.best(scores, self.top)[0] for _, scores in self._scored(tables, batch, query)])
        free = self._free(batch)
        there = torch.arange(self.top, device=best.device) < free
        log_q = None if self.count is None else -free.clamp(max=self.top).to(query.dtype).log().expand(-1, self.count)
        if self.count is not None and self.count < self.top:
            some = self._keys(batch).masked_fill(~there, torch.iinfo(torch.int64).min).topk(self.count, dim=1).indices
            first, best, there = best[:, :1], best.gather(1, some), there.gather(1, some)
        else:
            first = best[:, :1]
        return Negatives(ids=torch.where(there, best, first), log_q=log_q, mask=None if there.all() else there)

    def _ranked(self, tables: Tables, batch: Batch, query: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """The best candidates, and for the very best its log_q by rank."""
        best, ranks = [], []
        for rows, scores in self._scored(tables, batch, query):
            mine = candidates[rows]
            best.append(mine.gather(1, _top(scores.gather(1, mine), self.top)))
            starts = torch.arange(len(rows) + 1, device=mine.device)
            ranks.append(kernels.ranks(scores, starts, best[-1][:, 0].contiguous()))
        ids, after = torch.cat(best), self._free(batch).double() - torch.cat(ranks)[:, None]  # N - r + 1
        if self.top > 1:
            return ids, None
        all_below = self.pool * (after / self._free(batch)).log()
        return ids, (all_below + (-(((after - 1) / after) ** self.pool)).log1p()).to(query.dtype)

    def _free(self, batch: Batch) -> Tensor:
        return self.data.n_items - self.data.seen.on(batch.users.device).counts[batch.users][:, None]

    def _scored(self, tables: Tables, batch: Batch, query: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        seen = self.data.seen.on(batch.users.device)
        return unseen_scores(query, tables.items, batch.users, (seen.starts, seen.items))


def _top(scores: Tensor, count: int) -> Tensor:
    return scores.argmax(1, keepdim=True) if count == 1 else scores.topk(count, dim=1).indices
