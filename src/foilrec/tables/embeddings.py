"""Embedding tables: how they start, and the penalties on the rows that a batch touches."""

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["normal", "xavier"]


def table(rows: int, dim: int, init: Init) -> nn.Embedding:
    """A table [rows, dim]: "normal" is N(0, 0.1) whatever its size, "xavier" (uniform) shrinks with the rows."""
    made = nn.Embedding(rows, dim)
    if init == "xavier":
        nn.init.xavier_uniform_(made.weight)
    else:
        nn.init.normal_(made.weight, std=0.1)
    return made


def emb_loss(*rows: Tensor) -> Tensor:
    """MMRec's EmbLoss: the sum of the unsquared Frobenius norms of the gathered rows, over the batch size.

    rows: tensors [B, ...] of the same B. Useful weights: 1e-5 .. 2. They do not transfer to l2_loss.
    """
    total = sum((_norm(part.reshape(-1)) for part in rows), rows[0].new_zeros(()))
    return total / len(rows[0])


def _norm(x: Tensor) -> Tensor:
    """|x| with gradient 0 at 0, as Tensor.norm has it, at a third of its cost."""
    return (x.dot(x) + torch.finfo(x.dtype).tiny).sqrt()


def l2_loss(*rows: Tensor) -> Tensor:
    """LightGCN's L2: half the sum of squares of the gathered rows, over the batch size. Useful: 1e-6 .. 1e-2."""
    total = sum((part.square().sum() for part in rows), rows[0].new_zeros(()))
    return total / (2 * len(rows[0]))
