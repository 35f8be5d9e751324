"""Pairwise hinge, with or without weights by rank."""

from torch import Tensor

from foilrec.core import Loss, Negatives
from foilrec.errors import at_least, must_hold
from foilrec.numerics import rowwise


class Hinge(Loss):
    """w [margin + s_j - s+]_+, averaged over negatives and rows: bpr's gap, but nothing to learn beyond the margin.

    w = 1, or, with items, log(1 + rank) for rank = items x the share of the row's negatives that violate the margin:
    Hsieh et al. (CML), WWW 2017, eq. 2-3, after WARP (Weston et al., IJCAI 2011). CML compares squared distances of
    points in a ball; for unit vectors these are 2 - 2 cos, so its margin m is cosine = true with margin m / 2, at half
    the size. Weights multiply a negative's term, but do not count in the rank; masked columns drop out; log_q is not
    looked at.

    margin: .1 .. 1 for cosines, around 1 for dot products. items: size of the catalogue, for w by rank (None: w = 1).
    cosine: compare by cosine instead of dot product.
    """

    def __init__(self, *, margin: float = 1.0, items: int | None = None, cosine: bool = False) -> None:
        super().__init__()
        must_hold(
            "hinge",
            **at_least(1, items=items),
            margin=(margin, margin > 0, "above 0"),
        )
        self.margin, self.items, self.cosine = margin, items, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        over = (self.margin + negative - positive[:, None]).clamp(min=0)
        losses = rowwise.mean(over, negatives.weights, negatives.mask)
        if self.items is not None:
            violating = (over > 0).to(over.dtype)
            losses = losses * (self.items * rowwise.mean(violating, None, negatives.mask)).log1p()
        return losses.mean()
