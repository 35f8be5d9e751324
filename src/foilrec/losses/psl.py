"""Pairwise softmax loss."""

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise

TINY = 1e-8  # what the logarithm's argument is kept above


class PSL(Loss):
    """log sum_j f(d_j / scale)^(1 / temperature), d_j = s_j - s+: Yang et al., NeurIPS 2024.

    f = exp is the softmax loss (infonce without the positive, at temperature x scale); the others grow slower, so
    that a false negative that scores high cannot take the whole gradient: 1 + tanh, 1 + arctan, [1 + x]_+. scale keeps
    the gap of cosines, -2 .. 2, where f is above 0; below, f counts as 1e-8, without gradient. Weights multiply the
    terms of the sum; masked columns and rows without negatives drop out; log_q is not looked at.

    activation: f. temperature: .02 .. .2. scale: 2 for cosines. cosine: compare by cosine, as the paper does, and not
    by dot product.
    """

    def __init__(
        self,
        *,
        activation: Literal["tanh", "atan", "relu", "exp"] = "relu",
        temperature: float = 0.1,
        scale: float = 2.0,
        cosine: bool = True,
    ) -> None:
        super().__init__()
        must_hold(
            "psl",
            temperature=(temperature, temperature > 0, "above 0"),
            scale=(scale, scale > 0, "above 0"),
        )
        self.activation, self.temperature, self.scale, self.cosine = activation, temperature, scale, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        logits = self._log_f((negative - positive[:, None]) / self.scale) / self.temperature
        total = rowwise.log_sum(logits, negatives.weights, negatives.mask)
        return rowwise.over_rows(total, negatives.weights, negatives.mask)

    def _log_f(self, x: Tensor) -> Tensor:
        if self.activation == "exp":
            return x
        if self.activation == "tanh":
            return math.log(2) + logsigmoid(2 * x)  # 1 + tanh x = 2 sigmoid 2x
        return (1 + (x.atan() if self.activation == "atan" else x)).clamp(min=TINY).log()
