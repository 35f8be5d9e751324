"""Correct-and-Weight loss."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class CW(Loss):
    """log g - r+/t with r = s/2, g = max{(E w_j e^(r_j/t) - prior e^(r+/t)) / (1 - prior), e^(-1/2t)}.

    After Yin et al., arXiv 2601.04291: the softmax loss (infonce without the positive) with dcl's correction, and
    weights that trust a negative the more, the easier it looks. What the weights are is our reading, and so is the
    bound: w_j = sigmoid(-sharpness (r_j - r+)), scaled to mean 1 a row, without gradient. The opposite of hcl. Weights
    and masks as in dcl; log_q too (correct). At sharpness 0, prior 0 it is infonce at temperature 2t, less log K.

    sharpness: 0 .. 10. prior: share of the negatives that are positives, 0 .. .1. temperature: t, .05 .. .2. correct:
    use log_q where the sampler gives it. cosine: compare by cosine, as the paper does, and not by dot product.
    """

    def __init__(
        self,
        *,
        sharpness: float = 2.0,
        prior: float = 0.01,
        temperature: float = 0.1,
        correct: bool = True,
        cosine: bool = True,
    ) -> None:
        super().__init__()
        must_hold(
            "cw",
            sharpness=(sharpness, sharpness >= 0, "at least 0"),
            prior=(prior, 0 <= prior < 1, "at least 0 and below 1"),
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.sharpness, self.prior, self.temperature = sharpness, prior, temperature
        self.correct, self.cosine = correct, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        weights, mask, t = negatives.weights, negatives.mask, 2 * self.temperature
        mine, logits = positive / t, negative / t
        least = mine.new_full((), -1 / t) if self.cosine else rowwise.lowest(logits, mask)
        trust = logsigmoid(self.sharpness / 2 * (positive[:, None] - negative)).detach()
        even = rowwise.evened(logits, negatives.log_q if self.correct else None, mask)
        mixed = rowwise.log_mean(even + trust, weights, mask) - rowwise.log_mean(trust, None, mask)
        return rowwise.over_rows(rowwise.debiased(mixed, mine, self.prior, least) - mine, weights, mask)
