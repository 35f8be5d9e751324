"""Softmax loss at K."""

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Loss, Negatives, Tables, score
from foilrec.errors import must_hold
from foilrec.numerics import fullsoftmax, rowwise
from foilrec.numerics.angles import cosine, unit


class SLatK(Loss):
    """sigmoid((s+ - b) / sharpness) x log sum_j e^((s_j - s+) / temperature): Yang et al., KDD 2025 (SL@K), for NDCG@K.

    b is the score of the user's top-th item, so that positives far from the top of the list count less. The gradient
    goes through the weight and not through b, as in the published code; that refreshes b every few epochs from known
    positives and 1000 draws, here it is exact at every step, which costs one product with all items. exact = false, or
    asked about scores alone, b is the top-th of the row's positive and negatives (the least, if they are fewer).
    With a constant weight this is infonce without the positive. Weights multiply the terms of the sum, masked columns
    and rows without negatives drop out; log_q is not looked at.

    top: K of NDCG@K, 5 .. 50. temperature: .05 .. .3. sharpness: .5 .. 3. exact: b over all items. cosine: compare by
    cosine, as the paper does, and not by dot product.
    """

    def __init__(
        self,
        *,
        top: int = 20,
        temperature: float = 0.1,
        sharpness: float = 1.0,
        exact: bool = True,
        cosine: bool = True,
    ) -> None:
        super().__init__()
        must_hold(
            "slatk",
            top=(top, top >= 1, "at least 1"),
            temperature=(temperature, temperature > 0, "above 0"),
            sharpness=(sharpness, sharpness > 0, "above 0"),
        )
        self.top, self.temperature, self.sharpness, self.exact, self.cosine = top, temperature, sharpness, exact, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        scores = torch.cat([positive[:, None], negative], 1).detach()
        if negatives.mask is not None:
            scores[:, 1:].masked_fill_(~negatives.mask, -torch.inf)
        place = (scores > -torch.inf).sum(1).clamp(max=self.top) - 1
        bar = scores.sort(1, descending=True).values.gather(1, place[:, None]).squeeze(1)
        return self._compare(positive, negative, negatives, bar)

    def of_vectors(
        self, data: Data, tables: Tables, batch: Batch, query: Tensor, vectors: Tensor, negatives: Negatives
    ) -> Tensor | None:
        """The same with the bar over all items."""
        if not self.exact:
            return super().of_vectors(data, tables, batch, query, vectors, negatives)
        compare, items = (cosine, unit(tables.items.detach())) if self.cosine else (score, tables.items.detach())
        bar = fullsoftmax.kth_best(unit(query) if self.cosine else query, items, self.top)
        positive = compare(query, tables.item_rows(batch.positives))
        return self._compare(positive, compare(query, vectors), negatives, bar)

    def _compare(self, positive: Tensor, negative: Tensor, negatives: Negatives, bar: Tensor) -> Tensor:
        gaps = (negative - positive[:, None]) / self.temperature
        total = rowwise.log_sum(gaps, negatives.weights, negatives.mask)
        near = ((positive - bar) / self.sharpness).sigmoid()
        return rowwise.over_rows(near * total, negatives.weights, negatives.mask)
