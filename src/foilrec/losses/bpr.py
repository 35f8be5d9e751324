"""Bayesian personalised ranking."""

from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Loss, Negatives
from foilrec.numerics import rowwise


class BPR(Loss):
    """-log sigmoid(s+ - s-), averaged over the negatives of a row and then over rows. Rendle et al., UAI 2009.

    Written as softplus(s- - s+): exact for any gap, where log(1e-10 + sigmoid) loses its gradient. Weights make the
    inner mean a weighted one (they need not add up to 1: the sum is divided by K); a masked column counts 0, and the
    mean is over the columns that are left.
    """

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        gaps = softplus(negative - positive[:, None])
        return rowwise.mean(gaps, negatives.weights, negatives.mask).mean()
