"""Cosine contrastive loss of SimpleX."""

from torch import Tensor

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class CCL(Loss):
    """1 - s+ + weight x mean_j [s_j - margin]_+ for cosines s: Mao et al. (SimpleX), CIKM 2021, eq. 1.

    Negatives below the margin are left alone, where softmax pushes all of them; the positive is pulled however far the
    negatives are, where hinge stops. Weights multiply a negative's term; masked columns drop out; log_q is not looked
    at. The loss has no bound below for dot products.

    margin: .4 .. .9. weight: of the negatives' mean, 150 .. 1000 for hundreds of negatives. cosine: compare by cosine,
    as the paper does, and not by dot product.
    """

    def __init__(self, *, margin: float = 0.8, weight: float = 150.0, cosine: bool = True) -> None:
        super().__init__()
        must_hold(
            "ccl",
            margin=(margin, not cosine or -1 <= margin < 1, "at least -1 and below 1 for cosines"),
            weight=(weight, weight > 0, "above 0"),
        )
        self.margin, self.weight, self.cosine = margin, weight, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        over = (negative - self.margin).clamp(min=0)
        return (1 - positive + self.weight * rowwise.mean(over, negatives.weights, negatives.mask)).mean()
