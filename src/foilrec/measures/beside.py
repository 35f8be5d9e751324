"""Draws set beside the whole catalogue, a few rows at a time: their places, scores and distances."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.measures import gauges
from foilrec.seen import SeenIndex

BLOCK = 8 * 2**20  # bytes of scores held at once

Columns = dict[str, Tensor]


def ranked(
    items: Tensor, query: Tensor, positives: Tensor, users: Tensor, seen: SeenIndex, drawn: Tensor, made: Tensor | None
) -> Columns:
    """Places of draws among what their users [B] have not taken, and their scores, all [B, K] but positive [B, 1].

    items [I, D], query [B, D], positives [B]; drawn: ids [B, K], or anything where made [B, K, D] holds vectors.
    percentile is by score to the query, similarity by cosine to the positive.
    """
    wide = torch.promote_types(items.dtype, torch.float32)
    items, query = items.to(wide), query.to(wide)
    unit = normalize(items, dim=1)
    free = seen.n_items - seen.counts[users]
    blocks: list[Columns] = []
    for rows in torch.arange(len(users)).split(_room(items)):
        here, (starts, taken) = rows.to(items.device), seen.gather(users[rows])
        row = torch.repeat_interleave(torch.arange(len(rows)), starts.diff())
        found: Columns = {}
        beside = unit[positives[here]]
        for name, left, right in (("percentile", query[here], items), ("similarity", beside, unit)):
            table = left @ right.T
            if made is None:  # read off the table, so that an item ties with itself
                values = table.gather(1, drawn[here])
            else:
                vectors = made[here].to(wide)
                values = torch.einsum("bd,bkd->bk", left, vectors if right is items else normalize(vectors, dim=2))
            if right is items:
                found |= {"positive": table.gather(1, positives[here, None]), "negative": values}
            table[row.to(items.device), taken.to(items.device)] = torch.nan
            found[name] = gauges.percentiles(table, values, free[rows])
        blocks.append(found)
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def placed(items: Tensor, made: Tensor, positives: Tensor, users: Tensor, seen: SeenIndex) -> Columns:
    """Where vectors [B, K, D] that no item is lie among items [I, D], answers [B, K]: their length, and the distances
    to the nearest item by cosine, to the nearest of all, to the nearest that the user took, and to the row's positive.

    Lengths and distances (but for the cosine's) are over the items' mean length.
    """
    wide = torch.promote_types(items.dtype, torch.float32)
    items, count = items.to(wide), made.shape[1]
    flat, owners = made.flatten(0, 1).to(wide), users.repeat_interleave(count)
    found = [
        gauges.nearest(flat[rows.to(items.device)], items, *seen.gather(owners[rows]))
        for rows in torch.arange(len(flat)).split(_room(items))
    ]
    cosine, closest, own = (torch.cat(ids) for ids in zip(*found, strict=True))
    length = items.norm(dim=1).mean()
    others = {"nearest": closest, "nearest_taken": own, "to_positive": positives.repeat_interleave(count)}
    columns = {name: (flat - items[ids]).norm(dim=1) / length for name, ids in others.items()}
    columns |= {"norm": flat.norm(dim=1) / length, "nearest_cosine": gauges.cosine_distance(flat, items[cosine])}
    return {name: values.view(made.shape[:2]) for name, values in columns.items()}


def _room(items: Tensor) -> int:
    """How many rows of scores of every item are held at once."""
    return max(1, BLOCK // (items.element_size() * len(items)))
