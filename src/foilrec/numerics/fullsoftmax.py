"""Softmax and order statistics over the whole catalogue, in bounded memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**22  # scores held at once

Hide = Callable[[Tensor, Tensor], None]


def full_softmax(query: Tensor, items: Tensor, targets: Tensor, hide: Hide | None = None, block: int = BLOCK) -> Tensor:
    """Mean over rows of -log softmax_j(query_b . items_j) at j = targets_b: query [B, D], items [I, D], targets [B].

    At most max(block, I) scores are held at once. hide(scores [b, I], rows [b]) may set scores to -inf in place; the
    target's own is put back. 0 for no rows.
    """
    loss: Tensor = _FullSoftmax.apply(query, items, targets, hide, block)  # type: ignore[no-untyped-call]
    return loss


class _FullSoftmax(torch.autograd.Function):
    """Works out the gradients on the way there, some rows at a time, so that no B x I matrix is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, items: Tensor, targets: Tensor, hide: Hide | None, block: int) -> Tensor:
        count, total = max(1, len(query)), query.new_zeros(())
        to_query, to_items = torch.empty_like(query), torch.zeros_like(items)
        for rows in _some(query, items, block):
            scores, wanted = query[rows] @ items.T, targets[rows, None]
            own = scores.gather(1, wanted)
            if hide is not None:
                hide(scores, rows)
                scores.scatter_(1, wanted, own)
            most = scores.amax(1, keepdim=True)
            share = scores.sub_(most).exp_()
            whole = share.sum(1, keepdim=True)
            total += (whole.log() + most - own).sum()
            share.div_(whole).scatter_add_(1, wanted, -torch.ones_like(own))
            to_query[rows] = share @ items
            to_items.addmm_(share.T, query[rows])
        ctx.save_for_backward(to_query.div_(count), to_items.div_(count))
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_query, to_items = ctx.saved_tensors
        return gradients[0] * to_query, gradients[0] * to_items, None, None, None


@torch.no_grad()
def kth_best(query: Tensor, items: Tensor, k: int, block: int = BLOCK) -> Tensor:
    """The k-th largest of query_b . items_j over all j, the least if there are fewer: [B]."""
    found = [(query[rows] @ items.T).topk(min(k, len(items))).values[:, -1] for rows in _some(query, items, block)]
    return torch.cat(found) if found else query.new_zeros(0)


def _some(query: Tensor, items: Tensor, block: int) -> tuple[Tensor, ...]:
    """Numbers of rows, so many at a time that their scores of all items fit into a block."""
    if not len(query):
        return ()
    rows: tuple[Tensor, ...] = torch.arange(len(query), device=query.device).split(max(1, block // max(1, len(items))))
    return rows
