"""Which item learns from a made-up vector: one that lends it its place in the table."""

from torch import Tensor


def pushing(made: Tensor, rows: Tensor) -> Tensor:
    """Vectors that score as `made` [B, K, D] and hand their gradient to `rows`, items broadcast to it, as if theirs.

    A made-up vector without gradient pulls positives up and pushes no item down, so that the sum of the items' gradient
    is no longer 0: the whole catalogue drifts along what users have in common, often taken items furthest. With an item
    in its place the pushes and pulls of a row are equal again.
    """
    return made + (rows - rows.detach())
