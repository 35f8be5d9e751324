"""The mean row of a single-head attention over a handful of tokens a row, without its tiny matrix products.

With tokens L_i [N, D] of a row, logits L_i G L_j^T, A their softmax over j and w_i the weights of the mean over i, the
mean of the attended rows is (sum_j a_j L_j) W_v with a_j = sum_i w_i A_ij: so keys need no map of their own (G = W_q
W_k^T / sqrt(D)), and values are mapped once a row. A token that all rows share may be [D].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def logits_of(
    maps: Sequence[Tensor], tokens: Sequence[Tensor], present: Tensor | None, known: Tensor | None = None
) -> Tensor:
    """maps_i . tokens_j for K tokens [N, D]: [K, K, N], -inf where present [K, N] says that token j is not there.

    known: the block [M, M, N] of the first M tokens, when it has been worked out before.
    """
    rows, old = max(tokens, key=Tensor.dim).shape[0], 0 if known is None else len(known)
    logits = tokens[0].new_empty(len(tokens), len(tokens), rows)
    for i, mapped in enumerate(maps):
        for j, token in enumerate(tokens):
            logits[i, j] = known[i, j] if known is not None and max(i, j) < old else _dot(mapped, token)
    return logits if present is None else logits.masked_fill_(~present, -torch.inf)


def shares(logits: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """The attention A [K, K, N], and the weights of its rows in the mean: [K, N], or [1, 1] where none is missing."""
    attention = torch.softmax(logits, 1)
    if present is None:
        return attention, logits.new_full((1, 1), 1 / len(logits))
    here = present.to(logits.dtype)
    return attention, here / here.sum(0)


def mix(weights: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """sum_j weights_j tokens_j: weights [K, N], tokens [N, D] -> [N, D]."""
    mixed = weights[0, :, None] * tokens[0]
    for weight, token in zip(weights[1:], tokens[1:], strict=True):
        mixed.addcmul_(weight[:, None], token)
    return mixed


class AttendedMean(torch.autograd.Function):
    """(G [D, D], present [K, N] or None, tokens [N, D] ...) -> sum_j a_j L_j [N, D], with gradient to G and tokens.

    Keeps the tokens and A alone for the way back, where A's small matrices are large enough in batches.
    """

    @staticmethod
    def forward(ctx: Any, product: Tensor, present: Tensor | None, *tokens: Tensor) -> Tensor:
        """The mixed tokens, before the value map."""
        logits = logits_of([token @ product for token in tokens], tokens, present)
        attention, rows = shares(logits, present)
        ctx.save_for_backward(product, attention, rows, *tokens)
        return mix((rows[:, None] * attention).sum(0), tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With S_ij the gradient of a logit: G gets sum L_i^T S_ij L_j, L_i gets S L G^T + S^T L G + a_i gradient."""
        product, attention, rows, *tokens = ctx.saved_tensors
        of_mean = rows[:, None] * torch.stack([_dot(gradient, token) for token in tokens])
        of_logits = attention * (of_mean - (attention * of_mean).sum(1, keepdim=True))
        small = of_logits.permute(2, 0, 1).contiguous()
        stacked = torch.stack([token.expand_as(gradient) for token in tokens], 1)
        flat, width = stacked.flatten(0, 1), stacked.shape[2]
        mine, theirs = (torch.bmm(x, stacked).view(-1, width) for x in (small, small.transpose(1, 2)))
        found = torch.addmm(mine @ product.T, theirs, product).view_as(stacked)
        found.addcmul_((rows[:, None] * attention).sum(0).T[:, :, None], gradient[:, None])
        pairs = zip(found.unbind(1), tokens, strict=True)
        return flat.T @ mine, None, *(g if token.dim() == 2 else g.sum(0) for g, token in pairs)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Row-wise dot products [N]; either side, or both, may be one row [D]."""
    if left.dim() == 1 or right.dim() == 1:
        return left @ right if left.dim() >= right.dim() else right @ left
    return (left * right).sum(-1)
