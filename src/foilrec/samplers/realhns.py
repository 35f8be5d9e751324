"""RealHNS: hard negatives from a window of ranks, those too like the positive left out."""

import math

import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import must_hold
from foilrec.numerics import kernels, streams
from foilrec.numerics.clusters import tightness


class RealHNS(Sampler):
    """Real hard negatives: coarse by rank, guarded by likeness, fine by score. Ma et al., RecSys 2023.

    Read for one domain: the general half of the method. Its other half draws from another domain's view of the same
    users and filters by which users are outliers there; with one domain there is none. In epoch t > start a row has
    min(ceil((t - start) / delta), count) hard negatives beside an easy one. Of some uniform candidates, coarse: those
    between the ranks low and high of the user's own order; guarded by the item-based filter of false ones:
    cos(e_j, e_i) <= min(A / 5 * 1.15^ceil((t - start) / delta), A), where A is the items' mean cosine to the centre of
    their cluster, found each epoch; fine: the best scores among what is left. Where too few are left the easiest of the
    candidates stand in. Only what a user took in training is left out (the published code leaves out test items too).
    dns is low = 0, high = 1 without the filter; graded states hardness in percentiles.

    pool: candidates a row, 16 .. 200. low, high: the window, as shares of the candidates from the best down: .1 and .2
    or .2 and .3 as published, 0 and .1 the hardest. count: most hard negatives a row, 1 .. 8 (8 as published). start:
    epochs with easy ones alone, 5. delta: epochs until one more, 2. clusters: how many, 20 .. 100.
    """

    def __init__(
        self,
        data: Data,
        *,
        pool: int = 64,
        low: float = 0.1,
        high: float = 0.2,
        count: int = 1,
        start: int = 5,
        delta: int = 2,
        clusters: int = 100,
    ) -> None:
        super().__init__(data)
        must_hold(
            "realhns",
            low=(low, 0 <= low < 1, "at least 0 and below 1"),
            high=(high, low < high <= 1, f"above low = {low}, up to 1"),
            count=(count, count >= 1, "at least 1"),
            pool=(pool, pool >= count, f"at least count = {count}"),
            start=(start, start >= 0, "at least 0"),
            delta=(delta, delta >= 1, "at least 1"),
            clusters=(clusters, clusters >= 1, "at least 1"),
        )
        self.pool, self.count, self.start, self.delta, self.clusters = pool, count, start, delta, clusters
        self.begins = start + 1
        self.first, self.last = math.floor(low * pool), max(math.floor(low * pool) + 1, math.ceil(high * pool))
        self.most = 1.0

    def stage_of(self, epoch: int) -> int:
        """How many times the curriculum has moved on: 0 up to `start`, then ceil((t - start) / delta)."""
        return max(0, -(-(epoch - self.start) // self.delta))

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """How like the positive a negative may be in this epoch."""
        stage, items = self.stage_of(epoch), tables.items
        if stage:
            average = tightness(items, self.clusters, streams.generator(self.seed, "realhns", epoch))
            self.most = min(average / 5 * 1.15**stage, average)

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1 + hard], the easy one first; level 0 and 1."""
        easy, hard = self.unseen(batch, 1, "easy"), min(self.stage_of(batch.epoch), self.count)
        if not hard:
            return Negatives(ids=easy, level=torch.zeros_like(easy))
        ids = torch.cat([easy, self._hard(tables, batch, query, hard)], 1)
        level = torch.ones_like(ids)
        level[:, 0] = 0
        return Negatives(ids=ids, level=level)

    def _hard(self, tables: Tables, batch: Batch, query: Tensor, hard: int) -> Tensor:
        """The best of the window that are not too like the positive, then the easiest candidates: [B, hard]."""
        ids, items = self.unseen(batch, self.pool), tables.items
        order = kernels.candidate_scores(query, items, ids).argsort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, order)
        lengths = items.norm(dim=1).clamp(min=1e-12)
        alike = kernels.candidate_scores(items[batch.positives], items, ids)
        alike /= lengths[ids] * lengths[batch.positives][:, None]
        place = torch.arange(self.pool, device=ids.device)
        within = (place >= self.first) & (place < self.last) & (alike <= self.most)
        turn = torch.where(within, place, 2 * self.pool - place)
        return ids.gather(1, turn.topk(hard, dim=1, largest=False, sorted=True).indices)
