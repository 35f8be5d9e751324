"""InfoNCE over the drawn negatives, and the softmax loss of recommenders."""

import torch
from torch import Tensor

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class InfoNCE(Loss):
    """log sum_j exp(s_j / t) - s+ / t, with s+ in the sum or not: van den Oord et al. 2018, eq. 4.

    With the positive in the denominator this is softmax without log_q (softmax is the one to take where the draws
    stand for the catalogue); without it, it is the softmax loss SL of Wu et al. (TOIS 2024) and of psl, bsl and
    slatk, which may fall below 0. Weights multiply the terms of the sum; masked columns and rows without negatives
    drop out; log_q is not looked at.

    temperature: t, .05 .. .2 for cosines, around 1 for dot products. with_positive: whether s+ is in the sum; matters
    while there are few negatives. cosine: compare by cosine, as the papers do, and not by dot product.
    """

    def __init__(self, *, temperature: float = 0.1, with_positive: bool = True, cosine: bool = True) -> None:
        super().__init__()
        must_hold(
            "infonce",
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.temperature, self.with_positive, self.cosine = temperature, with_positive, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        gaps = (negative - positive[:, None]) / self.temperature
        total = rowwise.log_sum(gaps, negatives.weights, negatives.mask)
        if self.with_positive:
            total = torch.nn.functional.softplus(total)
        return rowwise.over_rows(total, negatives.weights, negatives.mask)
