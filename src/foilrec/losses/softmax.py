"""Sampled softmax."""

import torch
from torch import Tensor

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class Softmax(Loss):
    """-log of the positive's share of exp(s / temperature) among itself and its negatives.

    With log_q the negatives' logits become s / temperature - log(K q), K being the columns that are left, so that in
    expectation the sum is over the whole catalogue (Bengio and Senecal 2003); the positive is not drawn and keeps its
    logit. Without log_q (or with correct = false) it is InfoNCE over the drawn negatives (van den Oord et al. 2018).
    bpr is its K = 1 case at temperature 1.

    temperature: .05 .. 1; small ones stress the hardest negatives. correct: use log_q where the sampler gives it.
    """

    def __init__(self, *, temperature: float = 1.0, correct: bool = True) -> None:
        super().__init__()
        must_hold(
            "softmax",
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.temperature, self.correct = temperature, correct

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        logits = negative / self.temperature
        if self.correct and negatives.log_q is not None:
            logits = logits - negatives.log_q - rowwise.left(negative, negatives.mask).log()[:, None]
        if negatives.weights is not None:
            logits = logits + negatives.weights.log()
        if negatives.mask is not None:
            logits = logits.masked_fill(~negatives.mask, -torch.inf)
        mine = positive[:, None] / self.temperature
        return (torch.cat([mine, logits], 1).logsumexp(1) - mine.squeeze(1)).mean()
