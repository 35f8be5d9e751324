"""Personalised PageRank between items over a graph of users and items, a block of sources at a time."""

import torch
from torch import Tensor

from foilrec.graphs.sparse import by_rows
from foilrec.numerics import kernels
from foilrec.numerics.kernels import Rows


def nearest_by_walk(
    users: Tensor, items: Tensor, shape: tuple[int, int], keep: int, *, restart: float, steps: int, block: int = 2**24
) -> Tensor:
    """The `keep` items that a walk from each item visits most, itself left out, best first: ids [I, keep], int32.

    A step goes to a user evenly, and from there to an item evenly; before each the walk ends with probability
    `restart`, and after `steps` it ends for certain: pi = sum_t (1 - restart)^t P^t e, t = 1 .. steps. Distinct pairs
    users [E], items [E]; shape (U, I). Equal visits stand in the order of ids; -1 where no item is left to visit.
    """
    there, back = _transitions(users, items, shape)
    found = []
    for sources in torch.arange(shape[1]).split(max(1, block // sum(shape))):
        here = torch.zeros(shape[1], len(sources))
        at = sources, torch.arange(len(sources))
        here[at] = 1.0
        visits = torch.zeros_like(here)
        for _ in range(steps):
            here = kernels.multiply(back, kernels.multiply(there, here), scale=1 - restart)
            visits += here
        visits = visits.masked_fill_(visits <= 0, torch.nan)
        visits[at] = torch.nan
        found.append(kernels.best(visits.T.contiguous(), keep)[0].int())
    return torch.cat(found)


def _transitions(users: Tensor, items: Tensor, shape: tuple[int, int]) -> tuple[Rows, Rows]:
    """Where a walk goes: items to users [U, I], and users to items [I, U], as matrices that act on columns."""
    of_user, of_item = torch.bincount(users, minlength=shape[0]), torch.bincount(items, minlength=shape[1])
    return (
        by_rows(users, items, 1.0 / of_item[items].float(), shape[0]),
        by_rows(items, users, 1.0 / of_user[users].float(), shape[1]),
    )
