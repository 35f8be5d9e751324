"""Binary cross-entropy."""

from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Loss, Negatives
from foilrec.errors import must_hold
from foilrec.numerics import rowwise


class BCE(Loss):
    """-log sigmoid(s+) - sum_j log(1 - sigmoid(s_j)), over 1 + K: He et al., WWW 2017, eq. 7; Mikolov 2013, eq. 4.

    Every score is judged alone, so scores are calibrated, where bpr and softmax see differences only; with few of the
    catalogue's items drawn they come out too high, which gbce corrects. A negative of label y counts as y of a
    positive: -y log sigmoid(s) - (1 - y) log(1 - sigmoid(s)). Weights multiply a negative's term, masked columns drop
    out of sum and K. log_q is not looked at: noise-contrastive estimation would need the positive's too.

    positive_weight: of the positive's term, 1 .. K. label: y where Negatives.labels says nothing, 0 .. .2.
    cosine: compare by cosine instead of dot product.
    """

    def __init__(self, *, positive_weight: float = 1.0, label: float = 0.0, cosine: bool = False) -> None:
        super().__init__()
        must_hold(
            "bce",
            positive_weight=(positive_weight, positive_weight > 0, "above 0"),
            label=(label, 0 <= label < 1, "at least 0 and below 1"),
        )
        self.positive_weight, self.label, self.cosine = positive_weight, label, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        label = self.label if negatives.labels is None else negatives.labels
        terms = label * softplus(-negative) + (1 - label) * softplus(negative)
        count = rowwise.kept(terms, negatives.mask)
        total = rowwise.mean(terms, negatives.weights, negatives.mask) * count
        return ((self.positive_weight * softplus(-positive) + total) / (1 + count)).mean()
