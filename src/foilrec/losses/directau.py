"""Alignment and uniformity, without negatives."""

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Loss, Negatives, Tables
from foilrec.errors import must_hold
from foilrec.numerics.angles import unit


class DirectAU(Loss):
    """Mean |u - i|^2 + gamma (l(users) + l(items)) / 2, l = log mean e^(-2 |x - y|^2): Wang et al., KDD 2022.

    x, y are the batch's unit vectors, two at a time: they are to spread over the sphere, which is what negatives do for
    the other losses. Drawn negatives are not looked at, nor weights, mask and log_q: draw one of the cheapest kind.
    Asked about scores alone it says what it can, the alignment 2 - 2 s+ of unit vectors. O(B^2) memory.

    gamma: .2 .. 5. distinct: count a user or item that stands in a batch twice once; the published code counts pairs of
    its own copies, at distance 0, too. Where a backbone reads histories every row is a user of its own.
    """

    def __init__(self, *, gamma: float = 1.0, distinct: bool = True) -> None:
        super().__init__()
        must_hold(
            "directau",
            gamma=(gamma, gamma >= 0, "at least 0"),
        )
        self.gamma, self.distinct = gamma, distinct

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar, of which the negatives are no part."""
        return 2 - 2 * positive.mean() + 0 * negative.sum()

    def of_vectors(
        self, data: Data, tables: Tables, batch: Batch, query: Tensor, vectors: Tensor, negatives: Negatives
    ) -> Tensor:
        """The whole loss, off the rows of users and positives."""
        users, items = unit(query), unit(tables.item_rows(batch.positives))
        who = batch.users if batch.history is None else torch.arange(len(batch), device=users.device)
        apart = self._spread(users, who) + self._spread(items, batch.positives)
        return (users - items).square().sum(1).mean() + self.gamma / 2 * apart

    def _spread(self, rows: Tensor, ids: Tensor) -> Tensor:
        """log mean e^(-2 |x - y|^2) over the pairs of rows [B, D]: 0 if there are none."""
        if self.distinct:
            _, place = ids.unique(return_inverse=True)
            first = place.new_full((int(place.max()) + 1,), len(ids))
            rows = rows[first.scatter_reduce(0, place, torch.arange(len(ids), device=ids.device), "amin")]
        if len(rows) < 2:
            return rows.new_zeros(())
        logits = 4 * (rows @ rows.T) - 4  # -2 |x - y|^2 of unit vectors
        logits = logits.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf)
        pairs = torch.tensor(float(len(rows) * (len(rows) - 1)))
        return logits.flatten().logsumexp(0) - pairs.log()
