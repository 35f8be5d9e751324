"""What samplers and losses are handed, looked at before a compiled loop reads it: shapes, types, and NaN.

Each function says in words what is wrong, or nothing.
"""

import torch
from torch import Tensor

WHOLE = (torch.float32, torch.float64)


def wrong_tables(items: Tensor, query: Tensor, n_items: int) -> str:
    """Items must be [I, D] for the data's I items, and query [B, D] of the same width and type."""
    if items.dim() != 2 or len(items) != n_items:
        return f"tables.items must be [I, D] with the {n_items:,} items of the data, not {_told(items)}."
    if items.shape[1] != query.shape[1] or items.dtype != query.dtype:
        return f"query and tables.items must be of one width and type, and they are {_told(query)} and {_told(items)}."
    return ""


def wrong_query(query: Tensor, rows: int) -> str:
    """Query must be [B, D] for the B rows of a batch, in whole precision on a CPU."""
    if query.dim() != 2 or len(query) != rows:
        return f"query must be [B, D] with a row for each of the batch's {rows:,}, not {_told(query)}."
    if query.device.type == "cpu" and query.dtype not in WHOLE:
        return f"query must be float32 or float64 on a CPU, not {_told(query)}: hand over query.float()."
    return ""


def lost_rows(query: Tensor) -> str:
    """Query must not hold NaN, which is seen on a CPU alone: to look would be to wait for another device."""
    if query.device.type != "cpu" or not bool(query.detach().sum().isnan()):
        return ""
    wrong = (~query.isfinite().all(1)).nonzero().flatten().tolist()
    if not wrong:  # finite numbers whose sum is not
        return ""
    return (
        f"query holds NaN or infinity in {len(wrong):,} of {len(query):,} rows, first in row {wrong[0]}: the model has "
        "come apart. Lower its learning rate (lower optimizer.lr), or look at what it was given."
    )


def wrong_items(ids: Tensor | None, n_items: int) -> str:
    """Negatives' ids must be items of the data; looked at on a CPU alone, whose loops would read what lies beside."""
    if ids is None or ids.device.type != "cpu" or not ids.numel():
        return ""
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < n_items:
        return ""
    return f"item {low if low < 0 else high} as a negative, and the data has 0 .. {n_items - 1:,}."


def wrong_pairs(pairs: Tensor, n_users: int, n_items: int) -> str:
    """Rows of (user, item) must be int64 [N, 2], each number below how many there are."""
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.long or pairs.dim() != 2 or pairs.shape[1] != 2:
        told = _told(pairs) if isinstance(pairs, Tensor) else type(pairs).__name__
        return f"must be a tensor of (user, item) rows, int64 [N, 2], not {told}."
    if not len(pairs):
        return ""
    for column, (name, many) in enumerate((("user", n_users), ("item", n_items))):
        low, high = pairs[:, column].aminmax()
        if low < 0 or high >= many:
            at = int(((pairs[:, column] < 0) | (pairs[:, column] >= many)).nonzero()[0])
            return f"names {name} {int(pairs[at, column])} in row {at}, and there are 0 .. {many - 1:,}."
    return ""


def wrong_ids(**columns: Tensor | None) -> str:
    """What is given must be whole numbers [B], all of one length."""
    length: int | None = None
    for name, ids in columns.items():
        if ids is None:
            continue
        if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.is_floating_point() or length not in (None, len(ids)):
            told = _told(ids) if isinstance(ids, Tensor) else type(ids).__name__
            many = "[B]" if length is None else f"[{length}]"
            return f"A batch's {name} must be a tensor of whole numbers {many}, not {told}."
        length = len(ids)
    return ""


def wrong_scores(positive: Tensor, negative: Tensor) -> str:
    """Positive must be [B] and negative [B, K], with a row and a column at least."""
    fit = positive.dim() == 1 and negative.dim() == 2 and len(positive) == len(negative)
    if fit and negative.numel():
        return ""
    return (
        "A loss takes the scores of positives [B] and of their negatives [B, K], with B and K at least 1, not "
        f"{_told(positive)} and {_told(negative)}."
    )


def _told(x: Tensor) -> str:
    return f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
