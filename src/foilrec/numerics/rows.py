"""Work on the rows of tables that a batch touches: sums by id, projected differences, and Adam's step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from foilrec.numerics.kernels import differences, row_loops


def sum_rows(ids: Tensor, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Adds up the rows of equal ids: ids [E] below n, values [E, D] -> distinct ids [R], sums [R, D]."""
    if bool((ids[1:] > ids[:-1]).all()):
        return ids, values
    if loops := row_loops(ids, values):
        place, out = np.full(n, -1, np.int32), np.empty(values.shape, values.numpy().dtype)
        distinct = np.empty(len(ids), np.int64)
        count = loops.sum_rows(ids.numpy(), values.contiguous().numpy(), place, distinct, out)
        return torch.from_numpy(distinct[:count]), torch.from_numpy(out[:count])
    distinct, place = ids.unique(return_inverse=True)
    return distinct, torch.zeros(len(distinct), values.shape[1], device=ids.device).index_add_(0, place, values)


def add_rows(ids: Tensor, values: Tensor, out: Tensor) -> None:
    """out[ids[k]] += values[k], in place: ids [E], values [E, D], out [n, D]."""
    if loops := row_loops(ids, values, out):
        loops.add_rows(ids.numpy(), values.contiguous().numpy(), out.numpy())
    else:
        out.index_add_(0, ids, values)


class ProjectedDifferences(torch.autograd.Function):
    """(table[plus] - table[minus]) W^T with a row-sparse gradient: table [I, F], W [D, F], ids [B] -> [B, D].

    The table's gradient is added up by rows while it is D wide, and F wide only where it is handed over.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        """The projected differences."""
        wide = differences(table.numpy(), plus, minus) if row_loops(table, plus) else table[plus] - table[minus]
        ctx.save_for_backward(weight, plus, minus, wide)
        ctx.shape = table.shape
        return linear(wide, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradient of the touched rows alone, in the order of their ids, and that of W."""
        (weight, plus, minus, wide), gradient = ctx.saved_tensors, gradients[0]
        ids, sums = sum_rows(torch.cat([plus, minus]), torch.cat([gradient, -gradient]), ctx.shape[0])
        ids, order = ids.sort()
        rows = torch.sparse_coo_tensor(ids[None], sums[order] @ weight, ctx.shape, check_invariants=False)
        return rows, gradient.T @ wide, None, None


def adam_rows(
    rows: Tensor | None,
    gradient: Tensor,
    table: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    others: bool = False,
) -> None:
    """One Adam step, in place, on some rows of a table and of its two moments (None: on all of it).

    gradient [R, D] belongs to the distinct rows [R]. others: the other rows, whose gradient is zero, move too, as
    their moments decay: what a dense Adam does, without a dense gradient.
    """
    fix1, fix2 = 1 - betas[0] ** step, 1 - betas[1] ** step
    if rows is not None and (loops := row_loops(rows, table)) and table.dtype == torch.float32:
        arrays = (gradient.numpy(), table.detach().numpy(), first.numpy(), second.numpy())
        constants = map(np.float32, (lr / fix1, fix2**-0.5, *betas, eps))
        if others:
            place = np.full(len(table), -1, np.int32)
            place[rows.numpy()] = np.arange(len(rows), dtype=np.int32)
            loops.adam(place, *arrays, *constants)
        else:
            loops.lazy_adam(rows.numpy(), *arrays, *constants)
        return
    if rows is not None and others:
        dense = torch.zeros_like(table)
        dense[rows] = gradient
        rows, gradient = None, dense
    m, v = (first, second) if rows is None else (first[rows], second[rows])
    m, v = m.lerp(gradient, 1 - betas[0]), (v * betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    change = m / ((v / fix2).sqrt() + eps) * (lr / fix1)
    every = slice(None) if rows is None else rows
    first[every], second[every] = m, v
    table[every] = table[every] - change
