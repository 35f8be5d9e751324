"""Softmax cross-entropy over the whole catalogue."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Batch, Data, Loss, Negatives, Tables
from foilrec.errors import must_hold
from foilrec.numerics import fullsoftmax, rowwise
from foilrec.numerics.angles import unit


class CrossEntropy(Loss):
    """log sum_j e^(s_j / t) - s+ / t over all items j: what sampled softmax with log_q estimates, without sampling.

    Scores are made some rows at a time and never kept, gradients on the way: bounded memory, twice softmax's products
    over all I items a step. Drawn negatives are not looked at, nor weights, mask and log_q: draw one of the cheapest
    kind. Asked about scores alone it is the sum over the positive and the negatives that are not masked, times weights.

    temperature: t, .05 .. .2 for cosines, around 1 for dot products. mask_known: leave the user's other training items
    out of the sum. block: scores held at once (at least those of one row). cosine: compare by cosine instead.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        mask_known: bool = False,
        block: int = fullsoftmax.BLOCK,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        must_hold(
            "crossentropy",
            temperature=(temperature, temperature > 0, "above 0"),
            block=(block, block > 0, "above 0"),
        )
        self.temperature, self.mask_known, self.block, self.cosine = temperature, mask_known, block, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        gaps = (negative - positive[:, None]) / self.temperature
        return softplus(rowwise.log_sum(gaps, negatives.weights, negatives.mask)).mean()

    def of_vectors(
        self, data: Data, tables: Tables, batch: Batch, query: Tensor, vectors: Tensor, negatives: Negatives
    ) -> Tensor:
        """The sum over the whole table of items."""
        items = tables.items
        if self.cosine:
            query, items = unit(query), unit(items)

        def hide(scores: Tensor, rows: Tensor) -> None:
            data.seen.hide(scores, batch.users[rows].cpu())

        targets = batch.positives.to(torch.long)
        known = hide if self.mask_known else None
        return fullsoftmax.full_softmax(query / self.temperature, items, targets, known, self.block)
