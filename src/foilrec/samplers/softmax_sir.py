"""Draws from the model's softmax by sampling-importance-resampling."""

import math

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import must_hold
from foilrec.numerics import kernels


class SoftmaxSIR(Sampler):
    """Of M uniform candidates, K drawn by w_m = exp(s_um / T) / sum_l exp(s_ul / T). Rubin 1987; for recommenders Chen
    et al. (AdaSIR), WWW 2022.

    Approaches the softmax over the N unseen items as M grows; M = 1 is uniform, T -> 0 is dns of the same pool. log_q
    is the self-normalised estimate of that softmax, log(w_m M / N), and 0 at most: approximate as a probability, since
    it depends on the candidates, but an unbiased importance weight, E[f(j) / q(j)] = sum of f over the unseen items, as
    long as no w_m is above N / M.

    pool: M, 8 .. 500. temperature: T, 0.05 .. 10; small ones draw harder items. count: K, drawn with replacement.
    """

    log_q_is = "approximate"

    def __init__(self, data: Data, *, pool: int = 32, temperature: float = 1.0, count: int = 1) -> None:
        super().__init__(data)
        must_hold(
            "softmax_sir",
            pool=(pool, pool >= 1, "at least 1"),
            count=(count, count >= 1, "at least 1"),
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.pool, self.temperature, self.count = pool, temperature, count

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with their estimated log_q."""
        ids = self.unseen(batch, self.pool)
        scores = kernels.candidate_scores(query, tables.items, ids)
        share = (scores.double() / self.temperature).log_softmax(1)
        word = kernels.words(rows_of(batch), self.key(batch, "resample"), self.count) >> 11 & (2**53 - 1)
        below = share.exp().cumsum(1)
        at = torch.searchsorted(below, word.double() * 2.0**-53 * below[:, -1:], right=True).clamp(max=self.pool - 1)
        free = self.data.n_items - self.data.seen.on(ids.device).counts[batch.users][:, None]
        log_q = share.gather(1, at) + math.log(self.pool) - free.double().log()
        return Negatives(ids=ids.gather(1, at), log_q=log_q.clamp(max=0).to(query.dtype))
