"""Penalties on the embedding rows that a batch touches. Two of them, under two names: their weights do not transfer."""

from torch import Tensor


def emb_loss(*rows: Tensor) -> Tensor:
    """MMRec's EmbLoss: the sum of the unsquared Frobenius norms of the gathered rows, over the batch size.

    rows: tensors [B, ...] of the same B. Useful weights: 1e-5 .. 2.
    """
    total = sum((part.norm() for part in rows), rows[0].new_zeros(()))
    return total / len(rows[0])


def l2_loss(*rows: Tensor) -> Tensor:
    """LightGCN's L2: half the sum of squares of the gathered rows, over the batch size. Useful weights: 1e-6 .. 1e-2."""
    total = sum((part.square().sum() for part in rows), rows[0].new_zeros(()))
    return total / (2 * len(rows[0]))
