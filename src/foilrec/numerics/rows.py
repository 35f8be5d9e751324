"""Work on the rows of tables that a batch touches: sums by id, projected differences, and Adam's step."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from foilrec.numerics.kernels import differences, row_loops

Look = Callable[[Tensor], Tensor]  # ids [...] -> rows [..., D]


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


def once(*ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The distinct ids of some tensors, ascending [R], and for each tensor where its ids stand among them."""
    flat = torch.cat([part.reshape(-1) for part in ids])
    if (loops := row_loops(flat)) and len(flat):
        place = np.zeros(int(flat.max()) + 1, np.int32)
        distinct = torch.from_numpy(loops.distinct(flat.numpy(), place))
        found = torch.from_numpy(place[flat.numpy()]).long()
    else:
        distinct, found = flat.unique(return_inverse=True)
    sizes = [part.numel() for part in ids]
    return distinct, [where.view(part.shape) for where, part in zip(found.split(sizes), ids, strict=True)]


def squared_once(ids: Tensor, look_up: Look) -> Tensor:
    """Rows [R, D] whose sum of squares is that of the rows of ids [B, K]: each once, times the root of how often."""
    if ids.shape[1] == 1:
        return look_up(ids)
    distinct, (place,) = once(ids)
    times = place.view(-1).bincount(minlength=len(distinct))
    return look_up(distinct) * times.sqrt()[:, None]


def scores_once(query: Tensor, positives: Tensor, negatives: Tensor, look_up: Look) -> tuple[Tensor, Tensor]:
    """q . row of p [B] and q . rows of n [B, K], of which each distinct one is looked up once."""
    distinct, places = once(positives, negatives)
    right, wrong, _ = RowScores.apply(query, look_up(distinct), *places, False)  # type: ignore[no-untyped-call]
    return right, wrong


class RowScores(torch.autograd.Function):
    """q . table[p], q . table[n], and the sums of the squares of all rows read; no row is copied on the way.

    query [B, D], table [n, D], positives [B], negatives [B, K] -> [B], [B, K], [3] (of q, of positives, of negatives).
    The gradient of rows that occur more than once is added up; by_rows: that of the table is row-sparse.
    """

    @staticmethod
    def serves(*tensors: Tensor) -> bool:
        """Whether the compiled loops are there for these: float32 on a CPU."""
        return all(x.dtype == torch.float32 for x in tensors) and row_loops(*tensors) is not None

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, table: Tensor, positives: Tensor, negatives: Tensor, by_rows: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The scores and the sums."""
        right, wrong, squares = query.new_empty(len(query)), query.new_empty(negatives.shape), query.new_empty(3)
        read = tuple(x.contiguous() for x in (query, table, positives, negatives))
        _loops(query).row_scores(*_arrays(*read, right, wrong, squares))
        ctx.save_for_backward(*read)
        ctx.by_rows = by_rows
        return right, wrong, squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradient of the query, and that of the table, of the touched rows alone in the order of their ids."""
        query, table, positives, negatives = ctx.saved_tensors
        loops, on_query = _loops(query), torch.empty_like(query)
        if ctx.by_rows:
            place = np.zeros(len(table), np.int32)
            ids = torch.from_numpy(loops.distinct(torch.cat([positives, negatives.view(-1)]).numpy(), place))
            on_rows = query.new_empty(len(ids), query.shape[1])
        else:
            place, on_rows = np.arange(len(table), dtype=np.int32), torch.zeros_like(table)
        given = _arrays(*(gradient.contiguous() for gradient in gradients), on_query, on_rows)
        loops.row_scores_back(*_arrays(query, table, positives, negatives), place, *given)
        if ctx.by_rows:
            on_rows = torch.sparse_coo_tensor(ids[None], on_rows, table.shape, check_invariants=False)
        return on_query, on_rows, None, None, None


def _arrays(*tensors: Tensor) -> tuple[np.ndarray[Any, Any], ...]:
    return tuple(tensor.detach().numpy() for tensor in tensors)


def _loops(*tensors: Tensor) -> ModuleType:
    loops = row_loops(*tensors)
    assert loops is not None  # serves() was asked
    return loops


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

    gradient [R, D] belongs to rows [R]; what one of them has more than once adds up. others: the other rows, whose
    gradient is zero, move too, as their moments decay: what a dense Adam does, without a dense gradient.
    """
    fix1, fix2 = 1 - betas[0] ** step, 1 - betas[1] ** step
    loops = row_loops(table) if table.dtype == torch.float32 else None
    if rows is not None and (others or not loops):
        rows, gradient = sum_rows(rows, gradient, len(table))
    if rows is not None and loops:
        arrays = (gradient.contiguous().numpy(), table.detach().numpy(), first.numpy(), second.numpy())
        constants = map(np.float32, (lr / fix1, fix2**-0.5, *betas, eps))
        place = np.full(len(table), -1, np.int32)
        if others:
            place[rows.numpy()] = np.arange(len(rows), dtype=np.int32)
            loops.adam(place, *arrays, *constants)
        else:
            loops.lazy_adam(rows.numpy(), place, *arrays, *constants)
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
