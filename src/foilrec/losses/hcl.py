"""Debiased contrastive loss with emphasis on hard negatives."""

from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class HCL(Loss):
    """dcl whose mean weighs each negative by e^(beta s_j / t): Robinson et al., ICLR 2021.

    E e^(s_j/t) becomes E e^((1 + beta) s_j/t) / E e^(beta s_j/t), in log space; the gradient goes through the
    weights, as in the published code. At beta = 0 this is dcl, at prior = 0 too infonce. With prior = 0 a large beta
    stresses false negatives. Weights, masks and log_q as in dcl; weights enter the first mean only.

    beta: 0 .. 2. prior: share of the negatives that are positives, 0 .. .1. temperature: t, .05 .. .5. correct: use
    log_q where the sampler gives it. cosine: compare by cosine, as the paper does, and not by dot product.
    """

    def __init__(
        self,
        *,
        beta: float = 0.5,
        prior: float = 0.01,
        temperature: float = 0.1,
        correct: bool = True,
        cosine: bool = True,
    ) -> None:
        super().__init__()
        must_hold(
            "hcl",
            beta=(beta, beta >= 0, "at least 0"),
            prior=(prior, 0 <= prior < 1, "at least 0 and below 1"),
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.beta, self.prior, self.temperature, self.correct, self.cosine = beta, prior, temperature, correct, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        mine, logits, mask = positive / self.temperature, negative / self.temperature, negatives.mask
        least = mine.new_full((), -1 / self.temperature) if self.cosine else rowwise.lowest(logits, mask)
        log_q = negatives.log_q if self.correct else None
        above = rowwise.log_mean(rowwise.evened((1 + self.beta) * logits, log_q, mask), negatives.weights, mask)
        below = rowwise.log_mean(rowwise.evened(self.beta * logits, log_q, mask), None, mask)
        clean = rowwise.debiased(above - below, mine, self.prior, least) + rowwise.left(logits, mask).log()
        return rowwise.over_rows(softplus(clean - mine), negatives.weights, mask)
