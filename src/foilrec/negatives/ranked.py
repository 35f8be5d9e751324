"""Draws by rank: one of the best few of a batch's candidates, what the user took left out."""

import numpy as np
import torch
from torch import Tensor

from foilrec.numerics import kernels


def pick_ranked(
    likeness: Tensor, ids: Tensor, users: Tensor, rows: Tensor, taken: tuple[Tensor, Tensor], keep: int, key: int
) -> Tensor:
    """One id a row, drawn evenly from the `keep` best candidates that its user did not take: likeness [B, M] -> [B].

    ids [M] are the candidates, and taken (starts, items) each user's sorted items. Where fewer than `keep` are left the
    draw is from those, and -1 where none is. Of candidates that tie for the last place the first columns stay. The draw
    is a function of (key, rows); likeness is overwritten.
    """
    word, place = kernels.words(rows, key, 1)[:, 0], torch.empty_like(users)
    if loops := kernels.fast(likeness, ids, users):
        columns = likeness.numpy()
        order = ids.argsort(stable=True).numpy()
        loops.hide_taken(columns, ids.numpy(), order, users.numpy(), taken[0].numpy(), taken[1].numpy())
        least = np.partition(columns, len(ids) - keep, axis=1)[:, len(ids) - keep]  # far faster than torch's kthvalue
        loops.pick_above(columns, least, word.numpy(), keep, place.numpy())
    else:
        place = _pick(
            likeness.masked_fill(kernels.contains(*taken, users, ids.expand(len(users), -1)), -torch.inf),
            word,
            keep,
        )
    return torch.where(place >= 0, ids[place], -1)


def _pick(likeness: Tensor, word: Tensor, keep: int) -> Tensor:
    least = likeness.topk(keep, dim=1).values[:, -1:]
    above, equal = likeness > least, (likeness == least) & likeness.isfinite()
    best = above | (equal & (equal.cumsum(1) <= keep - above.sum(1, keepdim=True)))
    at = kernels.below(word, best.sum(1).clamp(min=1))[:, None]
    chosen = (best & (best.cumsum(1) == at + 1)).int()
    return torch.where(best.any(1), chosen.argmax(1), -1)
