"""Debiased contrastive loss."""

from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class DCL(Loss):
    """log(1 + K g / e^(s+/t)), g = max{(E e^(s_j/t) - prior e^(s+/t)) / (1 - prior), e^(-1/t)}.

    Chuang et al., NeurIPS 2020, eq. 7-8 with one positive: infonce (which it is at prior 0) less the share of the sum
    that positives among the draws account for. The bound e^(-1/t) is that of cosines; for dot products it is the least
    of the row's own terms. Weights multiply the terms of E; masked columns drop out of E and K. With log_q, E is over
    all items alike (weights 1 / q of mean 1), and prior the share of positives among these; without, both are of
    the draws.

    prior: share of the negatives that are positives, 0 .. .1; harder draws hold more. temperature: t, .05 .. .5.
    correct: use log_q where the sampler gives it. cosine: compare by cosine, as the paper does, and not by dot product.
    """

    def __init__(
        self, *, prior: float = 0.01, temperature: float = 0.1, correct: bool = True, cosine: bool = True
    ) -> None:
        super().__init__()
        must_hold(
            "dcl",
            prior=(prior, 0 <= prior < 1, "at least 0 and below 1"),
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.prior, self.temperature, self.correct, self.cosine = prior, temperature, correct, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        mine, logits, mask = positive / self.temperature, negative / self.temperature, negatives.mask
        least = mine.new_full((), -1 / self.temperature) if self.cosine else rowwise.lowest(logits, mask)
        even = rowwise.evened(logits, negatives.log_q if self.correct else None, mask)
        mixed = rowwise.log_mean(even, negatives.weights, mask)
        clean = rowwise.debiased(mixed, mine, self.prior, least) + rowwise.left(logits, mask).log()
        return rowwise.over_rows(softplus(clean - mine), negatives.weights, mask)
