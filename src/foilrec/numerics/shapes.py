"""What samplers and losses are handed, looked at before a compiled loop reads it: shapes, types, and no NaN."""

import torch
from torch import Tensor

from foilrec.errors import BadOption, RunBroken

WHOLE = (torch.float32, torch.float64)


def must_be_tables(items: Tensor, query: Tensor, n_items: int) -> None:
    """Raises BadOption unless items are [I, D] for the data's I items, and query [B, D] of the same width and type."""
    if items.dim() != 2 or len(items) != n_items:
        raise BadOption(f"tables.items must be [I, D] with the {n_items:,} items of the data, not {_told(items)}.")
    if query.dim() == 2 and (items.shape[1] != query.shape[1] or items.dtype != query.dtype):
        raise BadOption(
            f"query and tables.items must be of one width and type, and they are {_told(query)} and {_told(items)}."
        )


def must_be_query(query: Tensor, rows: int) -> None:
    """Raises BadOption unless query is [B, D] for the B rows of a batch, in whole precision on a CPU.

    RunBroken, on a CPU, if it holds NaN.
    """
    if query.dim() != 2 or len(query) != rows:
        raise BadOption(f"query must be [B, D] with a row for each of the batch's {rows:,}, not {_told(query)}.")
    if query.device.type != "cpu":
        return  # to look would be to wait for the device
    if query.dtype not in WHOLE:
        raise BadOption(f"query must be float32 or float64 on a CPU, not {_told(query)}: hand over query.float().")
    if bool(query.detach().sum().isnan()):
        wrong = (~query.isfinite().all(1)).nonzero().flatten().tolist()
        raise RunBroken(
            f"query holds NaN or infinity in {len(wrong):,} of {rows:,} rows, first in row {wrong[0]}: the model has "
            "come apart. Lower its learning rate (lower optimizer.lr), or look at what it was given."
        )


def must_be_ids(**columns: Tensor | None) -> None:
    """Raises BadOption unless what is given are whole numbers [B], all of one length."""
    length: int | None = None
    for name, ids in columns.items():
        if ids is None:
            continue
        if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.is_floating_point() or length not in (None, len(ids)):
            told = _told(ids) if isinstance(ids, Tensor) else type(ids).__name__
            many = "[B]" if length is None else f"[{length}]"
            raise BadOption(f"A batch's {name} must be a tensor of whole numbers {many}, not {told}.")
        length = len(ids)


def must_be_scores(positive: Tensor, negative: Tensor) -> None:
    """Raises BadOption unless positive is [B] and negative [B, K], with a row and a column at least."""
    fit = positive.dim() == 1 and negative.dim() == 2 and len(positive) == len(negative)
    if not (fit and negative.numel()):
        raise BadOption(
            "A loss takes the scores of positives [B] and of their negatives [B, K], with B and K at least 1, not "
            f"{_told(positive)} and {_told(negative)}."
        )


def _told(x: Tensor) -> str:
    return f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
