"""Scores of the whole catalogue for a few rows at a time, without what each user took: never users x items."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**24  # scores held at once: 64 MB


def unseen_scores(
    query: Tensor, items: Tensor, users: Tensor, taken: tuple[Tensor, Tensor], block: int = BLOCK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows [b] and their scores [b, I] without gradient, -inf where a user took the item, until all of B are done.

    query [B, D], items [I, D], users [B]; taken (starts, items) are each user's items one after another.
    """
    starts, held = taken
    query, table = query.detach(), items.detach().T
    for rows in torch.arange(len(query), device=query.device).split(max(1, block // max(1, len(items)))):
        scores, first = query[rows] @ table, starts[users[rows]]
        counts = starts[users[rows] + 1] - first
        line = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        before = counts.cumsum(0) - counts
        place = torch.arange(len(line), device=rows.device) + torch.repeat_interleave(first - before, counts)
        scores[line, held[place].long()] = -torch.inf
        yield rows, scores
