"""Softmax over a batch: each row must find its own counterpart among all the batch's, in bounded memory."""

from typing import Any

import torch
from torch import Tensor


def in_batch(x: Tensor, y: Tensor, twins: Tensor | None = None, block: int = 2**22) -> Tensor:
    """Mean over rows of -log softmax_j(x_b . y_j) at j = b: x, y [B, D]; at most `block` products are held at once.

    twins [B]: rows of the same number are no negatives of each other. 0 for no rows.
    """
    loss: Tensor = _InBatch.apply(x, y, twins, block)  # type: ignore[no-untyped-call]
    return loss


class _InBatch(torch.autograd.Function):
    """Works out the gradients on the way there, block by block, so that no B x B matrix is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, twins: Tensor | None, block: int) -> Tensor:
        count, total = max(1, len(x)), x.new_zeros(())
        to_x, to_y, again = torch.empty_like(x), torch.zeros_like(y), _repeated(twins)
        for rows in torch.arange(len(x), device=x.device).split(max(1, block // count)) if len(x) else ():
            logits = x[rows] @ y.T
            at = torch.arange(len(rows), device=x.device), rows
            own = logits[at]
            if twins is not None:
                mine = again[(again >= rows[0]) & (again <= rows[-1])]
                line, other = (twins[mine, None] == twins[again]).nonzero(as_tuple=True)
                logits[mine[line] - rows[0], again[other]] = -torch.inf
                logits[at] = own
            most = logits.amax(1, keepdim=True)
            share = logits.sub_(most).exp_()
            whole = share.sum(1, keepdim=True)
            total += (whole.log() + most).sum() - own.sum()
            share.div_(whole)
            share[at] -= 1
            to_x[rows] = share @ y
            to_y.addmm_(share.T, x[rows])
        ctx.save_for_backward(to_x / count, to_y / count)
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_x, to_y = ctx.saved_tensors
        return gradients[0] * to_x, gradients[0] * to_y, None, None


def _repeated(twins: Tensor | None) -> Tensor:
    """The rows [R] whose number stands elsewhere in the batch too: few, so that the others need no look."""
    if twins is None:
        return torch.arange(0)
    _, place, counts = twins.unique(return_inverse=True, return_counts=True)
    repeated: Tensor = (counts[place] > 1).nonzero().squeeze(1)
    return repeated
