"""Wide features on their first principal axes: what a linear map of them costs falls with their width."""

import torch
from torch import Tensor, nn


def principal(rows: Tensor, axes: int, present: Tensor | None = None) -> Tensor:
    """Centred rows [I, F] on the `axes` directions in which they vary most, [I, axes]; zero where not present.

    By randomised SVD (Halko et al. 2011) with fixed random numbers, so that the same rows give the same axes. The mean
    and the axes are those of the rows that are present.
    """
    here = rows if present is None else rows[present]
    mean, directions = frame(here, axes)
    found = rows.new_zeros(len(rows), directions.shape[1])
    found[slice(None) if present is None else present] = (here - mean) @ directions
    return found


def frame(rows: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """The mean [F] of rows [n, F], and the directions [F, axes], or fewer, in which they vary most about it."""
    mean = rows.mean(0)
    centred = rows - mean
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.svd_lowrank(centred, q=min(axes + 8, *centred.shape), niter=2)
    return mean, directions[:, :axes].contiguous()


class Axes(nn.Module):
    """Features [..., F] on the principal axes of some rows [n, F]: [..., axes]. Without rows they stay as they are."""

    mean: Tensor | None
    directions: Tensor | None

    def __init__(self, rows: Tensor | None = None, axes: int = 0) -> None:
        super().__init__()
        found = (None, None) if rows is None else frame(rows, axes)
        for name, value in zip(("mean", "directions"), found, strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """What is all 0 stays 0: it is not there."""
        if self.mean is None or self.directions is None:
            return features
        return (features - self.mean) @ self.directions * (features != 0).any(-1, keepdim=True)
