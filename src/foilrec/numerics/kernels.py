"""The inner loops, each in two forms with the same result: compiled (numba, on a CPU) and plain torch (anywhere)."""

import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
_LOW = 0xFFFFFFFF

Rows = tuple[Tensor, Tensor, Tensor]  # a sparse matrix: starts [n + 1], columns [E], values [E]


@lru_cache(maxsize=1)
def compiled() -> ModuleType | None:
    """The compiled loops, or None when numba is missing or FOILREC_NUMBA=0."""
    if os.environ.get("FOILREC_NUMBA") == "0":
        return None
    try:
        from foilrec.numerics import compiled as loops
    except ImportError:
        return None
    return loops


def fast(*tensors: Tensor) -> ModuleType | None:
    """The compiled loops, where they can serve these tensors."""
    return compiled() if all(t.device.type == "cpu" for t in tensors) else None


def _shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)  # a logical shift: torch has only the arithmetic one


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 words that stand for unsigned ones."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def words(rows: Tensor, key: int, count: int) -> Tensor:
    """Random words [B, count], a function of (key, row, column) alone."""
    if loops := fast(rows):
        out = np.empty((len(rows), count), np.int64)
        loops.words(rows.numpy(), np.uint64(key), out)
        return torch.from_numpy(out)
    base = mix(mix(rows) ^ key)
    return mix(base[:, None] + torch.arange(1, count + 1, device=rows.device) * _GOLDEN)


def below(x: Tensor, n: Tensor) -> Tensor:
    """Random words scaled to 0..n-1: the high word of x * n, so that no value is favoured (n < 2**31)."""
    return (_shift(x, 32) * n + (((x & _LOW) * n) >> 32)) >> 32


def unseen(
    starts: Tensor,
    items: Tensor,
    users: Tensor,
    rows: Tensor,
    key: int,
    count: int,
    n_items: int,
    longest: int | None = None,
) -> Tensor:
    """Uniform draws [B, count] from what each user's sorted segment of `items` leaves out; none is over `longest`.

    The r-th free item is r + t, where t taken items a_0 < a_1 < ... have a_k - k <= r: no rejection, bounded time.
    """
    if loops := fast(starts, users):
        out = np.empty((len(users), count), np.int64)
        loops.unseen(starts.numpy(), items.numpy(), users.numpy(), rows.numpy(), np.uint64(key), n_items, out)
        return torch.from_numpy(out)
    start, end = starts[users][:, None], starts[users + 1][:, None]
    r = below(words(rows, key, count), n_items - (end - start))
    place = _search(items, start, end, r, longest, offset=True)
    return r + place - start


def contains(starts: Tensor, items: Tensor, users: Tensor, asked: Tensor, longest: int | None = None) -> Tensor:
    """Whether asked [B, K] is in each user's sorted segment of `items`, none over `longest`: bool [B, K]."""
    if loops := fast(starts, users):
        out = np.empty(asked.shape, np.bool_)
        loops.contains(starts.numpy(), items.numpy(), users.numpy(), asked.numpy(), out)
        return torch.from_numpy(out)
    start, end = starts[users][:, None], starts[users + 1][:, None]
    place = _search(items, start, end, asked, longest, strict=True)
    if not len(items):
        return torch.zeros_like(asked, dtype=torch.bool)
    return (place < end) & (items[place.clamp(max=len(items) - 1)].long() == asked)


def _search(
    values: Tensor,
    start: Tensor,
    end: Tensor,
    bound: Tensor,
    longest: int | None = None,
    *,
    offset: bool = False,
    strict: bool = False,
) -> Tensor:
    """The first place in start .. end of sorted values that lies above a bound [B, K]; strict: at or above it.

    offset: values count less their place in the segment. longest: no segment is longer; None: found out, for which a
    GPU must be waited for.
    """
    if not len(values):
        return start.expand_as(bound)
    low, high = start.expand_as(bound), end.expand_as(bound)
    if longest is None:
        longest = int((high - low).max()) if low.numel() else 0
    for _ in range(longest.bit_length()):
        open_, middle = low < high, (low + high) >> 1
        at = values[middle.clamp(max=len(values) - 1)].long()
        at = at - (middle - start) if offset else at
        yes = open_ & (at < bound if strict else at <= bound)
        low, high = torch.where(yes, middle + 1, low), torch.where(open_ & ~yes, middle, high)
    return low


def weighted_unseen(
    starts: Tensor, items: Tensor, before: Tensor, cumulative: Tensor, users: Tensor, rows: Tensor, key: int, count: int
) -> Tensor:
    """Draws [B, count] from what a user left out, in proportion to integer weights.

    cumulative [I + 1] are prefix sums of the weights (total at most 2**40); before [E] is the free mass below each
    taken item. The law is exact up to the modulo's 2**-22.
    """
    if loops := fast(starts, users):
        out = np.empty((len(users), count), np.int64)
        loops.weighted_unseen(
            starts.numpy(),
            items.numpy(),
            before.numpy(),
            cumulative.numpy(),
            users.numpy(),
            rows.numpy(),
            np.uint64(key),
            out,
        )
        return torch.from_numpy(out)
    start, end = starts[users][:, None], starts[users + 1][:, None]
    free = cumulative[-1] - seen_mass(starts, items, before, cumulative, users)
    r = _shift(words(rows, key, count), 2) % free[:, None]
    place = _search(before, start, end, r)
    last = (place - 1).clamp(min=0)
    if len(items):
        skipped = cumulative[items[last].long() + 1] - before[last]
        r = torch.where(place > start, r + skipped, r)
    return torch.searchsorted(cumulative, r, right=True) - 1


def seen_mass(starts: Tensor, items: Tensor, before: Tensor, cumulative: Tensor, users: Tensor) -> Tensor:
    """The weight of all that each user has taken, [B]."""
    if not len(items):
        return torch.zeros_like(users)
    end = starts[users + 1]
    last = (end - 1).clamp(min=0)
    return torch.where(end > starts[users], cumulative[items[last].long() + 1] - before[last], 0)


def multiply(rows: Rows, x: Tensor, *, plus: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """scale * (A x + plus) for a sparse A by rows, x [m, D] and plus [n, D]: [n, D]. No gradient."""
    (starts, columns, values), x = rows, x.detach()
    dense_enough = plus is None or len(columns) > 4 * len(starts)  # a pass of its own for `plus` has to be worth it
    if dense_enough and x.device.type == "cpu" and x.dtype == values.dtype == torch.float32:
        weights = values if scale == 1 else values * scale
        product = embedding_bag(  # torch's fastest sparse product, by far
            columns, x, starts.int(), mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return product if plus is None else product.add_(plus.detach(), alpha=scale)
    if fast(starts, x):
        every = torch.arange(len(starts) - 1)
        out = x.new_empty(len(every), x.shape[1])
        return multiply_rows(rows, x, every, out, plus=() if plus is None else (plus,), scale=scale)
    with warnings.catch_warnings():  # torch calls its CSR support beta, once a process
        warnings.filterwarnings("ignore", message="Sparse CSR")
        shape = len(starts) - 1, len(x)
        matrix = torch.sparse_csr_tensor(starts.int(), columns, values.to(x.dtype), shape, check_invariants=False)
    product = matrix @ x
    return (product if plus is None else product + plus.detach()) * scale


def multiply_rows(
    rows: Rows,
    x: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    plus: Sequence[Tensor] = (),
    scale: float = 1.0,
    onto: bool = False,
) -> Tensor:
    """Some rows, ids [R], of scale * (A x + the sum of plus), written where they stand in out, which is given back.

    x [m, D], plus and out [n, D]. onto: added to what stands in out. No gradient.
    """
    if loops := fast(rows[0], x, out):
        dense = x.detach().contiguous().numpy()
        added = tuple(table.detach().contiguous().numpy() for table in plus) or (dense[:0],)
        arrays = (*(part.numpy() for part in rows), dense, ids.numpy(), added, dense.dtype.type(scale), onto)
        loops.multiply(*arrays, out.numpy())
    else:
        made = scale * sum((table.detach()[ids] for table in plus), multiply(rows, x)[ids])
        out[ids] = out[ids] + made if onto else made
    return out


def multiply_few(rows: Rows, turned: Rows, ids: Tensor, x: Tensor) -> Tensor:
    """A x for an x of which only the rows ids [R] are not 0, x [R, D]: [n, D]. turned: A^T by rows. No gradient."""
    entries, shape = turned[0].diff()[ids].sum(), (len(rows[0]) - 1, x.shape[1])
    if (loops := fast(rows[0], x)) and 2 * entries < len(rows[1]):  # worth it to go out from those rows
        out = x.new_zeros(shape)
        loops.spread(*(part.numpy() for part in turned), ids.numpy(), x.contiguous().numpy(), out.numpy())
        return out
    return multiply(rows, x.new_zeros(len(turned[0]) - 1, x.shape[1]).index_copy_(0, ids, x))


def candidate_scores(query: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """query [B, D] against table[ids [B, M]] without gradient and without holding [B, M, D]: [B, M]."""
    query, table = query.detach(), table.detach()
    if loops := fast(query, table, ids):
        out = np.empty(ids.shape, query.numpy().dtype)
        loops.candidate_scores(query.contiguous().numpy(), table.contiguous().numpy(), ids.numpy(), out)
        return torch.from_numpy(out)
    rows = max(1, 2**21 // max(1, ids.shape[1] * query.shape[1]))  # about 8 MB a block
    blocks = zip(query.split(rows), ids.split(rows), strict=True)
    return torch.cat([torch.bmm(table[i], q.unsqueeze(2)).squeeze(2) for q, i in blocks])


def ranks(scores: Tensor, starts: Tensor, wanted: Tensor) -> Tensor:
    """The place, from 0, of each wanted item in its row of scores [B, I]: starts [B + 1], wanted [E] -> [E].

    Items with equal scores stand in the order of their ids.
    """
    if loops := fast(scores, wanted):
        out = np.empty(len(wanted), np.int64)
        loops.ranks(scores.numpy(), starts.numpy(), wanted.numpy(), out)
        return torch.from_numpy(out)
    row = torch.repeat_interleave(torch.arange(len(scores), device=scores.device), starts.diff())
    ids = torch.arange(scores.shape[1], device=scores.device)
    found = [torch.empty(0, dtype=torch.long, device=scores.device)]
    for r, items in zip(row.split(256), wanted.split(256), strict=True):  # [256, I] at a time
        mine = scores[r, items].unsqueeze(1)
        found.append(((scores[r] > mine) | ((scores[r] == mine) & (ids < items[:, None]))).sum(1))
    return torch.cat(found)


def places(scores: Tensor, starts: Tensor, wanted: Tensor, many: int | None = None) -> Tensor:
    """ranks, with NaN left out of the ranking and bounded time: a row with over `many` wanted items is sorted once.

    many: by default where sorting begins to pay, 128 compiled and 0 in torch; the places are the same whatever it is.
    """
    counts = starts.diff()
    heavy = counts > ((128 if compiled() else 0) if many is None else many)
    if scores.device.type != "cpu" or not heavy.any():
        return ranks(scores, starts, wanted)
    out = torch.empty_like(wanted)
    light = torch.repeat_interleave(~heavy, counts)
    bounds = torch.cat([starts.new_zeros(1), (counts * ~heavy).cumsum(0)])
    out[light] = ranks(scores, bounds, wanted[light])
    rows, at, ids, found = scores.numpy(), starts.tolist(), wanted.numpy(), out.numpy()
    for r in heavy.nonzero().flatten().tolist():
        mine = slice(at[r], at[r + 1])
        found[mine] = _row_places(rows[r], ids[mine])
    return out


def _row_places(row: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if len(wanted) <= 8:
        above = [np.count_nonzero(row > row[i]) + np.count_nonzero(row[:i] == row[i]) for i in wanted]
        return np.array(above, np.int64)
    ordered = np.sort(row)  # NaN last; many times faster than a stable argsort, which only ties need
    mine = row[wanted]
    first, after = np.searchsorted(ordered, mine), np.searchsorted(ordered, mine, side="right")
    if (after - first == 1).all():
        early: np.ndarray[Any, Any] = len(row) - np.isnan(row).sum() - after
        return early
    place = np.empty(len(row), np.int64)
    place[np.argsort(-row, kind="stable")] = np.arange(len(row))
    found: np.ndarray[Any, Any] = place[wanted]
    return found


def best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first `most` items of each row of scores [B, I], NaN left out: ids and scores [B, most], best first.

    Items with equal scores stand in the order of their ids; -1 and -inf stand where a row has no more items. torch.topk
    takes any of the items that tie for the last place: rows where they do are sorted whole.
    """
    ids = torch.full((len(scores), most), -1, device=scores.device)
    values = torch.full(ids.shape, -torch.inf, dtype=scores.dtype, device=scores.device)
    if most and (loops := fast(scores)):
        loops.best(scores.numpy(), ids.numpy(), values.numpy())
        return ids, values
    take = min(most, scores.shape[1])
    low = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    found, at = low.topk(min(take + 1, scores.shape[1]))
    unclear = found[:, take - 1] == found[:, -1]  # a tie for the last place, or no more items
    at, order = at[:, :take].sort()
    found, order = found[:, :take].gather(1, order).sort(descending=True, stable=True)
    ids[:, :take], values[:, :take] = at.gather(1, order), found
    for rows in unclear.nonzero().flatten().split(256):
        order = low[rows].sort(descending=True, stable=True).indices
        out = scores[rows].isnan()
        order = order.gather(1, out.gather(1, order).byte().sort(stable=True).indices)[:, :take]
        gone = out.gather(1, order)
        ids[rows, :take] = order.masked_fill(gone, -1)
        values[rows, :take] = low[rows].gather(1, order)
    return ids, values


def row_loops(*tensors: Tensor) -> ModuleType | None:
    """The compiled loops over rows of tables, where they can serve these tensors."""
    if not fast(*tensors):
        return None
    from foilrec.numerics import compiled_rows  # needs numba, which is there

    return compiled_rows


def differences(table: np.ndarray[Any, Any], plus: Tensor, minus: Tensor) -> Tensor:
    """table[plus] - table[minus] in float32, for a numpy table [I, F] and ids [B]: [B, F]."""
    if isinstance(table, np.ndarray) and table.dtype in (np.float32, np.float64) and (loops := row_loops()):
        out = np.empty((len(plus), table.shape[1]), np.float32)
        loops.row_differences(table, plus.numpy(), minus.numpy(), out)
        return torch.from_numpy(out)
    return torch.from_numpy(np.asarray(table[plus.numpy()], np.float32) - np.asarray(table[minus.numpy()], np.float32))
