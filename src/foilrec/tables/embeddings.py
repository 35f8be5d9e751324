"""Embedding tables: how they start, and the penalties on the rows that a batch touches."""

from collections.abc import Sequence
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from foilrec.errors import at_least, must_hold
from foilrec.numerics.memory import must_fit

Init = Literal["normal", "xavier"]


def table(rows: int, dim: int, init: Init) -> nn.Embedding:
    """A table [rows, dim]: "normal" is N(0, 0.1) whatever its size, "xavier" (uniform) shrinks with the rows."""
    must_hold("embeddings", **at_least(1, dim=dim))
    must_fit(f"A table of {rows:,} vectors of {dim:,} numbers", 4 * rows * dim, "lower dim")
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
    """|x| as x . (x / |x|), the latter held fixed: its gradient, 0 at 0, in one pass where Tensor.norm takes three."""
    return x.dot(normalize(x.detach(), dim=0, eps=torch.finfo(x.dtype).tiny))


def l2_loss(*rows: Tensor) -> Tensor:
    """LightGCN's L2: half the sum of squares of the gathered rows, over the batch size. Useful: 1e-6 .. 1e-2."""
    total = sum((part.square().sum() for part in rows), rows[0].new_zeros(()))
    return total / (2 * len(rows[0]))


def penalty(rows: Sequence[Tensor], emb_reg: float, l2_reg: float) -> Tensor:
    """emb_reg * emb_loss + l2_reg * l2_loss of rows; what has weight 0 is not worked out."""
    total = rows[0].new_zeros(())
    if emb_reg:
        total = total + emb_reg * emb_loss(*rows)
    return total + l2_reg * l2_loss(*rows) if l2_reg else total


class PenaltyOfSquares(torch.autograd.Function):
    """The same from the sums of squares of each kind of row, [N]: so few numbers are no work for tensors."""

    @staticmethod
    def forward(ctx: Any, squares: Tensor, rows: int, emb_reg: float, l2_reg: float) -> Tensor:
        """The penalty, []."""
        norms = [sqrt(max(value, 0.0)) for value in squares.tolist()]
        ctx.slopes = [(emb_reg / norm if norm else 0.0) / (2 * rows) + l2_reg / (2 * rows) for norm in norms]
        total = sum(emb_reg * norm + l2_reg / 2 * norm * norm for norm in norms) / rows
        return squares.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The slopes; a norm's is 0 at 0."""
        return gradients[0] * gradients[0].new_tensor(ctx.slopes), None, None, None
