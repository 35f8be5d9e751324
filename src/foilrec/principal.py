"""Wide features on their first principal axes: what a linear map of them costs falls with their width."""

import torch
from torch import Tensor


def principal(rows: Tensor, axes: int, present: Tensor | None = None) -> Tensor:
    """Centred rows [I, F] on the `axes` directions in which they vary most, [I, axes]; zero where not present.

    By randomised SVD (Halko et al. 2011) with fixed random numbers, so that the same rows give the same axes. The mean
    and the axes are those of the rows that are present.
    """
    here = rows if present is None else rows[present]
    centred = here - here.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.svd_lowrank(centred, q=min(axes + 8, *centred.shape), niter=2)
    found = rows.new_zeros(len(rows), min(axes, directions.shape[1]))
    found[slice(None) if present is None else present] = centred @ directions[:, : found.shape[1]]
    return found
