"""Draws by rank: one of the best few of a batch's candidates, what the user took left out."""

import numpy as np
import torch
from torch import Tensor

from foilrec import kernels
from foilrec.data import SeenIndex


def pick_ranked(
    likeness: Tensor, ids: Tensor, users: Tensor, rows: Tensor, seen: SeenIndex, keep: int, key: int
) -> Tensor:
    """One id a row, drawn evenly from the `keep` best unseen candidates: likeness [B, M] of ids [M] -> [B].

    Where fewer than `keep` are unseen, from those; where none is, a uniform unseen item. Of candidates that tie for the
    last place the first columns stay. The draw is a function of (key, rows); likeness is overwritten.
    """
    word, place = kernels.words(rows, key, 1)[:, 0], torch.empty_like(users)
    if loops := kernels.fast(likeness, ids, users):
        columns = likeness.numpy()
        order = ids.argsort(stable=True).numpy()
        loops.hide_taken(columns, ids.numpy(), order, users.numpy(), seen.starts.numpy(), seen.items.numpy())
        least = np.partition(columns, len(ids) - keep, axis=1)[:, len(ids) - keep]  # far faster than torch's kthvalue
        loops.pick_above(columns, least, word.numpy(), keep, place.numpy())
    else:
        place = _pick(
            likeness.masked_fill(
                kernels.contains(seen.starts, seen.items, users, ids.expand(len(users), -1)), -torch.inf
            ),
            word,
            keep,
        )
    found = torch.where(place >= 0, ids[place], -1)
    none = (found < 0).nonzero().squeeze(1)
    if len(none):
        found[none] = seen.unseen(users[none], rows[none], 1, key)[:, 0]
    return found


def _pick(likeness: Tensor, word: Tensor, keep: int) -> Tensor:
    least = likeness.topk(keep, dim=1).values[:, -1:]
    above, equal = likeness > least, (likeness == least) & likeness.isfinite()
    best = above | (equal & (equal.cumsum(1) <= keep - above.sum(1, keepdim=True)))
    at = kernels.below(word, best.sum(1).clamp(min=1))[:, None]
    chosen = (best & (best.cumsum(1) == at + 1)).int()
    return torch.where(best.any(1), chosen.argmax(1), -1)
