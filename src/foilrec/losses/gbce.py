"""Generalised binary cross-entropy."""

from torch import Tensor
from torch.nn.functional import softplus

from foilrec.core import Loss, Negatives
from foilrec.errors import PartsDoNotFit, must_hold
from foilrec.numerics import rowwise


class GBCE(Loss):
    """bce whose positive term counts beta = a (t (1 - 1/a) + 1/a): Petrov and Macdonald, RecSys 2023.

    a is the share of the possible negatives that is drawn for a row. At t = 0 this is bce; at t = 1 beta = a, and
    scores are calibrated as if nothing had been left out. a = K / (items - 1) where items is given, else the sum of
    the row's q from log_q, at most 1: the same for uniform draws, our extension for others. Weights multiply a
    negative's term, masked columns drop out of sum and K.

    t: calibration, 0 .. 1; the paper's best are .5 .. .9. items: size of the catalogue; None: log_q says it.
    cosine: compare by cosine instead of dot product.
    """

    def __init__(self, *, t: float = 0.75, items: int | None = None, cosine: bool = False) -> None:
        super().__init__()
        must_hold(
            "gbce",
            t=(t, 0 <= t <= 1, "in 0 .. 1"),
            items=(items, items is None or items >= 2, "at least 2"),
        )
        self.t, self.items, self.cosine = t, items, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        count = rowwise.kept(negative, negatives.mask)
        beta = 1 - self.t * (1 - self._share(count, negatives))
        total = rowwise.mean(softplus(negative), negatives.weights, negatives.mask) * count
        return ((beta * softplus(-positive) + total) / (1 + count)).mean()

    def _share(self, count: Tensor, negatives: Negatives) -> Tensor:
        """a: how much of what could be drawn was drawn, [B]."""
        if self.items is not None:
            return (count / (self.items - 1)).clamp(max=1)
        if negatives.log_q is None:
            raise PartsDoNotFit("gbce must know how much is drawn: this sampler gives no log_q, so set loss.items.")
        return (rowwise.mean(negatives.log_q.exp(), None, negatives.mask) * count).clamp(max=1)
