"""Random numbers by name that are no items: between 0 and 1, and Gumbel's."""

from torch import Tensor

from foilrec import kernels


def chances(rows: Tensor, key: int, count: int) -> Tensor:
    """Numbers strictly between 0 and 1, [B, count], a function of (key, row, column) alone: 23 random bits each."""
    return ((kernels.words(rows, key, count) >> 41 & (2**23 - 1)).float() + 0.5) * 2.0**-23


def gumbel(rows: Tensor, key: int, count: int) -> Tensor:
    """Gumbel numbers [B, count]: scores plus these are largest at a draw from the softmax of the scores."""
    return chances(rows, key, count).log_().neg_().log_().neg_()
