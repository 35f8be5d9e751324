"""Random numbers by name that are no items: between 0 and 1, normal, Gumbel's and of beta laws."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from foilrec.numerics import kernels


def chances(rows: Tensor, key: int, count: int) -> Tensor:
    """Numbers strictly between 0 and 1, [B, count], a function of (key, row, column) alone: 23 random bits each."""
    words = kernels.words(rows, key, count).bitwise_right_shift_(41).bitwise_and_(2**23 - 1)
    return words.float().add_(0.5).mul_(2.0**-23)


def normals(rows: Tensor, key: int, count: int) -> Tensor:
    """Standard normal numbers [B, count], a function of (key, row, column) alone: 65,536 different ones, up to 4.2.

    They are the middle quantiles of as many equal shares of N(0, 1), four a word: several times as fast as torch.randn.
    """
    if loops := kernels.fast(rows):
        out = np.empty((len(rows), count), np.float32)
        loops.normals(rows.numpy(), np.uint64(key), _quantiles(rows.device).numpy(), out)
        return torch.from_numpy(out)
    places = kernels.words(rows, key, -(-count // 4)).view(torch.int16)[:, :count].int() & 0xFFFF
    found: Tensor = _quantiles(rows.device)[places]
    return found


@lru_cache(maxsize=4)
def _quantiles(device: torch.device) -> Tensor:
    middle: Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    return middle.float().to(device)


def gumbel(rows: Tensor, key: int, count: int) -> Tensor:
    """Gumbel numbers [B, count]: scores plus these are largest at a draw from the softmax of the scores."""
    return chances(rows, key, count).log_().neg_().log_().neg_()


def betas(rows: Tensor, key: int, count: int, a: float, b: float) -> Tensor:
    """Numbers of the law Beta(a, b), [B, count], a and b above 0: off a table of its quantiles of 4096 cells.

    Cells are even in the angle of x = sin^2, in which the density sin^(2a - 1) cos^(2b - 1) has no poles from 1/2 on.
    """
    edges = torch.linspace(0, math.pi / 2, 4097, dtype=torch.float64, device=rows.device)
    middle = (edges[1:] + edges[:-1]) / 2
    weights = ((2 * a - 1) * middle.sin().log() + (2 * b - 1) * middle.cos().log()).softmax(0)
    below = weights.cumsum(0)
    chance = chances(rows, key, count).double()
    cell = torch.searchsorted(below, chance).clamp(max=len(middle) - 1)
    share = ((chance - below[cell]) / weights[cell] + 1).clamp(0, 1)
    return torch.lerp(edges[cell], edges[cell + 1], share).sin().square().float()
