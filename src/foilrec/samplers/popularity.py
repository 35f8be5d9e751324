"""Negatives drawn by popularity."""

import numpy as np
import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import above, at_least, must_hold
from foilrec.numerics import kernels


class Popularity(Sampler):
    """Unseen items in proportion to (c_j + smoothing) ** power, c_j the training count of item j.

    Harder than uniform for users of the head, and a bias against popular items that losses with log_q can undo. Counts
    come from training rows alone. Exact: one search by mass, no rejection, so a user who has taken all popular items
    costs no more. Weights are integers that add up to at most 2**40, to which log_q is exact.

    count: negatives a row. power: 0 is uniform, .75 word2vec's choice, 1 plain counts, below 0 favours the tail.
    smoothing: what an item without a training row counts; above 0 where power is below, or it would outweigh all.
    """

    log_q_is = "exact"
    cumulative: Tensor
    before: Tensor

    def __init__(self, data: Data, *, count: int = 1, power: float = 0.75, smoothing: float = 1.0) -> None:
        super().__init__(data)
        must_hold(
            "popularity",
            **at_least(1, count=count),
            power=(power, -10 <= power <= 10, "in -10 .. 10"),
            **(above(0, smoothing=smoothing) if power < 0 else at_least(0, smoothing=smoothing)),
        )
        self.count = count
        mass = (data.popularity.double().numpy() + smoothing) ** power
        weights = np.maximum(1, np.floor(mass / mass.sum() * (2**40 - data.n_items))).astype(np.int64)
        cumulative = np.concatenate([[0], weights.cumsum()])
        seen = data.seen
        items = seen.items.numpy()
        taken = np.concatenate([[0], weights[items].cumsum()])  # mass of all taken items before each entry
        start = np.repeat(seen.starts[:-1].numpy(), np.diff(seen.starts.numpy()))
        before = cumulative[items] - (taken[:-1] - taken[start])
        self.register_buffer("cumulative", torch.from_numpy(cumulative), persistent=False)
        self.register_buffer("before", torch.from_numpy(before), persistent=False)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with their exact log_q."""
        seen, rows = self.data.seen.on(batch.users.device), rows_of(batch)
        seen.need_unseen(batch.users)
        parts = (seen.starts, seen.items, self.before, self.cumulative)
        ids = kernels.weighted_unseen(*parts, batch.users, rows, self.key(batch), self.count)
        free = self.cumulative[-1] - kernels.seen_mass(*parts, batch.users)
        drawn = self.cumulative[ids + 1] - self.cumulative[ids]
        return Negatives(ids=ids, log_q=(drawn.double().log() - free.double().log()[:, None]).float())
