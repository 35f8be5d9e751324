"""The item beside made-up vectors, and how it learns in their place."""

from torch import Tensor

from foilrec.core import Batch, Sampler, Tables
from foilrec.numerics import kernels


def item_beside(sampler: Sampler, tables: Tables, batch: Batch, query: Tensor, pool: int) -> Tensor:
    """The item that stands beside a row's made-up vectors, [B, 1]: the best of `pool` uniform ones; 1: data.easy's."""
    if pool == 1:
        return sampler.data.easy(batch)[:, None]
    drawn = sampler.unseen(batch, pool)
    return drawn.gather(1, kernels.candidate_scores(query, tables.items, drawn).argmax(1, keepdim=True))


def pushing(made: Tensor, rows: Tensor) -> Tensor:
    """Vectors that score as `made` [B, K, D] and hand their gradient to `rows`, items broadcast to it, as if theirs.

    A made-up vector without gradient pulls positives up and pushes no item down, so that the sum of the items' gradient
    is no longer 0: the whole catalogue drifts along what users have in common, often taken items furthest. With an item
    in its place the pushes and pulls of a row are equal again.
    """
    return made + (rows - rows.detach())
