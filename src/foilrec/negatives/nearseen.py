"""Made-up negatives that say what the user already took: those whose nearest item is in his history."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.numerics import kernels

BLOCK = 2**22  # cosines held at once: 16 MB


@torch.no_grad()
def near_seen(vectors: Tensor, items: Tensor, users: Tensor, taken: tuple[Tensor, Tensor], least: float) -> Tensor:
    """Whether the item nearest to each vector, by cosine, is one that the user took, its cosine above `least`: [B, K].

    vectors [B, K, D], items [I, D], users [B]; taken (starts, items) are each user's items one after another.
    """
    unit, (count, width) = normalize(items), vectors.shape[1:]
    found = []
    for rows in torch.arange(len(vectors), device=users.device).split(max(1, BLOCK // max(1, count * len(items)))):
        cosines = normalize(vectors[rows], dim=2).view(-1, width) @ unit.T
        best, nearest = (x.view(-1, count) for x in cosines.max(1))
        found.append(kernels.contains(*taken, users[rows], nearest) & (best > least))
    return torch.cat(found)
